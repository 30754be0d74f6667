"""What is taken of a video, and the bounds that keep one bad file from costing more than itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vemoclap_batch.media.windows import evenly_spaced
from vemoclap_batch.policy import ANYWHERE, Policy

#: A larger frame is taken for a broken header or a bomb; no camera writes one.
MAX_PIXELS = 8192 * 8192
#: Bounds the frames that are very long and thin, which scaling by the short side leaves large.
MAX_SIDE = 16_384
#: More packets than 23 hours at 60 frames a second: only a broken index declares so many.
MAX_PACKETS = 5_000_000
#: A longer silence between or before samples is taken for broken time stamps and not filled with zeros.
MAX_GAP_S = 300.0
#: Later time stamps are taken for broken ones.
MAX_DURATION_S = 7 * 24 * 3600.0
#: Sampling rates in Hz that a recording can have; the resampler's tables grow with the ratio of the rates.
MIN_RATE, MAX_RATE = 1_000, 768_000
#: Raised whenever the same sampling takes other frames than before; part of the visual extractors' fingerprints.
SAMPLING_VERSION = 2
#: Time stamps of a constant rate lie on an even grid, but for being rounded to units and milliseconds.
_ROUNDING_S, _ROUNDING_UNITS = 1.5e-3, 1.5


@dataclass(frozen=True)
class Sampling:
    """Which frames are taken.

    Attributes:
        frames: how many, evenly spaced over the time of the whole video; a shorter video gives all it has.
        short_side: pixels; larger frames are scaled down to it, none is enlarged.
        every_s: a longer video gives more frames than that, one every so many seconds: what predictions for windows
            of a video need. None leaves it at ``frames``.
    """

    frames: int = 16
    short_side: int = 360
    every_s: float | None = None


@dataclass(frozen=True)
class Limits:
    """What decoding one video may use. Changes no output of a video that stays within them.

    Attributes:
        timeout_s: a worker process that sends no heartbeat for this long is killed; a long video takes as long as it
            needs. Where seeking went wrong, decoding in sequence may take as long, too.
        fetch_timeout_s: seconds that fetching a remote file may take, all in all.
        max_fetch_gb: GiB; a larger remote file is refused: one that never ends would fill the disk.
        memory_gb: address space of the worker process above its start, in GiB.
        max_duration_s: audio after this is left out, with a warning; it bounds the disk that a long track takes.
        whole_s, whole_frames: a video with no more audio and frames is one chunk.
        part_s: seconds of audio in one of several chunks, at most. What a model of speech hears is cut there.
        part_frames: frames in one of several chunks, at most.
        threads: of the video decoder. One, because the pipeline runs a worker per core.
        decoder: what reads the frames. Both give the same pixels (of more than 8 bits, the same but for how chroma is
            interpolated). decord takes twice as long and does not tell when a frame is damaged; PyAV steps in where it
            is absent, fails or differs.
        policy: which addresses may be read.
    """

    timeout_s: float = 120.0
    fetch_timeout_s: float = 3600.0
    max_fetch_gb: float = 64.0
    memory_gb: float = 4.0
    max_duration_s: float = 86_400.0
    whole_s: float = 600.0
    whole_frames: int = 32
    part_s: float = 120.0
    part_frames: int = 16
    threads: int = 1
    decoder: Literal["pyav", "decord"] = "pyav"
    policy: Policy = ANYWHERE


def chosen(times: np.ndarray, unit_s: float, sampling: Sampling) -> np.ndarray:
    """The numbers of the frames that a sampling takes of a video: int64 [n], in order.

    The frames shown at ``frames`` equally spaced times from the first to the last frame; or at every multiple of
    ``every_s``, if those are more. A frame that is shown for long is taken once for each of the ``frames`` times that
    it covers. With a constant rate they are ``evenly_spaced`` by number, which rounds to the nearest frame.

    Args:
        times: float64 [N], seconds, increasing: when each frame is shown.
        unit_s: of the time stamps; half of it is what rounding costs.
        sampling: what is wanted.
    """
    count = sampling.frames
    if len(times) <= count or is_constant(times, unit_s):
        spread = evenly_spaced(len(times), count)
    else:
        spread = _shown(times, np.linspace(0, times[-1] - times[0], count), unit_s)
    if sampling.every_s is None or (more := int((times[-1] - times[0]) / sampling.every_s) + 1) <= count:
        return spread
    # Where one frame stands for long, many moments show the same.
    shown = np.unique(_shown(times, np.arange(more) * sampling.every_s, unit_s))
    return shown if len(shown) > len(spread) else spread


def is_constant(times: np.ndarray, unit_s: float) -> bool:
    """Whether the frames come at a constant rate: increasing times, float64 [N], N at least 2, in seconds."""
    even = np.linspace(times[0], times[-1], len(times))
    return bool(np.abs(times - even).max() <= max(_ROUNDING_S, _ROUNDING_UNITS * unit_s))


def _shown(times: np.ndarray, moments: np.ndarray, unit_s: float) -> np.ndarray:
    """The frame shown at each moment, counted from the first frame."""
    return np.searchsorted(times - times[0], moments + unit_s / 2, side="right") - 1
