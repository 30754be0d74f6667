"""The order in which lines of text are read: columns one after the other, turned lines in their own direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: A line is taken to run up or down if its box is that many times as high as wide.
TALL = 2.5
#: Columns are that far apart, in heights of a line; detectors enlarge boxes, so that what is seen is more.
GAP = 0.5
#: A column has so many lines at least.
LINES = 2


class Box(NamedTuple):
    """Where a line lies once it is turned upright: from ``left`` to ``right`` and from ``top`` to ``bottom``."""

    left: float
    right: float
    top: float
    bottom: float


def reading_order(polygons: Sequence[np.ndarray], upside_down: Sequence[bool]) -> list[int]:
    """The order in which lines are read.

    Lines of one direction are read together: upright ones, ones that run down (vertical writing, whose columns go
    from right to left, as do lines turned clockwise), upside-down ones and ones that run up. Where a gap runs through
    two or more lines with at least two lines on either side, the left side is read before the right one.

    Args:
        polygons: of each line float [4, 2] in pixels, x before y, in the order of :func:`paddle_models.sorted_boxes`,
            which is kept where there are no columns.
        upside_down: of each line, whether it was read after a turn by 180°.

    Returns:
        The places 0 … n - 1, each once.
    """
    directions = _directions(polygons, upside_down)
    order: list[int] = []
    for direction in dict.fromkeys(directions):
        members = [at for at, own in enumerate(directions) if own == direction]
        boxes = {at: _upright(polygons[at], direction) for at in members}
        order += _in_columns(members if direction == 0 else _by_rows(boxes), boxes)
    return order


def _directions(polygons: Sequence[np.ndarray], upside_down: Sequence[bool]) -> list[int]:
    """Of each line: 0 for upright, 1 running down, 2 upside down, 3 running up."""
    sizes = [np.ptp(polygon, axis=0) for polygon in polygons]
    tall = [bool(height > TALL * width) for width, height in sizes]
    # One alone is a digit or a stroke.
    several = sum(tall) > 1
    return [(high and several) + 2 * turned for high, turned in zip(tall, upside_down, strict=True)]


def _upright(polygon: np.ndarray, direction: int) -> Box:
    x, y = np.asarray(polygon, float).T
    across, down = ((x, y), (y, -x), (-x, -y), (-y, x))[direction]
    return Box(across.min(), across.max(), down.min(), down.max())


def _by_rows(boxes: dict[int, Box]) -> list[int]:
    """From top to bottom and, where lines lie beside each other, from left to right."""
    order = sorted(boxes, key=lambda at: boxes[at].top)
    return [at for band in _bands(order, boxes) for at in sorted(band, key=lambda at: boxes[at].left)]


def _bands(order: Sequence[int], boxes: dict[int, Box]) -> list[list[int]]:
    """Lines that lie beside each other, from top to bottom; the boxes' outer fifths do not count."""
    bands: list[list[int]] = []
    end = -np.inf
    place = {at: number for number, at in enumerate(order)}
    for at in sorted(order, key=lambda at: boxes[at].top):
        box = boxes[at]
        margin = 0.2 * (box.bottom - box.top)
        if box.top + margin >= end:
            bands.append([])
        bands[-1].append(at)
        end = max(end, box.bottom - margin)
    return [sorted(band, key=place.__getitem__) for band in bands]


def _in_columns(order: list[int], boxes: dict[int, Box]) -> list[int]:
    """The same lines, columns one after the other."""
    bands = _bands(order, boxes)
    pieces: list[list[int]] = []
    split = False
    start = 0
    while start < len(bands):
        end, gap = _columns_from(bands, start, boxes)
        if gap is None:
            pieces.append(bands[start])
        else:
            split = True
            inside = [at for band in bands[start:end] for at in band]
            for side in (True, False):
                pieces.append(_in_columns([at for at in inside if (boxes[at].right <= gap) == side], boxes))
        start = end
    return [at for piece in pieces for at in piece] if split else order


def _columns_from(bands: Sequence[list[int]], start: int, boxes: dict[int, Box]) -> tuple[int, float | None]:
    """The longest run of bands from ``start`` through which a gap runs: its end, and where the gap is."""
    best: tuple[int, float | None] = (start + 1, None)
    inside: list[int] = []
    for end, band in enumerate(bands[start:], start + 1):
        inside += band
        gap = _gap([boxes[at] for at in inside])
        if gap is not None:
            best = (end, gap)
        elif best[1] is not None:
            break
    return best


def _gap(boxes: Sequence[Box]) -> float | None:
    """The middle of the widest gap that parts lines into columns; None where there is none."""
    least = GAP * float(np.median([box.bottom - box.top for box in boxes]))
    found: list[tuple[float, float]] = []
    end = -np.inf
    for box in sorted(boxes):
        if -np.inf < end < box.left - least:
            middle = (end + box.left) / 2
            if _are_columns(*([other for other in boxes if (other.right <= middle) == side] for side in (True, False))):
                found.append((box.left - end, middle))
        end = max(end, box.right)
    return max(found)[1] if found else None


def _are_columns(left: Sequence[Box], right: Sequence[Box]) -> bool:
    """Whether the lines of either side are several, and lie beside those of the other."""
    if min(len(left), len(right)) < LINES:
        return False
    tops = [min(box.top for box in side) for side in (left, right)]
    bottoms = [max(box.bottom for box in side) for side in (left, right)]
    common = min(bottoms) - max(tops)
    return common >= 0.5 * min(bottom - top for top, bottom in zip(tops, bottoms, strict=True))
