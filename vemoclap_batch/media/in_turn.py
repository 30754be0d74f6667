"""Frames by decoding all of a video from the first to the last, for files in which seeking leads to wrong pictures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import av
import numpy as np
from av.video.frame import PictureType

from vemoclap_batch.media.container import open_media
from vemoclap_batch.media.error import Beat
from vemoclap_batch.media.picture_decoder import PictureDecoder
from vemoclap_batch.media.pictures import Pictures
from vemoclap_batch.media.video_index import FPS, VideoIndex

#: FFmpeg's decoders of these start at any picture and predict from grey; others wait for a whole one.
STARTS_ANYWHERE = frozenset(
    "mpeg4 h263 flv1 msmpeg4v1 msmpeg4v2 msmpeg4v3 wmv1 wmv2 rv10 rv20 svq1 svq3 vp6 vp6f vp6a theora".split()
)


class TooSlow(Exception):
    """Decoding in turn took longer than it may."""


@dataclass
class Survey:
    """What decoding all of a video showed.

    Attributes:
        times: float64 [N], increasing: the time stamp of each frame in seconds, in the order in which they are shown.
        sound: bool [N]: whether a frame is whole, as far as the decoder knows.
        traces: bool [N]: whether one between the last key frame and it was damaged, so that it may show traces of that.
    """

    times: np.ndarray
    sound: np.ndarray
    traces: np.ndarray

    def without_traces(self, numbers: np.ndarray) -> np.ndarray:
        """The numbers, int64 [n], each that shows traces of damage replaced by the nearest that shows none.

        It stays where there is none that is nearer than half of the mean distance between them.
        """
        clean = np.setdiff1d(np.flatnonzero(self.sound & ~self.traces), numbers)
        nearest = (self.times[numbers[-1]] - self.times[numbers[0]]) / max(len(numbers) - 1, 1) / 2
        found = numbers.tolist()
        for place in np.flatnonzero(self.traces[numbers]) if len(clean) else ():
            distances = np.abs(self.times[clean] - self.times[numbers[place]])
            best = int(distances.argmin())
            if distances[best] < nearest:
                found[place] = int(clean[best])
                clean = np.delete(clean, best)
                if not len(clean):
                    break
        return np.array(sorted(found), np.int64)


class InTurn:
    """Reads one video from its first frame to its last, as often as is asked for."""

    def __init__(
        self, path: str, index: VideoIndex, short_side: int, threads: int, beat: Beat, deadline: float = np.inf
    ) -> None:
        """Prepare for reading; from ``deadline`` on (of :func:`time.monotonic`) it ends with :class:`TooSlow`."""
        self._path, self._index, self._deadline, self._beat = path, index, deadline, beat
        self._open = partial(PictureDecoder, index=index, short_side=short_side, threads=threads, beat=self._look)

    def _look(self) -> None:
        self._beat()
        if time.monotonic() > self._deadline:
            raise TooSlow

    def survey(self, guess: Iterable[int] = ()) -> tuple[Survey, Pictures]:
        """Decode every frame once; those of the numbers in ``guess`` are kept."""
        kept = set(guess)
        stamps: list[float] = []
        sound: list[bool] = []
        traces: list[bool] = []
        whole = self._index.codec not in STARTS_ANYWHERE
        with self._decoder() as decoder:
            for number, frame in enumerate(self._frames(decoder)):
                whole = whole or _is_intra(frame)
                if frame.key_frame:
                    decoder.errors = 0
                damaged = decoder.is_damaged(frame)
                decoder.errors += damaged
                stamps.append(np.nan if frame.pts is None else frame.pts)
                sound.append(whole and not damaged)
                traces.append(decoder.errors > 0)
                if number in kept:
                    decoder.keep(number, frame)
        return Survey(self._times(np.array(stamps)), np.array(sound, bool), np.array(traces, bool)), decoder.pictures

    def read(self, groups: Iterable[list[int]]) -> Iterator[Pictures]:
        """The frames of one sorted group of numbers after the other."""
        with self._decoder() as decoder:
            frames = enumerate(self._frames(decoder))
            last: list[tuple[int, av.VideoFrame]] = []
            for group in groups:
                decoder.pictures = pictures = Pictures()
                wanted = set(group)
                # The frame that ends one group may begin the next.
                for number, frame in chain(last, frames) if group else ():
                    last = [(number, frame)]
                    if number in wanted:
                        decoder.keep(number, frame)
                    if number == group[-1]:
                        break
                yield pictures

    def first(self) -> Pictures:
        """The first frame that is whole; any, where none is."""
        with self._decoder() as decoder:
            whole = self._index.codec not in STARTS_ANYWHERE
            for frame in self._frames(decoder):
                whole = whole or _is_intra(frame)
                sound = whole and not decoder.is_damaged(frame)
                if not decoder.pictures.by_number or sound:
                    decoder.pictures = Pictures()
                    decoder.keep(0, frame)
                if sound:
                    break
        return decoder.pictures

    @contextmanager
    def _decoder(self) -> Iterator[PictureDecoder]:
        with open_media(self._path) as container:
            yield self._open(container)

    def _frames(self, decoder: PictureDecoder) -> Iterator[av.VideoFrame]:
        """Every frame that decodes, in the order they are shown, with time stamps on one time line."""
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


def _is_intra(frame: av.VideoFrame) -> bool:
    return frame.key_frame or frame.pict_type in (PictureType.I, PictureType.NONE)
