"""A decoded picture becomes one of a Clip's frames: cropped, turned upright, in its display aspect and scaled down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from vemoclap_batch.media.matroska import NO_CROP, Crop

#: Pixels that are more times as wide as high, or as high as wide, are taken for a broken header.
_MAX_ASPECT = 10.0


class Turn(NamedTuple):
    """How a stored picture is turned upright: rows and columns swapped, then mirrored along either axis.

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
    def of(cls, matrix: np.ndarray, rotation: int) -> Turn:
        """The turn that a display matrix asks for, in steps of 90 degrees.

        Args:
            matrix: int32 [9], as FFmpeg has it: x' = m[0] x + m[3] y, y' = m[1] x + m[4] y
                (libavutil/display.h).
            rotation: clockwise degrees that FFmpeg reads off it.
        """
        a, b, c, d = (int(matrix[at]) for at in (0, 1, 3, 4))
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0, rotation)
        return cls(True, c < 0, b < 0, rotation)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """The picture [height, width, 3], turned."""
        if self.transposed:
            picture = cv2.transpose(picture)
        if self.flip_x or self.flip_y:
            picture = cv2.flip(picture, -1 if self.flip_x and self.flip_y else int(self.flip_x))
        return picture


UPRIGHT = Turn()


class Shape(NamedTuple):
    """What a container says of how a stored picture is shown.

    Attributes:
        crop: what is cut off at each side.
        aspect: width of a stored pixel over its height.
    """

    crop: Crop = NO_CROP
    aspect: float = 1.0

    def cropped(self, picture: np.ndarray) -> np.ndarray:
        """What is to be seen of a stored picture [height, width, 3]; all of it where nothing would be left."""
        height, width = picture.shape[:2]
        left, top, right, bottom = self.crop
        if not any(self.crop) or left + right >= width or top + bottom >= height:
            return picture
        return picture[top : height - bottom, left : width - right]


AS_STORED = Shape()


@dataclass
class Pictures:
    """The frames that a reader got out of a video.

    Attributes:
        by_number: frame number → RGB uint8 [height, width, 3], upright and scaled.
        times: frame number → time stamp in seconds, for readers that learn it only while decoding.
        width, height: of the upright picture in its display aspect, before scaling.
        turn: what turned the stored picture upright.
        warnings: what a user should know of the colours.
        plain: whether the colours are those that any decoder gives.
        doubtful: whether decoding showed that seeking leads to wrong or broken pictures in this file.
    """

    by_number: dict[int, np.ndarray] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)
    width: int | None = None
    height: int | None = None
    turn: Turn = UPRIGHT
    decoder: str = "pyav"
    warnings: list[str] = field(default_factory=list)
    plain: bool = True
    doubtful: bool = False

    def add(self, number: int, rgb: np.ndarray, turn: Turn, shape: Shape, short_side: int, shrunk: float = 1) -> None:
        """Take one decoded picture, as it is stored: uint8 [height, width, 3], ``shrunk`` times smaller already."""
        upright = turn.apply(shape.cropped(rgb))
        aspect = 1 / shape.aspect if turn.transposed else shape.aspect
        if self.height is None:
            width, height = display_size(upright.shape[1], upright.shape[0], aspect)
            self.width, self.height = round(width * shrunk), round(height * shrunk)
            self.turn = turn
        self.by_number[number] = scaled_down(upright, short_side, aspect)

    def stacked(self, numbers: Sequence[int]) -> np.ndarray:
        """The frames of these numbers as one array: uint8 [n, height, width, 3]."""
        frames = [self.by_number[number] for number in numbers]
        if not frames:
            return np.zeros((0, 0, 0, 3), np.uint8)
        height, width = frames[0].shape[:2]
        # A stream may change its size midway; all frames take the first one's.
        fitted = [f if f.shape == frames[0].shape else cv2.resize(f, (width, height)) for f in frames]
        return np.stack(fitted)


def display_size(width: int, height: int, aspect: float) -> tuple[int, int]:
    """Width and height of a stored picture as it is shown; the side that is too short becomes longer."""
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
        return width, height
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def scaled_down(picture: np.ndarray, short_side: int, aspect: float = 1.0) -> np.ndarray:
    """The picture in its display aspect, its short side at most this long.

    Area interpolation keeps small print legible; the side that the aspect makes longer is interpolated linearly.
    """
    stored = (picture.shape[1], picture.shape[0])
    width, height = display_size(*stored, aspect)
    scale = min(short_side / min(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    smaller = (min(size[0], stored[0]), min(size[1], stored[1]))
    if smaller != stored:
        picture = cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA)
    if size != smaller:
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(picture)
