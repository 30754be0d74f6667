"""What the two extractors of facial expressions share: from faces found and read to a result for each clip."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vemoclap_batch.extractors.base import FRAMES, Extractor, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.media.clip import Clip

FACE = pa.struct(
    {
        "frame": pa.int32(),
        "time_s": pa.float64(),
        **dict.fromkeys(("x", "y", "w", "h", "score"), pa.float32()),
        "expression": pa.string(),
        "probability": pa.float32(),
    }
)


@dataclass(frozen=True)
class Face:
    """A face that was found.

    Attributes:
        clip, frame: where, as numbers in the batch and in the clip.
        box: left, top, width and height in pixels of the frame.
        score: how sure the detector is, 0 to 1.
        crop: what the expression is read from.
    """

    clip: int
    frame: int
    box: tuple[float, float, float, float]
    score: float
    crop: np.ndarray

    @property
    def order(self) -> tuple[Any, ...]:
        """Clip by clip, frame by frame, the largest first; the position decides between equal areas."""
        return self.clip, self.frame, -self.box[2] * self.box[3], self.box


@dataclass(frozen=True)
class Expression:
    """The expression on a face: its vector, float32 [width], the likeliest class and how likely that is."""

    vector: np.ndarray
    name: str
    probability: float

    @classmethod
    def likeliest(cls, vector: np.ndarray, names: Sequence[str], probabilities: np.ndarray) -> Expression:
        """The likeliest of the named classes."""
        best = int(probabilities.argmax())
        return cls(vector, names[best], float(probabilities[best]))


class FaceExtractor(Extractor):
    """Per frame with a face, the mean vector of its largest faces; column ``faces`` has every face.

    Frames without a face are left out of the feature.
    """

    inputs = (FRAMES,)
    sequence = True
    columns = {"faces": pa.list_(FACE)}
    detections = "faces"
    #: How many faces of a frame are averaged; the published system takes two.
    _averaged = 2
    _face_batches: Batches

    @abstractmethod
    def _find(self, clips: Sequence[Clip]) -> list[Face]:
        """The faces in all frames of all clips, in any order."""

    @abstractmethod
    def _read(self, crops: Sequence[np.ndarray]) -> list[Expression]:
        """The expressions of a batch of faces."""

    def _extract(self, clips: Sequence[Clip]) -> list[Result]:
        faces = sorted(self._find(clips), key=lambda face: face.order)
        expressions = self._face_batches.run(self._read, [face.crop for face in faces])
        of_clip: dict[int, list[tuple[Face, Expression]]] = defaultdict(list)
        for face, expression in zip(faces, expressions, strict=True):
            of_clip[face.clip].append((face, expression))
        return [self._result(clip, of_clip[index]) for index, clip in enumerate(clips)]

    def _result(self, clip: Clip, faces: Sequence[tuple[Face, Expression]]) -> Result:
        """The result of one clip from its faces, which come frame by frame and the largest first."""
        vectors: dict[int, list[np.ndarray]] = defaultdict(list)
        for face, expression in faces:
            vectors[face.frame].append(expression.vector)
        means = [np.mean(of_frame[: self._averaged], axis=0) for of_frame in vectors.values()]
        feature = np.array(means, np.float32).reshape(-1, self.width(self.settings))
        times = np.asarray(clip.frame_times, np.float64)
        seen = times[list(vectors)]
        return Result(feature, seen, seen.copy(), {"faces": [_row(times, *face) for face in faces]})


def _row(times: np.ndarray, face: Face, expression: Expression) -> dict[str, Any]:
    return {
        "frame": face.frame,
        "time_s": float(times[face.frame]),
        **dict(zip("xywh", face.box, strict=True)),
        "score": face.score,
        "expression": expression.name,
        "probability": expression.probability,
    }
