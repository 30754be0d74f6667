"""Which frames a sampling takes, whatever the time stamps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.media.sampling import Sampling, chosen, is_constant
from vemoclap_batch.media.windows import evenly_spaced

steps = st.lists(st.sampled_from([1, 1, 1, 2, 500, 20_000]), max_size=80)
units = st.sampled_from([1 / 12_800, 0.001, 0.04])


@given(
    steps=steps, first=st.floats(-5, 5), unit=units, frames=st.integers(1, 40), every_s=st.none() | st.floats(0.05, 5)
)  # fmt: skip
def test_frames_are_the_ones_shown_then_and_never_fewer_than_without(steps, first, unit, frames, every_s):
    times = first + np.cumsum([0, *steps]) * unit
    found = chosen(times, unit, Sampling(frames, 360, every_s))
    without = chosen(times, unit, Sampling(frames))
    assert 0 <= found[0] <= found[-1] < len(times)
    if len(found) == len(without):
        assert found.tolist() == without.tolist()
        return
    assert every_s is not None
    assert len(found) > len(without)
    assert (np.diff(found) > 0).all()
    # Each is shown at some multiple of the interval: the first at or after its own time is before the next one's.
    seconds = times - times[0]
    following = np.append(seconds[1:], np.inf)
    multiple = np.ceil((seconds[found] - unit) / every_s) * every_s
    assert (multiple <= following[found] + unit).all()


@given(steps=steps, first=st.floats(-5, 5), unit=units, frames=st.integers(2, 40))
def test_frames_are_evenly_spaced_over_time(steps, first, unit, frames):
    times = first + np.cumsum([0, *steps]) * unit
    found = chosen(times, unit, Sampling(frames))
    if len(times) <= frames:
        assert found.tolist() == list(range(len(times)))
        return
    assert (found[0], found[-1]) == (0, len(times) - 1)
    if is_constant(times, unit):
        assert found.tolist() == evenly_spaced(len(times), frames).tolist()
        return
    moments = np.linspace(times[0], times[-1], frames)
    # The last frame at or before each moment: none lies between the two.
    assert found.tolist() == [max(np.flatnonzero(times - first <= moment - first + unit / 2)) for moment in moments]


@pytest.mark.parametrize("fps", [23.976, 25, 29.97, 59.94])
@pytest.mark.parametrize("unit", [1 / 90_000, 1 / 12_800, 0.001, 0.01])
def test_a_constant_rate_is_known_however_its_stamps_are_rounded(fps, unit):
    times = np.round(np.arange(2000) / fps / unit) * unit
    assert is_constant(times, unit)
    assert chosen(times, unit, Sampling(16)).tolist() == evenly_spaced(2000, 16).tolist()


def test_a_slide_show_that_ends_in_a_film():
    """30 s at one frame a second, then 10 s at 60: three quarters of the frames are of the first three quarters."""
    times = np.concatenate([np.arange(30), 30 + np.arange(600) / 60])
    found = chosen(times, 1 / 12_800, Sampling(16))
    assert len(found) == 16
    assert (times[found] < 30).sum() == 12
    # A frame that stands for long counts for as long as it stands.
    slides = np.array([0.0, 1, 2, 60, *(60.5 + np.arange(20) / 20)])
    assert chosen(slides, 0.001, Sampling(8)).tolist() == [0, 2, 2, 2, 2, 2, 2, 23]
