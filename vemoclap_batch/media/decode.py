"""A video file becomes a Clip: what is decoded, what is salvaged of a broken file, and what counts as failure."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import av
import numpy as np

from vemoclap_batch.failure import ErrorType
from vemoclap_batch.media import decord_reader, pyav_reader
from vemoclap_batch.media.address import local_copy
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip, MediaInfo
from vemoclap_batch.media.decoded import Decoded
from vemoclap_batch.media.error import Beat, MediaError, no_beat
from vemoclap_batch.media.parts import FOLLOWING_S, divide
from vemoclap_batch.media.pictures import Pictures
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.scan import Scan, VideoIndex, scan
from vemoclap_batch.media.windows import evenly_spaced


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
        self._path, self._found, self._sampling, self._limits, self._beat = path, found, sampling, limits, beat
        self._want_frames, self._want_audio = want_frames, want_audio
        self._seen: Pictures | None = None  # the first part's that had a picture
        self._wanted = self._got = 0

    def read(self, address: str) -> Iterator[Decoded]:
        """Every part in turn."""
        index, sound = self._found.video, self._found.pcm
        wanted = np.zeros(0, np.int64)
        if index is not None and self._want_frames:
            wanted = self._numbers(index)
        parts = divide(len(wanted), sound, self._limits)
        groups = [wanted[part.first_frame : part.last_frame].tolist() for part in parts]
        for part, (frames, times) in zip(parts, self._pictures(index, groups), strict=True):
            if part.number == part.of - 1:
                self._sum_up(address)
            yield Decoded(
                frames,
                times,
                sound.between(part.start, part.end),
                sound.between(part.end, part.end + int(FOLLOWING_S * SAMPLE_RATE)),
                self._info(),
                part,
                len(sound),
            )

    def _numbers(self, index: VideoIndex) -> np.ndarray:
        """The numbers of the frames to take: int64 [n], increasing."""
        if index.ordered:
            return wanted_frames(index, self._sampling)
        total = len(index.pts)
        count = _count(index, self._sampling)
        if min(count, total) > self._limits.whole_frames:
            # Read in turn, and too many to keep: how many there really are has to be known first.
            total = pyav_reader.count_in_turn(self._path, index, self._sampling.short_side, self._threads, self._beat)
        return evenly_spaced(total, min(count, total))

    @property
    def _threads(self) -> int:
        return self._limits.threads

    def _pictures(self, index: VideoIndex | None, groups: list[list[int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The frames and times of each group of numbers."""
        if index is None:
            yield from [(_NO_FRAMES, np.zeros(0))] * len(groups)
            return
        filled = [group for group in groups if group]
        if not filled:  # Only what the picture is like is asked for.
            self._seen = self._by_seeking(index, [0])
            yield from [(_NO_FRAMES, np.zeros(0))] * len(groups)
            return
        for pictures in self._read(index, filled):
            if self._seen is None or self._seen.height is None:
                self._seen = pictures
            yield self._taken(index, pictures)
        yield from [(_NO_FRAMES, np.zeros(0))] * (len(groups) - len(filled))

    def _taken(self, index: VideoIndex, pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
        numbers = sorted(pictures.by_number)
        self._got += len(numbers)
        times = [pictures.times.get(n, float(index.pts[min(n, len(index.pts) - 1)]) * index.seconds) for n in numbers]
        # Damaged time stamps must not lie outside the video.
        placed = np.clip(np.array(times) - self._found.origin_s, 0, self._found.duration_s)
        return pictures.stacked(numbers), placed

    def _read(self, index: VideoIndex, groups: list[list[int]]) -> Iterator[Pictures]:
        self._wanted = sum(map(len, groups))
        short_side = self._sampling.short_side
        if index.ordered:
            for group in groups:
                yield self._by_decord(index, group) if len(groups) == 1 else self._by_seeking(index, group)
        elif len(groups) == 1:
            pictures = pyav_reader.read_in_turn(
                self._path, index, _count(index, self._sampling), short_side, self._threads, self._beat
            )
            if pictures.total is not None:
                self._wanted = min(_count(index, self._sampling), pictures.total)
            yield pictures
        else:
            yield from pyav_reader.groups_in_turn(self._path, index, groups, short_side, self._threads, self._beat)

    def _by_decord(self, index: VideoIndex, numbers: list[int]) -> Pictures:
        """By decord where that is wished and possible. It indexes a file anew each time: not for several groups."""
        if self._limits.decoder == "decord":
            found = decord_reader.read(self._path, index, numbers, self._sampling.short_side, self._threads, self._beat)
            if found is not None:
                # decord does not tell by how much it turned the picture.
                found.rotation = self._by_seeking(index, [0]).rotation
                return found
        return self._by_seeking(index, numbers)

    def _by_seeking(self, index: VideoIndex, numbers: list[int]) -> Pictures:
        return pyav_reader.read(self._path, index, numbers, self._sampling.short_side, self._threads, self._beat)

    def _sum_up(self, address: str) -> None:
        """After the last frame: what was missing.

        Raises:
            MediaError: everything was.
        """
        if self._wanted and not self._got:
            self._found.warnings.append("no frame of the video stream could be decoded")
        elif self._got < self._wanted:
            self._found.warnings.append(f"{self._got} of {self._wanted} frames could be read")
        if self._shown is None and not self._found.has_audio:
            causes = "; ".join(self._found.warnings) or "its streams are empty"
            raise MediaError(ErrorType.UNDECODABLE, f"nothing in {address} can be decoded: {causes}")

    @property
    def _shown(self) -> Pictures | None:
        return self._seen if self._seen is not None and self._seen.height is not None else None

    def _info(self) -> MediaInfo:
        found, pictures = self._found, self._shown
        info = MediaInfo(found.duration_s, has_audio=found.has_audio, warnings=list(found.warnings))
        readers = []
        if pictures is not None and found.video is not None:
            info.has_video = True
            info.width, info.height, info.rotation = pictures.width, pictures.height, pictures.rotation
            info.fps, info.video_codec = found.video.fps, found.video.codec
            readers.append(pictures.decoder)
        if found.has_audio and self._want_audio:
            readers.append("pyav")
        info.decoder = "+".join(dict.fromkeys(readers))
        return info


_NO_FRAMES = np.zeros((0, 0, 0, 3), np.uint8)


def wanted_frames(index: VideoIndex, sampling: Sampling) -> np.ndarray:
    """The numbers of the frames that a sampling takes of a video: int64 [n], increasing.

    ``frames`` evenly spaced ones, or the one shown at every multiple of ``every_s`` after the first, if those are more.
    """
    found = evenly_spaced(len(index.pts), sampling.frames)
    count = _count(index, sampling)
    if sampling.every_s is None or count <= sampling.frames:
        return found
    seconds = (index.pts - index.pts[0]) * index.seconds
    # Half a unit of the time stamps is what rounding costs.
    moments = np.arange(count) * sampling.every_s + index.seconds / 2
    shown = np.unique(np.searchsorted(seconds, moments, side="right") - 1)
    # Where one picture stands for long, many moments show the same.
    return shown if len(shown) > len(found) else found


def _count(index: VideoIndex, sampling: Sampling) -> int:
    """How many frames a sampling wants of a video, at least."""
    if sampling.every_s is None:
        return sampling.frames
    span = float(index.pts[-1] - index.pts[0]) * index.seconds
    if not index.ordered:  # Its time stamps mean nothing.
        span = (len(index.pts) - 1) / (index.fps or pyav_reader.FPS)
    return max(sampling.frames, int(span / sampling.every_s) + 1)
