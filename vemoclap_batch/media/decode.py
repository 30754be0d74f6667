"""A video file becomes a Clip: what is decoded, what is salvaged of a broken file, and what counts as failure."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np

from vemoclap_batch.failure import ErrorType
from vemoclap_batch.media import decord_reader, pyav_reader
from vemoclap_batch.media.address import local_copy
from vemoclap_batch.media.audio import to_float
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.media.error import Beat, MediaError, no_beat
from vemoclap_batch.media.pictures import Pictures
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.scan import Scan, VideoIndex, scan
from vemoclap_batch.media.windows import evenly_spaced


@dataclass
class Decoded:
    """What a Clip is made of, with the sound in half the memory.

    Attributes:
        frames: uint8 [n, height, width, 3].
        frame_times: float64 [n], seconds.
        pcm: int16 [samples], mono, 16 kHz.
    """

    frames: np.ndarray
    frame_times: np.ndarray
    pcm: np.ndarray
    info: MediaInfo

    def clip(self, video_id: str) -> Clip:
        """The Clip, as one part."""
        return Clip(video_id, self.frames, self.frame_times, to_float(self.pcm), self.info.duration_s)


def decode(
    address: str,
    video_id: str = "",
    *,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    want_frames: bool = True,
    want_audio: bool = True,
) -> tuple[Clip, MediaInfo]:
    """Decode a video in this process; see :class:`~vemoclap_batch.media.worker.DecodeWorker` for one that can hang.

    Args:
        address: a local path, or any address that pyarrow or fsspec knows.
        video_id: goes into the clip.
        sampling: which frames are taken.
        limits: what decoding may use; the time and memory limits are a worker's, not this function's.
        want_frames: False leaves the frames empty; the info is the same.
        want_audio: False leaves the waveform empty.

    Returns:
        The clip and what was found in the file. A missing stream is no error: its part of the clip is empty.

    Raises:
        MediaError: there is no clip to be had, and why.
        MemoryError: the video needs more memory than the process may use.
    """
    decoded = decode_compact(
        address, sampling or Sampling(), limits or Limits(), want_frames=want_frames, want_audio=want_audio
    )
    return decoded.clip(video_id), decoded.info


def decode_compact(
    address: str,
    sampling: Sampling,
    limits: Limits,
    *,
    want_frames: bool = True,
    want_audio: bool = True,
    beat: Beat = no_beat,
) -> Decoded:
    """As :func:`decode`, but the sound stays int16 and ``beat`` is called while decoding gets on."""
    with local_copy(address, beat) as path:
        try:
            found = scan(path, want_audio=want_audio, max_duration_s=limits.max_duration_s, beat=beat)
            frames, frame_times, pictures = _frames(path, found, sampling, limits, want_frames, beat)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            raise MediaError(ErrorType.UNDECODABLE, f"{address} cannot be decoded: {error}") from error
    has_video = pictures is not None and pictures.height is not None
    if not has_video and not found.has_audio:
        causes = "; ".join(found.warnings) or "its streams are empty"
        raise MediaError(ErrorType.UNDECODABLE, f"nothing in {address} can be decoded: {causes}")
    return Decoded(frames, frame_times, found.pcm, _info(found, pictures if has_video else None, want_audio))


def _frames(
    path: str, found: Scan, sampling: Sampling, limits: Limits, want_frames: bool, beat: Beat
) -> tuple[np.ndarray, np.ndarray, Pictures | None]:
    """The wanted frames, their times and what was learnt of the picture; warnings go to the scan's."""
    nothing = np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0)
    if found.video is None:
        return *nothing, None
    index = found.video
    if not want_frames:
        first = pyav_reader.read(path, index, [0], sampling.short_side, limits.threads, beat)
        return *nothing, first
    pictures = _read(path, index, sampling, limits, beat)
    total = len(index.pts) if pictures.total is None else pictures.total
    expected = min(sampling.frames, total)
    numbers = sorted(pictures.by_number)
    if not numbers:
        found.warnings.append("no frame of the video stream could be decoded")
    elif len(numbers) < expected:
        found.warnings.append(f"{len(numbers)} of {expected} frames could be read")
    times = [pictures.times.get(n, float(index.pts[min(n, len(index.pts) - 1)]) * index.seconds) for n in numbers]
    # Damaged time stamps must not lie outside the video.
    return pictures.stacked(numbers), np.clip(np.array(times) - found.origin_s, 0, found.duration_s), pictures


def _read(path: str, index: VideoIndex, sampling: Sampling, limits: Limits, beat: Beat) -> Pictures:
    if not index.ordered:
        return pyav_reader.read_in_turn(path, index, sampling.frames, sampling.short_side, limits.threads, beat)
    total = len(index.pts)
    numbers = evenly_spaced(total, min(sampling.frames, total)).tolist()
    arguments = (path, index, numbers, sampling.short_side, limits.threads, beat)
    by_decord = decord_reader.read(*arguments) if limits.decoder == "decord" else None
    if by_decord is None:
        return pyav_reader.read(*arguments)
    # decord does not tell by how much it turned the picture.
    by_decord.rotation = pyav_reader.read(path, index, [0], sampling.short_side, limits.threads, beat).rotation
    return by_decord


def _info(found: Scan, pictures: Pictures | None, want_audio: bool) -> MediaInfo:
    info = MediaInfo(found.duration_s, has_audio=found.has_audio, warnings=found.warnings)
    readers = []
    if pictures is not None and found.video is not None:
        info.has_video = True
        info.width, info.height, info.rotation = pictures.width, pictures.height, pictures.rotation
        info.fps, info.video_codec = found.video.fps, found.video.codec
        readers.append(pictures.decoder)
    if found.has_audio and want_audio:
        readers.append("pyav")
    info.decoder = "+".join(dict.fromkeys(readers))
    return info
