"""Lines of text in an image: found by one model, told apart by script and orientation, read by the one that can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vemoclap_batch.extractors.paddle_models import Engine, crops, model_characters, sorted_boxes
from vemoclap_batch.extractors.reading_order import reading_order
from vemoclap_batch.networks.script import ORIENTATIONS, SCRIPTS, Line, ScriptClassifier, known_scripts

#: The classifier that the package carries.
WEIGHTS = Path(__file__).parents[1] / "weights" / "script.onnx"
#: A line is left out as foreign if that sure, and read by another recogniser if it may be so likely in its script.
SURE, LIKELY = 0.9, 0.1
#: In a frame with a line that is so surely foreign, other lines that may be in that script are taken for it too.
CERTAIN, COMPANION = 0.98, 0.3
#: A line is tried turned if the classifier is that sure, and taken so if it is read that much better.
TURNED, BETTER = 0.5, 0.03
#: Why a line is not part of the text.
UNKNOWN_SCRIPT, MIRRORED = "unknown script", "mirrored"
#: A mirrored line whose reading is no better than that is garbage.
READ_WELL = 0.9
_TURNS: dict[str, Any] = {"upside down": np.s_[::-1, ::-1], "mirrored": np.s_[:, ::-1], "flipped": np.s_[::-1]}


@dataclass(frozen=True)
class TextLine:
    """A line of an image.

    Attributes:
        text: as it is read; None where no recogniser knows the script.
        score: of the reading, 0..1; of the script where there is no reading.
        polygon: float [4, 2], pixels.
        script: one of :data:`~vemoclap_batch.networks.script.SCRIPTS`.
        orientation: one of :data:`~vemoclap_batch.networks.script.ORIENTATIONS`: how it was turned before it was read.
        note: why it is not part of the text; None where it is.
    """

    text: str | None
    score: float
    polygon: np.ndarray
    script: str
    orientation: str = ORIENTATIONS[0]
    note: str | None = None


@dataclass(frozen=True)
class Reading:
    """What a recogniser made of an image of a line."""

    text: str
    score: float


class Recogniser:
    """A PaddleOCR model that reads lines; it is loaded when it is first needed."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        """Look at its characters.

        Raises:
            ValueError: the folder holds no model that reads lines.
        """
        self._folder, self._engine = folder, engine
        self.scripts = known_scripts(model_characters(folder))

    @cached_property
    def model(self) -> Any:
        """PaddleOCR's object."""
        return self._engine.recogniser(self._folder)

    def load(self) -> None:
        """Load it now; the folder is not needed after."""
        _ = self.model

    def __call__(self, image: np.ndarray) -> Reading:
        """Read a line, uint8 [h, w, 3] (BGR)."""
        # One at a time: padding to the widest line of a batch changes what is read, and a CPU gains nothing.
        (result,) = self.model.predict(np.ascontiguousarray(image))
        return Reading(result["rec_text"].strip(), float(result["rec_score"]))


class LineReader:
    """Finds the lines of an image and reads each with a recogniser that knows its script."""

    def __init__(self, detector: Any, recogniser: Recogniser, others: Mapping[str, Recogniser]) -> None:
        """Take the models.

        Args:
            detector: PaddleOCR's ``TextDetection``.
            recogniser: of every line whose script it knows.
            others: script → what reads lines in it, if the former does not.

        Raises:
            ValueError: one of the others lacks letters of its script.
        """
        for script, other in others.items():
            if script not in other.scripts:
                raise ValueError(
                    f"the recogniser for {script} cannot write its letters; it knows {sorted(other.scripts)}"
                )
        self._detector, self._classifier = detector, ScriptClassifier(WEIGHTS)
        self.recogniser = recogniser
        self.others = {script: other for script, other in others.items() if script not in recogniser.scripts}
        self._foreign = set(SCRIPTS) - recogniser.scripts - self.others.keys()

    def __call__(self, frame: np.ndarray) -> list[TextLine]:
        """The lines of an image, uint8 [h, w, 3] (BGR), in reading order."""
        (found,) = self._detector.predict(frame)
        polygons = sorted_boxes(found["dt_polys"]) if len(found["dt_polys"]) else []
        images = crops(frame, polygons) if polygons else []
        there = [(polygon, image) for polygon, image in zip(polygons, images, strict=True) if image.size]
        looks = with_companions([self._classifier(image) for _, image in there], self.recogniser.scripts)
        lines = [self._line(*each, look) for each, look in zip(there, looks, strict=True)]
        upside_down = [line.orientation == "upside down" for line in lines]
        return [lines[at] for at in reading_order([line.polygon for line in lines], upside_down)]

    def _line(self, polygon: np.ndarray, image: np.ndarray, look: Line) -> TextLine:
        foreign = look.probability(self._foreign)
        polygon = np.asarray(polygon, np.float32)
        if foreign >= SURE:
            script = max(self._foreign, key=lambda name: look.probability({name}))
            return TextLine(None, foreign, polygon, script, note=UNKNOWN_SCRIPT)
        orientation, probability = look.orientation
        script, reading = self._read(image, look)
        if orientation in _TURNS and probability >= TURNED:
            turned = image[_TURNS[orientation]]
            other, as_turned = self._read(turned, look)
            if as_turned.score > reading.score + BETTER:
                return TextLine(as_turned.text, as_turned.score, polygon, other, orientation)
            if orientation != "upside down" and probability >= SURE and reading.score < READ_WELL:
                return TextLine(reading.text, reading.score, polygon, script, orientation, MIRRORED)
        return TextLine(reading.text, reading.score, polygon, script)

    def _read(self, image: np.ndarray, look: Line) -> tuple[str, Reading]:
        """The reading of the recogniser that is likeliest right, and the script."""
        own = look.probability(self.recogniser.scripts)
        candidates: list[tuple[str, float, Callable[[np.ndarray], Reading]]] = [
            (script, look.probability({script}), other)
            for script, other in self.others.items() if look.probability({script}) >= LIKELY
        ]  # fmt: skip
        if own >= LIKELY or not candidates:
            known = max(self.recogniser.scripts, key=lambda name: look.probability({name}))
            candidates.append((known, own, self.recogniser))
        readings = [(script, share, read(image)) for script, share, read in candidates]
        script, _, reading = max(readings, key=lambda each: each[1] * each[2].score)
        return script, reading


def with_companions(looks: Sequence[Line], known: frozenset[str]) -> list[Line]:
    """What is said of the lines of one frame, with lines in doubt taken for the script of those that are certain.

    Letters that look the same in two scripts (РЕСТОРАН in capitals) are told by the lines around them.

    Args:
        looks: of each line.
        known: scripts whose lines say nothing of others.
    """
    certain = {look.script for look in looks if look.scripts.max() >= CERTAIN} - known
    return [_companion(look, certain) for look in looks]


def _companion(look: Line, certain: set[str]) -> Line:
    script = max(certain, key=lambda name: look.probability({name}), default=None)
    if script is None or look.probability({script}) < COMPANION:
        return look
    scripts = np.zeros_like(look.scripts)
    scripts[SCRIPTS.index(script)] = 1.0
    return Line(scripts, look.orientations)
