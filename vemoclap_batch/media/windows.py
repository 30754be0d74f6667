"""Windows of a video: for audio models, and those for which an emotion is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vemoclap_batch.media.clip import SAMPLE_RATE, Clip

#: The end of a video opens no window of its own if it is shorter than this: no more than rounding in containers.
_REST_S = 0.5
#: Seconds within which two times are the same; time stamps are rounded to milliseconds at worst.
_SAME_S = 1e-3


def evenly_spaced(length: int, n: int) -> np.ndarray:
    """Positions of ``n`` evenly spaced items: ``round(linspace(0, length - 1, n))``; all when there are no more.

    Returns:
        int64 [min(length, n)], strictly increasing.
    """
    if length <= n:
        return np.arange(length)
    return np.round(np.linspace(0, length - 1, n)).astype(np.int64)


def window_starts(samples: int, size: int = 48_000, hop: int = 24_000) -> list[int]:
    """First sample of every window of ``size`` that fits; [0] for audio that is shorter, none for no audio."""
    if samples <= 0:
        return []
    return list(range(0, max(samples - size, 0) + 1, hop))


def clip_windows(
    clip: Clip, size: int = 48_000, hop: int = 24_000, most: int | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The windows of a video's audio that start in this chunk of it.

    Args:
        clip: the chunk; all chunks together give the windows of the whole video.
        size: samples in a window.
        hop: samples from one window's start to the next one's.
        most: how many windows, evenly spaced, the whole video keeps; None for all.

    Returns:
        Seconds of the video where each window starts, float64 [n], and their waveforms, float32 [samples] each:
        ``size`` samples, fewer only in a video with less audio.
    """
    own = len(clip.waveform)
    first = 0 if clip.audio_samples is None else round(clip.start_s * SAMPLE_RATE)
    total = own if clip.audio_samples is None else clip.audio_samples
    every = np.array(window_starts(total, size, hop), np.int64)
    starts = every if most is None else every[evenly_spaced(len(every), most)]
    places = starts[(starts >= first) & (starts < first + own)] - first
    audio = np.concatenate([clip.waveform, clip.lookahead]) if len(clip.lookahead) else clip.waveform
    return clip.start_s + places / SAMPLE_RATE, [audio[place : place + size] for place in places]


@dataclass(frozen=True)
class Window:
    """How a video is cut for predictions: windows of ``window_s`` seconds, one every ``hop_s``; both are positive."""

    window_s: float
    hop_s: float

    def over(self, duration_s: float) -> list[tuple[float, float]]:
        """Start and end in seconds of every window of a video; there is at least one.

        A window starts at every multiple of the hop until one reaches the video's end, where it ends too. A rest of
        less than half a second (and half a window) after a window's end opens no further one.
        """
        rest = min(_REST_S, self.window_s / 2)
        windows = [(0.0, min(self.window_s, duration_s))]
        while (start := len(windows) * self.hop_s) < duration_s - rest and windows[-1][1] < duration_s - rest:
            windows.append((start, min(start + self.window_s, duration_s)))
        return windows

    def numbers(self, start_s: float, end_s: float) -> range:
        """The numbers of the windows that an item [start, end] belongs to, see :func:`inside`."""
        # A range that surely holds them all; each of them is then tested.
        first = max(0, int((start_s - self.window_s) / self.hop_s) - 1)
        numbers = np.arange(first, max(0, int(end_s / self.hop_s) + 1) + 1)
        starts_s = numbers * self.hop_s
        own = numbers[inside(start_s, end_s, starts_s, starts_s + self.window_s)]
        return range(int(own[0]), int(own[-1]) + 1) if len(own) else range(0)


def inside(
    starts_s: np.ndarray | float, ends_s: np.ndarray | float,
    window_starts_s: np.ndarray | float, window_ends_s: np.ndarray | float,
) -> np.ndarray:  # fmt: skip
    """Which items belong into which windows: half of the shorter of the two lies in the other.

    An item without length (a frame) belongs into the window that holds its time, not into one that ends there.

    Returns:
        bool, of the shape to which the arguments broadcast.
    """
    lengths = np.asarray(ends_s) - starts_s
    common = np.minimum(ends_s, window_ends_s) - np.maximum(starts_s, window_starts_s)
    enough = common >= np.minimum(lengths, np.asarray(window_ends_s) - window_starts_s) / 2 - _SAME_S
    starts_s = np.asarray(starts_s)
    within = (starts_s >= window_starts_s - _SAME_S) & (starts_s < window_ends_s - _SAME_S)
    return np.where(lengths <= _SAME_S, within, enough & (common > 0))


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
        texts: dict[int, list[str]] = {}
        for piece in self.pieces:
            if piece.text.strip():
                for number in window.numbers(piece.start_s, piece.end_s):
                    texts.setdefault(number, []).append(piece.text)
        return {number: joined_text(texts[number], self.written) for number in sorted(texts)}


def joined_text(texts: Sequence[str], written: bool) -> str:
    """Texts put together as the published system does: sentences of a speech by a space, texts of frames once each."""
    return ". ".join(dict.fromkeys(texts)) if written else " ".join(texts)
