"""Which frames of a video are taken, and how they are read: by seeking, or in turn where seeking goes wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from vemoclap_batch.media import decord_reader, pyav_reader
from vemoclap_batch.media.error import Beat
from vemoclap_batch.media.in_turn import InTurn, Survey, TooSlow
from vemoclap_batch.media.pictures import Pictures
from vemoclap_batch.media.sampling import Limits, Sampling, chosen
from vemoclap_batch.media.video_index import VideoIndex
from vemoclap_batch.media.windows import evenly_spaced

Group = tuple[np.ndarray, np.ndarray]  # frames uint8 [n, height, width, 3], time stamps float64 [n] in seconds
NO_FRAMES: Group = (np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0))


class FrameReader:
    """The frames of one video.

    Frames are sought. Where seeking gives a broken frame, the wrong one or none, all of the video is decoded in turn
    instead, for as long as ``timeout_s``; in files where seeking cannot work that is done from the start.

    Attributes:
        seen: the pictures of the first group that had one.
        wanted, got: how many frames were wanted and read so far.
        warnings: what a user should know, in words.
    """

    def __init__(self, path: str, index: VideoIndex, sampling: Sampling, limits: Limits, beat: Beat) -> None:
        self._path, self._index, self._sampling, self._limits, self._beat = path, index, sampling, limits, beat
        self._times = index.times
        self._numbers = np.zeros(0, np.int64)
        self._survey: Survey | None = None
        self._kept = Pictures()
        self.seen: Pictures | None = None
        self.wanted = self.got = 0
        self.warnings: list[str] = []

    def count(self) -> int:
        """How many frames will be taken; a file in which seeking cannot work is decoded once for that."""
        self._numbers = chosen(self._times, self._index.seconds, self._sampling)
        if not self._index.seekable:
            self._look_through(self._in_turn())
        return len(self._numbers)

    def read(self, sizes: Sequence[int]) -> Iterator[Group]:
        """The frames, in groups of these sizes; :meth:`count` comes first. A group may have fewer in the end."""
        self.wanted = len(self._numbers)
        groups = _split(self._numbers, sizes)
        if self._survey is not None:
            yield from self._surveyed(self._in_turn(), groups)
            return
        for place, group in enumerate(groups):
            pictures = self._sought(group, alone=len(groups) == 1) if group else Pictures()
            if pictures.doubtful or not pictures.by_number.keys() >= set(group):
                yield from self._instead(pictures, groups[place:], sizes, place)
                return
            yield self._taken(pictures, self._stamps(group), group)

    def look(self) -> None:
        """Only find out what the picture is like."""
        first = self._sought([0], alone=False) if self._index.seekable else Pictures()
        self.seen = first if first.by_number and not first.doubtful else self._in_turn().first()
        self._warn(*self.seen.warnings)

    def _sought(self, numbers: list[int], alone: bool) -> Pictures:
        how = (self._sampling.short_side, self._limits.threads, self._beat)
        # decord indexes a file anew each time: not for several groups.
        if self._limits.decoder == "decord" and alone:
            probes = sorted({0, decord_reader.probe(self._index, numbers)})
            seen = pyav_reader.read(self._path, self._index, probes, *how)
            found = None
            if len(seen.by_number) == len(probes):
                found = decord_reader.read(self._path, self._index, numbers, *how, seen)
            if found is not None:
                return found
        return pyav_reader.read(self._path, self._index, numbers, *how)

    def _in_turn(self, deadline: float = np.inf) -> InTurn:
        return InTurn(
            self._path, self._index, self._sampling.short_side, self._limits.threads, self._beat, deadline
        )  # fmt: skip

    def _look_through(self, reader: InTurn) -> None:
        """Decode all frames; those that seem to be wanted are kept, unless they are too many."""
        guess = self._numbers.tolist()
        self._survey, self._kept = reader.survey(guess if len(guess) <= self._limits.whole_frames else ())
        survey = self._survey
        if not len(survey.times):
            self._numbers = np.zeros(0, np.int64)
            return
        whole = np.flatnonzero(survey.sound)
        if self._index.ordered and len(survey.times) < len(self._index.pts):
            self._warn(f"{len(survey.times)} of the {len(self._index.pts)} frames in the file could be decoded")
        if not len(whole):
            self._warn("every frame is damaged")
            whole = np.arange(len(survey.times))
        elif len(whole) < len(survey.times):
            self._warn(f"{len(survey.times) - len(whole)} damaged frames were left out")
        self._numbers = survey.without_traces(whole[chosen(survey.times[whole], self._index.seconds, self._sampling)])
        if traces := int(survey.traces[self._numbers].sum()):
            self._warn(f"{traces} of the frames taken may show traces of damage before them")

    def _surveyed(self, reader: InTurn, groups: list[list[int]]) -> Iterator[Group]:
        """The frames of numbers that count the frames as a survey found them."""
        assert self._survey is not None
        times = self._survey.times
        if set(self._numbers.tolist()) <= set(self._kept.by_number):
            for group in groups:
                yield self._taken(self._kept, times[group], group)
            return
        for group, pictures in zip(groups, reader.read(groups), strict=True):
            yield self._taken(pictures, times[group], group)

    def _instead(
        self, sought: Pictures, groups: list[list[int]], sizes: Sequence[int], place: int
    ) -> Iterator[Group]:  # fmt: skip
        """The groups from one on in which seeking went wrong: in turn, or sought all the same if that is too slow."""
        reader = self._in_turn(time.monotonic() + self._limits.timeout_s)
        # From here on numbers count the frames that decode.
        before = int(sum(sizes[:place]))
        moments = self._stamps(self._numbers[before:].tolist())
        last_s = self._stamps([int(self._numbers[before - 1])])[0] if before else -np.inf
        try:
            self._warn("seeking gave missing or broken pictures: the video was decoded in turn")
            self._look_through(reader)
            if before:
                self._numbers = self._at(moments, last_s)
            self._numbers = self._numbers[evenly_spaced(len(self._numbers), len(moments))]
            self.wanted = before + (len(self._numbers) or len(moments))
            # One group at a time, so that what is too slow is noticed before anything of it was given.
            for found in self._surveyed(reader, _split(self._numbers, sizes[place:])):
                yield found
                groups.pop(0)
        except TooSlow:
            given_up = f"decoding in turn was given up after {self._limits.timeout_s:g} s"
            self._warn(f"{given_up}: pictures may be broken or missing")
            for number, group in enumerate(groups):
                pictures = sought if number == 0 and len(groups) == len(sizes) - place else self._sought(group, False)
                yield self._taken(pictures, self._stamps(group), group)

    def _at(self, moments: np.ndarray, after_s: float) -> np.ndarray:
        """The numbers of the whole frames shown at these times, of those after a time."""
        assert self._survey is not None
        whole = np.flatnonzero(self._survey.sound & (self._survey.times > after_s))
        if not len(whole):
            return whole
        places = np.searchsorted(self._survey.times[whole], moments + self._index.seconds / 2, side="right") - 1
        return whole[np.unique(places[places >= 0])]

    def _stamps(self, numbers: list[int]) -> np.ndarray:
        """The time stamps in seconds of frames by their number in the index."""
        if self._index.ordered:
            return (self._index.pts[numbers] - self._index.delay) * self._index.seconds
        return self._index.start_s + self._times[numbers]

    def _taken(self, pictures: Pictures, stamps: np.ndarray, group: Sequence[int]) -> Group:
        """One group of frames by their numbers, those of them that the pictures have."""
        if self.seen is None or self.seen.height is None:
            self.seen = pictures
        self._warn(*pictures.warnings)
        there = [at for at, number in enumerate(group) if number in pictures.by_number]
        self.got += len(there)
        return pictures.stacked([group[at] for at in there]), stamps[there]

    def _warn(self, *messages: str) -> None:
        self.warnings += [message for message in messages if message not in self.warnings]


def _split(numbers: np.ndarray, sizes: Sequence[int]) -> list[list[int]]:
    """The numbers in groups of these sizes; the last ones have fewer, or none, where there are too few."""
    return [numbers[start:end].tolist() for start, end in pairwise(np.cumsum([0, *sizes]))]
