"""A decoded frame becomes one of a Clip's: cropped, turned upright, in its display aspect and scaled down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

#: Pixels that are more times as wide as high, or as high as wide, are taken for a broken header.
_MAX_ASPECT = 10.0


class Crop(NamedTuple):
    """How many pixels of the stored frame are not to be shown, at each side."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


NO_CROP = Crop()


class Orientation(NamedTuple):
    """How a stored frame is turned upright: rows and columns swapped, then mirrored along either axis.

    Attributes:
        rotation: clockwise degrees (0, 90, 180 or 270).
    """

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False
    rotation: int = 0

    @property
    def mirrored(self) -> bool:
        """Whether a mirror is part of it, so that no rotation alone would do."""
        return self.transposed ^ self.flip_x ^ self.flip_y

    @classmethod
    def of(cls, matrix: np.ndarray, rotation: int) -> Orientation:
        """The orientation that a display matrix asks for, in steps of 90 degrees.

        Args:
            matrix: int32 [9], as FFmpeg has it (libavutil/display.h): x' = m[0] x + m[3] y, y' = m[1] x + m[4] y.
            rotation: clockwise degrees that FFmpeg reads off it.
        """
        a, b, c, d = (int(matrix[at]) for at in (0, 1, 3, 4))
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0, rotation)
        return cls(True, c < 0, b < 0, rotation)

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """The frame [height, width, 3], turned."""
        if self.transposed:
            rgb = cv2.transpose(rgb)
        if self.flip_x or self.flip_y:
            rgb = cv2.flip(rgb, -1 if self.flip_x and self.flip_y else int(self.flip_x))
        return rgb


UPRIGHT = Orientation()


class DisplayShape(NamedTuple):
    """What a container says of how a stored frame is shown.

    Attributes:
        crop: what is cut off at each side.
        aspect: width of a stored pixel over its height.
    """

    crop: Crop = NO_CROP
    aspect: float = 1.0

    def cropped(self, rgb: np.ndarray) -> np.ndarray:
        """What is shown of a stored frame [height, width, 3]; all of it where nothing would be left."""
        height, width = rgb.shape[:2]
        left, top, right, bottom = self.crop
        if not any(self.crop) or left + right >= width or top + bottom >= height:
            return rgb
        return rgb[top : height - bottom, left : width - right]


@dataclass
class DecodedFrames:
    """The frames that a reader got out of a video.

    Attributes:
        by_number: frame number → RGB uint8 [height, width, 3], upright and scaled.
        width, height: of the upright frame in its display aspect, before scaling; None while there is no frame.
        orientation: what turned the stored frame upright.
        warnings: what a user should know of the colours.
        plain: whether the colours are those that any decoder gives.
        doubtful: whether decoding showed that seeking leads to wrong or broken frames in this file.
    """

    by_number: dict[int, np.ndarray] = field(default_factory=dict)
    width: int | None = None
    height: int | None = None
    orientation: Orientation = UPRIGHT
    decoder: str = "pyav"
    warnings: list[str] = field(default_factory=list)
    plain: bool = True
    doubtful: bool = False

    def add(
        self, number: int, rgb: np.ndarray, orientation: Orientation, shape: DisplayShape, short_side: int,
        shrunk: float = 1,
    ) -> None:  # fmt: skip
        """Take one decoded frame, as it is stored: uint8 [height, width, 3], ``shrunk`` times smaller already."""
        upright = orientation.apply(shape.cropped(rgb))
        aspect = 1 / shape.aspect if orientation.transposed else shape.aspect
        if self.height is None:
            width, height = display_size(upright.shape[1], upright.shape[0], aspect)
            self.width, self.height = round(width * shrunk), round(height * shrunk)
            self.orientation = orientation
        self.by_number[number] = scaled_down(upright, short_side, aspect)

    def stacked(self, numbers: Sequence[int]) -> np.ndarray:
        """The frames of these numbers as one array: uint8 [n, height, width, 3]."""
        if not numbers:
            return np.zeros((0, 0, 0, 3), np.uint8)
        frames = [self.by_number[number] for number in numbers]
        height, width = frames[0].shape[:2]
        # A stream may change its size midway; all frames take the first one's.
        return np.stack([f if f.shape == frames[0].shape else cv2.resize(f, (width, height)) for f in frames])


def display_size(width: int, height: int, aspect: float) -> tuple[int, int]:
    """Width and height of a stored frame as it is shown; the side that is too short becomes longer."""
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
        return width, height
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def scaled_down(rgb: np.ndarray, short_side: int, aspect: float = 1.0) -> np.ndarray:
    """The frame in its display aspect, its short side at most this long.

    Area interpolation keeps small print legible; the side that the aspect makes longer is interpolated linearly.
    """
    stored = (rgb.shape[1], rgb.shape[0])
    width, height = display_size(*stored, aspect)
    scale = min(short_side / min(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    smaller = (min(size[0], stored[0]), min(size[1], stored[1]))
    if smaller != stored:
        rgb = cv2.resize(rgb, smaller, interpolation=cv2.INTER_AREA)
    if size != smaller:
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(rgb)
