"""What one file's decoded clip should be, by a second decoder and by the source, and where it is not.

The source knows the number and time of every frame and every stretch of audio. What either the second decoder or the
source says will do, since the second decoder errs too; where a file was cut, only the second decoder can say which
frames are still to be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np

from fuzz.numbered import PART, WINDOW_S, AudioFinder, difference, numbered_frame, read_number, tones
from fuzz.random_media import Recipe
from fuzz.second_decoder import Decoded
from vemoclap_batch.errors import Failure
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip, MediaInfo
from vemoclap_batch.media.sampling import Sampling

_WANTED = Sampling().frames
#: Seconds by which lengths and places may differ; encoders delay audio, containers round.
_LENGTH_S = 0.15
#: Correlation that a stretch of audio has to have, and by how much it may lie below the other decoder's: what a codec
#: replaces by noise is another noise each time.
_ALIKE, _NOISE = 0.95, 0.06
#: Of full scale; what is quieter at either end is silence.
_SILENCE = 0.01
#: Mean difference from the source, of 255, above which no frame is intact, whatever its codec.
_BROKEN = 40.0
#: Mean difference of two decoders' renderings of the same frame.
_SAME = 6.0
#: Correlation of a stretch of audio that was found.
_FOUND = 0.8


def compare(recipe: Recipe, other: Decoded, ours: tuple[Clip, MediaInfo] | Failure) -> dict[str, str]:
    """What differs → in words; empty where all is as it should be.

    Args:
        recipe: of the file.
        other: what the second decoder gave.
        ours: what the pipeline's decoder gave.
    """
    source = Source(recipe)
    theirs, heard = FrameMatch(source, other.frames), AudioMatch(source, other.audio)
    if isinstance(ours, Failure):
        if not theirs.intact and not heard.place:
            return {}
        had = f"the other decoder has {len(theirs.intact)} frames, {len(other.audio) / SAMPLE_RATE:.2f} s of audio"
        return {"failure": f"{ours.error_type}: {ours.message}; {had}"}
    clip, info = ours
    shown = FrameMatch(source, list(clip.frames), theirs.limit)
    torn = recipe.cut == "end" and shown.is_torn
    if torn:  # What a decoder makes of the packet in which the file ends, is its own affair.
        clip = replace(clip, frames=clip.frames[:-1], frame_times=clip.frame_times[:-1])
        shown = FrameMatch(source, list(clip.frames), theirs.limit)
    return _Comparison(source, other, theirs, heard, clip, shown, AudioMatch(source, clip.waveform), torn).differences(
        info
    )


@dataclass
class _Comparison:
    """One file: the source, what the other decoder gave, what ours gave."""

    source: Source
    other: Decoded
    theirs: FrameMatch
    their_audio: AudioMatch
    clip: Clip
    ours: FrameMatch
    our_audio: AudioMatch
    torn: bool

    def differences(self, info: MediaInfo) -> dict[str, str]:
        found = {
            "images": self._images(),
            "order": self._order(),
            "frames": self._frames(),
            "shape": self._shape(),
            "times": self._times(),
            "length": self._length(info),
            "audio": self._audio(),
            "audio length": self._audio_length(),
            "audio place": self._audio_place(),
        }
        return {what: words for what, words in found.items() if words}

    def _images(self) -> str | None:
        """Broken frames, unless the other decoder breaks them too and does not know it."""
        alike = self.ours.as_in(self.theirs)
        unflagged = max(len(self.theirs.broken) - self.other.corrupt, 0)
        if len(alike) == len(self.ours.broken) <= unflagged or not (self.theirs.intact or self.source.whole):
            return None
        errors = " ".join(f"{self.ours.errors[place]:.0f}" for place in self.ours.broken)
        count = f"{len(self.ours.broken)} of {len(self.ours.numbers)} frames are not as the source"
        unread = sum(self.ours.numbers[place] is None for place in self.ours.broken)
        they = f"{len(self.theirs.broken)} of {len(self.theirs.numbers)}, of which it knows {self.other.corrupt}"
        return (
            f"{count} ({unread} without a number; differences {errors}, limit {self.ours.limit:.0f}); "
            f"{len(alike)} are so in the other decoder, which breaks {they}"
        )

    def _order(self) -> str | None:
        # A frame that is shown for long may be taken several times, for the same time stamp.
        numbers = [number for number, _ in dict.fromkeys(self.ours.placed(self.clip.frame_times.tolist()))]
        if all(earlier < later for earlier, later in pairwise(numbers)):
            return None
        # A decoder that conceals a broken frame shows the one before again.
        if not self.source.whole and self.theirs.broken and numbers == sorted(numbers):
            return None
        return f"frames out of order or twice: {numbers}"

    def _frames(self) -> str | None:
        """Number of frames, and whether they are spread evenly over time."""
        if not self.theirs.intact and not self.source.whole:
            return None
        read = [number for number, _ in self.ours.placed(self.clip.frame_times.tolist())]
        of_theirs = self._spread(self.theirs.intact, self.source.moments(self.theirs.intact), read)
        every, of_all = sorted(self.source.times), sorted(set(self.theirs.guessed()))
        guessed = sorted([*read, *self.ours.as_in(self.theirs).values()])
        others = [
            self._spread(every, self.source.moments(every), read),
            self._spread(of_all, self.source.moments(of_all), guessed),
        ]
        if timed := self._their_times():
            others.append(self._spread(list(timed), np.array(list(timed.values())), read))
        return of_theirs if all(others) and not self._same_frames() else None

    def _same_frames(self) -> bool:
        """Whether ours are the other decoder's at evenly spaced places, whatever they show: some encoders err."""
        shown, theirs = self.ours.frames, self.theirs.frames
        if not self.theirs.broken or self.source.recipe.slow != "none" or len(shown) != min(_WANTED, len(theirs)):
            return False
        places = np.linspace(0, len(theirs) - 1, len(shown)).round().astype(int).tolist()
        return all(
            min(difference(frame, other) for other in theirs[max(place - 1, 0) : place + 2]) <= _SAME
            for frame, place in zip(shown, places, strict=True)
        )

    def _their_times(self) -> dict[int, float]:
        """Number → time, by the other decoder; none where parts were joined: there its time starts again, or jumps."""
        if len(self.source.lengths) > 1:
            return {}
        found = dict(sorted(self.theirs.placed(self.other.times)))
        return {number: moment for number, moment in found.items() if np.isfinite(moment)}

    def _spread(self, numbers: list[int], times: np.ndarray, got: list[int]) -> str | None:
        """What is wrong where a clip with the frames got should show frames of these numbers evenly over time."""
        source, wanted = self.source, min(_WANTED, len(numbers))
        plain = source.whole and len(source.lengths) == 1
        if len(self.ours.numbers) < wanted - (not plain):
            return f"{len(self.ours.numbers)} of {wanted} frames of {len(numbers)}: {got}"
        if not got or not numbers:
            return None
        expected = np.searchsorted(times, np.linspace(times[0], times[-1], wanted) + 1e-6, side="right") - 1
        places = np.searchsorted(numbers, got)
        shown_at = np.interp(got, numbers, times)
        for place in expected[: wanted - self.torn]:
            near = np.abs(places - place).min() <= (1 if plain else 2)
            if not near and np.abs(shown_at - times[place]).min() > 0.05 + source.slack_s:
                right = [numbers[place] for place in expected]
                return f"not evenly over time: {got} of {len(numbers)}; {right} would be"
        return None

    def _shape(self) -> str | None:
        if not len(self.clip.frames):
            return None
        height, width = self.clip.frames.shape[1:3]
        stored_width, stored_height = self.source.recipe.size
        aspect = self.other.aspect or stored_width / stored_height
        # The codec itself may say that its pixels are oblong, as H.263 does.
        square = abs(aspect / (stored_width / stored_height) - 1) < 0.005
        if square and (width, height) == (stored_width, stored_height):
            return None
        if not square and abs(width / height / aspect - 1) <= 0.03:
            return None
        return f"{width}x{height} is shown, {aspect:.3f} to 1 expected of {stored_width}x{stored_height}"

    def _offsets(self) -> list[tuple[int, float, int, float]]:
        """Part, time in the source less time in the clip, number, time in the clip, of each frame."""
        return [
            (number // PART, self.source.times[number] - moment, number, moment)
            for number, moment in self.ours.placed(self.clip.frame_times.tolist())
        ]

    def _times(self) -> str | None:
        """Whether the frames' times are the source's, in a cut file from where it begins, or the other decoder's."""
        pairs = self._offsets()
        if not pairs:
            return None
        first = pairs[0][1]
        theirs = self._their_times()
        slack = _LENGTH_S + self.source.slack_s
        for _, offset, number, moment in pairs:
            in_step = abs(offset - first) <= slack and (not self.source.whole or abs(first) <= slack)
            if not in_step and abs(theirs.get(number, -1e9) - moment) > slack:
                right = self.source.times[number] - (0 if self.source.whole else first)
                return f"frame {number} is said to be at {moment:.2f} s, {right:.2f} s is right"
        return None

    def _length(self, info: MediaInfo) -> str | None:
        """The length has to lie between what can be decoded and what the source has."""
        moments = [self.source.times[number] for number in self.theirs.intact]
        begins = moments + [moment for _, moment in self.their_audio.place]
        ends = moments + [moment + WINDOW_S for _, moment in self.their_audio.place]
        least = max(ends) - min(begins) if ends else 0.0
        most = self.source.starts[-1]
        if least - 0.35 - self.source.slack_s <= info.duration_s <= most + 0.35 + self.source.slack_s:
            return None
        return f"{info.duration_s:.2f} s long; the source has {most:.2f} s, {least:.2f} s of it can be decoded"

    def _audio(self) -> str | None:
        ours, theirs = self.our_audio.likeness, self.their_audio.likeness
        missing = [key for key in self.their_audio.place if ours[key] < min(theirs[key] - _NOISE, _ALIKE)]
        if not missing:
            return None
        count = f"{len(missing)} of {len(self.their_audio.place)} stretches of 0.4 s"
        part, moment = missing[0]
        first = f"the first, at {moment:.1f} s in part {part}, correlates by {ours[missing[0]]:.2f}"
        return f"{count} are not as the other decoder gives them; {first}"

    def _audio_length(self) -> str | None:
        ours, theirs = _audible_s(self.clip.waveform), _audible_s(self.other.audio)
        moments = [moment for _, moment in {*self.their_audio.place, *self.our_audio.place}]
        if abs(ours - theirs) <= _LENGTH_S or not moments:
            return None
        # By the source, of which less than one stretch at either end was not looked for.
        span = max(moments) - min(moments) + WINDOW_S
        if span - _LENGTH_S <= ours <= span + 2 * WINDOW_S + self.source.slack_s:
            return None
        others = f"{theirs:.2f} s by the other decoder, {span:.2f} s in the source"
        return f"{ours:.2f} s from the first to the last audible sample; {others}"

    def _audio_place(self) -> str | None:
        """Whether audio is in step with the frames, and goes on as the source does."""
        frames = self._offsets()
        placed = [
            (*key, key[1] - place) for key, place in self.our_audio.place.items() if key in self.their_audio.place
        ]
        slack = _LENGTH_S + self.source.slack_s
        for part, moment, offset in placed:
            beside = [other for of, other, _, _ in frames if of == part] or [other for _, _, other in placed]
            expected = float(np.median(beside))
            if abs(offset - expected) > slack and not (self.source.whole and abs(offset) <= slack):
                return f"audio of {moment:.1f} s in part {part} is {expected - offset:.2f} s late against its frame"
        return None


def _audible_s(audio: np.ndarray) -> float:
    loud = np.flatnonzero(np.abs(audio) > _SILENCE)
    return float(loud[-1] - loud[0] + 1) / SAMPLE_RATE if len(loud) else 0.0


class Source:
    """The source of a file: which frames and audio there are, and when.

    Attributes:
        times: number of a frame → when it is shown, in seconds.
        lengths, starts: seconds, of each part; the last start is the whole length.
        whole: whether nothing was cut off.
        slack_s: seconds by which what is in the file may have moved against the source.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.lengths = [recipe.length_s(part) for part in range(len(recipe.frames))]
        self.starts = [0.0, *accumulate(self.lengths)]
        self.times = {
            part * PART + number: self.starts[part] + float(moment)
            for part in range(len(recipe.frames))
            for number, moment in enumerate(recipe.times(part))
        }
        self.whole = recipe.cut == "none"
        # Each joint may cost what one stream of a part is longer than the other.
        self.slack_s = 0.1 * (len(recipe.frames) - 1)
        longest = float(np.diff(list(self.times.values())).max())
        if recipe.cut.startswith("copy"):
            # The rest may begin while a frame is shown, which then counts as shown from there on.
            self.slack_s += longest
        if recipe.video == "mpeg4 packed":
            # Which time a packet with two frames or none has, is anyone's guess when such a file is copied.
            self.slack_s += 4 * longest

    def moments(self, numbers: Sequence[int]) -> np.ndarray:
        """When frames are shown, in seconds: float64 [n]; of one that the source lacks, the time of the nearest."""
        known = np.array(list(self.times))
        return np.array([self.times[int(known[np.abs(known - number).argmin()])] for number in numbers])

    def windows(self) -> dict[tuple[int, float], np.ndarray]:
        """Part and time in seconds → the audio there, float32 [0.4 s]."""
        found = {}
        size = int(WINDOW_S * SAMPLE_RATE)
        for part, length in enumerate(self.lengths if self.recipe.audio != "none" else []):
            audio = tones(part, length - self.recipe.late_s, SAMPLE_RATE)
            for first in range(0, len(audio) - size + 1, size):
                moment = self.starts[part] + self.recipe.late_s + first / SAMPLE_RATE
                found[part, moment] = audio[first : first + size]
        return found


class FrameMatch:
    """Decoded frames and which of the source they are.

    Attributes:
        frames: RGB uint8 [height, width, 3] each.
        numbers: of each; None where none can be read that the source has.
        errors: mean absolute difference of each from the source, of 255.
        limit: the largest error of an intact frame.
        broken: places of those that are not as the source.
        intact: numbers of the others, sorted, without repetition.
    """

    def __init__(self, source: Source, frames: Sequence[np.ndarray], limit: float | None = None) -> None:
        size = source.recipe.size
        self.frames = frames
        read = [read_number(frame, size) for frame in frames]
        self.numbers = [number if number in source.times else None for number in read]
        self.errors = [
            difference(frame, numbered_frame(number, size)) if number is not None else 255.0
            for frame, number in zip(frames, self.numbers, strict=True)
        ]
        if limit is None:
            # What the codec costs, by the best fifth: the others may be broken.
            limit = min(2 * float(np.quantile(self.errors, 0.2)) + 5, _BROKEN) if frames else _BROKEN
        self.limit = limit
        self.broken = [place for place, error in enumerate(self.errors) if error > limit]
        whole = [number for number, error in zip(self.numbers, self.errors, strict=True) if error <= limit]
        self.intact = sorted({number for number in whole if number is not None})

    def placed(self, moments: Sequence[float]) -> list[tuple[int, float]]:
        """Number and time of each intact frame, given the times of all."""
        pairs = zip(self.numbers, self.errors, moments, strict=True)
        return [
            (number, float(moment)) for number, error, moment in pairs if number is not None and error <= self.limit
        ]

    @property
    def is_torn(self) -> bool:
        """Whether the last frame is broken, or shows one again."""
        return bool(self.numbers) and (len(self.numbers) - 1 in self.broken or self.numbers[-1] in self.numbers[:-1])

    def guessed(self) -> list[int]:
        """The number of each frame; a broken one's by the nearest that is not."""
        known = [(place, number) for place, number in enumerate(self.numbers) if number in self.intact]
        found = []
        for place in range(len(self.numbers)):
            near, number = min(known, key=lambda item: abs(item[0] - place), default=(0, 0))
            found.append((number or 0) + place - near)
        return found

    def as_in(self, other: FrameMatch) -> dict[int, int]:
        """Places of the broken frames that another decoder breaks in the same way → its guess of their number."""
        found = {}
        numbers = other.guessed()
        for place in self.broken:
            errors = {at: difference(self.frames[place], other.frames[at]) for at in other.broken}
            at = min(errors, key=lambda key: errors[key], default=None)
            if at is not None and errors[at] <= _SAME:
                found[place] = numbers[at]
        return found


class AudioMatch:
    """Which stretches of the source are in a track, each by its part and its time in the source.

    Attributes:
        likeness: correlation with the best fitting place.
        place: of those that were found, in seconds.
    """

    def __init__(self, source: Source, audio: np.ndarray) -> None:
        finder = AudioFinder(audio)
        best = {key: finder.find(window) for key, window in source.windows().items()}
        self.likeness = {key: likeness for key, (_, likeness) in best.items()}
        self.place = {key: place for key, (place, likeness) in best.items() if likeness >= _FOUND}
