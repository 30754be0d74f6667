"""Three ways to read frames: by seeking, by decoding all of the video in sequence, and by decord."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby

import av
import numpy as np
from av.video.frame import PictureType

from vemoclap_batch.media.container import open_media
from vemoclap_batch.media.frame_decoder import FrameDecoder, VideoSource
from vemoclap_batch.media.frames import UPRIGHT, DecodedFrames, DisplayShape
from vemoclap_batch.media.video_index import FPS, STARTS_ANYWHERE, Key, VideoIndex

#: What a frame may be that is decoded without any other.
_INTRA = frozenset([PictureType.I, PictureType.SI, PictureType.BI])
#: How far two decoders' frames may be apart in the mean, of 255: they interpolate chroma differently above 8 bits.
_ALIKE = 2.0


def seek(source: VideoSource, numbers: list[int]) -> DecodedFrames:
    """Decode the frames of these numbers, each from the key frame before it and only what it depends on.

    One that cannot be decoded, or that FFmpeg marks as corrupt, is left out; ``doubtful`` is set where what came may be
    wrong, or show traces of damage before it.
    """
    index = source.index
    with open_media(source.path) as container:
        decoder = FrameDecoder(container, source)
        wanted = [(int(index.pts[number]), number) for number in numbers]
        key_pts = [key.pts for key in index.keys]
        for place, group in groupby(wanted, key=lambda item: bisect_right(key_pts, item[0]) - 1):
            _Group(decoder, source, index.keys[place] if place >= 0 else None, dict(group)).read()
    return decoder.frames


class _Group:
    """The wanted frames (time stamp → number) that depend on one key frame, or come before the first."""

    def __init__(self, decoder: FrameDecoder, source: VideoSource, key: Key | None, wanted: dict[int, int]) -> None:
        self._decoder, self._index, self._key, self._wanted = decoder, source.index, key, wanted
        # Decoding from the first frame on is right whatever it is called.
        self._sought = key if key is not None and key != source.index.keys[0] else None
        self._last_pts: int | None = None  # of the frame that came last

    def read(self) -> None:
        """Decode the group."""
        decoder, waiting = self._decoder, set(self._wanted)
        decoder.errors = 0
        # Frames before the first key frame may be built on grey.
        decoder.frames.doubtful |= self._key is None and self._index.codec in STARTS_ANYWHERE
        for packet in self._packets():
            # Nothing is predicted from the frames this leaves out, so the wanted one comes out the same.
            decoder.codec.skip_frame = "DEFAULT" if packet.pts in waiting else "NONREF"
            self._take(decoder.decode(packet))
            waiting.discard(packet.pts)
            if not waiting or _is_after(packet, max(self._wanted)):
                break
        self._take(decoder.decode(None))

    def _take(self, frames: list[av.VideoFrame]) -> None:
        decoder = self._decoder
        for frame in frames:
            pts = frame.pts if frame.pts is not None else frame.dts
            if self._sought is not None and pts == self._sought.pts:
                # The container calls a packet a key frame that is none, or the decoder does not tell: all that follows
                # may be built on grey.
                decoder.frames.doubtful |= not frame.key_frame and frame.pict_type not in _INTRA
            damaged = decoder.is_damaged(frame)
            decoder.errors += damaged
            # Frames come in the order in which they are shown: their time stamps are wrong if time goes back.
            decoder.frames.doubtful |= self._last_pts is not None and pts is not None and pts < self._last_pts
            self._last_pts = pts
            number = self._wanted.get(pts)  # type: ignore[arg-type]
            if number is not None and not damaged:
                decoder.keep(number, frame)
                decoder.frames.doubtful |= decoder.errors > 0

    def _packets(self) -> Iterator[av.Packet]:
        """The packets from the key frame on; from the start of the file where there is none or it is not found."""
        key, decoder = self._key, self._decoder
        if key is None:
            yield from decoder.packets()  # These frames are read first, when nothing has been read yet.
            return
        for target in (key.pts, key.dts):
            if target is None:
                continue
            packets = decoder.packets(target)
            for packet in packets:
                if packet.is_keyframe and packet.pts == key.pts:
                    # Without an index some demuxers put another packet in this place.
                    decoder.frames.doubtful |= self._index.whole_packets and packet.size != key.size
                    yield packet
                    yield from packets
                    return
                if _is_after(packet, key.pts):
                    break
        yield from decoder.packets(int(self._index.pts[0]))


def _is_after(packet: av.Packet, pts: int) -> bool:
    """Whether neither this packet nor a later one is shown at this time: each is decoded before it is shown."""
    return packet.dts is not None and packet.dts > pts


class DecodeTimeout(Exception):
    """Decoding all of a video took longer than it may."""


@dataclass
class FrameTable:
    """What decoding all of a video showed of each frame, in the order in which they are shown.

    Attributes:
        times: float64 [N], increasing: time stamps in seconds.
        intact: bool [N]: whether a frame is whole, as far as the decoder knows.
        tainted: bool [N]: whether it may show traces of damage to one between the last key frame and it.
    """

    times: np.ndarray
    intact: np.ndarray
    tainted: np.ndarray

    def without_tainted(self, numbers: np.ndarray) -> np.ndarray:
        """The numbers, int64 [n], tainted frames replaced by the nearest others within half of the mean distance."""
        clean = np.setdiff1d(np.flatnonzero(self.intact & ~self.tainted), numbers)
        nearest = (self.times[numbers[-1]] - self.times[numbers[0]]) / max(len(numbers) - 1, 1) / 2
        chosen = numbers.copy()
        for place in np.flatnonzero(self.tainted[numbers]):
            if not len(clean):
                break
            distances = np.abs(self.times[clean] - self.times[numbers[place]])
            best = int(distances.argmin())
            if distances[best] < nearest:
                chosen[place] = clean[best]
                clean = np.delete(clean, best)
        return np.sort(chosen)


class SequentialReader:
    """Reads one video from its first frame to its last, for files in which seeking leads to wrong frames."""

    def __init__(self, source: VideoSource, deadline: float = np.inf) -> None:
        """Prepare for reading; from ``deadline`` on (of :func:`time.monotonic`) it ends with DecodeTimeout."""

        def heartbeat() -> None:
            source.heartbeat()
            if time.monotonic() > deadline:
                raise DecodeTimeout

        self._source, self._index = replace(source, heartbeat=heartbeat), source.index

    def survey(self, keep: Iterable[int] = ()) -> tuple[FrameTable, DecodedFrames]:
        """Decode every frame once; those of the numbers in ``keep`` are kept."""
        kept = set(keep)
        stamps: list[float] = []
        intact: list[bool] = []
        tainted: list[bool] = []
        with self._decoder() as decoder:
            for number, (frame, is_intact) in enumerate(self._frames(decoder)):
                if frame.key_frame:
                    decoder.errors = 0
                decoder.errors += decoder.is_damaged(frame)
                stamps.append(np.nan if frame.pts is None else frame.pts)
                intact.append(is_intact)
                tainted.append(decoder.errors > 0)
                if number in kept:
                    decoder.keep(number, frame)
        times = self._times(np.array(stamps))
        return FrameTable(times, np.array(intact, bool), np.array(tainted, bool)), decoder.frames

    def read(self, groups: Iterable[list[int]]) -> Iterator[DecodedFrames]:
        """The frames of one sorted group of numbers after the other."""
        with self._decoder() as decoder:
            numbered = ((number, frame) for number, (frame, _) in enumerate(self._frames(decoder)))
            last: list[tuple[int, av.VideoFrame]] = []
            for group in groups:
                decoder.frames = frames = DecodedFrames()
                wanted = set(group)
                # The frame that ends one group may begin the next.
                for number, frame in chain(last, numbered) if group else ():
                    last = [(number, frame)]
                    if number in wanted:
                        decoder.keep(number, frame)
                    if number == group[-1]:
                        break
                yield frames

    def first(self) -> DecodedFrames:
        """The first frame that is whole; any, where none is."""
        with self._decoder() as decoder:
            for frame, is_intact in self._frames(decoder):
                if not decoder.frames.by_number or is_intact:
                    decoder.frames = DecodedFrames()
                    decoder.keep(0, frame)
                if is_intact:
                    break
        return decoder.frames

    @contextmanager
    def _decoder(self) -> Iterator[FrameDecoder]:
        with open_media(self._source.path) as container:
            yield FrameDecoder(container, self._source)

    def _frames(self, decoder: FrameDecoder) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Every frame that decodes, in the order they are shown and on one time line, and whether it is whole."""
        # Before the first that is decoded without any other, frames may be built on grey.
        begun = self._index.codec not in STARTS_ANYWHERE
        for frame in self._all_frames(decoder):
            begun = begun or frame.key_frame or frame.pict_type in (PictureType.I, PictureType.NONE)
            yield frame, begun and not decoder.is_damaged(frame)

    def _all_frames(self, decoder: FrameDecoder) -> Iterator[av.VideoFrame]:
        for packet, stamp in zip(decoder.packets(), self._index.stamps.tolist(), strict=False):
            packet.pts = stamp
            yield from decoder.decode(packet)
        yield from decoder.decode(None)

    def _times(self, stamps: np.ndarray) -> np.ndarray:
        known = np.flatnonzero(np.isfinite(stamps))
        if not self._index.ordered or not len(known):
            return self._index.start_s + np.arange(len(stamps)) / (self._index.fps or FPS)
        filled = np.interp(np.arange(len(stamps)), known, stamps[known])
        # Frames come in the order in which they are shown, but packed B-frames have each other's time stamps.
        return (np.sort(filled) - self._index.delay) * self._index.seconds


def by_decord(source: VideoSource, numbers: list[int]) -> DecodedFrames | None:
    """Decode the frames of these numbers by decord; None when it is absent, fails or would give wrong frames.

    Four cases were seen where decord hands out another frame than it was asked for: frames that an edit list hides
    (it counts them), transport streams, frames that precede a key frame they follow in the file, and frames less than
    about 60 pixels wide (four channels). It knows nothing of mirrors in a display matrix, of cropping by the container
    and of high dynamic range, and does not tell when a frame is damaged. So PyAV decodes some of the frames, too: what
    decord gives has to be the same, and PyAV tells how the frames were turned.
    """
    index = source.index
    probed = sorted({0, _farthest(index, numbers)})
    probes = seek(source, probed)
    is_plain = probes.plain and not probes.doubtful and not probes.orientation.mirrored and not any(index.shape.crop)
    if len(probes.by_number) < len(probed) or not (index.plain and is_plain):
        return None
    try:
        import decord
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    frames = DecodedFrames(decoder="decord")
    # decord turns frames upright itself.
    shape = DisplayShape(aspect=1 / index.shape.aspect if probes.orientation.transposed else index.shape.aspect)
    try:
        reader = decord.VideoReader(source.path, ctx=decord.cpu(0), num_threads=source.threads)
        if len(reader) != len(index.pts):
            return None
        for number in numbers:  # One at a time, so that only one frame of full size exists.
            source.heartbeat()
            rgb = reader[number].asnumpy()
            if rgb.shape[2] != 3:
                return None
            frames.add(number, rgb, UPRIGHT, shape, source.short_side)
    except (decord.DECORDError, RuntimeError, IndexError):
        return None
    frames.orientation = probes.orientation
    return frames if _are_alike(frames, probes) else None


def _farthest(index: VideoIndex, numbers: list[int]) -> int:
    """The frame that has most to be decoded before it: where decord goes wrong, it does so there."""
    keys = np.array([key.pts for key in index.keys] or [index.pts[0]])
    places = np.maximum(np.searchsorted(keys, index.pts[numbers], side="right") - 1, 0)
    behind = index.pts[numbers] - keys[places]
    # The last of several: where every frame is called a key frame, the first is one.
    return numbers[len(numbers) - 1 - int(np.argmax(behind[::-1]))]


def _are_alike(frames: DecodedFrames, probes: DecodedFrames) -> bool:
    both = frames.by_number.keys() & probes.by_number.keys()
    pairs = [(frames.by_number[number].astype(np.float32), probes.by_number[number]) for number in both]
    return all(ours.shape == other.shape and np.abs(ours - other).mean() < _ALIKE for ours, other in pairs)
