"""Times and texts as the tools want them: frames, milliseconds, tracks without overlap, texts that parse."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

#: Seconds of rounding that make no other frame: times are stored as float64, many rounded to milliseconds.
_SAME_S = 1e-6
#: What XML 1.0, and PostgreSQL in JSON, cannot hold: control characters but tab and line breaks, surrogates.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Span:
    """Something that is true from a time to another one, in seconds of the video."""

    start_s: float
    end_s: float
    text: str
    confidence: float | None = None


@dataclass(frozen=True)
class Cue:
    """A span in whole milliseconds, at least one long."""

    start_ms: int
    end_ms: int
    span: Span


def frames(start_s: float, end_s: float, fps: float, duration_s: float | None = None) -> tuple[int, int]:
    """The first and the last frame of a span, counted from 1, both inclusive.

    Frame n is shown from (n - 1) / fps on. A frame belongs to a span if that time is in [start, end), so that adjacent
    spans share no frame; a span between two frames is given the one that is shown. No frame lies behind the last one,
    round(duration · fps).
    """
    first = max(math.ceil((start_s - _SAME_S) * fps), 0) + 1
    last = math.ceil((end_s - _SAME_S) * fps)
    if last < first:
        first = last = max(math.floor((start_s + _SAME_S) * fps), 0) + 1
    if duration_s is not None:
        most = max(round(duration_s * fps), 1)
        first, last = min(first, most), min(last, most)
    return first, last


def cues(spans: Iterable[Span]) -> list[Cue]:
    """Spans in whole milliseconds, in order of time; adjacent ones stay adjacent."""
    made = []
    for span in spans:
        start_ms = max(round(span.start_s * 1000), 0)
        made.append(Cue(start_ms, max(round(span.end_s * 1000), start_ms + 1), span))
    return sorted(made, key=lambda cue: (cue.start_ms, cue.end_ms))


def tracks(ordered: Sequence[Cue]) -> list[list[Cue]]:
    """The fewest tracks in which no cue overlaps another: each goes to the first that is free by then."""
    made: list[list[Cue]] = []
    for cue in ordered:
        free = next((track for track in made if track[-1].end_ms <= cue.start_ms), None)
        if free is None:
            made.append([cue])
        else:
            free.append(cue)
    return made


def one_line(text: str) -> str:
    """A text without line breaks, runs of spaces and control characters."""
    return " ".join(printable(" ".join(text.split())).split())


def printable(text: str) -> str:
    """A text without what XML 1.0 and databases refuse; tabs and line breaks stay."""
    return _NOT_XML.sub("", text)


def told(spans: Iterable[Span]) -> list[Span]:
    """The spans that have a text left, each on one line."""
    lines = [replace(span, text=one_line(span.text)) for span in spans]
    return [span for span in lines if span.text]
