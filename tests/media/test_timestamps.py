"""Time stamps of parts that were joined, in any order that two interleaved streams can have, become one time line."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.media.sampling import MAX_GAP_S
from vemoclap_batch.media.timestamps import JUMP_S, STILL_S, Timeline

VIDEO, AUDIO = 0, 1
FRAME_S, AUDIO_S = 0.04, 0.02


def part(length_s, start_s=0.0, late_s=0.0, lag_s=0.0):
    """The packets of a part in the order of a file: stream, time stamp, length. Audio may start late, or lie later."""
    video = [(at, VIDEO, start_s + at, FRAME_S) for at in np.arange(round(length_s / FRAME_S)) * FRAME_S]
    audio = [
        (at + late_s + lag_s, AUDIO, start_s + at + late_s, AUDIO_S)
        for at in np.arange(round((length_s - late_s) / AUDIO_S)) * AUDIO_S
    ]
    return [(stream, float(at), length) for _, stream, at, length in sorted(video + audio)]


def placed(timeline, packets):
    return [(stream, at + timeline.offset_s(stream, at, at, length)) for stream, at, length in packets]


@given(
    lengths=st.lists(st.floats(1.5, 8), min_size=1, max_size=5),
    first_s=st.floats(-2, 5),
    shifts=st.lists(st.floats(-0.25, 0.25), min_size=5, max_size=5),
    late_s=st.floats(0, 0.5),
    lag_s=st.floats(0, 0.5),
)
def test_every_part_follows_the_one_before(lengths, first_s, shifts, late_s, lag_s):
    timeline = Timeline(may_jump=True)
    starts = [first_s + shift for shift in shifts]
    packets = [packet for length, start in zip(lengths, starts, strict=False)
               for packet in part(length, start, late_s, lag_s)]  # fmt: skip
    found = placed(timeline, packets)
    video = [at for stream, at in found if stream == VIDEO]
    audio = [at for stream, at in found if stream == AUDIO]
    assert timeline.restarts == len(lengths) - 1
    assert timeline.jumps == 0
    for times in (video, audio):
        steps = np.diff(times)
        assert (steps > 0).all()
        # Between two parts is what one of the streams lacks at the end of the first or at the start of the second.
        assert steps.max() <= FRAME_S + 2 * (late_s + AUDIO_S) + 1e-9
    total = sum(round(length / FRAME_S) * FRAME_S for length in lengths)
    assert abs(timeline.end_s - starts[0] - total) < (late_s + 2 * FRAME_S) * len(lengths)


@given(jump_s=st.floats(JUMP_S + 1, 1e6), length_s=st.floats(2, 8), lag_s=st.floats(0, 0.5))
def test_a_jump_is_no_pause(jump_s, length_s, lag_s):
    timeline = Timeline(may_jump=True)
    packets = part(length_s, lag_s=lag_s) + part(length_s, start_s=length_s + jump_s, lag_s=lag_s)
    found = placed(timeline, packets)
    assert (timeline.restarts, timeline.jumps) == (0, 1)
    assert abs(timeline.end_s - 2 * length_s) < 0.2
    for stream in (VIDEO, AUDIO):
        assert (np.diff([at for which, at in found if which == stream]) > 0).all()


def test_one_stream_may_pause_while_the_other_goes_on():
    timeline = Timeline(may_jump=True)
    video = [(VIDEO, at * FRAME_S, FRAME_S) for at in range(2000)]
    audio = [(AUDIO, at * AUDIO_S, AUDIO_S) for at in [*range(50), *range(3000, 4000)]]
    packets = sorted(video + audio, key=lambda packet: packet[1])
    assert placed(timeline, packets) == [(stream, at) for stream, at, _ in packets]
    assert timeline.jumps == timeline.restarts == 0


def test_how_long_a_frame_may_stand_is_up_to_the_format():
    for may_jump, has_audio, limit_s in ((True, True, JUMP_S), (False, True, MAX_GAP_S), (False, False, STILL_S)):
        for pause_s, jumps in ((limit_s - 1, 0), (limit_s + 1, 1)):
            timeline = Timeline(may_jump, has_audio)
            placed(timeline, [(VIDEO, 0.0, 0.0), (VIDEO, pause_s, 0.0)])
            assert timeline.jumps == jumps


def test_frames_out_of_order_are_no_new_start():
    """Where the order of decoding is not said, as in the second part of joined Matroska files."""
    times = [0.0, 0.2, 0.12, 0.08, 0.16, 0.4, 0.32, 0.28, 0.36]
    packets = [(VIDEO, at, FRAME_S) for at in times]
    timeline = Timeline(may_jump=False)
    assert placed(timeline, packets) == [(VIDEO, at) for at in times]


def test_one_absurd_time_stamp_changes_nothing_else():
    timeline = Timeline(may_jump=False)
    times = [*(np.arange(50) * 0.04), 1e9, *(2.04 + np.arange(50) * 0.04)]
    found = [at for _, at in placed(timeline, [(VIDEO, float(at), FRAME_S) for at in times])]
    assert np.abs(np.delete(found, 50) - np.delete(times, 50)).max() < 0.1
