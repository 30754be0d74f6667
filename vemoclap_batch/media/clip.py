"""What decoding a video gives: a Clip and its MediaInfo, or a MediaError. Nothing here needs a decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from vemoclap_batch.errors import MAX_MESSAGE, ErrorType, Failure

#: Samples per second of every waveform in this package.
SAMPLE_RATE = 16_000

#: Called now and then while decoding makes progress, so that a watcher can tell slow from stuck.
Heartbeat = Callable[[], None]


@dataclass
class Clip:
    """Chunk ``chunk`` of ``chunks`` of one decoded video; there is one chunk unless the video is long.

    The chunks divide the frames among them and, each by itself, the audio: nothing is in two of them.

    Attributes:
        frames: uint8 [n, height, width, 3], RGB, upright, short side at most the sampling's limit; n = 0 without video.
        frame_times: float64 [n], seconds from the start of the video.
        waveform: float32 [samples], mono, 16 kHz, in [-1, 1), each a multiple of 2**-15; empty without audio.
        duration_s: length of the whole video in seconds.
        start_s: where this chunk's waveform starts in the video, in seconds.
        first_frame: how many frames of the video are in the chunks before this one.
        lookahead: float32 [samples], the beginning of the next chunk's waveform: enough for a window that starts in
            this chunk and ends in that one. Empty in the last chunk.
        audio_samples: of the whole video's waveform; None where that is this chunk's.
        detections: extractor → int [m], the frame of each thing that it found (a face, a line of text).
    """

    video_id: str
    frames: np.ndarray
    frame_times: np.ndarray
    waveform: np.ndarray
    duration_s: float
    start_s: float = 0.0
    chunk: int = 0
    chunks: int = 1
    first_frame: int = 0
    lookahead: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    audio_samples: int | None = None
    detections: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class MediaInfo:
    """What a video file holds: the row of the ``videos`` table, less the names.

    Attributes:
        duration_s: length in seconds, of the longer of the two streams.
        width, height: of the upright frame, before scaling; None without video.
        rotation: clockwise degrees that turned the stored frame upright (0, 90, 180, 270); None without video.
        decoder: ``decord``, ``pyav`` or both joined by ``+`` (frames + audio), as used.
        sound_db: level of every second of the sound, root mean square in dBFS; None where no sound was asked for.
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
    sound_db: list[float] | None = None
    warnings: list[str] = field(default_factory=list)


class MediaError(Exception):
    """A video that gives no clip.

    Attributes:
        failure: the kind and the cause, as they go into the ``errors`` table.
    """

    def __init__(self, error_type: ErrorType, message: str) -> None:
        # A file name that is not UTF-8 would keep the message out of a table.
        printable = message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")[:MAX_MESSAGE]
        super().__init__(printable)
        self.failure = Failure(error_type, printable)


def no_heartbeat() -> None:
    """For a caller that watches nothing."""
