"""What the two extractors of facial expressions share: from faces found and read to a result for each clip."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from vemoclap_batch.extractors.base import FRAMES, Extractor, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.upright import Box, box_before, off_upright, turn_of, turned_picture, upright_patch
from vemoclap_batch.media.clip import Clip
from vemoclap_batch.media.windows import evenly_spaced

FACE = pa.struct(
    {
        "frame": pa.int32(),
        "time_s": pa.float64(),
        **dict.fromkeys(("x", "y", "w", "h", "score"), pa.float32()),
        "expression": pa.string(),
        "probability": pa.float32(),
        "turn": pa.float32(),
    }
)
#: A face is cut out as it lies up to this many degrees: the expression networks were trained on heads held like that.
TILTED = 30.0
#: Frames, evenly spaced, of a clip without a sure face that are tried in each turn.
TRIED = 3
#: How many of these have to show a face in a turn: texture that looks like a face does so in one frame.
NEEDED = 2


class Place(NamedTuple):
    """A frame of a clip of the batch, turned clockwise by so many quarters."""

    clip: int
    frame: int
    quarters: int = 0


@dataclass(frozen=True)
class Detection:
    """A face as a detector gives it.

    Attributes:
        box: left, top, width and height in pixels of the frame that it was given.
        score: how sure it is, 0 to 1.
        landmarks: float [5, 2] as :func:`~vemoclap_batch.extractors.upright.turn_of` takes them, if it gives any.
    """

    box: Box
    score: float
    landmarks: np.ndarray | None = None


@dataclass(frozen=True)
class Face:
    """A face that was found.

    Attributes:
        clip, frame: where, as numbers in the batch and in the clip.
        box: left, top, width and height in pixels of the frame.
        score: how sure the detector is, 0 to 1.
        turn: clockwise degrees by which the picture was turned to show it upright, 0 where it was read as it lies.
        crop: what the expression is read from.
    """

    clip: int
    frame: int
    box: Box
    score: float
    turn: float
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

    Frames without a face are left out of the feature. Of a clip without any, or without one that the detector is sure
    of, a few frames are tried turned by 90, 180 and 270 degrees, and all of them are read in the turn that shows sure
    faces. Where the detector gives landmarks, a face that is tilted by more than :data:`TILTED` degrees is turned
    upright by them before its expression is read.
    """

    inputs = (FRAMES,)
    sequence = True
    columns = {"faces": pa.list_(FACE)}
    detections = "faces"
    #: How many faces of a frame are averaged; the published system takes two.
    _averaged = 2
    #: What a face of a turned picture has to score, 0 to 1; None where no turn is tried.
    _turned_score: float | None
    #: Turns are tried of a clip without a face that scores as much; 0: of one without any.
    _sure_score = 0.0
    _face_batches: Batches

    @abstractmethod
    def _detect(self, clips: Sequence[Clip], places: Sequence[Place]) -> list[list[Detection]]:
        """The faces of each of these frames; :func:`pixels` gives them."""

    @abstractmethod
    def _cut(self, frame: np.ndarray, box: Box) -> np.ndarray:
        """What the expression of a face is read from; of size 0 where the box has no pixel."""

    @abstractmethod
    def _read(self, crops: Sequence[np.ndarray]) -> list[Expression]:
        """The expressions of a batch of faces."""

    def _extract(self, clips: Sequence[Clip]) -> list[Result]:
        faces = self._find(clips)
        expressions = self._face_batches.run(self._read, [face.crop for face in faces])
        of_clip: dict[int, list[tuple[Face, Expression]]] = defaultdict(list)
        for face, expression in zip(faces, expressions, strict=True):
            of_clip[face.clip].append((face, expression))
        return [self._result(clip, of_clip[index]) for index, clip in enumerate(clips)]

    def _find(self, clips: Sequence[Clip]) -> list[Face]:
        """The faces in all frames of all clips, in their order."""
        faces = self._faces(clips, frames_of(clips, range(len(clips))))
        if self._turned_score is not None:
            sure = {face.clip for face in faces if face.score >= self._sure_score}
            turns = self._turns(clips, sorted(set(range(len(clips))) - sure), self._turned_score)
            faces = [face for face in faces if face.clip not in turns]
            for index, quarters in turns.items():
                faces += self._faces(clips, frames_of(clips, [index], quarters), self._turned_score)
        return sorted(faces, key=lambda face: face.order)

    def _turns(self, clips: Sequence[Clip], unsure: Sequence[int], least: float) -> dict[int, int]:
        """Those of the clips without a sure face that show such in another turn → the quarters of the likeliest."""
        tried = [
            Place(index, int(frame), quarters)
            for index in unsure
            for quarters in (1, 2, 3)
            for frame in evenly_spaced(len(clips[index].frames), TRIED)
        ]
        scores: defaultdict[int, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for place, found in zip(tried, self._detect(clips, tried), strict=True):
            if best := max((face.score for face in found if face.score >= least), default=0.0):
                scores[place.clip][place.quarters].append(best)
        turns = {}
        for index, by_turn in scores.items():
            needed = min(NEEDED, len(clips[index].frames))
            if enough := {quarters: sum(best) for quarters, best in by_turn.items() if len(best) >= needed}:
                turns[index] = max(enough, key=lambda quarters: enough[quarters])
        return turns

    def _faces(self, clips: Sequence[Clip], places: Sequence[Place], least: float = 0.0) -> list[Face]:
        """The faces in frames that score at least so much, each cut out upright."""
        faces = []
        for place, found in zip(places, self._detect(clips, places), strict=True):
            if likely := [face for face in found if face.score >= least]:
                frame = pixels(clips, place)
                faces += [self._face(clips, place, frame, face) for face in likely]
        return [face for face in faces if face.crop.size]

    def _face(self, clips: Sequence[Clip], place: Place, frame: np.ndarray, found: Detection) -> Face:
        tilt = 0.0 if found.landmarks is None else turn_of(found.landmarks)
        if off_upright(tilt) > TILTED:
            crop = self._cut(*upright_patch(frame, found.box, tilt))
        else:
            crop, tilt = self._cut(frame, found.box), 0.0
        height, width = clips[place.clip].frames.shape[1:3]
        box = box_before(found.box, place.quarters, height, width)
        return Face(place.clip, place.frame, box, found.score, (90 * place.quarters + tilt) % 360, crop)

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


def frames_of(clips: Sequence[Clip], indices: Iterable[int], quarters: int = 0) -> list[Place]:
    """Every frame of these of the clips, in one turn."""
    return [Place(index, number, quarters) for index in indices for number in range(len(clips[index].frames))]


def pixels(clips: Sequence[Clip], place: Place) -> np.ndarray:
    """The frame at a place, turned: uint8 [h, w, 3], RGB."""
    frame = clips[place.clip].frames[place.frame]
    return turned_picture(frame, place.quarters) if place.quarters else frame


def _row(times: np.ndarray, face: Face, expression: Expression) -> dict[str, Any]:
    return {
        "frame": face.frame,
        "time_s": float(times[face.frame]),
        **dict(zip("xywh", face.box, strict=True)),
        "score": face.score,
        "expression": expression.name,
        "probability": expression.probability,
        "turn": face.turn,
    }
