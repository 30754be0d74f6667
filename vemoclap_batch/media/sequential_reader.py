"""Frames by decoding all of a video from the first to the last, for files in which seeking leads to wrong frames."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import av
import numpy as np
from av.video.frame import PictureType

from vemoclap_batch.media.container import open_media
from vemoclap_batch.media.frame_decoder import FrameDecoder, VideoSource
from vemoclap_batch.media.frames import DecodedFrames
from vemoclap_batch.media.video_index import FPS, STARTS_ANYWHERE


class DecodeTimeout(Exception):
    """Decoding all of a video took longer than it may."""


@dataclass
class FrameTable:
    """What decoding all of a video showed of each frame, in the order in which they are shown.

    Attributes:
        times: float64 [N], increasing: time stamps in seconds.
        intact: bool [N]: whether a frame is whole, as far as the decoder knows.
        tainted: bool [N]: whether one between the last key frame and it was damaged, so that it may show traces of
            that.
    """

    times: np.ndarray
    intact: np.ndarray
    tainted: np.ndarray

    def without_tainted(self, numbers: np.ndarray) -> np.ndarray:
        """The numbers, int64 [n], each of a tainted frame replaced by that of the nearest which is not.

        It stays where there is none that is nearer than half of the mean distance between them.
        """
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
    """Reads one video from its first frame to its last, as often as is asked for."""

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
        """Every frame that decodes, in the order they are shown, its time stamp on one time line; and if it is whole.

        Before the first that is decoded without any other, frames may be built on grey.
        """
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
