"""Faces and their expressions as published: a YOLO face detector of ultralytics (AGPL-3.0), then a ViT."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from vemoclap_batch.extractors.base import ExtractorSettings, Resources
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.faces import Detection, Expression, FaceExtractor, Place, pixels
from vemoclap_batch.extractors.pretrained import Classifier, FeatureSettings, Pretrained, load_image_processor
from vemoclap_batch.extractors.upright import Box, as_box
from vemoclap_batch.media.clip import Clip

DETECTOR = "hf:AdamCodd/YOLOv11n-face-detection/model.pt"
EXPRESSIONS = "hf:trpakov/vit-face-expression"
#: Frames in one pass of the detector, faces in one pass of the ViT.
CPU_FRAMES, GPU_FRAMES = 4, 64
CPU_FACES, GPU_FACES = 8, 128
#: Names that checkpoints give the classes → the names of this package (``vemoclap_batch.networks.expression.CLASSES``).
NAMES = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "happy": "joy",
    "happiness": "joy",
    "sad": "sadness",
    "surprised": "surprise",
}

#: What a pose model for faces marks: eyes, nose, corners of the mouth. One for bodies, with 17, says nothing of a face.
LANDMARKS = 5

#: Left, top, right and bottom of a box, in pixels of the frame.
Corners = tuple[float, float, float, float]


class YoloFaceSettings(FeatureSettings):
    """Settings of :class:`YoloFace`; the precision is the ViT's."""

    detector: str = Field(DETECTOR, description="face weights of ultralytics: a .pt (pinned by its hash) or .onnx file")
    expressions: str = Field(EXPRESSIONS, description="a folder with a transformers image classifier")
    confidence: float = Field(0.6, ge=0, le=1, description="boxes that score at most this are dropped")
    turned_confidence: float | None = Field(
        0.8, ge=0, le=1, description="of a face in a turned picture, tried where a clip shows none; null: not tried"
    )
    iou: float = Field(0.5, ge=0, le=1, description="of two boxes that overlap more, the likelier one stays")
    image_size: int = Field(
        640, ge=32, multiple_of=32, description="long side for the detector; an .onnx of a fixed size keeps its own"
    )
    faces_averaged: int = Field(2, ge=1, description="the largest faces of a frame make its vector")


class YoloFace(FaceExtractor, Pretrained):
    """As :class:`FaceExtractor`, with a YOLO and a ViT.

    The released program's YOLOv5-face has classes of its own, which ultralytics does not load. The default here is a
    YOLO11n trained on WIDER FACE, at the same confidence, overlap and size. It always runs in float32: in half of it,
    boxes snap to half pixels.
    """

    name = "yolo-face"
    version = 2
    Settings = YoloFaceSettings
    model_settings = ("detector", "expressions")
    spaces = {EXPRESSIONS: "vemoclap/vit-face-expression"}
    settings: YoloFaceSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Load both models.

        Raises:
            NotAccepted: the detector is a pickle that nobody accepted.
        """
        super().__init__(settings, resources)
        device = resources.device
        self._detector = Detector(resources.models["detector"], self.settings, resources)
        self._expressions = VitExpression(resources.models["expressions"], device, self._precision)
        self._check_width(self._expressions.width)
        self._averaged = self.settings.faces_averaged
        self._turned_score = self.settings.turned_confidence
        fixed = self._detector.batch
        self._frame_batches = Batches.for_device(device, fixed or CPU_FRAMES, fixed or GPU_FRAMES)
        self._face_batches = Batches.for_device(device, CPU_FACES, GPU_FACES)

    @classmethod
    def pickles(cls, models: Mapping[str, Path]) -> list[Path]:
        """The detector, unless it is an ONNX file."""
        return [path for path in [models["detector"]] if path.suffix.lower() == ".pt"]

    def _detect(self, clips: Sequence[Clip], places: Sequence[Place]) -> list[list[Detection]]:
        # Frames of different sizes would be padded to a square, and a frame's faces depend on those beside it.
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for at, place in enumerate(places):
            height, width, *_ = clips[place.clip].frames.shape[1:]
            alike[(width, height) if place.quarters % 2 else (height, width)].append(at)
        found: list[list[Detection]] = [[] for _ in places]
        for of_size in alike.values():
            detected = self._frame_batches.run(partial(self._run, clips), [places[at] for at in of_size])
            for at, faces in zip(of_size, detected, strict=True):
                found[at] = faces
        return found

    def _run(self, clips: Sequence[Clip], places: Sequence[Place]) -> list[list[Detection]]:
        """The faces of a batch of frames of one size."""
        return self._detector([pixels(clips, place) for place in places])

    def _cut(self, frame: np.ndarray, box: Box) -> np.ndarray:
        left, top, width, height = box
        return cut(frame, (left, top, left + width, top + height))

    def _read(self, crops: Sequence[np.ndarray]) -> list[Expression]:
        return self._expressions(crops)


def cut(frame: np.ndarray, corners: Corners) -> np.ndarray:
    """The pixels of a box, without a margin; none at all for a box that is narrower than a pixel."""
    left, top, right, bottom = (int(corner) for corner in corners)
    return frame[top:bottom, left:right]


class VitExpression(Classifier):
    """An image classifier in the layout of ``trpakov/vit-face-expression``, run on crops of faces."""

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        from transformers import AutoModelForImageClassification

        super().__init__(AutoModelForImageClassification, folder, device, precision)
        # As published.
        self._processor = load_image_processor(folder, "pil")
        self.names = [NAMES.get(label, label) for label in self.labels]

    def __call__(self, crops: Sequence[np.ndarray]) -> list[Expression]:
        """The expressions of faces, each uint8 [height, width, 3], RGB, with at least one pixel."""
        # Without the format, transformers takes a crop of 1 or 3 rows for one with the channels first.
        prepared = self._processor(images=list(crops), input_data_format="channels_last", return_tensors="pt")
        found = self.classify(pixel_values=prepared["pixel_values"].to(self._device))  # [n, 3, 224, 224]
        return [Expression.likeliest(vector, self.names, probabilities) for vector, probabilities in found]


class Detector:
    """A YOLO of ultralytics over frames of one size; every box that it finds counts as a face.

    Gives what ``YOLO.predict`` gives for one frame at a time, without its side effects: that one sets torch's threads
    for the whole process and drops the faces of a batch that took too long.

    Attributes:
        batch: how many frames an .onnx file takes at once, where it is fixed.
    """

    def __init__(self, path: Path, settings: YoloFaceSettings, resources: Resources) -> None:
        self._settings, self._device = settings, resources.device
        self._network, task = load_yolo(path, resources)
        if task not in {"detect", "pose"}:
            raise ValueError(f"{path} is a YOLO to {task}; expected one that detects")
        # A pose model (boxes with landmarks) has more columns after those of its classes; elsewhere, all are classes.
        self._classes = len(self._network.names) if task == "pose" else 0
        self._landmarks = tuple(self._network.kpt_shape) if task == "pose" else (0, 0)
        self.batch, size = _fixed_shape(self._network)
        from ultralytics.data.augment import LetterBox

        self._letterbox = LetterBox(
            size or (settings.image_size, settings.image_size), auto=size is None, stride=self._network.stride
        )

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """The faces in frames of one size, uint8 [h, w, 3], RGB; their boxes are clipped to the frame."""
        import torch
        from ultralytics.utils.nms import non_max_suppression

        images: Any = [self._letterbox(image=frame) for frame in frames]
        batch = torch.from_numpy(np.stack(images)).to(self._device).permute(0, 3, 1, 2)  # [n, 3, H, W]
        batch = batch.float().div_(255)
        size = batch.shape[2], batch.shape[3]
        with torch.inference_mode():
            detected = non_max_suppression(
                self._network(batch),
                self._settings.confidence,
                self._settings.iou,
                nc=self._classes,
                end2end=self._network.end2end,
                max_time_img=float("inf"),
            )  # each [faces, 6 or more]: corners, score, class, landmarks
            return [self._scaled(rows, size, frame.shape) for rows, frame in zip(detected, frames, strict=True)]

    def _scaled(self, rows: Any, size: tuple[int, int], shape: tuple[int, ...]) -> list[Detection]:
        """The faces of one frame [faces, 6 or more], with coordinates of the network's image, in those of the frame."""
        from ultralytics.utils.ops import scale_boxes, scale_coords

        scale_boxes(size, rows[:, :4], shape)  # in place
        marks: Sequence[np.ndarray | None] = [None] * len(rows)
        count, values = self._landmarks
        if count == LANDMARKS:
            marks = list(scale_coords(size, rows[:, 6:].reshape(-1, count, values)[..., :2], shape).cpu().numpy())
        found = zip(rows[:, :5].tolist(), marks, strict=True)
        return [Detection(as_box(row[:4]), row[4], landmarks) for row, landmarks in found]


def load_yolo(path: Path, resources: Resources) -> tuple[Any, str]:
    """A detector and what ultralytics calls its task.

    A .pt file is a pickle, which can run code. Only one whose hash was accepted is read, and of its classes only those
    that ultralytics knows (``ULTRALYTICS_SAFE_LOAD=false`` in the environment lifts that). An .onnx file holds no code.

    Raises:
        NotAccepted: nobody accepted the hash of the .pt file.
        ValueError: neither a .pt nor an .onnx file, a broken one, or one with more in it than ultralytics' classes.
    """
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in {".pt", ".onnx"}:
        raise ValueError(f"{path}: expected a .pt or .onnx file")
    if suffix == ".pt":
        from vemoclap_batch.models.hashes import require_accepted

        require_accepted(path)
    import torch

    quieten_ultralytics()
    from ultralytics import YOLO
    from ultralytics.nn.autobackend import AutoBackend

    device = torch.device(resources.device)
    if suffix == ".onnx":
        network = AutoBackend(path, device=device, verbose=False)
        _limit_threads(network.backend, path, resources.threads)
        return network, str(network.task or "detect")
    try:
        yolo = YOLO(path)
    except TypeError as error:
        lift = "ULTRALYTICS_SAFE_LOAD=false in the environment lifts the list of known classes"
        raise ValueError(f"{path} was not loaded: {error} ({lift})") from error
    # end2end=False: models that need not suppress overlaps do it too, so that `iou` always applies.
    return AutoBackend(yolo.model, device=device, verbose=False, end2end=False), str(yolo.task)


def _limit_threads(backend: Any, path: Path, threads: int) -> None:
    """Open an ONNX file once more with so many threads; by default it takes every core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    backend.session = onnxruntime.InferenceSession(path, options, providers=backend.session.get_providers())


def _fixed_shape(network: Any) -> tuple[int | None, tuple[int, int] | None]:
    """The batch and the (height, width) that a network is bound to; None where it takes any."""
    if network.format != "onnx":
        return None, None
    batch, _, height, width = network.session.get_inputs()[0].shape
    fixed = isinstance(height, int) and isinstance(width, int)
    return batch if isinstance(batch, int) else None, (height, width) if fixed else None


def quieten_ultralytics() -> None:
    """Keep ultralytics from asking servers, installing packages, printing, and writing into the user's home.

    Call it before ultralytics is first imported in a process, which is when it reads these variables.
    """
    if "YOLO_CONFIG_DIR" not in os.environ:
        os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="vemoclap-ultralytics-")
        atexit.register(shutil.rmtree, os.environ["YOLO_CONFIG_DIR"], ignore_errors=True)
    for name in ("YOLO_OFFLINE", "ULTRALYTICS_SAFE_LOAD"):
        os.environ.setdefault(name, "true")
    for name in ("YOLO_AUTOINSTALL", "YOLO_VERBOSE"):
        os.environ.setdefault(name, "false")
