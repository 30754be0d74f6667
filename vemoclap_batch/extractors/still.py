"""What stays the same from frame to frame: whole frames, and places in them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Two images show the same when no square of this many pixels a side, wherever it lies, differs by more than this on
#: average (of 255). A full stop in the smallest legible print changes such a square by 12 or more; the noise of
#: encoding leaves a still picture under it.
SQUARE, SAME = 4, 8
#: Pixels by which the place of something that moved may be off, as a detector gives it.
_OFF = 3
#: Rows of a strip, and how many strips are compared first: what moves is mostly found in one of them.
_ROWS, _STRIPS = 16, 4


def originals(frames: np.ndarray) -> list[int]:
    """For each frame uint8 [n, h, w, 3], the number of the one that shows the same: itself, or the last that differed.

    Frames are compared with the one that will be read in their place, so a slow fade is noticed.
    """
    sources: list[int] = []
    for number in range(len(frames)):
        same = number > 0 and shows_same(frames[sources[-1]], frames[number])
        sources.append(sources[-1] if same else number)
    return sources


def shows_same(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two images uint8 [h, w, 3] of one size differ nowhere by more than :data:`SAME`."""
    for rows in _strips(len(first)):
        # The rows at a strip's border are counted with what is mirrored there, and left to the comparison of all.
        if (_differences(first[rows], second[rows])[SQUARE:-SQUARE] > SAME).any():
            return False
    return not (_differences(first, second) > SAME).any()


def is_there(image: np.ndarray, frame: np.ndarray, box: tuple[int, int, int, int]) -> bool:
    """Whether a frame shows the same as an image, about where a box lies.

    Args:
        image: uint8 [h, w, 3].
        frame: uint8 [H, W, 3].
        box: left, top, right and bottom in pixels of the frame; it may be off by three of them.
    """
    import cv2

    left, top = max(0, box[0] - _OFF), max(0, box[1] - _OFF)
    around = frame[top : box[3] + _OFF, left : box[2] + _OFF]
    high, wide = image.shape[:2]
    if around.shape[0] < high or around.shape[1] < wide:
        return False
    differences = cv2.matchTemplate(around, image, cv2.TM_SQDIFF)
    _, _, (x, y), _ = cv2.minMaxLoc(differences)
    return shows_same(image, around[y : y + high, x : x + wide])


def _strips(height: int) -> Iterator[slice]:
    """Some strips of an image of so many rows, if it is not a small one."""
    if height > 4 * _ROWS * _STRIPS:
        for number in range(_STRIPS):
            middle = (2 * number + 1) * height // (2 * _STRIPS)
            yield slice(middle, middle + _ROWS)


def _differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The mean absolute difference of two images uint8 [h, w, 3] in the square around each pixel, uint8 [h, w]."""
    import cv2

    channels = cv2.split(cv2.absdiff(first, second))
    strongest = cv2.max(cv2.max(channels[0], channels[1]), channels[2])  # as red on black is text too
    return cv2.blur(strongest, (SQUARE, SQUARE))
