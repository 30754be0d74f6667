"""A video file becomes a Clip: what is decoded, what is salvaged of a broken file, and what counts as failure."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import av
import numpy as np

from vemoclap_batch.errors import ErrorType
from vemoclap_batch.media.address import local_copy
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip, MediaInfo
from vemoclap_batch.media.container import encrypted, is_encrypted
from vemoclap_batch.media.decoded import Decoded
from vemoclap_batch.media.error import Beat, MediaError, no_beat
from vemoclap_batch.media.frame_reader import NO_FRAMES, FrameReader, Group
from vemoclap_batch.media.parts import FOLLOWING_S, divide
from vemoclap_batch.media.pictures import Pictures
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.scan import Scan, scan


def decode(
    address: str,
    video_id: str = "",
    *,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
    want_frames: bool = True,
    want_audio: bool = True,
) -> tuple[Clip, MediaInfo]:
    """Decode a whole video in one piece and in this process.

    See :class:`~vemoclap_batch.media.worker.DecodeWorker` for a process that can hang, and for long videos.

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
    whole = replace(limits or Limits(), whole_s=math.inf, whole_frames=sys.maxsize)
    [decoded] = decode_parts(address, sampling or Sampling(), whole, want_frames=want_frames, want_audio=want_audio)
    return decoded.clip(video_id), decoded.info


def decode_parts(
    address: str,
    sampling: Sampling,
    limits: Limits,
    *,
    want_frames: bool = True,
    want_audio: bool = True,
    beat: Beat = no_beat,
) -> Iterator[Decoded]:
    """Decode a video part by part; a short one has a single part. ``beat`` is called while decoding gets on.

    The file is read once for where its frames lie and for its sound; each part's frames are sought. The info of the
    last part has all warnings.

    Raises:
        MediaError, MemoryError: as :func:`decode`, in place of the first part or a later one.
    """
    with local_copy(address, beat, limits) as path:
        try:
            found = scan(path, want_audio=want_audio, limits=limits, beat=beat)
            with closing(found.pcm):
                yield from _Parts(path, found, sampling, limits, want_frames, want_audio, beat).read(address)
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            raise MediaError(ErrorType.UNDECODABLE, f"{address} cannot be decoded: {error}") from error


class _Parts:
    """One video while its parts are read."""

    def __init__(
        self, path: str, found: Scan, sampling: Sampling, limits: Limits, want_frames: bool, want_audio: bool,
        beat: Beat,
    ) -> None:  # fmt: skip
        self._path, self._found, self._limits = path, found, limits
        self._want_frames, self._want_audio = want_frames, want_audio
        self._frames = None if found.video is None else FrameReader(path, found.video, sampling, limits, beat)

    def read(self, address: str) -> Iterator[Decoded]:
        """Every part in turn."""
        sound = self._found.pcm
        count = self._frames.count() if self._frames is not None and self._want_frames else 0
        parts = divide(count, sound, self._limits)
        groups = self._groups([part.last_frame - part.first_frame for part in parts])
        for part, (frames, stamps) in zip(parts, groups, strict=True):
            if part.number == part.of - 1:
                self._sum_up(address)
            # Damaged time stamps must not lie outside the video.
            times = np.clip(stamps - self._found.origin_s, 0, self._found.duration_s)
            yield Decoded(
                frames,
                times,
                sound.between(part.start, part.end),
                sound.between(part.end, part.end + int(FOLLOWING_S * SAMPLE_RATE)),
                self._info(),
                part,
                len(sound),
            )

    def _groups(self, sizes: list[int]) -> Iterator[Group]:
        """The frames and time stamps of each part."""
        if self._frames is not None and any(sizes):
            yield from self._frames.read(sizes)
            return
        if self._frames is not None:
            self._frames.look()
        yield from [NO_FRAMES] * len(sizes)

    def _sum_up(self, address: str) -> None:
        """After the last frame: what was missing.

        Raises:
            MediaError: everything was.
        """
        frames, warnings = self._frames, self._found.warnings
        if frames is not None and self._want_frames and not frames.got:
            warnings.append("no frame of the video stream could be decoded")
        elif frames is not None and frames.got < frames.wanted:
            warnings.append(f"{frames.got} of {frames.wanted} frames could be read")
        if self._shown is None and not self._found.has_audio:
            self._raise(address)

    def _raise(self, address: str) -> None:
        if is_encrypted(self._path):
            raise encrypted(address)
        warnings = self._found.warnings
        if self._found.is_empty:
            cause = f"{address} holds neither pictures nor sound: its streams are empty, as in a recording just begun"
            raise MediaError(ErrorType.NO_STREAMS, cause)
        causes = "; ".join(warnings) or "its streams are empty"
        raise MediaError(ErrorType.UNDECODABLE, f"nothing in {address} can be decoded: {causes}")

    @property
    def _shown(self) -> Pictures | None:
        seen = self._frames.seen if self._frames is not None else None
        return seen if seen is not None and seen.height is not None else None

    def _info(self) -> MediaInfo:
        found, pictures = self._found, self._shown
        info = MediaInfo(found.duration_s, has_audio=found.has_audio, warnings=list(found.warnings))
        readers = []
        if pictures is not None and found.video is not None:
            info.has_video = True
            info.width, info.height, info.rotation = pictures.width, pictures.height, pictures.turn.rotation
            info.fps, info.video_codec = found.video.fps, found.video.codec
            readers.append(pictures.decoder)
            if pictures.turn.mirrored:
                info.warnings.append("the picture is stored as in a mirror and was mirrored back, as the file asks")
        if self._frames is not None:
            info.warnings += self._frames.warnings
        if found.has_audio and self._want_audio:
            readers.append("pyav")
        info.decoder = "+".join(dict.fromkeys(readers))
        return info
