"""Random recipes of video files: container, codecs, rate, groups of pictures, cut, join, display matrix, shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np

from fuzz.media_kinds import AUDIO_CODECS, CODECS, CONTAINERS, MATRICES, SHAPES, Codec, Container

#: Frames of all parts together; it bounds what a file costs.
_MAX_FRAMES = 240
#: Ticks for which a frame of the slow half of a variable rate is shown; the rate itself is that of the quick half.
_SLOW_TICKS = 8

_Choice = TypeVar("_Choice")


@dataclass(frozen=True)
class Recipe:
    """What one file is made of.

    Attributes:
        suffix: names the container.
        video: names the codec.
        audio: names the audio codec, or none.
        audio_rates: Hz, of each part.
        rate: frames a second; of the quick half where the rate is variable.
        frames: of each part.
        slow: which half of a variable rate is slow, ``none``, ``first`` or ``last``.
        cut: what is lost: ``none``, or a way that the container lists.
        cut_share: how much of it is lost, 0 to 1.
        join: how the parts are joined, or none.
        matrix: how the stored frame has to be turned.
        shape: width of a pixel by its height.
        late_s: seconds by which the audio starts after the video.
    """

    suffix: str
    video: str
    pixels: str
    size: tuple[int, int]
    group: int
    b_frames: int
    rate: str
    frames: tuple[int, ...]
    slow: str
    variant: tuple[str, ...]
    audio: str
    audio_rates: tuple[int, ...]
    channels: int
    cut: str
    cut_share: float
    join: str
    matrix: str
    shape: str
    late_s: float

    @property
    def container(self) -> Container:
        """Of the file."""
        return CONTAINERS[self.suffix]

    @property
    def codec(self) -> Codec:
        """Of the video."""
        return CODECS[self.video]

    def times(self, part: int) -> np.ndarray:
        """When each frame of a part is shown, in seconds from the part's start: float64 [frames]."""
        return self.ticks(part) / float(Fraction(self.rate))

    def ticks(self, part: int) -> np.ndarray:
        """As :meth:`times`, in units of 1 / rate: int64 [frames]."""
        count = self.frames[part]
        steps = np.ones(count, np.int64)
        if self.slow == "first":
            steps[: count // 3] = _SLOW_TICKS
        elif self.slow == "last":
            steps[-(count // 3) :] = _SLOW_TICKS
        return np.cumsum(steps) - steps

    def length_s(self, part: int) -> float:
        """Seconds of a part; its last frame is shown as long as the one before."""
        ticks = self.ticks(part)
        return float((2 * ticks[-1] - ticks[-2]) / Fraction(self.rate))

    def kinds(self) -> dict[str, str]:
        """What the report counts by."""
        return {
            "container": self.suffix,
            "codec": self.video,
            "pixels": self.pixels,
            "audio": self.audio,
            "rate": "variable" if self.slow != "none" else "constant",
            "group": f"{self.group}, B-frames" if self.b_frames else str(self.group),
            "cut": self.cut,
            "join": self.join,
            "matrix": self.matrix,
            "shape": "square" if self.shape == "1/1" else "oblong",
            "audio starts": "later" if self.late_s else "at once",
        }

    def __str__(self) -> str:
        """For a file's name: what is out of the ordinary."""
        ordinary = {"none", "constant", "square", "at once", "container", "yuv420p"}
        words = [
            f"{key} {value}" for key, value in self.kinds().items() if value not in ordinary and key != "container"
        ]
        return ", ".join(words).replace("/", "-")


def draw(random: np.random.Generator, encoders: Sequence[str]) -> Recipe:
    """A recipe that these encoders, named as in FFmpeg, can follow."""
    suffix = _one(
        random,
        [s for s, container in CONTAINERS.items() if _codecs(container, encoders) for _ in range(container.weight)],
    )
    container = CONTAINERS[suffix]
    video = _one(random, _codecs(container, encoders))
    codec = CODECS[video]
    join = _maybe(random, container.joins, 0.5)
    encodable = [name for name in container.audio if AUDIO_CODECS[name][0] in encoders]
    audio = _maybe(random, encodable, 0.85)
    if join == "other audio rate" and audio in ("none", "opus"):
        join = "restart"
    parts = 1 if join == "none" else int(random.integers(2, 5))
    steady = not container.variable or join != "none" or video == "mpeg4 packed"
    slow = "none" if steady else _maybe(random, ("first", "last"), 0.25)
    rate = (
        "30"
        if slow != "none"
        else _one(random, [rate for rate in container.rates if rate in (codec.rates or container.rates)])
    )
    cut = _maybe(random, [cut for cut in container.cuts if join == "none" or not cut.startswith("copy")], 0.25)
    group = _one(random, _groups(codec, cut))
    upright = not container.matrix or cut != "none" or join != "none"
    # H.263 has few sizes, all of them wide.
    matrices = [name for name, (degrees, _) in MATRICES.items() if video != "h263" or degrees % 180 == 0]
    square = not container.shape or cut != "none" or join != "none" or codec.groups == (1,)
    return Recipe(
        suffix=suffix,
        video=video,
        pixels=_one(random, codec.formats),
        size=_one(random, codec.sizes),
        group=group,
        b_frames=_one(random, codec.b_frames) if group > 1 else 0,
        rate=rate,
        frames=_frames(random, Fraction(rate), parts, slow),
        slow=slow,
        variant=_one(random, container.variants),
        audio=audio,
        audio_rates=_audio_rates(random, container, audio, join, parts),
        channels=_one(random, AUDIO_CODECS[audio][2]) if audio != "none" else 0,
        cut=cut,
        cut_share=round(float(random.uniform(0.1, 0.5)), 3),
        join=join,
        matrix="none" if upright else _maybe(random, matrices, 0.5),
        shape="1/1" if square else _maybe(random, SHAPES, 0.25, "1/1"),
        late_s=0.4 if container.late and audio != "none" and random.uniform() < 0.2 else 0.0,
    )


def _codecs(container: Container, encoders: Sequence[str]) -> list[str]:
    return [name for name in container.video if CODECS[name].encoder in encoders]


def _groups(codec: Codec, cut: str) -> Sequence[int]:
    # In a group of one frame there is no middle to begin in.
    long = [group for group in codec.groups if group > 1]
    return long if long and cut in ("start", "copy mid-group") else codec.groups


def _frames(random: np.random.Generator, rate: Fraction, parts: int, slow: str) -> tuple[int, ...]:
    """How many frames each part has."""
    if slow != "none":
        return (int(random.integers(30, 46)),)
    most = _MAX_FRAMES // parts
    return tuple(min(round(float(rate) * float(random.uniform(1.5, 4))), most) for _ in range(parts))


def _audio_rates(
    random: np.random.Generator, container: Container, audio: str, join: str, parts: int
) -> tuple[int, ...]:
    if audio == "none":
        return (0,) * parts
    rates = container.audio_rates or AUDIO_CODECS[audio][1]
    first = _one(random, rates)
    if join != "other audio rate":
        return (first,) * parts
    others = [rate for rate in rates if rate != first]
    return tuple(first if part % 2 == 0 else _one(random, others) for part in range(parts))


def _one(random: np.random.Generator, choices: Sequence[_Choice]) -> _Choice:
    return choices[int(random.integers(len(choices)))]


def _maybe(random: np.random.Generator, choices: Sequence[str], chance: float, otherwise: str = "none") -> str:
    """One of the choices with this chance."""
    return _one(random, choices) if choices and random.uniform() < chance else otherwise
