"""What an extractor is given of a video."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

#: Samples per second of every waveform in this package.
SAMPLE_RATE = 16_000


@dataclass
class Clip:
    """Part ``part`` of ``parts`` of one video, decoded (one part unless the video is long).

    The parts divide the frames among them and, each by itself, the sound: nothing is in two of them.

    Attributes:
        video_id: whose clip it is.
        frames: uint8 [n, height, width, 3], RGB, upright, short side at most the sampling's limit; n = 0 without video.
        frame_times: float64 [n], seconds from the start of the video.
        waveform: float32 [samples], mono, 16 kHz, in [-1, 1), each a multiple of 2**-15; empty without audio.
        duration_s: length of the whole video in seconds.
        start_s: where this part's waveform starts in the video, in seconds.
        first_frame: how many frames of the video are in the parts before this one.
        following: float32 [samples], the beginning of the next part's waveform: enough for a window that starts in
            this part and ends in that one. Empty in the last part.
        sound_samples: of the whole video's waveform; None where that is this part's.
        detections: extractor → int [m], the frame of each thing that it found (a face, a line of text).
    """

    video_id: str
    frames: np.ndarray
    frame_times: np.ndarray
    waveform: np.ndarray
    duration_s: float
    start_s: float = 0.0
    part: int = 0
    parts: int = 1
    first_frame: int = 0
    following: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    sound_samples: int | None = None
    detections: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class MediaInfo:
    """What was found in a video file: the row of the ``videos`` table, less the names.

    Attributes:
        duration_s: length in seconds, of the longer of the two streams.
        width, height: of the upright picture, before scaling; None without video.
        rotation: clockwise degrees that turned the stored picture upright (0, 90, 180, 270); None without video.
        decoder: ``decord``, ``pyav`` or both joined by ``+`` (frames + audio), as used.
        warnings: what a user should know (what was salvaged of a broken file, say); empty when all is well.
    """

    duration_s: float
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    rotation: int | None = None
    video_codec: str | None = None
    has_video: bool = False
    has_audio: bool = False
    decoder: str = ""
    warnings: list[str] = field(default_factory=list)
