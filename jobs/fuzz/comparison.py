"""What one file's decoded clip should be, by a second decoder and by the source, and where it is not.

The source knows the number and time of every picture and every stretch of sound. What either the second decoder or the
source says will do, since the second decoder errs too; where a file was cut, only the second decoder can say which
frames are still to be had.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from fuzz.numbered import PART, WINDOW_S, difference
from fuzz.random_media import Recipe
from fuzz.recognised import SAME, Heard, Pictures, Truth
from fuzz.second_decoder import Decoded
from vemoclap_batch.errors import Failure
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip, MediaInfo
from vemoclap_batch.media.sampling import Sampling

_WANTED = Sampling().frames
#: Seconds by which lengths and places may differ; encoders delay sound, containers round.
_LENGTH_S = 0.15
#: Correlation that a stretch of sound has to have, and by how much it may lie below the other decoder's: what a codec
#: replaces by noise is another noise each time.
_ALIKE, _NOISE = 0.95, 0.06
#: Of full scale; what is quieter at either end is silence.
_SILENCE = 0.01


def compare(recipe: Recipe, other: Decoded, ours: tuple[Clip, MediaInfo] | Failure) -> dict[str, str]:
    """What differs → in words; empty where all is as it should be.

    Args:
        recipe: of the file.
        other: what the second decoder gave.
        ours: what the pipeline's decoder gave.
    """
    truth = Truth(recipe)
    theirs, heard = Pictures(truth, other.frames), Heard(truth, other.sound)
    if isinstance(ours, Failure):
        if not theirs.sound and not heard.place:
            return {}
        had = f"the other decoder has {len(theirs.sound)} frames, {len(other.sound) / SAMPLE_RATE:.2f} s of sound"
        return {"failure": f"{ours.error_type}: {ours.message}; {had}"}
    clip, info = ours
    shown = Pictures(truth, list(clip.frames), theirs.limit)
    torn = recipe.cut == "end" and shown.is_torn
    if torn:  # What a decoder makes of the packet in which the file ends, is its own affair.
        clip = replace(clip, frames=clip.frames[:-1], frame_times=clip.frame_times[:-1])
        shown = Pictures(truth, list(clip.frames), theirs.limit)
    return _Comparison(truth, other, theirs, heard, clip, shown, Heard(truth, clip.waveform), torn).differences(info)


@dataclass
class _Comparison:
    """One file: the source, what the other decoder gave, what ours gave."""

    truth: Truth
    other: Decoded
    theirs: Pictures
    heard: Heard
    clip: Clip
    shown: Pictures
    listened: Heard
    torn: bool

    def differences(self, info: MediaInfo) -> dict[str, str]:
        found = {
            "pictures": self._pictures(),
            "order": self._order(),
            "frames": self._frames(),
            "shape": self._shape(),
            "times": self._times(),
            "length": self._length(info),
            "sound": self._sound(),
            "sound's length": self._sound_length(),
            "sound's place": self._sound_place(),
        }
        return {what: words for what, words in found.items() if words}

    def _pictures(self) -> str | None:
        """Broken pictures, unless the other decoder breaks them too and does not know it."""
        alike = self.shown.as_in(self.theirs)
        unflagged = max(len(self.theirs.broken) - self.other.corrupt, 0)
        if len(alike) == len(self.shown.broken) <= unflagged or not (self.theirs.sound or self.truth.whole):
            return None
        errors = " ".join(f"{self.shown.errors[place]:.0f}" for place in self.shown.broken)
        count = f"{len(self.shown.broken)} of {len(self.shown.numbers)} pictures are not as the source"
        unread = sum(self.shown.numbers[place] is None for place in self.shown.broken)
        they = f"{len(self.theirs.broken)} of {len(self.theirs.numbers)}, of which it knows {self.other.corrupt}"
        return (
            f"{count} ({unread} without a number; differences {errors}, limit {self.shown.limit:.0f}); "
            f"{len(alike)} are so in the other decoder, which breaks {they}"
        )

    def _order(self) -> str | None:
        # A picture that is shown for long may be taken several times, for the same time stamp.
        numbers = [number for number, _ in dict.fromkeys(self.shown.placed(self.clip.frame_times.tolist()))]
        if all(earlier < later for earlier, later in pairwise(numbers)):
            return None
        # A decoder that conceals a broken picture shows the one before again.
        if not self.truth.whole and self.theirs.broken and numbers == sorted(numbers):
            return None
        return f"pictures out of order or twice: {numbers}"

    def _frames(self) -> str | None:
        """Number of frames, and whether they are spread evenly over time."""
        if not self.theirs.sound and not self.truth.whole:
            return None
        read = [number for number, _ in self.shown.placed(self.clip.frame_times.tolist())]
        of_theirs = self._spread(self.theirs.sound, self.truth.moments(self.theirs.sound), read)
        every, of_all = sorted(self.truth.times), sorted(set(self.theirs.guessed()))
        guessed = sorted([*read, *self.shown.as_in(self.theirs).values()])
        others = [
            self._spread(every, self.truth.moments(every), read),
            self._spread(of_all, self.truth.moments(of_all), guessed),
        ]
        if timed := self._their_times():
            others.append(self._spread(list(timed), np.array(list(timed.values())), read))
        return of_theirs if all(others) and not self._same_pictures() else None

    def _same_pictures(self) -> bool:
        """Whether ours are the other decoder's at evenly spaced places, whatever they show: some encoders err."""
        shown, theirs = self.shown.frames, self.theirs.frames
        if not self.theirs.broken or self.truth.recipe.slow != "none" or len(shown) != min(_WANTED, len(theirs)):
            return False
        places = np.linspace(0, len(theirs) - 1, len(shown)).round().astype(int).tolist()
        return all(
            min(difference(frame, other) for other in theirs[max(place - 1, 0) : place + 2]) <= SAME
            for frame, place in zip(shown, places, strict=True)
        )

    def _their_times(self) -> dict[int, float]:
        """Number → time, by the other decoder; none where parts were joined: there its time starts again, or jumps."""
        if len(self.truth.lengths) > 1:
            return {}
        found = dict(sorted(self.theirs.placed(self.other.times)))
        return {number: moment for number, moment in found.items() if np.isfinite(moment)}

    def _spread(self, numbers: list[int], times: np.ndarray, got: list[int]) -> str | None:
        """What is wrong where a clip with the frames got should show frames of these numbers evenly over time."""
        truth, wanted = self.truth, min(_WANTED, len(numbers))
        plain = truth.whole and len(truth.lengths) == 1
        if len(self.shown.numbers) < wanted - (not plain):
            return f"{len(self.shown.numbers)} of {wanted} frames of {len(numbers)}: {got}"
        if not got or not numbers:
            return None
        expected = np.searchsorted(times, np.linspace(times[0], times[-1], wanted) + 1e-6, side="right") - 1
        places = np.searchsorted(numbers, got)
        shown_at = np.interp(got, numbers, times)
        for place in expected[: wanted - self.torn]:
            near = np.abs(places - place).min() <= (1 if plain else 2)
            if not near and np.abs(shown_at - times[place]).min() > 0.05 + truth.slack_s:
                right = [numbers[place] for place in expected]
                return f"not evenly over time: {got} of {len(numbers)}; {right} would be"
        return None

    def _shape(self) -> str | None:
        if not len(self.clip.frames):
            return None
        height, width = self.clip.frames.shape[1:3]
        stored_width, stored_height = self.truth.recipe.size
        aspect = self.other.aspect or stored_width / stored_height
        # The codec itself may say that its pixels are oblong, as H.263 does.
        square = abs(aspect / (stored_width / stored_height) - 1) < 0.005
        if square and (width, height) == (stored_width, stored_height):
            return None
        if not square and abs(width / height / aspect - 1) <= 0.03:
            return None
        return f"{width}x{height} is shown, {aspect:.3f} to 1 expected of {stored_width}x{stored_height}"

    def _offsets(self) -> list[tuple[int, float, int, float]]:
        """Part, time in the source less time in the clip, number, time in the clip, of each picture."""
        return [
            (number // PART, self.truth.times[number] - moment, number, moment)
            for number, moment in self.shown.placed(self.clip.frame_times.tolist())
        ]

    def _times(self) -> str | None:
        """Whether the frames' times are the source's, in a cut file from where it begins, or the other decoder's."""
        pairs = self._offsets()
        if not pairs:
            return None
        first = pairs[0][1]
        theirs = self._their_times()
        slack = _LENGTH_S + self.truth.slack_s
        for _, offset, number, moment in pairs:
            in_step = abs(offset - first) <= slack and (not self.truth.whole or abs(first) <= slack)
            if not in_step and abs(theirs.get(number, -1e9) - moment) > slack:
                right = self.truth.times[number] - (0 if self.truth.whole else first)
                return f"picture {number} is said to be at {moment:.2f} s, {right:.2f} s is right"
        return None

    def _length(self, info: MediaInfo) -> str | None:
        """The length has to lie between what can be decoded and what the source has."""
        moments = [self.truth.times[number] for number in self.theirs.sound]
        begins = moments + [moment for _, moment in self.heard.place]
        ends = moments + [moment + WINDOW_S for _, moment in self.heard.place]
        least = max(ends) - min(begins) if ends else 0.0
        most = self.truth.starts[-1]
        if least - 0.35 - self.truth.slack_s <= info.duration_s <= most + 0.35 + self.truth.slack_s:
            return None
        return f"{info.duration_s:.2f} s long; the source has {most:.2f} s, {least:.2f} s of it can be decoded"

    def _sound(self) -> str | None:
        ours, theirs = self.listened.likeness, self.heard.likeness
        missing = [key for key in self.heard.place if ours[key] < min(theirs[key] - _NOISE, _ALIKE)]
        if not missing:
            return None
        words = f"{len(missing)} of {len(self.heard.place)} stretches of 0.4 s are not as the other decoder gives them"
        part, moment = missing[0]
        return f"{words}; the first, at {moment:.1f} s in part {part}, correlates by {ours[missing[0]]:.2f}"

    def _sound_length(self) -> str | None:
        ours, theirs = _audible_s(self.clip.waveform), _audible_s(self.other.sound)
        moments = [moment for _, moment in {*self.heard.place, *self.listened.place}]
        if abs(ours - theirs) <= _LENGTH_S or not moments:
            return None
        # By the source, of which less than one stretch at either end was not looked for.
        span = max(moments) - min(moments) + WINDOW_S
        if span - _LENGTH_S <= ours <= span + 2 * WINDOW_S + self.truth.slack_s:
            return None
        return (
            f"{ours:.2f} s from the first to the last sound, {theirs:.2f} s by the other decoder, source {span:.2f} s"
        )

    def _sound_place(self) -> str | None:
        """Whether sound is beside its picture, and goes on as the source does."""
        pictures = self._offsets()
        sounds = [(*key, key[1] - place) for key, place in self.listened.place.items() if key in self.heard.place]
        slack = _LENGTH_S + self.truth.slack_s
        for part, moment, offset in sounds:
            beside = [other for of, other, _, _ in pictures if of == part] or [other for _, _, other in sounds]
            expected = float(np.median(beside))
            if abs(offset - expected) > slack and not (self.truth.whole and abs(offset) <= slack):
                return f"sound of {moment:.1f} s in part {part} is {expected - offset:.2f} s late against its picture"
        return None


def _audible_s(sound: np.ndarray) -> float:
    loud = np.flatnonzero(np.abs(sound) > _SILENCE)
    return float(loud[-1] - loud[0] + 1) / SAMPLE_RATE if len(loud) else 0.0
