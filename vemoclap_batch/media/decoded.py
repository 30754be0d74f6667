"""A decoded part of a video as it leaves the process that decoded it; nothing here needs a decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vemoclap_batch.media.clip import SAMPLE_RATE, Clip, MediaInfo

#: One int16 step in the float range [-1, 1).
STEP = 2.0**-15


class Part(NamedTuple):
    """One part of a video: frames [first_frame, last_frame) of those wanted, samples [start, end) of the sound."""

    number: int
    of: int
    first_frame: int
    last_frame: int
    start: int
    end: int


@dataclass
class Decoded:
    """What a Clip is made of, with the sound in half the memory.

    Attributes:
        frames: uint8 [n, height, width, 3].
        frame_times: float64 [n], seconds.
        pcm: int16 [samples], mono, 16 kHz.
        following: int16 [samples], the beginning of the next part's.
        part: which part of the video this is.
        sound_samples: of the whole video.
    """

    frames: np.ndarray
    frame_times: np.ndarray
    pcm: np.ndarray
    following: np.ndarray
    info: MediaInfo
    part: Part
    sound_samples: int

    def clip(self, video_id: str) -> Clip:
        """The Clip."""
        return Clip(
            video_id, self.frames, self.frame_times, to_float(self.pcm), self.info.duration_s,
            start_s=self.part.start / SAMPLE_RATE, part=self.part.number, parts=self.part.of,
            first_frame=self.part.first_frame, following=to_float(self.following), sound_samples=self.sound_samples,
        )  # fmt: skip


def to_float(pcm: np.ndarray) -> np.ndarray:
    """The int16 track as a Clip's waveform: float32 in [-1, 1)."""
    waveform = pcm.astype(np.float32)
    waveform *= np.float32(STEP)
    return waveform
