"""A video file becomes a Clip, or several where the video is long; what is salvaged, and what counts as failure."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import av
import numpy as np

from vemoclap_batch.errors import ErrorType
from vemoclap_batch.media.address import local_copy
from vemoclap_batch.media.audio import AudioBuffer, levels, to_float
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip, Heartbeat, MediaError, MediaInfo, no_heartbeat
from vemoclap_batch.media.container import encrypted, is_encrypted
from vemoclap_batch.media.frame_reader import NO_FRAMES, FrameReader
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.scan import Scan, scan

#: How much a chunk has of the audio after its own: no window of audio may be longer.
LOOKAHEAD_S = 10.0
#: The cut is looked for in this much audio before the end of a chunk.
_SEARCH_S = 30.0
#: A pause between words; the quietest stretch of this length is cut in the middle.
_PAUSE_S = 0.4
_STEP_S = 0.02


def decode(
    address: str,
    video_id: str = "",
    *,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    want_frames: bool = True,
    want_audio: bool = True,
) -> tuple[Clip, MediaInfo]:
    """Decode a whole video in one chunk and in this process.

    See :class:`~vemoclap_batch.media.worker.DecodeWorker` for long videos, and for a process that may hang.

    Args:
        address: a local path, or any address that pyarrow or fsspec knows.
        video_id: goes into the clip.
        sampling: which frames are taken.
        limits: what decoding may use; the time and memory limits are a worker's, not this function's.
        want_frames: False leaves the frames empty; the info is the same.
        want_audio: False leaves the waveform empty.

    Returns:
        The clip and what the file holds. A missing stream is no error: its part of the clip is empty.

    Raises:
        MediaError: there is no clip to be had, and why.
        MemoryError: the video needs more memory than the process may use.
    """
    whole = replace(limits or Limits(), whole_s=math.inf, whole_frames=sys.maxsize)
    [decoded] = decode_chunks(
        address, video_id, sampling or Sampling(), whole, want_frames=want_frames, want_audio=want_audio
    )
    return decoded


def decode_chunks(
    address: str,
    video_id: str,
    sampling: Sampling,
    limits: Limits,
    *,
    want_frames: bool = True,
    want_audio: bool = True,
    heartbeat: Heartbeat = no_heartbeat,
) -> Iterator[tuple[Clip, MediaInfo]]:
    """Decode a video chunk by chunk; a short one is a single chunk. ``heartbeat`` is called as decoding goes on.

    The file is read once for its audio and for where its frames lie. The info of the last chunk has all warnings.

    Raises:
        MediaError, MemoryError: as :func:`decode`, in place of the first chunk or a later one.
    """
    with local_copy(address, heartbeat, limits) as path:
        try:
            scanned = scan(path, want_audio=want_audio, limits=limits, heartbeat=heartbeat)
            index = scanned.video
            frames = FrameReader(path, index, sampling, limits, heartbeat) if index is not None else None
            with closing(scanned.audio):
                yield from _Video(address, path, scanned, frames, want_frames, want_audio).read(video_id, limits)
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            raise MediaError(ErrorType.UNDECODABLE, f"{address} cannot be decoded: {error}") from error


@dataclass
class _Video:
    """One video while its chunks are read."""

    address: str
    path: str
    scanned: Scan
    frames: FrameReader | None
    want_frames: bool
    want_audio: bool

    def read(self, video_id: str, limits: Limits) -> Iterator[tuple[Clip, MediaInfo]]:
        """Every chunk in turn."""
        audio, duration_s = self.scanned.audio, self.scanned.duration_s
        count = self.frames.count() if self.frames is not None and self.want_frames else 0
        chunks = divide(count, audio, limits)
        sizes = [chunk.last_frame - chunk.first_frame for chunk in chunks]
        groups = self.frames.read(sizes) if self.frames is not None else [NO_FRAMES] * len(sizes)
        for chunk, (frames, stamps) in zip(chunks, groups, strict=True):
            if chunk.number == chunk.of - 1:
                self._check_end()
            # Damaged time stamps must not lie outside the video.
            times = np.clip(stamps - self.scanned.origin_s, 0, duration_s)
            waveform = to_float(audio.between(chunk.start, chunk.end))
            lookahead = to_float(audio.between(chunk.end, chunk.end + int(LOOKAHEAD_S * SAMPLE_RATE)))
            yield (
                Clip(
                    video_id, frames, times, waveform, duration_s, start_s=chunk.start / SAMPLE_RATE,
                    chunk=chunk.number, chunks=chunk.of, first_frame=chunk.first_frame, lookahead=lookahead,
                    audio_samples=len(audio),
                ),
                self._info(),
            )  # fmt: skip

    @cached_property
    def _sound_db(self) -> list[float] | None:
        return levels(self.scanned.audio) if self.want_audio else None

    def _check_end(self) -> None:
        """After the last frame: warn of what was missing.

        Raises:
            MediaError: everything was.
        """
        frames, scanned = self.frames, self.scanned
        if frames is not None and self.want_frames and not frames.got:
            scanned.warnings.append("no frame of the video stream could be decoded")
        elif frames is not None and frames.got < frames.wanted:
            scanned.warnings.append(f"{frames.got} of {frames.wanted} frames could be read")
        if scanned.has_audio or (frames is not None and frames.sample is not None):
            return
        if is_encrypted(self.path):
            raise encrypted(self.address)
        if scanned.is_empty:
            streams = "its streams are empty, as in a recording just begun"
            raise MediaError(ErrorType.NO_STREAMS, f"{self.address} holds neither pictures nor sound: {streams}")
        causes = "; ".join(scanned.warnings) or "its streams are empty"
        raise MediaError(ErrorType.UNDECODABLE, f"nothing in {self.address} can be decoded: {causes}")

    def _info(self) -> MediaInfo:
        scanned, frames = self.scanned, self.frames
        info = MediaInfo(scanned.duration_s, has_audio=scanned.has_audio, warnings=list(scanned.warnings))
        info.sound_db = self._sound_db
        readers = ["pyav"] if scanned.has_audio and self.want_audio else []
        if frames is not None:
            if (sample := frames.sample) is not None:
                info.has_video = True
                info.width, info.height, info.rotation = sample.width, sample.height, sample.orientation.rotation
                info.fps, info.video_codec = frames.index.fps, frames.index.codec
                readers.insert(0, sample.decoder)
                if sample.orientation.mirrored:
                    info.warnings.append("the picture is stored as in a mirror and was mirrored back, as the file asks")
            info.warnings += frames.warnings
        info.decoder = "+".join(dict.fromkeys(readers))
        return info


class Chunk(NamedTuple):
    """One chunk: frames [first_frame, last_frame) of those wanted, samples [start, end) of the audio."""

    number: int
    of: int
    first_frame: int
    last_frame: int
    start: int
    end: int


def divide(frames: int, audio: AudioBuffer, limits: Limits) -> list[Chunk]:
    """The chunks of a video; one while neither its frames nor its audio are more than the limits leave whole.

    Frames and audio are divided each by itself: no extractor reads both. Where there are more chunks of one kind, the
    last have nothing of the other.
    """
    # Half a sample is more than the product is off by; the limit may be infinite.
    if frames <= limits.whole_frames and len(audio) < limits.whole_s * SAMPLE_RATE + 0.5:
        return [Chunk(0, 1, 0, frames, 0, len(audio))]
    frame_ends = [*range(limits.part_frames, frames, limits.part_frames), *([frames] if frames else [])]
    audio_ends = cuts(audio, max(round(limits.part_s * SAMPLE_RATE), 1))
    count = max(len(frame_ends), len(audio_ends), 1)
    frame_edges = [0, *frame_ends, *[frames] * (count - len(frame_ends))]
    audio_edges = [0, *audio_ends, *[len(audio)] * (count - len(audio_ends))]
    return [Chunk(n, count, *frame_edges[n : n + 2], *audio_edges[n : n + 2]) for n in range(count)]


def cuts(audio: AudioBuffer, longest: int) -> list[int]:
    """Where the chunks of an audio track end, in samples: each has 1 to ``longest``, the last ends with the track.

    A chunk ends at its quietest point within the last 30 s (half a chunk, if that is less), so that no word is cut.
    """
    ends: list[int] = []
    start = 0
    while len(audio) - start > longest:
        search = min(int(_SEARCH_S * SAMPLE_RATE), longest // 2)
        latest = start + longest
        start = latest - search + quietest(audio.between(latest - search, latest))
        ends.append(start)
    return [*ends, len(audio)] if len(audio) > start else ends


def quietest(pcm: np.ndarray) -> int:
    """The middle of the quietest stretch of int16 [samples], the last one of several; the end if there is none."""
    step = int(_STEP_S * SAMPLE_RATE)
    width = round(_PAUSE_S / _STEP_S)
    steps = len(pcm) // step
    if steps <= width:
        return len(pcm)
    power = (pcm[: steps * step].astype(np.float32).reshape(steps, step) ** 2).mean(1)
    # Integers, so that equal stretches are equal.
    sums = np.concatenate([[0], np.cumsum(power.astype(np.int64))])
    stretches = sums[width:] - sums[:-width]
    last = len(stretches) - 1 - int(np.argmin(stretches[::-1]))
    return last * step + width * step // 2
