"""Text in frames: PaddleOCR, by default on the PP-OCRv6 ONNX models that the rapidocr wheel carries."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from vemoclap_batch.extractors.base import FRAMES, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.paddle_models import (
    DETECTOR,
    RECOGNISER,
    Engine,
    bundled_detector,
    bundled_recogniser,
)
from vemoclap_batch.extractors.still import originals
from vemoclap_batch.extractors.text_lines import LineReader, Recogniser, Region, TextLine, own_hashes
from vemoclap_batch.media.clip import Clip

LINE = pa.struct(
    {
        "frame": pa.int32(),
        "time_s": pa.float64(),
        "text": pa.string(),
        "score": pa.float32(),
        "polygon": pa.list_(pa.list_(pa.float32())),
        "script": pa.string(),
        "orientation": pa.string(),
        "note": pa.string(),
    }
)


class OcrSettings(ExtractorSettings):
    """Settings of :class:`PaddleOcr`."""

    min_score: float = Field(0.8, ge=0, le=1, description="lines with a lower score are dropped")
    min_score_short: float = Field(0.95, ge=0, le=1, description="the same for lines of a single letter or digit")
    keep_lines: bool = Field(True, description="a line that looks as in the frame before is not read again")


class PaddleOcr(Extractor):
    """Column ``lines``: every line of text of every frame; column ``text``: the texts of the frames, each once.

    A line in a script that the model does not know has a ``note`` and no text of its own, and is not part of ``text``.
    """

    name = "paddleocr"
    version = 2
    Settings = OcrSettings
    inputs = (FRAMES,)
    columns = {"lines": pa.list_(LINE), "text": pa.string()}
    detections = "lines"
    package = "rapidocr"
    settings: OcrSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        # PaddleOCR reads the models while the object is made, from folders that are not needed after.
        with tempfile.TemporaryDirectory(prefix="vemoclap-ocr-") as scratch:
            self.reader = self._reader(Path(scratch))

    def _reader(self, scratch: Path) -> LineReader:
        """What reads a frame; ``scratch`` is a folder that exists until it is made."""
        engine = Engine(threads=self.resources.threads)
        recogniser = Recogniser(bundled_recogniser(scratch), engine)
        recogniser.load()
        return LineReader(engine.detector(bundled_detector(scratch)), recogniser, {}, self.settings.keep_lines)

    @classmethod
    def weights(cls, settings: Any) -> str:
        """The version of the package that carries the models, their names, and hashes of what tells scripts."""
        return f"{super().weights(settings)} {DETECTOR} {RECOGNISER} {own_hashes()}"

    def _extract(self, clips: Sequence[Clip]) -> list[Result]:
        return [ocr_result(clip, frames) for clip, frames in zip(clips, self._lines(clips), strict=True)]

    def _lines(self, clips: Sequence[Clip]) -> list[list[list[dict[str, Any]]]]:
        """The lines of each frame of each clip; of frames that look the same, only the first is read."""
        lines = []
        for clip in clips:
            sources = originals(clip.frames)
            numbers = sorted(set(sources))
            read = dict(zip(numbers, self._read(clip.frames[at] for at in numbers), strict=True))
            lines.append([read[at] for at in sources])
        return lines

    def _read(self, frames: Iterable[np.ndarray]) -> Iterator[list[dict[str, Any]]]:
        """The lines of each frame uint8 [h, w, 3] of a clip, in reading order."""
        before: list[Region] = []
        for frame in frames:
            # PaddleOCR takes BGR.
            lines, before = self.reader(np.ascontiguousarray(frame[:, :, ::-1]), before)
            yield [_row(line) for line in lines if line.text is None or self._is_trusted(line.text, line.score)]

    def _is_trusted(self, text: str, score: float) -> bool:
        """Whether a line is kept; what is read where there is no text is short and has a low score."""
        letters = sum(character.isalnum() for character in text)
        if letters == 0:
            return False
        return score >= (self.settings.min_score if letters > 1 else self.settings.min_score_short)


def _row(line: TextLine) -> dict[str, Any]:
    return {
        "text": line.text,
        "score": line.score,
        "polygon": line.polygon.tolist(),
        "script": line.script,
        "orientation": line.orientation,
        "note": line.note,
    }


def ocr_result(clip: Clip, frames: Sequence[Sequence[dict[str, Any]]], **extras: Any) -> Result:
    """The result of a clip from the lines of each of its frames; ``extras`` are further columns, or replace some."""
    lines = [
        {"frame": number, "time_s": float(clip.frame_times[number]), **line}
        for number, of_frame in enumerate(frames)
        for line in of_frame
    ]
    return Result(extras={"lines": lines, "text": ". ".join(unique_texts(frames)), **extras})


def unique_texts(frames: Iterable[Sequence[dict[str, Any]]]) -> dict[str, int]:
    """The different texts of frames (in lower case), each with the first frame that shows it; not lines with a note."""
    first: dict[str, int] = {}
    for number, lines in enumerate(frames):
        if text := " ".join(line["text"] for line in lines if line["note"] is None).lower():
            first.setdefault(text, number)
    return first
