import numpy as np
import pyarrow as pa
import pytest

from vemoclap_batch.extractors.speech import Speech
from vemoclap_batch.extractors.transcript import (
    NO_SPEECH_SHORT,
    Aligned,
    Decoded,
    Transcript,
    Window,
    aligned_words,
    timed,
    whole_segments,
    within,
    without_loop,
)
from vemoclap_batch.extractors.whisper import Whisper
from vemoclap_batch.extractors.whisper_languages import Spoken
from vemoclap_batch.media.clip import SAMPLE_RATE as RATE

#: Token ids from here on are time stamps, in these tests.
STAMP = 1000
GOOD = Decoded([], "Nice to meet you.", 0.1, -0.5)


def said(text, start_s=0.0, step_s=0.5, segment=0):
    """Words one after another, half a second each."""
    return [
        Aligned(start_s + at * step_s, start_s + (at + 1) * step_s, f" {word}", 0.9, segment)
        for at, word in enumerate(text.split())
    ]


def speech_of(*utterances, length=100):
    return Speech.of(np.zeros(length * RATE, np.float32), [(a * RATE, b * RATE) for a, b in utterances])


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], []),
        ([1, 2], [(0.0, None, [1, 2])]),
        ([STAMP, 1, STAMP + 50], [(0.0, 1.0, [1])]),
        ([STAMP, 1, STAMP + 50, STAMP + 50, 2], [(0.0, 1.0, [1]), (1.0, None, [2])]),
        ([STAMP, 1, STAMP + 50, STAMP + 60], [(0.0, 1.0, [1]), (1.2, None, [])]),
        ([STAMP, 1, STAMP + 500], [(0.0, 3.0, [1])]),
    ],
)
def test_tokens_are_cut_at_time_stamps(tokens, expected):
    assert timed(tokens, STAMP, 3.0) == expected


def test_a_sentence_that_the_end_of_a_window_cuts_belongs_to_the_next():
    cut = Decoded([STAMP, 1, STAMP + 100, STAMP + 100, 2, 3], "…", 0.1, -0.5)
    assert whole_segments(cut, STAMP, 30 * RATE, 40 * RATE) == ([[1]], 2 * RATE)
    # No more comes, or the window is not heard at all.
    assert whole_segments(cut, STAMP, 30 * RATE, 30 * RATE) == ([[1], [2, 3]], 30 * RATE)
    assert whole_segments(Decoded(cut.tokens, "…", 0.1, -2.0), STAMP, 30 * RATE, 40 * RATE)[1] == 30 * RATE


def test_words_know_their_segment():
    alignment = [
        {"word": " One", "tokens": [1], "start": 0.0, "end": 0.5, "probability": 0.9},
        {"word": " two.", "tokens": [2, 3], "start": 0.5, "end": 0.9, "probability": 0.8},
        {"word": "", "tokens": [], "start": 0.9, "end": 0.9, "probability": 0.1},
        {"word": " Three", "tokens": [4], "start": 1.0, "end": 1.5, "probability": 0.7},
    ]
    assert [word.segment for word in aligned_words(alignment, [[1, 2, 3], [4]])] == [0, 0, 1]
    assert [word.text for word in within(aligned_words(alignment, [[1, 2, 3], [4]]), RATE)] == [" One", " two."]


def test_what_is_taken_for_speech():
    assert Decoded([], "Nice to meet you.", 0.7, -0.5).doubt is None
    assert Decoded([], "Thanks for watching!", 0.7, -0.9).doubt == "no speech"
    # Less silence after a sound, less to tell it from speech by.
    assert Decoded([], "What happened?", 0.4, -0.9, NO_SPEECH_SHORT).doubt == "no speech"
    assert Decoded([], "What happened?", 0.4, -0.9).doubt is None
    assert Decoded([], "is in the year", 0.1, -1.5).doubt == "improbable"
    assert Decoded([], "You can use it. " * 20, 0.6, -0.3).doubt == "loop"
    assert Decoded([], "You can use it. " * 20, 0.3, -0.3).doubt is None
    for laughing in ("Ha ha ha!", "Hehehehe", "Mhm, hahaha.", "Ho-ho-ho-ho.", "Wooohohoho!"):
        assert Decoded([], laughing, 0.1, -0.3).doubt == "laughter"
    assert Decoded([], "Thank you for watching.", 0.3, -0.9).doubt == "stock phrase"
    assert Decoded([], "Thank you for watching.", 0.3, -0.5).doubt is None
    assert Decoded([], "Thank you for coming.", 0.3, -0.9).doubt is None
    for speaking in ("Ha, I knew it.", "He.", "Oh!", "Hi, he said.", "No, no, no!", "..."):
        assert Decoded([], speaking, 0.1, -0.3).doubt is None


def test_a_loop_is_cut_at_its_first_repetition():
    text = "So here we go. " + "You can use it now. " * 20
    words = said(text)
    looping = Decoded([], text, 0.1, -0.2)
    assert looping.loops
    assert [word.text for word in without_loop(looping, words)] == [f" {word}" for word in text.split()[:9]]
    # A sentence said twice is no loop.
    twice = Decoded([], "Try it again, will you? Try it again, will you?", 0.1, -0.2)
    assert without_loop(twice, said(twice.text)) == said(twice.text)
    transcript, speech = Transcript(), speech_of((0, 60))
    kept = without_loop(looping, words)
    transcript.add(Window(Spoken("en", 1.0), 30 * RATE, looping, kept, None, words[len(kept) :]), speech, 0.0)
    columns = transcript.columns()
    assert columns["text"] == "So here we go. You can use it now."
    assert [row["reason"] for row in columns["dropped"]] == ["loop"]
    assert columns["dropped"][0]["text"].startswith("You can use it now. You can")


def test_a_segment_ends_where_the_speech_pauses():
    # The clip's pause of 60 s is left out of what is transcribed.
    speech = speech_of((1, 3), (63, 66))
    words = said("We never go. Until we do.", start_s=0.4, step_s=0.8)
    transcript = Transcript()
    transcript.add(Window(Spoken("en", 0.9), speech.size, GOOD, words), speech, 100.0)
    columns = transcript.columns()
    first, second = columns["segments"]
    assert (first["text"], second["text"]) == ("We never go.", "Until we do.")
    assert (first["start_s"], second["start_s"]) == pytest.approx((101.0, 163.0), abs=0.3)
    assert first["end_s"] <= 103.1
    assert second["end_s"] <= 166.1
    assert columns["text"] == "We never go. Until we do." == columns["text_original"]
    assert [word["text"] for word in columns["words"]] == "We never go. Until we do.".split()
    assert (columns["language"], columns["language_uncertain"]) == ("en", False)
    pa.table({name: [value] for name, value in columns.items()}, pa.schema(list(Whisper.columns.items())))


def test_what_is_dropped_says_why():
    transcript, speech = Transcript(), speech_of((0, 10))
    unsure = Decoded([], "Thanks for watching!", 0.7, -1.1)
    transcript.add(Window(Spoken("nn", 0.3), speech.size, unsure, said(unsure.text)), speech, 5.0)
    columns = transcript.columns()
    assert columns["dropped"] == [{"start_s": 5.0, "end_s": 6.5, "text": "Thanks for watching!", "reason": "no speech"}]
    assert columns["text"] == columns["text_original"] == ""
    assert columns["segments"] == columns["words"] == columns["segments_original"] == []
    assert columns["language"] is columns["language_probability"] is columns["language_uncertain"] is None


def test_a_translation_has_the_original_beside_it():
    transcript, speech = Transcript(), speech_of((0, 10))
    window = Window(Spoken("de", 0.4), speech.size, GOOD, said("I do not want to."), said("Ich will nicht."))
    transcript.add(window, speech, 0.0)
    columns = transcript.columns()
    assert (columns["text"], columns["text_original"]) == ("I do not want to.", "Ich will nicht.")
    assert (columns["language"], columns["language_uncertain"]) == ("de", True)
    assert columns["segments_original"] == [{"start_s": 0.0, "end_s": 1.5, "text": "Ich will nicht."}]
