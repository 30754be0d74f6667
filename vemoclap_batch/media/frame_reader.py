"""Which frames of a video are taken, and how they are read: by seeking, or in sequence where seeking goes wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from vemoclap_batch.media.clip import Heartbeat
from vemoclap_batch.media.frame_decoder import VideoSource
from vemoclap_batch.media.frames import DecodedFrames
from vemoclap_batch.media.readers import DecodeTimeout, FrameTable, SequentialReader, by_decord, seek
from vemoclap_batch.media.sampling import Limits, Sampling, chosen
from vemoclap_batch.media.video_index import VideoIndex
from vemoclap_batch.media.windows import evenly_spaced

Group = tuple[np.ndarray, np.ndarray]  # frames uint8 [n, height, width, 3], time stamps float64 [n] in seconds
NO_FRAMES: Group = (np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0))


class FrameReader:
    """The frames of one video, sought.

    Where seeking gives a broken frame, the wrong one or none, all of the video is decoded in sequence instead, for as
    long as ``timeout_s``; in files where seeking cannot work that is done from the start.

    Attributes:
        sample: the first group of frames that had one; it tells size and orientation.
        wanted, got: how many frames were wanted and read so far.
        warnings: what a user should know.
    """

    def __init__(
        self, path: str, index: VideoIndex, sampling: Sampling, limits: Limits, heartbeat: Heartbeat
    ) -> None:  # fmt: skip
        self.index = index
        self._sampling, self._limits = sampling, limits
        self._source = VideoSource(path, index, sampling.short_side, limits.threads, heartbeat)
        self._numbers = np.zeros(0, np.int64)
        self._table: FrameTable | None = None  # where it is there, numbers count its frames, not those of the index
        self._kept = DecodedFrames()
        self.sample: DecodedFrames | None = None
        self.wanted = self.got = 0
        self.warnings: list[str] = []

    def count(self) -> int:
        """How many frames will be taken; a file in which seeking cannot work is decoded once for that."""
        self._numbers = chosen(self.index.times, self.index.seconds, self._sampling)
        if not self.index.seekable:
            self._survey(SequentialReader(self._source))
        return len(self._numbers)

    def read(self, sizes: Sequence[int]) -> Iterator[Group]:
        """The frames in groups of these sizes, after :meth:`count` gave their sum; a group may have fewer in the end.

        Without :meth:`count`, or where it gave 0, only :attr:`sample` is found out.
        """
        self.wanted = len(self._numbers)
        groups = _split(self._numbers, sizes)
        if not any(sizes):
            self._take_sample()
            yield from [NO_FRAMES] * len(sizes)
            return
        if self._table is not None:
            yield from self._from_table(self._table, SequentialReader(self._source), groups)
            return
        for place, group in enumerate(groups):
            frames = self._sought(group, alone=len(groups) == 1) if group else DecodedFrames()
            if frames.doubtful or not frames.by_number.keys() >= set(group):
                yield from self._in_sequence(frames, groups[place:], sizes, place)
                return
            yield self._taken(frames, self._stamps(group), group)

    def _take_sample(self) -> None:
        frames = self._sought([0], alone=False) if self.index.seekable else DecodedFrames()
        if not frames.by_number or frames.doubtful:
            frames = SequentialReader(self._source).first()
        self._note(frames)

    def _sought(self, numbers: list[int], alone: bool) -> DecodedFrames:
        # decord indexes a file anew each time: not for several groups.
        if self._limits.decoder == "decord" and alone:
            frames = by_decord(self._source, numbers)
            if frames is not None:
                return frames
        return seek(self._source, numbers)

    def _survey(self, reader: SequentialReader) -> FrameTable:
        """Decode all frames and choose anew among them; those that were chosen are kept, unless they are too many."""
        before = self._numbers.tolist()
        table, self._kept = reader.survey(before if len(before) <= self._limits.whole_frames else ())
        self._table, count = table, len(table.times)
        if not count:
            self._numbers = np.zeros(0, np.int64)
            return table
        intact = np.flatnonzero(table.intact)
        if self.index.ordered and count < len(self.index.pts):
            self._warn(f"{count} of the {len(self.index.pts)} frames in the file could be decoded")
        if not len(intact):
            self._warn("every frame is damaged")
            intact = np.arange(count)
        elif len(intact) < count:
            self._warn(f"{count - len(intact)} damaged frames were left out")
        places = chosen(table.times[intact], self.index.seconds, self._sampling)
        self._numbers = table.without_tainted(intact[places])
        if tainted := int(table.tainted[self._numbers].sum()):
            self._warn(f"{tainted} of the frames taken may show traces of damage before them")
        return table

    def _from_table(self, table: FrameTable, reader: SequentialReader, groups: list[list[int]]) -> Iterator[Group]:
        kept = set(self._numbers.tolist()) <= set(self._kept.by_number)
        for group, frames in zip(groups, [self._kept] * len(groups) if kept else reader.read(groups), strict=True):
            yield self._taken(frames, table.times[group], group)

    def _in_sequence(
        self, sought: DecodedFrames, groups: list[list[int]], sizes: Sequence[int], place: int
    ) -> Iterator[Group]:  # fmt: skip
        """The groups from one on in which seeking went wrong: in sequence, or sought if that takes too long."""
        reader = SequentialReader(self._source, time.monotonic() + self._limits.timeout_s)
        before = int(sum(sizes[:place]))
        moments = self._stamps(self._numbers[before:].tolist())
        last_s = self._stamps([int(self._numbers[before - 1])])[0] if before else -np.inf
        given = 0
        try:
            self._warn("seeking gave missing or broken pictures: the video was decoded in turn")
            table = self._survey(reader)
            if before:
                self._numbers = self._at(table, moments, last_s)
            self._numbers = self._numbers[evenly_spaced(len(self._numbers), len(moments))]
            self.wanted = before + (len(self._numbers) or len(moments))
            # One group at a time, so that what is too slow is noticed before anything of it was given.
            for taken in self._from_table(table, reader, _split(self._numbers, sizes[place:])):
                yield taken
                given += 1
        except DecodeTimeout:
            given_up = f"decoding in turn was given up after {self._limits.timeout_s:g} s"
            self._warn(f"{given_up}: pictures may be broken or missing")
            for number, group in list(enumerate(groups))[given:]:
                frames = self._sought(group, False) if number else sought
                yield self._taken(frames, self._stamps(group), group)

    def _at(self, table: FrameTable, moments: np.ndarray, after_s: float) -> np.ndarray:
        """The numbers of the intact frames shown at these times, of those after a time."""
        intact = np.flatnonzero(table.intact & (table.times > after_s))
        if not len(intact):
            return intact
        places = np.searchsorted(table.times[intact], moments + self.index.seconds / 2, side="right") - 1
        return intact[np.unique(places[places >= 0])]

    def _stamps(self, numbers: list[int]) -> np.ndarray:
        """The time stamps in seconds of frames by their number in the index."""
        if self.index.ordered:
            return (self.index.pts[numbers] - self.index.delay) * self.index.seconds
        return self.index.start_s + self.index.times[numbers]

    def _taken(self, frames: DecodedFrames, stamps: np.ndarray, group: Sequence[int]) -> Group:
        """One group of frames by their numbers, those of them that were decoded."""
        self._note(frames)
        there = [at for at, number in enumerate(group) if number in frames.by_number]
        self.got += len(there)
        return frames.stacked([group[at] for at in there]), stamps[there]

    def _note(self, frames: DecodedFrames) -> None:
        if self.sample is None and frames.height is not None:
            self.sample = frames
        self._warn(*frames.warnings)

    def _warn(self, *messages: str) -> None:
        self.warnings += [message for message in messages if message not in self.warnings]


def _split(numbers: np.ndarray, sizes: Sequence[int]) -> list[list[int]]:
    """The numbers in groups of these sizes; the last ones have fewer, or none, where there are too few."""
    return [numbers[start:end].tolist() for start, end in pairwise(np.cumsum([0, *sizes]))]
