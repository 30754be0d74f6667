"""What reading text in frames costs, and whether all lines are still read: models as published, and the extractor."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.extractors import checked
from bench.report import Report, show
from bench.text_clips import TextClip, text_clips
from bench.text_scripts import accuracy
from vemoclap_batch.cli import options as opt
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.ocr import PaddleOcr
from vemoclap_batch.extractors.paddle_models import Engine, bundled_detector, bundled_recogniser
from vemoclap_batch.extractors.text_lines import LineReader, Recogniser
from vemoclap_batch.media.decode import decode


class _AsPublished(Engine):
    """Loads a model's weights as they are."""

    def _runnable(self, folder: Path) -> AbstractContextManager[Path]:
        return nullcontext(folder)


class Before(PaddleOcr):
    """Every line of every frame that differs is found and read, by the models as published."""

    name = "paddleocr-before"

    def _reader(self, scratch: Path) -> LineReader:
        engine = _AsPublished(threads=self.resources.threads)
        recogniser = Recogniser(bundled_recogniser(scratch), engine)
        recogniser.load()
        return LineReader(engine.detector(bundled_detector(scratch)), recogniser, {}, keep=False)


@dataclass
class _Way:
    """What one way took and read of the clips of a kind."""

    seconds: float = 0.0
    accuracies: list[float] = field(default_factory=list)


def measure(videos: Sequence[Path], folder: Path, count: int) -> Report:
    """Read every clip in both ways, one clip after the other.

    Args:
        videos: clips of your own; nothing is known of what they say.
        folder: where fonts are unpacked.
        count: clips of each kind that are made.
    """
    ways = {
        "before": Before(Before.Settings(keep_lines=False), Resources()),
        "now": PaddleOcr(PaddleOcr.Settings(), Resources()),
    }
    found: dict[str, dict[str, _Way]] = defaultdict(lambda: {name: _Way() for name in ways})
    clips: dict[str, int] = defaultdict(int)
    kept: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3, int))
    for clip in _clips(videos, folder, count):
        clips[clip.kind] += 1
        read = {}
        for name, ocr in ways.items():
            began = time.process_time()
            (result,) = checked(ocr, [clip.clip])
            found[clip.kind][name].seconds += time.process_time() - began
            read[name] = _by_frame(result.extras["lines"], len(clip.clip.frames))
            found[clip.kind][name].accuracies += _accuracies(clip, read[name])
        kept[clip.kind] += _kept(read["before"], read["now"])
    rows = [_row(kind, clips[kind], found[kind], kept[kind]) for kind in clips]
    total = np.sum(list(kept.values()), 0)
    figures = {"lines kept": round(float(total[1]) / max(1, int(total[0])), 4)}
    for title, chosen in (
        ("your clips", ["yours"]),
        ("text", [kind for kind in clips if kind not in {"yours", "no text"}]),
    ):
        for name in ways:
            seconds = sum(found[kind][name].seconds for kind in chosen if kind in clips)
            figures[f"{title}: core-seconds a clip, {name}"] = round(seconds / max(1, sum(clips[k] for k in chosen)), 3)
    notes = [
        "before: the models as published, every frame that differs from the one before searched, every line read",
        "kept: lines of before whose text stands in the same frame now, to the letter",
    ]
    return Report("reading", {"clips of each kind": count, "threads": 1}, rows, figures, notes)


def _clips(videos: Sequence[Path], folder: Path, count: int) -> Iterator[TextClip]:
    for video in videos:
        clip = decode(str(video), video.stem)[0]
        yield TextClip("yours", clip, [[] for _ in clip.frames])
    yield from text_clips(folder, count)


def _by_frame(lines: Sequence[dict[str, Any]], frames: int) -> list[list[str]]:
    """The texts of each frame; a line that is left out is one too."""
    texts: list[list[str]] = [[] for _ in range(frames)]
    for line in lines:
        texts[line["frame"]].append(line["text"] or f"({line['note']})")
    return texts


def _accuracies(clip: TextClip, read: Sequence[Sequence[str]]) -> list[float]:
    """Of each frame on which something is known to stand."""
    pairs = zip(clip.lines, read, strict=True)
    return [accuracy(" ".join(lines), " ".join(texts)) for lines, texts in pairs if lines]


def _kept(before: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> np.ndarray:
    """How many lines there were, how many of them there still are, and how many there are now."""
    same = 0
    for old, new in zip(before, now, strict=True):
        rest = list(new)
        for text in old:
            if text in rest:
                rest.remove(text)
                same += 1
    return np.array([sum(map(len, before)), same, sum(map(len, now))])


def _row(kind: str, clips: int, ways: dict[str, _Way], kept: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "clips": clips}
    for name, way in ways.items():
        row[f"core-s {name}"] = round(way.seconds / clips, 3)
    row["times as fast"] = round(ways["before"].seconds / ways["now"].seconds, 2)
    row |= {"lines before": int(kept[0]), "kept": int(kept[1]), "lines now": int(kept[2])}
    for name, way in ways.items():
        row[f"accuracy {name}"] = round(float(np.mean(way.accuracies)), 4) if way.accuracies else None
    return row


def command(
    folder: Annotated[Path, typer.Option(help="Where the fonts' Debian packages are unpacked, and found again.")],
    videos: Annotated[list[Path] | None, typer.Argument(help="Clips of your own.")] = None,
    count: Annotated[int, typer.Option(help="Clips of each kind that are made.")] = 8,
    quick: Annotated[bool, typer.Option("--quick", help="One clip a kind: shows that it works, no more.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Core-seconds a clip of text in frames, lines kept and characters read, before and now."""
    show(measure(videos or [], folder, 1 if quick else count), as_json)
