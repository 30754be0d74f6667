"""Windows of a video, and what belongs into them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.media.windows import Piece, TimedText, Window, inside

seconds = st.floats(0.5, 60).map(lambda value: round(value, 3))


@given(window_s=seconds, hop_s=seconds, duration_s=st.floats(0, 500))
def test_windows_start_at_every_hop_and_reach_the_end(window_s, hop_s, duration_s):
    windows = Window(window_s, hop_s).over(duration_s)
    rounding = min(0.5, window_s / 2) + 1e-9

    for number, (start, end) in enumerate(windows):
        assert start == pytest.approx(number * hop_s)
        assert end == pytest.approx(min(start + window_s, duration_s))
        # Only the last reaches the end.
        assert number == len(windows) - 1 or end < duration_s - rounding
    rest = duration_s - windows[-1][1]
    assert rest <= rounding or (hop_s > window_s and rest <= hop_s - window_s + rounding)


def test_a_short_video_is_one_window_and_rounding_opens_none():
    assert Window(10, 5).over(4.0) == [(0, 4.0)]
    assert Window(10, 5).over(0.0) == [(0, 0.0)]
    assert Window(10, 10).over(20.02) == [(0, 10), (10, 20)]
    assert Window(10, 5).over(21.0) == [(0, 10), (5, 15), (10, 20), (15, 21.0)]


@given(
    window_s=seconds, hop_s=seconds, start_s=st.floats(0, 300), length_s=st.one_of(st.just(0.0), st.floats(0.01, 100))
)
def test_numbers_are_the_windows_an_item_belongs_to(window_s, hop_s, start_s, length_s):
    window, end_s = Window(window_s, hop_s), start_s + length_s
    expected = [
        number
        for number in range(int((end_s + window_s) / hop_s) + 2)
        if inside(start_s, end_s, number * hop_s, number * hop_s + window_s)
    ]
    assert list(window.numbers(start_s, end_s)) == expected
    # With windows that touch, nothing is lost; without overlap a frame is in one.
    if hop_s <= window_s and length_s == 0:
        assert expected
    if hop_s == window_s and length_s == 0:
        assert len(expected) == 1


def test_half_of_the_shorter_decides():
    assert inside(8.5, 11.5, 0, 10)
    assert not inside(8.6, 11.6, 0, 10)
    assert inside(0, 60, 20, 30)  # longer than the window
    assert inside(10, 10, 10, 20)
    assert not inside(10, 10, 0, 10)
    found = inside(np.array([0, 4.9, 9.0]), np.array([3, 7.9, 12.0]), 5, 10)
    assert found.tolist() == [False, True, False]


def test_texts_of_windows():
    said = TimedText([Piece(0, 2, "one"), Piece(2, 9, "two"), Piece(9, 12, " "), Piece(31, 33, "one")])
    assert said.over(Window(10, 5)) == {0: "one two", 1: "two", 5: "one", 6: "one"}
    read = TimedText(
        [Piece(1, 1, "exit"), Piece(2, 2, "exit"), Piece(3, 3, "way"), Piece(12, 12, "exit")], written=True
    )
    assert read.over(Window(10, 10)) == {0: "exit. way", 1: "exit"}
