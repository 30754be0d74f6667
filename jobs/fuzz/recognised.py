"""Which pictures and which stretches of sound of a recipe's source are in what a decoder gave."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from fuzz.numbered import PART, WINDOW_S, Finder, difference, picture, read_number, tones
from fuzz.random_media import Recipe
from vemoclap_batch.media.clip import SAMPLE_RATE

#: Mean difference from the source, of 255, above which no picture is sound, whatever its codec.
_BROKEN = 40.0
#: Mean difference of two decoders' renderings of the same picture.
SAME = 6.0
#: Correlation of a stretch of sound that was found.
_FOUND = 0.8


class Truth:
    """The source of a file: which pictures and sounds there are, and when.

    Attributes:
        times: number of a picture → when it is shown, in seconds.
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
            # The rest may begin while a picture is shown, which then counts as shown from there on.
            self.slack_s += longest
        if recipe.video == "mpeg4 packed":
            # Which time a packet with two pictures or none has, is anyone's guess when such a file is copied.
            self.slack_s += 4 * longest

    def moments(self, numbers: Sequence[int]) -> np.ndarray:
        """When pictures are shown, in seconds: float64 [n]; of one that the source lacks, the time of the nearest."""
        known = np.array(list(self.times))
        return np.array([self.times[int(known[np.abs(known - number).argmin()])] for number in numbers])

    def windows(self) -> dict[tuple[int, float], np.ndarray]:
        """Part and time in seconds → the sound there, float32 [0.4 s]."""
        found = {}
        size = int(WINDOW_S * SAMPLE_RATE)
        for part, length in enumerate(self.lengths if self.recipe.audio != "none" else []):
            sound = tones(part, length - self.recipe.late_s, SAMPLE_RATE)
            for first in range(0, len(sound) - size + 1, size):
                moment = self.starts[part] + self.recipe.late_s + first / SAMPLE_RATE
                found[part, moment] = sound[first : first + size]
        return found


class Pictures:
    """Decoded pictures and which of the source they are.

    Attributes:
        frames: RGB uint8 [height, width, 3] each.
        numbers: of each; None where none can be read that the source has.
        errors: mean absolute difference of each from the source, of 255.
        limit: the largest error of a sound picture.
        broken: places of those that are not as the source.
        sound: numbers of the others, sorted, without repetition.
    """

    def __init__(self, truth: Truth, frames: Sequence[np.ndarray], limit: float | None = None) -> None:
        size = truth.recipe.size
        self.frames = frames
        read = [read_number(frame, size) for frame in frames]
        self.numbers = [number if number in truth.times else None for number in read]
        self.errors = [
            difference(frame, picture(number, size)) if number is not None else 255.0
            for frame, number in zip(frames, self.numbers, strict=True)
        ]
        if limit is None:
            # What the codec costs, by the best fifth: the others may be broken.
            limit = min(2 * float(np.quantile(self.errors, 0.2)) + 5, _BROKEN) if frames else _BROKEN
        self.limit = limit
        self.broken = [place for place, error in enumerate(self.errors) if error > limit]
        whole = [number for number, error in zip(self.numbers, self.errors, strict=True) if error <= limit]
        self.sound = sorted({number for number in whole if number is not None})

    def placed(self, moments: Sequence[float]) -> list[tuple[int, float]]:
        """Number and time of each sound picture, given the times of all."""
        pairs = zip(self.numbers, self.errors, moments, strict=True)
        return [
            (number, float(moment)) for number, error, moment in pairs if number is not None and error <= self.limit
        ]

    @property
    def is_torn(self) -> bool:
        """Whether the last picture is broken, or shows one again."""
        return bool(self.numbers) and (len(self.numbers) - 1 in self.broken or self.numbers[-1] in self.numbers[:-1])

    def guessed(self) -> list[int]:
        """The number of each picture; a broken one's by the nearest that is not."""
        known = [(place, number) for place, number in enumerate(self.numbers) if number in self.sound]
        found = []
        for place in range(len(self.numbers)):
            near, number = min(known, key=lambda item: abs(item[0] - place), default=(0, 0))
            found.append((number or 0) + place - near)
        return found

    def as_in(self, other: Pictures) -> dict[int, int]:
        """Places of the broken pictures that another decoder breaks in the same way → its guess of their number."""
        found = {}
        numbers = other.guessed()
        for place in self.broken:
            errors = {at: difference(self.frames[place], other.frames[at]) for at in other.broken}
            at = min(errors, key=lambda key: errors[key], default=None)
            if at is not None and errors[at] <= SAME:
                found[place] = numbers[at]
        return found


class Heard:
    """Which stretches of the source are in a sound, each by its part and its time in the source.

    Attributes:
        likeness: correlation with the best fitting place.
        place: of those that were found, in seconds.
    """

    def __init__(self, truth: Truth, sound: np.ndarray) -> None:
        finder = Finder(sound)
        best = {key: finder.find(window) for key, window in truth.windows().items()}
        self.likeness = {key: likeness for key, (_, likeness) in best.items()}
        self.place = {key: place for key, (place, likeness) in best.items() if likeness >= _FOUND}
