"""Which frames a sampling takes, whatever the time stamps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.media.decode import wanted_frames
from vemoclap_batch.media.sampling import Sampling
from vemoclap_batch.media.scan import VideoIndex
from vemoclap_batch.media.windows import evenly_spaced


@given(
    steps=st.lists(st.sampled_from([1, 1, 1, 2, 500, 20_000]), max_size=80),
    first=st.integers(-5000, 5000),
    unit=st.sampled_from([1 / 12_800, 0.001, 0.04]),
    frames=st.integers(1, 40),
    every_s=st.none() | st.floats(0.05, 5),
)
def test_frames_are_the_ones_shown_then_and_never_fewer_than_without(steps, first, unit, frames, every_s):
    pts = first + np.cumsum([0, *steps])
    index = VideoIndex(0, "h264", 25.0, unit, 0.0, pts, [], ordered=True, plain=True)
    found = wanted_frames(index, Sampling(frames, 360, every_s))
    without = evenly_spaced(len(pts), frames)
    assert (np.diff(found) > 0).all()
    assert 0 <= found[0] <= found[-1] < len(pts)
    if len(found) == len(without):
        assert found.tolist() == without.tolist()
        return
    assert every_s is not None
    assert len(found) > len(without)
    # Each is shown at some multiple of the interval: the first at or after its own time is before the next one's.
    seconds = (pts - first) * unit
    following = np.append(seconds[1:], np.inf)
    multiple = np.ceil((seconds[found] - unit) / every_s) * every_s
    assert (multiple <= following[found] + unit).all()
