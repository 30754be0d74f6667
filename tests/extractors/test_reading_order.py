"""The order of lines: columns, vertical writing and turned pages."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.extractors.paddle_models import sorted_boxes
from vemoclap_batch.extractors.reading_order import reading_order


def box(left, top, width, height=20):
    return np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]], float)


def order(*boxes, upside_down=None):
    return reading_order(boxes, upside_down or [False] * len(boxes))


def turned(polygon, quarters, side=1000):
    """A polygon of a square image that is turned counter-clockwise by quarters."""
    x, y = polygon.T
    for _ in range(quarters):
        x, y = y, side - x
    return np.stack([x, y], 1)


def test_two_columns_are_read_one_after_the_other():
    left = [box(20, top, 200) for top in (50, 80, 110)]
    right = [box(260, top, 180) for top in (52, 82, 112)]
    lines = sorted_boxes([*left, *right])
    read = [lines[at][0, 0] for at in order(*lines)]
    assert read == [20, 20, 20, 260, 260, 260]


def test_a_title_and_a_foot_around_columns():
    title, foot = box(20, 10, 420), box(100, 160, 300)
    lines = [title, *(box(left, top, 180) for top in (50, 80, 110) for left in (20, 260)), foot]
    assert order(*lines) == [0, 1, 3, 5, 2, 4, 6, 7]


def test_words_of_one_line_and_two_lines_that_a_gap_parts_once_stay_as_they_were():
    assert order(box(20, 50, 100), box(140, 50, 100), box(260, 50, 100)) == [0, 1, 2]
    assert order(box(20, 50, 100), box(140, 50, 100), box(20, 80, 300)) == [0, 1, 2]


def test_columns_of_vertical_writing_go_from_right_to_left():
    lines = [box(left, 40, 24, 300) for left in (100, 140, 180)]
    assert order(*lines) == [2, 1, 0]


def test_a_digit_alone_is_no_vertical_writing():
    assert order(box(20, 40, 6, 24), box(40, 44, 200), box(20, 80, 200)) == [0, 1, 2]


PAGES = st.lists(
    st.tuples(st.integers(0, 700), st.integers(0, 900), st.integers(60, 300), st.integers(10, 20)), max_size=12
)


@given(PAGES, st.data())
def test_every_line_is_read_once(page, data):
    lines = [box(*each) for each in page]
    upside_down = data.draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
    assert sorted(order(*lines, upside_down=upside_down)) == list(range(len(lines)))


@given(st.lists(st.integers(40, 400), min_size=2, max_size=9), st.integers(0, 3), st.integers(1, 8))
def test_a_page_that_is_turned_is_read_in_the_same_order(widths, quarters, apart):
    # Turned counter-clockwise by a quarter, lines run up.
    page = [box(30, 30 + number * (14 + apart), width, 12) for number, width in enumerate(widths)]
    lines = [turned(each, quarters) for each in page]
    upside_down = [quarters in {1, 2}] * len(lines)
    if quarters % 2 == 0 or min(widths) > 2.5 * 12:
        assert order(*lines, upside_down=upside_down) == list(range(len(lines)))


@given(
    st.lists(st.integers(60, 200), min_size=2, max_size=6), st.lists(st.integers(60, 200), min_size=2, max_size=6),
    st.integers(12, 100), st.floats(0.5, 3), st.integers(-50, 50),
)  # fmt: skip
def test_columns_of_any_widths_and_sizes(left, right, gap, scale, shift):
    boxes = [box(20, 30 + 30 * row, width) for row, width in enumerate(left)]
    boxes += [box(20 + max(left) + gap, 34 + 30 * row, width) for row, width in enumerate(right)]
    lines = [each * scale + shift for each in boxes]
    by_height = sorted(range(len(lines)), key=lambda at: (lines[at][0, 1], lines[at][0, 0]))
    read = [by_height[at] for at in order(*(lines[at] for at in by_height))]
    assert read == list(range(len(lines)))


@given(st.lists(st.integers(60, 400), min_size=1, max_size=10), st.lists(st.integers(0, 60), min_size=10, max_size=10))
def test_a_single_column_stays_as_it_was(widths, indents):
    lines = [box(20 + indents[row], 30 * row, width) for row, width in enumerate(widths)]
    assert order(*lines) == list(range(len(lines)))
