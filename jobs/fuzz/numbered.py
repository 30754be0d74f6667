"""Frames that carry their number and audio that tells its place, to see which part of a source was decoded."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from scipy import fft

from vemoclap_batch.media.clip import SAMPLE_RATE

#: Bits of a frame number, one block each.
BITS = 10
#: Numbers of one part of a joined file; the next part's start here.
PART = 256
#: Seconds of each tone: short enough that any window of audio is like no other.
_TONE_S = 0.08
#: Seconds of audio that are looked for.
WINDOW_S = 0.4
_CELL = 16
_DARK, _BRIGHT = 88, 168


def numbered_frame(number: int, size: tuple[int, int]) -> np.ndarray:
    """The source frame of this number: RGB uint8 [height, width, 3], size = (width, height).

    Few colours, so that a palette holds them, that move on with the number. Ten blocks in the bottom eighth are the
    number: block i from the left is white where bit i is set.
    """
    width, height = size
    canvas = _canvas(number // PART, size)
    shift = 2 * number % (8 * _CELL)
    found = canvas[:height, shift : shift + width].copy()
    band = found[height - height // 8 :]
    band[:] = 0
    for bit in range(BITS):
        if number >> bit & 1:
            band[:, bit * (width // BITS) : (bit + 1) * (width // BITS)] = 255
    return found


@lru_cache(maxsize=8)
def _canvas(part: int, size: tuple[int, int]) -> np.ndarray:
    random = np.random.default_rng(part)
    colours = random.integers(40, 216, (12, 3), np.uint8)
    cells = random.integers(0, len(colours), (size[1] // _CELL + 1, size[0] // _CELL + 9))
    return np.repeat(np.repeat(colours[cells], _CELL, 0), _CELL, 1)


def read_number(shown: np.ndarray, size: tuple[int, int]) -> int | None:
    """The number that a decoded frame carries, None where its blocks are neither black nor white.

    Args:
        shown: RGB uint8 [height, width, 3], of any size.
        size: (width, height) of the source.
    """
    height, width = shown.shape[:2]
    band = height * (size[1] // 8) / size[1]
    rows = slice(round(height - 0.75 * band), max(round(height - 0.25 * band), round(height - 0.75 * band) + 1))
    block = width * (size[0] // BITS) / size[0]
    number = 0
    for bit in range(BITS):
        columns = slice(round((bit + 0.25) * block), max(round((bit + 0.75) * block), round((bit + 0.25) * block) + 1))
        brightness = float(shown[rows, columns].mean())
        if _DARK < brightness < _BRIGHT:
            return None
        number |= (brightness >= _BRIGHT) << bit
    return number


def difference(shown: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two frames, of 255; the second takes the first one's size."""
    height, width = shown.shape[:2]
    if other.shape != shown.shape:
        other = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)
    return float(cv2.absdiff(shown, np.ascontiguousarray(other)).mean())


def tones(part: int, seconds: float, rate: int) -> np.ndarray:
    """The source audio of a part: a new tone every 80 ms, float32 [samples], mono, at ``rate`` Hz."""
    # Low, so that half a sample at 16 kHz makes no difference; longer audio begins as shorter audio.
    hertz = np.random.default_rng([7, part]).uniform(200, 1400, int(seconds / _TONE_S) + 1)
    times = np.arange(round(seconds * rate)) / rate
    tone = (times / _TONE_S).astype(int)
    # The phase goes on from tone to tone: a step would be a click that codecs smear.
    phase = (np.cumsum(hertz) - hertz) * _TONE_S
    return (0.4 * np.sin(2 * np.pi * (phase[tone] + hertz[tone] * (times - tone * _TONE_S)))).astype(np.float32)


class AudioFinder:
    """Finds stretches of audio in a track, wherever they are."""

    def __init__(self, track: np.ndarray) -> None:
        """Take the track: float32 [samples], mono, 16 kHz."""
        self._window = int(WINDOW_S * SAMPLE_RATE)
        self._places = len(track) - self._window + 1
        self._length = fft.next_fast_len(len(track) + self._window)
        self._spectrum = fft.rfft(track, self._length)
        power = np.concatenate([[0], np.cumsum(track.astype(np.float64) ** 2)])
        self._norm = np.sqrt(np.maximum(power[self._window :] - power[: -self._window], 1e-3))

    def find(self, window: np.ndarray) -> tuple[float, float]:
        """Where in the track, in seconds, a window [0.4 s] fits best, and its correlation there; (0, 0) if none."""
        if self._places < 1:
            return 0.0, 0.0
        product = self._spectrum * np.conj(fft.rfft(window, self._length))
        likeness = fft.irfft(product, self._length)[: self._places] / (self._norm * np.linalg.norm(window))
        best = int(likeness.argmax())
        return best / SAMPLE_RATE, float(likeness[best])
