"""Windows of a video for which an emotion is predicted, and what belongs into each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

#: A video's last stretch opens no window of its own if it is shorter than this: no more than rounding in containers.
_REST_S = 0.5
#: Seconds within which two times are the same; time stamps are rounded to milliseconds at worst.
_SAME_S = 1e-3


@dataclass(frozen=True)
class Window:
    """How a video is cut: windows of ``window_s`` seconds, one every ``hop_s``; both are positive."""

    window_s: float
    hop_s: float

    def over(self, duration_s: float) -> list[tuple[float, float]]:
        """Start and end in seconds of every window of a video; there is at least one.

        A window starts at every multiple of the hop until one reaches the video's end, where it ends too. A rest of
        less than half a second (and half a window) after a window's end opens no further one.
        """
        rest = min(_REST_S, self.window_s / 2)
        found = [(0.0, min(self.window_s, duration_s))]
        while (start := len(found) * self.hop_s) < duration_s - rest and found[-1][1] < duration_s - rest:
            found.append((start, min(start + self.window_s, duration_s)))
        return found

    def numbers(self, start_s: float, end_s: float) -> range:
        """The numbers of the windows that an item [start, end] belongs to, see :func:`belongs`."""
        # A range that surely holds them all; each of them is then asked.
        first = max(0, int((start_s - self.window_s) / self.hop_s) - 1)
        last = max(0, int(end_s / self.hop_s) + 1)
        inside = [
            number
            for number in range(first, last + 1)
            if belongs(start_s, end_s, number * self.hop_s, number * self.hop_s + self.window_s)
        ]
        return range(inside[0], inside[-1] + 1) if inside else range(0)


def belongs(start_s: float, end_s: float, window_start_s: float, window_end_s: float) -> bool:
    """Whether an item belongs into a window: half of the shorter of the two lies in the other.

    An item without length (a frame) belongs into the window that holds its time; the window's end is not part of it.
    """
    return bool(inside(np.array([start_s]), np.array([end_s]), window_start_s, window_end_s)[0])


def inside(starts_s: np.ndarray, ends_s: np.ndarray, window_start_s: float, window_end_s: float) -> np.ndarray:
    """:func:`belongs` for many items: bool [n]."""
    lengths = ends_s - starts_s
    common = np.minimum(ends_s, window_end_s) - np.maximum(starts_s, window_start_s)
    enough = common >= np.minimum(lengths, window_end_s - window_start_s) / 2 - _SAME_S
    frame = lengths <= _SAME_S
    within = (starts_s >= window_start_s - _SAME_S) & (starts_s < window_end_s - _SAME_S)
    return np.where(frame, within, enough & (common > 0))


class Piece(NamedTuple):
    """A text and the seconds of the video it belongs to: a segment of a transcript, what a frame shows in writing."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class TimedText:
    """What was said or written in a video, and when.

    Attributes:
        pieces: in the order of time.
        written: whether it was read off frames. What several frames show is then taken once.
    """

    pieces: Sequence[Piece]
    written: bool = False

    def over(self, window: Window) -> dict[int, str]:
        """The text of every window that has one, by the window's number."""
        found: dict[int, list[str]] = {}
        for piece in self.pieces:
            if piece.text.strip():
                for number in window.numbers(piece.start_s, piece.end_s):
                    found.setdefault(number, []).append(piece.text)
        return {number: joined_text(texts, self.written) for number, texts in sorted(found.items())}


def joined_text(texts: Sequence[str], written: bool) -> str:
    """Texts put together as the published system does: sentences of a speech by a space, texts of frames once each."""
    return ". ".join(dict.fromkeys(texts)) if written else " ".join(texts)
