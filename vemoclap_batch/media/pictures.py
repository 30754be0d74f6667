"""A decoded picture becomes one of a Clip's frames: turned upright and scaled down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass
class Pictures:
    """The frames that a reader got out of a video.

    Attributes:
        by_number: frame number → RGB uint8 [height, width, 3], upright and scaled.
        times: frame number → time stamp in seconds, for readers that learn it only while decoding.
        total: frames of the video, where decoding told better than the index.
        width, height: of the upright picture before scaling.
        rotation: clockwise degrees that turned the stored picture upright.
    """

    by_number: dict[int, np.ndarray] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)
    total: int | None = None
    width: int | None = None
    height: int | None = None
    rotation: int = 0
    decoder: str = "pyav"

    def add(self, number: int, rgb: np.ndarray, rotation: int, short_side: int) -> None:
        """Take one decoded picture, which ``rotation`` clockwise degrees turn upright."""
        upright = cv2.rotate(rgb, _TURNS[rotation]) if rotation else rgb
        if self.height is None:
            self.height, self.width = upright.shape[:2]
            self.rotation = rotation
        self.by_number[number] = scaled_down(upright, short_side)

    def stacked(self, numbers: Sequence[int]) -> np.ndarray:
        """The frames of these numbers as one array: uint8 [n, height, width, 3]."""
        frames = [self.by_number[number] for number in numbers]
        if not frames:
            return np.zeros((0, 0, 0, 3), np.uint8)
        height, width = frames[0].shape[:2]
        # A stream may change its size midway; all frames take the first one's.
        fitted = [f if f.shape == frames[0].shape else cv2.resize(f, (width, height)) for f in frames]
        return np.stack(fitted)


def scaled_down(picture: np.ndarray, short_side: int) -> np.ndarray:
    """The picture with its short side at most this long; area interpolation keeps small print legible."""
    height, width = picture.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return np.ascontiguousarray(picture)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
