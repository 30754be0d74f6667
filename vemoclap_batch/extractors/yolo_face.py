"""Faces and their expressions as published: a YOLO face detector of ultralytics (AGPL-3.0), then a ViT."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import FRAMES, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.face_expression import FACE
from vemoclap_batch.extractors.vit_expression import Expression, VitExpression
from vemoclap_batch.models.references import space_of

DETECTOR = "hf:AdamCodd/YOLOv11n-face-detection/model.pt"
EXPRESSIONS = "hf:trpakov/vit-face-expression"
SPACES = {EXPRESSIONS: "vemoclap/vit-face-expression"}
#: Frames in one pass of the detector, faces in one pass of the ViT.
CPU_FRAMES, GPU_FRAMES = 4, 64
CPU_FACES, GPU_FACES = 8, 128

#: Left, top, right and bottom of a box, in pixels of the frame.
Corners = tuple[float, float, float, float]


class YoloFaceSettings(ExtractorSettings):
    """Settings of :class:`YoloFace`."""

    detector: str = Field(DETECTOR, description="face weights of ultralytics: a .pt (pinned by its hash) or .onnx file")
    expressions: str = Field(EXPRESSIONS, description="a folder with a transformers image classifier")
    confidence: float = Field(0.6, ge=0, le=1, description="boxes that score at most this are no faces")
    iou: float = Field(0.5, ge=0, le=1, description="of two boxes that overlap more, the likelier one stays")
    image_size: int = Field(
        640, ge=32, multiple_of=32, description="long side for the detector; an .onnx of a fixed size keeps its own"
    )
    faces_averaged: int = Field(2, ge=1, description="the largest faces of a frame make its vector")
    width: int = Field(768, ge=1, description="of the hidden states; checked when the model is loaded")
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="of the ViT: float16 on a GPU, else float32; the detector always has float32"
    )
    space: str | None = Field(None, description="feature space; without it, named after the expression model")


@dataclass(frozen=True)
class Face:
    """A face found: in which frame of which clip, where, and how surely (0..1)."""

    clip: int
    frame: int
    corners: Corners
    score: float

    @property
    def area(self) -> float:
        """In square pixels."""
        left, top, right, bottom = self.corners
        return (right - left) * (bottom - top)

    def cut(self, frame: np.ndarray) -> np.ndarray:
        """The face's pixels, without a margin; none at all for a box that is narrower than a pixel."""
        left, top, right, bottom = (int(corner) for corner in self.corners)
        return frame[top:bottom, left:right]


class YoloFace(Extractor):
    """Per frame with a face, the mean vector of its two largest faces; column ``faces`` has every face.

    Frames without a face are left out of the feature. The detector departs from the released program, whose YOLOv5-face
    has classes of its own that ultralytics does not load: by default it is a YOLO11n trained on WIDER FACE, at the same
    confidence, overlap and size. It runs in float32 whatever the precision: in half of it, boxes snap to half pixels.
    """

    name = "yolo-face"
    Settings = YoloFaceSettings
    inputs = (FRAMES,)
    sequence = True
    columns = {"faces": pa.list_(FACE)}
    detections = "faces"
    settings: YoloFaceSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Load both models.

        Raises:
            NotAccepted: the detector is a pickle that nobody accepted.
            ValueError: a model is not of the expected kind, lacks weights or has another width.
            OSError: a file of a model is missing.
        """
        super().__init__(settings, resources)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch

        torch.set_num_threads(resources.threads)
        self._detector = Detector(resources.models["detector"], self.settings, resources)
        precision = "float32" if self.settings.precision == "auto" else self.settings.precision
        self._expressions = VitExpression(resources.models["expressions"], resources.device, precision)
        if self._expressions.width != self.settings.width:
            raise ValueError(
                f"width = {self.settings.width}: {self.settings.expressions} has hidden states of "
                f"{self._expressions.width}"
            )
        cpu = resources.device == "cpu"
        self._frame_batches = Batches(self._detector.batch or (CPU_FRAMES if cpu else GPU_FRAMES))
        self._face_batches = Batches(CPU_FACES if cpu else GPU_FACES)

    @classmethod
    def space(cls, settings: ExtractorSettings) -> str:
        """Named after the expression model, unless the settings name it."""
        assert isinstance(settings, YoloFaceSettings)
        return settings.space or space_of(settings.expressions, SPACES)

    @classmethod
    def pickles(cls, models: Mapping[str, Path]) -> list[Path]:
        """The detector, unless it is an ONNX file."""
        return [path for path in [models["detector"]] if path.suffix.lower() == ".pt"]

    @classmethod
    def width(cls, settings: ExtractorSettings) -> int:
        """As the settings say."""
        assert isinstance(settings, YoloFaceSettings)
        return settings.width

    @classmethod
    def references(cls, settings: ExtractorSettings) -> dict[str, str]:
        """Both models."""
        assert isinstance(settings, YoloFaceSettings)
        return {"detector": settings.detector, "expressions": settings.expressions}

    def _extract(self, clips: Sequence[Any]) -> list[Result | Failure]:
        """Find the faces of all clips, then read all their expressions."""
        faces = self._faces(clips)
        crops = [face.cut(clips[face.clip].frames[face.frame]) for face in faces]
        read: list[Expression] = self._face_batches.run(self._expressions, crops)
        found: list[list[tuple[Face, Expression]]] = [[] for _ in clips]
        for face, expression in zip(faces, read, strict=True):
            found[face.clip].append((face, expression))
        return [self._result(clip.frame_times, mine) for clip, mine in zip(clips, found, strict=True)]

    def _faces(self, clips: Sequence[Any]) -> list[Face]:
        """The faces of all clips: clip by clip, frame by frame, the largest first."""
        # Frames of different sizes would be padded to a square, and a frame's faces depend on those beside it.
        places: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for index, clip in enumerate(clips):
            for number, frame in enumerate(clip.frames):
                places[frame.shape].append((index, number))
        faces = []
        for alike in places.values():
            frames = [clips[index].frames[number] for index, number in alike]
            for (index, number), frame, boxes in zip(
                alike, frames, self._frame_batches.run(self._detector, frames), strict=True
            ):
                found = [Face(index, number, corners, score) for corners, score in boxes]
                faces += [face for face in found if face.cut(frame).size]
        # The position decides between equal areas, so that the order never depends on the detector's.
        return sorted(faces, key=lambda face: (face.clip, face.frame, -face.area, face.corners))

    def _result(self, frame_times: np.ndarray, found: Sequence[tuple[Face, Expression]]) -> Result:
        """The result of one clip from its faces, which come frame by frame and the largest first."""
        vectors: dict[int, list[np.ndarray]] = defaultdict(list)
        for face, expression in found:
            vectors[face.frame].append(expression.vector)
        feature = np.zeros((len(vectors), self.settings.width), np.float32)
        for row, ranked in enumerate(vectors.values()):
            feature[row] = np.mean(ranked[: self.settings.faces_averaged], axis=0)
        times = np.asarray(frame_times, np.float64)
        seen = times[list(vectors)]
        rows = [_row(face, float(times[face.frame]), expression) for face, expression in found]
        return Result(feature, seen, seen.copy(), {"faces": rows})


def _row(face: Face, time_s: float, expression: Expression) -> dict[str, Any]:
    left, top, right, bottom = face.corners
    return {
        "frame": face.frame,
        "time_s": time_s,
        "x": left,
        "y": top,
        "w": right - left,
        "h": bottom - top,
        "score": face.score,
        "expression": expression.name,
        "probability": expression.probability,
    }


class Detector:
    """A YOLO of ultralytics over frames of one size; every box that it finds counts as a face.

    Gives what ``YOLO.predict`` gives for one frame at a time (a test says so), but without its side effects: that one
    sets torch's threads for the whole process and drops the faces of a batch that took too long.

    Attributes:
        batch: how many frames an .onnx file takes at once, where it is fixed.
    """

    def __init__(self, path: Path, settings: YoloFaceSettings, resources: Resources) -> None:
        """Load the weights; see :func:`load_yolo`."""
        self._settings, self._device = settings, resources.device
        self._network, task = load_yolo(path, resources)
        if task not in {"detect", "pose"}:
            raise ValueError(f"{path} is a YOLO to {task}; expected one that detects")
        # A pose model (boxes with landmarks) has more columns after those of its classes; elsewhere, all are classes.
        self._classes = len(self._network.names) if task == "pose" else 0
        self.batch, size = _fixed(self._network)
        from ultralytics.data.augment import LetterBox

        self._letterbox = LetterBox(
            size or (settings.image_size, settings.image_size), auto=size is None, stride=self._network.stride
        )

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[tuple[Corners, float]]]:
        """The boxes, clipped to the picture, and scores of the faces in frames of one size, uint8 [h, w, 3], RGB."""
        import torch
        from ultralytics.utils.nms import non_max_suppression
        from ultralytics.utils.ops import scale_boxes

        images: Any = [self._letterbox(image=frame) for frame in frames]
        pixels = torch.from_numpy(np.stack(images)).to(self._device).permute(0, 3, 1, 2)  # [n, 3, H, W]
        pixels = pixels.float().div_(255)
        with torch.inference_mode():
            found = non_max_suppression(
                self._network(pixels),
                self._settings.confidence,
                self._settings.iou,
                nc=self._classes,
                end2end=self._network.end2end,
                max_time_img=float("inf"),
            )  # each [faces, 6 or more]: corners, score, class, …
            for rows, frame in zip(found, frames, strict=True):
                scale_boxes((pixels.shape[2], pixels.shape[3]), rows[:, :4], frame.shape)  # in place
        return [[(tuple(row[:4]), row[4]) for row in rows[:, :5].tolist()] for rows in found]


def load_yolo(path: Path, resources: Resources) -> tuple[Any, str]:
    """A detector and what ultralytics calls its task.

    A .pt file is a pickle, which can run any program when it is read: only one whose hash was accepted is, and even
    that by torch's reader of plain weights and ultralytics' list of known classes (``ULTRALYTICS_SAFE_LOAD=false`` in
    the environment lifts the second). An .onnx file holds no code.

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
    if suffix == ".pt":
        try:
            yolo = YOLO(path)
        except TypeError as error:
            lift = "ULTRALYTICS_SAFE_LOAD=false in the environment lifts the list of known classes"
            raise ValueError(f"{path} was not loaded: {error} ({lift})") from error
        # end2end=False: those that can do without suppressing overlaps do it too, so that `iou` always means something.
        return AutoBackend(yolo.model, device=device, verbose=False, end2end=False), str(yolo.task)
    network = AutoBackend(path, device=device, verbose=False)
    _limit_threads(network.backend, path, resources.threads)
    return network, str(network.task or "detect")


def _limit_threads(backend: Any, path: Path, threads: int) -> None:
    """Open an ONNX file once more, with so many threads; left to itself, it takes every core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    backend.session = onnxruntime.InferenceSession(path, options, providers=backend.session.get_providers())


def _fixed(network: Any) -> tuple[int | None, tuple[int, int] | None]:
    """The batch and the (height, width) that a network is bound to; None where it takes any."""
    if network.format != "onnx":
        return None, None
    batch, _, height, width = network.session.get_inputs()[0].shape
    fixed = isinstance(height, int) and isinstance(width, int)
    return batch if isinstance(batch, int) else None, (height, width) if fixed else None


def quieten_ultralytics() -> None:
    """Keep ultralytics from asking servers, installing packages, printing, and writing into the user's home.

    Works before its first import in a process, when it reads these variables.
    """
    if "YOLO_CONFIG_DIR" not in os.environ:
        os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="vemoclap-ultralytics-")
        atexit.register(shutil.rmtree, os.environ["YOLO_CONFIG_DIR"], ignore_errors=True)
    for name, value in (
        ("YOLO_OFFLINE", "true"),
        ("YOLO_AUTOINSTALL", "false"),
        ("YOLO_VERBOSE", "false"),
        ("ULTRALYTICS_SAFE_LOAD", "true"),
    ):
        os.environ.setdefault(name, value)
