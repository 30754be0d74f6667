import hashlib
import multiprocessing
import re

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tests.extractors.conftest import NO_AUDIO, audio_clip, broken_clip, spoken
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.whisper import Whisper, WhisperSettings
from vemoclap_batch.extractors.whisper_weights import BUNDLED_SHA256, bundled_folder
from vemoclap_batch.media.windows import Piece, TimedText, Window
from vemoclap_batch.pipeline.rows import input_in

#: Of the tests that an old processor's kernels repeat, several times slower.
numeric = pytest.mark.numeric


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


@numeric
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
        assert result.extras["language_probability"] > 0.8


@numeric
def test_segments_are_in_seconds_of_the_video(heard, dickens):
    segments = heard[2].extras["segments"]
    times = [time for segment in segments for time in (segment["start_s"], segment["end_s"])]
    assert times == sorted(times)
    assert 100 <= times[0] < 102
    assert 138 < times[-1] <= 100 + len(dickens) / 16000
    assert words(segments[0]["text"]).startswith("it was the best of times")
    # Where the earlier ones end is not the same on every instruction set.
    (in_short,) = (segment for segment in segments if segment["text"].startswith("In short"))
    assert abs(in_short["start_s"] - 129) < 1
    assert " ".join(segment["text"] for segment in segments) == heard[2].extras["text"]
    assert all(segment["average_log_probability"] < 0 for segment in segments)
    assert all(0 <= segment["no_speech_probability"] < 0.6 for segment in segments)
    row = {name: [value] for name, value in heard[2].extras.items()}
    pa.table(row, pa.schema(list(Whisper.columns.items())))


def test_silence_is_not_heard(heard, whisper, monkeypatch):
    silent = {
        **{"text": "", "text_original": "", "language": None, "language_probability": None, "language_uncertain": None},
        **{"segments": [], "words": [], "segments_original": [], "dropped": []},
    }
    assert heard[1].extras == silent
    assert heard[3].extras == silent
    assert heard[1].feature.shape == (0, 0)
    assert whisper.extract([]) == []
    # The model is not even asked.
    monkeypatch.setattr(whisper, "_model", None)
    assert whisper.extract([audio_clip(np.zeros(16000, np.float32))])[0].extras == silent


def check_same(found, expected):
    """Equal but for the rounding of some instruction sets, which may move a word by a frame of the encoder."""
    inner = ("words", "segments", "segments_original")
    assert {name: value for name, value in found.items() if name not in inner} == {
        name: value for name, value in expected.items() if name not in inner
    }
    for name in inner:
        assert [row["text"] for row in found[name]] == [row["text"] for row in expected[name]]
        for row, other in zip(found[name], expected[name], strict=True):
            numbers = {key for key, value in other.items() if isinstance(value, float)}
            assert {key: row[key] for key in numbers} == pytest.approx({key: other[key] for key in numbers}, abs=0.021)


@numeric
def test_batching_changes_nothing(whisper, heard, beckett):
    (alone,) = whisper.extract([audio_clip(beckett)])
    check_same(alone.extras, heard[0].extras)


@numeric
def test_a_broken_clip_fails_alone(whisper, heard, beckett):
    bad, good = whisper.extract([broken_clip(), audio_clip(beckett)])
    assert isinstance(bad, Failure)
    assert isinstance(good, Result)
    check_same(good.extras, heard[0].extras)


@pytest.mark.parametrize("gap_s", [1, 7, 60])
def test_segments_lie_where_the_speech_is(whisper, beckett, gap_s):
    speech = beckett[: int(5.2 * 16000)]
    begin, end = np.flatnonzero(np.abs(speech) > 0.02)[[0, -1]] / 16000
    silence = np.zeros(gap_s * 16000, np.float32)
    (result,) = whisper.extract([audio_clip(np.concatenate([speech, silence, speech, silence]), start_s=20)])
    second_s = len(speech) / 16000 + gap_s
    segments, words = result.extras["segments"], result.extras["words"]
    for start_s in (20.0, 20.0 + second_s):
        own = [each for each in segments if start_s - 0.5 <= each["start_s"] and each["end_s"] <= start_s + end + 0.5]
        assert own[0]["start_s"] == pytest.approx(start_s + begin, abs=0.5)
        assert own[-1]["end_s"] == pytest.approx(start_s + end, abs=0.5)
    assert [word["start_s"] for word in words] == sorted(word["start_s"] for word in words)
    assert " ".join(word["text"] for word in words) == result.extras["text"]
    spoken = [(segment["start_s"], segment["end_s"]) for segment in segments]
    assert all(any(a <= word["start_s"] <= word["end_s"] <= b for a, b in spoken) for word in words)
    assert all(0 < word["probability"] <= 1 for word in words)
    # A window of 10 s without speech has no text.
    pieces = TimedText([Piece(**piece) for piece in input_in(result.extras, None, "pieces")])
    silent = {number for number in range(20, 90) if end + 0.5 < number - 20 and number - 20 + 10 < second_s}
    assert silent.isdisjoint(pieces.over(Window(10.0, 1.0)))


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
    # A file cut short is noticed and mended, and so is one of the right length: CTranslate2 has no checksum.
    (folder / "model.bin").write_bytes(b"cut short")
    model = bundled_folder() / "model.bin"
    assert model.stat().st_size > 1e8
    with model.open("r+b") as file:
        file.seek(10**8)
        file.write(bytes(64))
    assert sha256(bundled_folder() / "model.bin") == BUNDLED_SHA256
    vocabulary = (folder / "vocabulary.txt").read_bytes()
    (folder / "vocabulary.txt").write_bytes(vocabulary[::-1])
    assert (bundled_folder() / "vocabulary.txt").read_bytes() == vocabulary


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
