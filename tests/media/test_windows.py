import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.media.windows import evenly_spaced, window_starts

lengths = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("samples", "starts"),
    [
        (0, []),
        (1, [0]),
        (47_999, [0]),
        (48_000, [0]),
        (71_999, [0]),
        (72_000, [0, 24_000]),
        (95_999, [0, 24_000]),
        (160_000, [0, 24_000, 48_000, 72_000, 96_000]),
    ],
)
def test_windows_of_three_seconds_overlap_by_half(samples, starts):
    assert window_starts(samples) == starts


@given(samples=st.integers(1, 100_000), size=st.integers(1, 500), hop=st.integers(1, 500))
def test_every_window_that_fits_is_there_and_no_other(samples, size, hop):
    starts = window_starts(samples, size, hop)
    assert starts[0] == 0
    assert set(np.diff(starts)) <= {hop}
    # The next one would not fit; audio shorter than one window is a window all the same.
    assert starts[-1] + hop + size > samples
    assert starts[-1] + size <= samples or starts == [0]


@given(length=lengths, n=st.integers(1, 64))
def test_evenly_spaced_items_are_all_or_n(length, n):
    kept = evenly_spaced(length, n)
    assert len(kept) == min(length, n)
    assert np.issubdtype(kept.dtype, np.integer)
    assert kept[0] == 0
    assert (np.diff(kept) > 0).all()
    assert kept[-1] < length
    if n > 1:
        assert kept[-1] == length - 1


@given(length=lengths, n=st.integers(2, 64))
def test_gaps_between_evenly_spaced_items_differ_by_at_most_one(length, n):
    gaps = np.diff(evenly_spaced(length, n)).tolist()
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_the_published_rounding():
    # np.round rounds halves to even: 4.5 becomes 4.
    assert evenly_spaced(10, 3).tolist() == [0, 4, 9]
    assert evenly_spaced(0, 3).tolist() == []
