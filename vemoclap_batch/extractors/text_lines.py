"""Lines of text in an image: found by one model, told apart by script and orientation, read by the one that can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vemoclap_batch.extractors.language import KnownLanguages
from vemoclap_batch.extractors.paddle_models import Engine, crops, model_characters, sorted_boxes
from vemoclap_batch.extractors.pretrained import own_weights_hash
from vemoclap_batch.extractors.reading_order import reading_order
from vemoclap_batch.extractors.still import is_there
from vemoclap_batch.networks.look_alikes import ALIKE, LookAlikes
from vemoclap_batch.networks.script import ORIENTATIONS, SCRIPTS, Line, ScriptClassifier, known_scripts

#: The classifier that the package carries, and its counts of letters.
WEIGHTS = Path(__file__).parents[1] / "weights" / "script.onnx"
COUNTS = WEIGHTS.with_name("look_alikes.npz")
#: A line is left out as foreign if that sure, and read by another recogniser if it may be so likely in its script. Of
#: lines that are less than so many pixels high, or of fewer letters, little can be told: they have to be surer.
SURE, LIKELY = 0.9, 0.1
LOW, FEW, SURE_OF_LOW = 18, 4, 0.97
#: What is read with a low score may be letters that look alike. Fewer letters than that for every height of the line in
#: its width are none: the recogniser sees nothing that it knows.
SURE_OF_GARBLED, SPARSE, SURE_OF_UNREAD = 0.6, 0.4, 0.3
#: A line that is so surely in another script need not be read to know. Else the letters that are read speak for or
#: against it, with the logarithm of their odds times that, as the threes of letters overlap.
CERTAIN, LETTERS_COUNT = 0.98, 0.7
#: A line is tried turned if that is so likely, or surer if it is read well as it is; what is read better is taken.
TURNED, TURNED_THOUGH_READ, BETTER = 0.25, 0.6, 0.03
#: How many lines weigh as much as a line's own look, in what is said of its script and of its orientation; and what the
#: others leave of a script or orientation that none of them has.
_OTHERS, _LEFT = (3, 1), (0.02, 0.05)
#: A reading with such letters is of an unknown script if the line may so likely be in it: Vietnamese has some that the
#: recogniser knows, and Greek ones come between Latin ones where a line is Greek.
_TELLING = (
    ("vietnamese", "ơưđƠƯĐ", 0.2),
    ("vietnamese", "ăâêôĂÂÊÔ", 0.4),
    ("greek", "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθκλμνξπρστφχψω", 0.4),
)
#: Beside a line that is surely in an unknown script, one that is so likely in such a script too is left out, unless it
#: is in another language with that probability: capitals of Vietnamese are hard to tell from Latin ones.
BESIDE, CLEARLY = 0.05, 0.6
#: Why a line is not part of the text.
UNKNOWN_SCRIPT, MIRRORED = "unknown script", "mirrored"
#: A reading with that score is good; one of a mirrored line that is not is garbage.
READ_WELL = 0.95
#: Of a line that may have been there in the frame before: by how many pixels its box may be larger or smaller, and how
#: many lines of the frame before are compared with it.
RESIZED, CANDIDATES = 4, 3
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
        foreign: how likely it is in a script that no recogniser knows.
    """

    text: str | None
    score: float
    polygon: np.ndarray
    script: str
    orientation: str = ORIENTATIONS[0]
    note: str | None = None
    foreign: float = 0.0


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


@dataclass
class Region:
    """A place of a frame that the detector took for a line, and what the networks made of it.

    Attributes:
        image: its crop, upright, uint8 [h, w, 3] (BGR).
        polygon: where it lies, float [4, 2], pixels.
        inside: what the frame that was read shows in the box around the polygon, with a margin, uint8 [h, w, 3] (BGR).
        look: what the classifier of scripts says of the crop.
        readings: (the place of the recogniser in memory, turn) → what that made of the crop.
    """

    image: np.ndarray
    polygon: np.ndarray
    inside: np.ndarray
    look: Line
    readings: dict[tuple[int, str], Reading] = field(default_factory=dict)

    def read(self, recogniser: Recogniser, turn: str = ORIENTATIONS[0]) -> Reading:
        """The reading of the crop, turned; the recogniser sees it once."""
        key = id(recogniser), turn
        if key not in self.readings:
            self.readings[key] = recogniser(self.image[_TURNS[turn]] if turn in _TURNS else self.image)
        return self.readings[key]


class LineReader:
    """Finds the lines of images and reads each with a recogniser that knows its script."""

    def __init__(
        self, detector: Any, recogniser: Recogniser, others: Mapping[str, Recogniser], keep: bool = True
    ) -> None:
        """Take the models.

        Args:
            detector: PaddleOCR's ``TextDetection``.
            recogniser: of every line whose script it knows.
            others: script → what reads lines in it, if the former does not.
            keep: do not read again what looks as in the frame before.

        Raises:
            ValueError: one of the others lacks letters of its script.
        """
        for script, other in others.items():
            if script not in other.scripts:
                raise ValueError(
                    f"the recogniser for {script} cannot write its letters; it knows {sorted(other.scripts)}"
                )
        self._detector, self._classifier, self._letters = detector, ScriptClassifier(WEIGHTS), LookAlikes(COUNTS)
        self.recogniser, self._keep = recogniser, keep
        self.others = {script: other for script, other in others.items() if script not in recogniser.scripts}
        self._foreign = set(SCRIPTS) - recogniser.scripts - self.others.keys()
        self._languages = KnownLanguages()

    def __call__(self, frame: np.ndarray, before: Sequence[Region] = ()) -> tuple[list[TextLine], list[Region]]:
        """The lines of a frame, uint8 [h, w, 3] (BGR), in reading order, and its regions.

        Args:
            frame: the image.
            before: regions of the frame before; those that look the same, there or moved, are not read again.
        """
        (found,) = self._detector.predict(frame)
        polygons = sorted_boxes(found["dt_polys"]) if len(found["dt_polys"]) else []
        images = crops(frame, polygons) if polygons else []
        regions = [
            self._region(frame, np.asarray(polygon, np.float32), image, before)
            for polygon, image in zip(polygons, images, strict=True)
            if image.size
        ]
        looks = among_others([region.look for region in regions])
        lines = self._beside_foreign([self._line(*each) for each in zip(regions, looks, strict=True)])
        upside_down = [line.orientation == "upside down" for line in lines]
        order = reading_order([line.polygon for line in lines], upside_down)
        return [lines[at] for at in order], regions if self._keep else []

    def _region(self, frame: np.ndarray, polygon: np.ndarray, image: np.ndarray, before: Sequence[Region]) -> Region:
        height, width = frame.shape[:2]
        # With a margin, a line that has grown by a full stop differs.
        left, top = np.maximum(polygon.min(0) - RESIZED, 0).astype(int)
        right, bottom = np.minimum(np.ceil(polygon.max(0)) + RESIZED, (width, height)).astype(int)
        size = np.array([right - left, bottom - top])
        alike = [region for region in before if (np.abs(_size(region) - size) <= RESIZED).all()]
        for region in sorted(alike, key=lambda region: float(np.abs(region.polygon - polygon).max()))[:CANDIDATES]:
            if is_there(region.inside, frame, (left, top, right, bottom)):
                return replace(region, polygon=polygon)
        return Region(image, polygon, frame[top:bottom, left:right], self._classifier(image))

    def _line(self, region: Region, look: Line) -> TextLine:
        polygon = region.polygon
        if look.probability(self._foreign) >= CERTAIN:
            return self._left_out(polygon, look)
        chosen: tuple[str, Reading, str] | None = None
        needed = LIKELY
        if look.probability(self.recogniser.scripts) > 1 - CERTAIN:
            reading, orientation = _best(self.recogniser, region, look)
            log_odds = LETTERS_COUNT * self._letters.log_odds(reading.text)
            look = look.weighed(set(ALIKE) - self.recogniser.scripts, log_odds)
            needed = _needed(region.image, reading)
            if look.probability(self._foreign) >= needed or self._is_told(reading.text, look):
                return self._left_out(polygon, look)
            script = max(self.recogniser.scripts, key=lambda name: look.probability({name}))
            chosen = script, reading, orientation
        readings = [
            (share, script, *_best(other, region, look))
            for script, other in self.others.items()
            if (share := look.probability({script})) >= LIKELY
        ]
        if readings:
            share, script, reading, orientation = max(readings, key=lambda each: each[0] * each[2].score)
            # In doubt, the recogniser of most lines is to be outdone, as letters that look alike are read as well.
            if chosen is None or share >= needed or reading.score > chosen[1].score + BETTER:
                chosen = script, reading, orientation
        if chosen is None:
            return self._left_out(polygon, look)
        script, reading, orientation = chosen
        turn, probability = look.turn
        garbled = turn != "upside down" and orientation == ORIENTATIONS[0] and probability >= SURE
        if garbled and reading.score < READ_WELL:
            return TextLine(reading.text, reading.score, polygon, script, turn, MIRRORED)
        foreign = look.probability(self._foreign)
        return TextLine(reading.text, reading.score, polygon, script, orientation, foreign=foreign)

    def _beside_foreign(self, lines: Sequence[TextLine]) -> list[TextLine]:
        """The lines, without those in doubt where another one is surely in an unknown script."""
        if not any(line.note == UNKNOWN_SCRIPT and line.foreign >= SURE for line in lines):
            return list(lines)
        return [
            replace(line, text=None, score=line.foreign, note=UNKNOWN_SCRIPT)
            if line.note is None and line.foreign >= BESIDE and not self._is_clear(line.text)
            else line
            for line in lines
        ]

    def _is_clear(self, text: str | None) -> bool:
        guess = self._languages.guess(text or "")
        return guess.language != "vi" and guess.probability >= CLEARLY

    def _left_out(self, polygon: np.ndarray, look: Line) -> TextLine:
        script = max(self._foreign, key=lambda name: look.probability({name}))
        foreign = look.probability(self._foreign)
        return TextLine(None, foreign, polygon, script, note=UNKNOWN_SCRIPT, foreign=foreign)

    def _is_told(self, text: str, look: Line) -> bool:
        """Whether a text has letters of an unknown script, of which the recogniser knows a few."""
        return any(
            script in self._foreign and look.probability({script}) >= least and any(map(letters.count, text))
            for script, letters, least in _TELLING
        )


def _needed(image: np.ndarray, reading: Reading) -> float:
    """How likely a line has to be foreign to be left out."""
    height, width = image.shape[:2]
    letters = sum(map(str.isalnum, reading.text))
    if letters < SPARSE * width / height:
        return SURE_OF_UNREAD
    if height < LOW or letters < FEW:
        return SURE_OF_LOW
    return SURE if reading.score >= READ_WELL else SURE_OF_GARBLED


def _best(recogniser: Recogniser, region: Region, look: Line) -> tuple[Reading, str]:
    """The reading of a line as it is or, where it may be turned, turned: the better one; and how it was turned."""
    reading = region.read(recogniser)
    turn, probability = look.turn
    if probability < (TURNED if reading.score < READ_WELL else TURNED_THOUGH_READ):
        return reading, ORIENTATIONS[0]
    turned = region.read(recogniser, turn)
    return (turned, turn) if turned.score > reading.score + BETTER else (reading, ORIENTATIONS[0])


def _size(region: Region) -> np.ndarray:
    """Width and height of what is inside."""
    return np.array(region.inside.shape[1::-1])


def own_hashes() -> str:
    """What tells scripts and languages, for fingerprints: short hashes, and the package of the latter."""
    return f"{own_weights_hash(WEIGHTS)} {own_weights_hash(COUNTS)} {KnownLanguages.weights()}"


def among_others(looks: Sequence[Line]) -> list[Line]:
    """What is said of the lines of one frame, each in the light of the others.

    Most lines of a frame are in one script and turned the same way. Letters that look the same in two scripts (РЕСТОРАН
    in capitals) are told by them.

    Args:
        looks: of each line by itself; its probabilities are multiplied by the mean ones of the others, to a power that
            grows with their number.
    """
    count = len(looks) - 1
    if count < 1:
        return list(looks)
    found = []
    for parts, one, left in zip(
        ([look.scripts for look in looks], [look.orientations for look in looks]), _OTHERS, _LEFT, strict=True
    ):
        own = np.stack(parts)  # [lines, classes]
        others = (own.sum(0) - own) / count
        product = own * (others + left) ** (count / (count + one))
        found.append(product / product.sum(1, keepdims=True))
    return [Line(scripts, orientations) for scripts, orientations in zip(*found, strict=True)]
