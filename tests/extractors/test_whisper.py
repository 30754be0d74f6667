import multiprocessing
import re

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tests.extractors.conftest import NO_AUDIO, audio_clip, broken_clip, spoken
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.whisper import WINDOW, Decoded, Speech, Whisper, WhisperSettings, _timed
from vemoclap_batch.extractors.whisper_weights import bundled_folder

pytestmark = pytest.mark.numeric

#: Token ids from here on are time stamps, in these tests.
STAMP = 1000


@pytest.fixture(scope="module")
def beckett():
    """Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."""
    return spoken("beckett.wav")


@pytest.fixture(scope="module")
def dickens():
    """It was the best of times, it was the worst of times: 44 s, so two windows."""
    return spoken("two_cities.wav")


@pytest.fixture(scope="module")
def heard(whisper, beckett, dickens):
    """What a batch of four clips gave."""
    return whisper.extract(
        [
            audio_clip(beckett),
            audio_clip(NO_AUDIO),
            audio_clip(dickens, start_s=100),
            audio_clip(np.zeros_like(beckett)),
        ]
    )


def words(text):
    """In small letters, without the punctuation, which is as each instruction set has it."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def test_hears_the_words(heard):
    """Those that every instruction set hears: the weights are int8, and sums of bytes saturate on some of them."""
    first, _, second, _ = heard
    assert "failed no matter try again fail again fail better" in words(first.extras["text"])
    text = words(second.extras["text"])
    assert text.startswith("it was the best of times it was the worst of times")
    # The sentence that the first window's end cuts is whole; some hear "doing".
    assert re.search("we were all going direct to heaven we were all [gd]oing direct the other way in short", text)
    assert text.endswith("in the superlative degree of comparison only")
    for result in (first, second):
        assert result.extras["language"] == "en"
        assert result.extras["language_probability"] > 0.9


def test_segments_are_in_seconds_of_the_video(heard, dickens):
    segments = heard[2].extras["segments"]
    times = [time for segment in segments for time in (segment["start_s"], segment["end_s"])]
    assert times == sorted(times)
    assert 100 <= times[0] < 102
    assert 138 < times[-1] <= 100 + len(dickens) / 16000
    assert words(segments[0]["text"]).startswith("it was the best of times it was the worst of times")
    # Where the earlier ones end is not the same on every instruction set.
    (in_short,) = (segment for segment in segments if segment["text"].startswith("In short"))
    assert abs(in_short["start_s"] - 129) < 1
    assert " ".join(segment["text"] for segment in segments) == heard[2].extras["text"]
    assert all(segment["average_log_probability"] < 0 for segment in segments)
    assert all(0 <= segment["no_speech_probability"] < 0.6 for segment in segments)
    row = {name: [value] for name, value in heard[2].extras.items()}
    pa.table(row, pa.schema(list(Whisper.columns.items())))


def test_silence_is_not_heard(heard, whisper, monkeypatch):
    silent = {"text": "", "language": None, "language_probability": None, "segments": []}
    assert heard[1].extras == silent
    assert heard[3].extras == silent
    assert heard[1].feature.shape == (0, 0)
    assert whisper.extract([]) == []
    # The model is not even asked.
    monkeypatch.setattr(whisper, "_model", None)
    assert whisper.extract([audio_clip(np.zeros(16000, np.float32))])[0].extras == silent


def test_batching_changes_nothing(whisper, heard, beckett):
    (alone,) = whisper.extract([audio_clip(beckett)])
    assert alone.extras == heard[0].extras


def test_a_broken_clip_fails_alone(whisper, heard, beckett):
    bad, good = whisper.extract([broken_clip(), audio_clip(beckett)])
    assert isinstance(bad, Failure)
    assert isinstance(good, Result)
    assert good.extras == heard[0].extras


def test_speech_is_put_together_and_taken_apart():
    waveform = np.arange(100_000, dtype=np.float32)
    speech = Speech.of(waveform, [(16_000, 32_000), (64_000, 80_000)])
    window = speech.window()
    assert window.shape == (WINDOW,)
    np.testing.assert_array_equal(window[:16_000], waveform[16_000:32_000])
    np.testing.assert_array_equal(window[16_000:32_000], waveform[64_000:80_000])
    assert not window[32_000:].any()
    assert [speech.time(0.5), speech.time(1), speech.time(1, is_end=True), speech.time(9)] == [1.5, 4.0, 2.0, 5.0]
    speech.done = 24_000
    assert speech.left == 8_000
    np.testing.assert_array_equal(speech.window()[:8_000], waveform[72_000:80_000])
    assert speech.time(0.25) == 4.75


def test_windows_follow_one_another_without_gap_or_overlap():
    waveform = np.arange(2 * WINDOW + 5, dtype=np.float32)
    speech, parts = Speech.of(waveform, [(0, len(waveform))]), []
    while speech.left:
        count = min(WINDOW, speech.left)
        parts.append(speech.window()[:count])
        speech.done += count
    np.testing.assert_array_equal(np.concatenate(parts), waveform)


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
    assert _timed(tokens, STAMP, 3.0) == expected


def test_what_is_taken_for_speech():
    assert Decoded([], "Nice to meet you.", 0.7, -0.5).is_speech
    assert not Decoded([], "Thanks for watching!", 0.7, -1.1).is_speech
    assert not Decoded([], "is in the year", 0.1, -1.5).is_speech
    assert not Decoded([], "you can use it, " * 20, 0.1, -0.2).is_speech


def bundled_folder_of(_):
    return bundled_folder()


def test_the_bundled_model_is_joined_once_by_many(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        folders = pool.map(bundled_folder_of, range(3))
    assert len(set(folders)) == 1
    folder = folders[0]
    assert folder.is_relative_to(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"model.bin", "config.json", "tokenizer.json", "vocabulary.txt"}
    assert {path.suffix for path in folder.parent.iterdir()} == {"", ".lock"}
    # A file cut short is noticed and mended.
    (folder / "model.bin").write_bytes(b"cut short")
    assert (bundled_folder() / "model.bin").stat().st_size > 1e8


def test_a_model_of_ones_own():
    bundled = bundled_folder()
    mine = WhisperSettings(model="hf:someone/whisper", task="transcribe", language="en")
    assert (Whisper.references(mine), Whisper.references(WhisperSettings())) == ({"model": "hf:someone/whisper"}, {})
    (result,) = Whisper(mine, Resources(models={"model": bundled})).extract(
        [audio_clip(spoken("beckett.wav", seconds=4))]
    )
    assert "tried" in result.extras["text"].lower()
    assert (result.extras["language"], result.extras["language_probability"]) == ("en", 1.0)


def test_wrong_settings():
    with pytest.raises(ValidationError):
        WhisperSettings(task="sing")
