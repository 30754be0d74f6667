"""The geometry of turned pictures and faces: where a box lies in the picture as it was, and a face cut out upright."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: Left, top, width and height in pixels.
Box = tuple[float, float, float, float]

#: Where the eyes, the nose and the corners of the mouth of an upright face lie (right, then left of the person), in
#: pixels around their mean: the template of 112 x 112 to which ArcFace aligns faces (Deng et al., 2019).
_UPRIGHT = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
_UPRIGHT -= _UPRIGHT.mean(0)


def turn_of(landmarks: np.ndarray) -> float:
    """How far a face has to be turned to stand upright.

    That is the rotation of the similarity that comes nearest, by least squares, to the landmarks of an upright face
    (Umeyama, 1991, in the plane). All five decide, so a face in profile, whose eyes are close together, is not turned.

    Args:
        landmarks: [5, 2], x and y of the eyes, the nose and the corners of the mouth; right comes before left.

    Returns:
        Clockwise degrees in [0, 360).
    """
    points = np.asarray(landmarks, np.float64)
    points = points - points.mean(0)
    cross = (points[:, 0] * _UPRIGHT[:, 1] - points[:, 1] * _UPRIGHT[:, 0]).sum()
    return math.degrees(math.atan2(cross, (points * _UPRIGHT).sum())) % 360


def off_upright(turn: float) -> float:
    """The degrees in [0, 180] between a turn and none."""
    return min(turn % 360, -turn % 360)


def turned_picture(frame: np.ndarray, quarters: int) -> np.ndarray:
    """A picture [height, width, ...] turned clockwise by so many quarters; the pixels are copied."""
    return np.ascontiguousarray(np.rot90(frame, -quarters))


def box_before(box: Box, quarters: int, height: int, width: int) -> Box:
    """Where a box of a turned picture lies in the picture as it was before.

    The picture, of this height and width, was turned clockwise by so many quarters.
    """
    x, y, w, h = box
    match quarters % 4:
        case 1:
            return y, height - (x + w), h, w
        case 2:
            return width - (x + w), height - (y + h), w, h
        case 3:
            return width - (y + h), x, h, w
    return box


def upright_patch(frame: np.ndarray, box: Box, turn: float) -> tuple[np.ndarray, Box]:
    """The surroundings of a face, turned about the middle of its box so that it stands upright.

    Args:
        frame: uint8 [height, width, 3].
        box: of the face as it lies.
        turn: clockwise degrees.

    Returns:
        A square of twice the longer side, uint8 [side, side, 3], beyond the border of the frame its edge repeated; and
        the box in it, whose width and height change places where a face lies on its side.
    """
    import cv2

    x, y, w, h = box
    side = max(2, math.ceil(2 * max(w, h)))
    # cv2 counts from the middle of the first pixel, and turns counter-clockwise.
    centre = x + w / 2 - 0.5, y + h / 2 - 0.5
    matrix = np.asarray(cv2.getRotationMatrix2D(centre, -turn, 1.0), np.float64)
    matrix[:, 2] += (side - 1) / 2 - np.array(centre)
    patch = cv2.warpAffine(frame, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if 45 < turn % 180 < 135:
        w, h = h, w
    return patch, (side / 2 - w / 2, side / 2 - h / 2, w, h)


def as_box(corners: Sequence[float]) -> Box:
    """The box with these left, top, right and bottom."""
    left, top, right, bottom = corners
    return left, top, right - left, bottom - top
