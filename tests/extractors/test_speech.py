"""What of a clip is transcribed, and when in the clip a word was said: arithmetic alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.extractors.speech import FRAME, LONGEST_PAUSE, MARGIN, SLICE, STRETCH, WINDOW, Speech
from vemoclap_batch.extractors.whisper_languages import Spoken, Turn
from vemoclap_batch.media.clip import SAMPLE_RATE as RATE

ENGLISH, GERMAN = Spoken("en", 0.9), Spoken("de", 0.8)


@st.composite
def speeches(draw):
    """A clip with up to eight utterances, pauses of 0.5 to 600 s between them."""
    lengths = draw(
        st.lists(st.tuples(st.integers(RATE // 2, 20 * RATE), st.integers(RATE // 2, 60 * RATE)), max_size=8)
    )
    utterances, at = [], draw(st.integers(0, 3 * RATE))
    for length, pause in lengths:
        utterances.append((at, at + length))
        at += length + pause
    # Each sample is its own number, as far as float32 can tell.
    return Speech.of(np.arange(at, dtype=np.float32), utterances)


def test_speech_is_put_together_and_taken_apart():
    waveform = np.arange(20 * RATE, dtype=np.float32)
    speech = Speech.of(waveform, [(RATE, 2 * RATE), (3 * RATE, 4 * RATE), (10 * RATE, 11 * RATE)])
    assert speech.pieces == [(RATE - MARGIN, 4 * RATE + MARGIN), (10 * RATE - MARGIN, 11 * RATE + MARGIN)]
    window = speech.window()
    assert window.shape == (WINDOW,)
    np.testing.assert_array_equal(window[: 3 * RATE + 2 * MARGIN], waveform[RATE - MARGIN : 4 * RATE + MARGIN])
    np.testing.assert_array_equal(
        window[3 * RATE + 2 * MARGIN : speech.size], waveform[10 * RATE - MARGIN : 11 * RATE + MARGIN]
    )
    assert not window[speech.size :].any()
    # A word that reaches over the pause between two pieces stays where most of it is.
    assert speech.place(0.5, 0.9) == (1.1, 1.5, 0)
    assert speech.place(3.0, 4.0) == pytest.approx((3.6, 4.1, 1))
    assert speech.place(3.7, 4.6) == pytest.approx((9.9, 10.4, 2))
    speech.advance(2 * RATE, ENGLISH)
    assert (speech.left, speech.heard) == (len(speech.audio) - 2 * RATE, {"en": pytest.approx(1.8)})
    assert speech.place(1.0, 1.4) == pytest.approx((3.6, 4.0, 1))


def test_a_window_has_no_more_silence_than_it_is_told_to():
    audio = np.ones(40 * RATE, np.float32)
    speech = Speech.of(audio, [(0, 3 * RATE)], silence=5 * RATE // 2)
    # 3.4 s with the margin, 2.5 s of silence, and up to the next whole second.
    assert (speech.size, speech.filled) == (3 * RATE + MARGIN, 6 * RATE)
    window = speech.window()
    assert (window.shape, window[: speech.size].all(), window[speech.size :].any()) == ((6 * RATE,), True, False)
    speech.whole = True
    assert (speech.filled, speech.window().shape) == (WINDOW, (WINDOW,))
    speech.advance(RATE, ENGLISH)
    assert not speech.whole
    # Whisper takes no more than 30 s.
    assert Speech.of(audio, [(0, 29 * RATE)], silence=5 * RATE // 2).window().shape == (WINDOW,)
    assert Speech.of(audio, [(0, 40 * RATE)], silence=5 * RATE // 2).window().shape == (WINDOW,)


@pytest.mark.parametrize(("pause", "pieces"), [(63 * 512, 1), (64 * 512, 2)])
def test_a_pause_of_two_seconds_stays_as_faster_whisper_leaves_it(pause, pieces):
    speech = Speech.of(np.zeros(20 * RATE, np.float32), [(RATE, 5 * RATE), (5 * RATE + pause, 10 * RATE)])
    assert len(speech.pieces) == pieces


def test_what_fades_at_the_end_is_transcribed_too():
    waveform = np.zeros(20 * RATE, np.float32)
    assert Speech.of(waveform, [(RATE, 18 * RATE)]).pieces[-1][1] == len(waveform)
    assert Speech.of(waveform, [(RATE, 17 * RATE)]).pieces[-1][1] == 17 * RATE + MARGIN


@given(speeches(), st.lists(st.tuples(st.floats(0, 30), st.floats(0, 3)), max_size=20))
def test_words_lie_in_utterances_and_in_order(speech, moments):
    if not speech.utterances:
        assert (speech.left, len(speech.pieces)) == (0, 0)
        return
    end_s = speech.size / RATE
    starts = sorted(min(start, end_s) for start, _ in moments)
    words = [
        (start, min(start + length, end_s, *starts[at + 1 :]))
        for at, (start, (_, length)) in enumerate(zip(starts, moments, strict=True))
    ]
    placed = [speech.place(*word) for word in words]
    for start_s, end_s, number in placed:
        begin, stop = speech.utterances[number]
        assert begin / RATE - 0.1001 <= start_s <= end_s <= stop / RATE + 0.1001
    assert [number for *_, number in placed] == sorted(number for *_, number in placed)
    assert [start for start, *_ in placed] == sorted(start for start, *_ in placed)


@given(speeches())
def test_windows_follow_one_another_without_gap_or_overlap(speech):
    covered = []
    while speech.left:
        size = speech.size
        window = speech.window()
        assert window.shape == (WINDOW,)
        covered.append(window[:size])
        stretches = speech.stretches()
        assert all(0 <= start < end <= size for start, end in stretches)
        assert [start for start, _ in stretches] == sorted(start for start, _ in stretches)
        assert all(end - start >= STRETCH for start, end in stretches) or len(stretches) == 1
        for stretch in stretches:
            for frame in speech.slices(*stretch):
                assert 0 <= frame * FRAME <= max(0, size - SLICE)
        speech.advance(size, ENGLISH)
    np.testing.assert_array_equal(np.concatenate([[], *covered]), speech.audio)
    assert all(
        later[0] - one[1] > LONGEST_PAUSE - 2 * MARGIN
        for one, later in zip(speech.pieces, speech.pieces[1:], strict=False)
    )


def test_a_window_ends_where_the_language_changes():
    speech = Speech.of(np.zeros(60 * RATE, np.float32), [(0, 10 * RATE), (11 * RATE, 50 * RATE)])
    assert speech.stretches() == [(0, 10 * RATE), (11 * RATE, WINDOW)]
    found = Turn(GERMAN, 10 * RATE)
    speech.turn(found)
    assert speech.size == 10 * RATE
    # The sentence that the next window starts with may be cut off.
    speech.advance(4 * RATE, found.spoken)
    assert (speech.size, speech.known[0]) == (6 * RATE, found.spoken)
    speech.advance(6 * RATE, found.spoken)
    assert (speech.size, speech.known) == (WINDOW, None)
