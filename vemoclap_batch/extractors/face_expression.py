"""Faces and their expressions: libfacedetection and the project's own small expression network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

import vemoclap_batch
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import FRAMES, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.libfacedetection import find_faces
from vemoclap_batch.media.clip import Clip

WEIGHTS = Path(vemoclap_batch.__file__).parent / "weights" / "expression.safetensors"
#: libfacedetection misses faces in larger pictures.
LARGEST_SIDE = 960
#: The published system averages the two largest faces of a frame.
FACES_AVERAGED = 2
#: Crops in one pass of the network.
BATCH = 64

FACE = pa.struct(
    [
        ("frame", pa.int32()),
        ("time_s", pa.float64()),
        *((name, pa.float32()) for name in ("x", "y", "w", "h", "score")),
        ("expression", pa.string()),
        ("probability", pa.float32()),
    ]
)


class FaceSettings(ExtractorSettings):
    """Settings of :class:`FaceExpression`."""

    min_confidence: int = Field(80, ge=0, le=100, description="libfacedetection's own scale; below 80 come false faces")


@dataclass(frozen=True)
class Face:
    """A face found: in which frame of which clip, where (pixels), and how surely (0..1)."""

    clip: int
    frame: int
    box: tuple[float, float, float, float]
    score: float


class FaceExpression(Extractor):
    """Per frame with a face, the mean embedding of its two largest faces; column ``faces`` has every face."""

    name = "face-expression"
    Settings = FaceSettings
    inputs = (FRAMES,)
    sequence = True
    detections = "faces"
    columns = {"faces": pa.list_(FACE)}
    settings: FaceSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        import torch

        from vemoclap_batch.networks import expression

        torch.set_num_threads(resources.threads)
        self._expression = expression
        self._network = expression.load_expression_net(WEIGHTS).to(resources.device)

    @classmethod
    def space(cls, settings: ExtractorSettings) -> str:
        """The same whatever the settings."""
        return "lite/expression-1"

    @classmethod
    def width(cls, settings: ExtractorSettings) -> int:
        """Width of the network's embedding, as its weights file says."""
        # The numpy reader spares the driver an import of torch.
        from safetensors import safe_open

        with safe_open(str(WEIGHTS), "np") as file:
            return int(file.get_slice("head.weight").get_shape()[1])

    @classmethod
    def weights(cls, settings: ExtractorSettings) -> str:
        """Short hash of the weights file."""
        return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:12]

    def _extract(self, clips: Sequence[Clip]) -> list[Result | Failure]:
        """Find the faces of all clips, then embed them all together."""
        faces = [
            Face(index, number, box, score)
            for index, clip in enumerate(clips)
            for number, frame in enumerate(clip.frames)
            for box, score in self._detect(frame)
        ]
        crops = [self._expression.crop_face(clips[face.clip].frames[face.frame], face.box) for face in faces]
        embeddings, probabilities = self._run(crops)
        owners = np.array([face.clip for face in faces], dtype=int)
        results: list[Result | Failure] = []
        for index, clip in enumerate(clips):
            mine = np.flatnonzero(owners == index)
            results.append(
                self._result(clip, [faces[row] for row in mine], embeddings[mine], probabilities[mine]),
            )
        return results

    def _detect(self, frame: np.ndarray) -> list[tuple[tuple[float, float, float, float], float]]:
        """The boxes and scores of the faces in a frame, the largest first."""
        import cv2

        height, width = frame.shape[:2]
        scale = max(height, width) / LARGEST_SIDE
        if scale > 1:
            frame = cv2.resize(frame, (round(width / scale), round(height / scale)), interpolation=cv2.INTER_AREA)
        found = [
            (tuple(float(side) * max(scale, 1.0) for side in box), confidence / 100)
            for *box, confidence in find_faces(frame)
            if confidence >= self.settings.min_confidence
        ]
        # The position decides between equal areas, so that the order never depends on the detector's.
        return sorted(found, key=lambda face: (-face[0][2] * face[0][3], face[0]))

    def _run(self, crops: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings [n, width] and class probabilities [n, 7] of face crops."""
        import torch

        embeddings = [np.empty((0, self._network.width), np.float32)]
        probabilities = [np.empty((0, len(self._expression.CLASSES)), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(crops), BATCH):
                batch = self._expression.prepare(crops[start : start + BATCH]).to(self.resources.device)
                embedding, logits = self._network(batch)
                embeddings.append(embedding.cpu().numpy())
                probabilities.append(logits.softmax(1).cpu().numpy())
        return np.concatenate(embeddings), np.concatenate(probabilities)

    def _result(self, clip: Clip, faces: list[Face], embeddings: np.ndarray, probabilities: np.ndarray) -> Result:
        """The result of one clip from its faces, which come frame by frame and the largest first."""
        numbers = np.array([face.frame for face in faces], dtype=int)
        seen = np.unique(numbers)
        feature = np.zeros((len(seen), embeddings.shape[1]), np.float32)
        for row, number in enumerate(seen):
            feature[row] = embeddings[numbers == number][:FACES_AVERAGED].mean(0)
        times = np.asarray(clip.frame_times, np.float64)
        rows = [
            self._row(face, float(times[face.frame]), likely) for face, likely in zip(faces, probabilities, strict=True)
        ]
        return Result(feature, times[seen], times[seen], {"faces": rows})

    def _row(self, face: Face, time_s: float, probabilities: np.ndarray) -> dict[str, Any]:
        best = int(probabilities.argmax())
        return {
            "frame": face.frame,
            "time_s": time_s,
            **dict(zip("xywh", face.box, strict=True)),
            "score": face.score,
            "expression": self._expression.CLASSES[best],
            "probability": float(probabilities[best]),
        }
