"""Which of a transcript's texts other extractors read: the text, or the one in the language that was spoken."""

import pyarrow as pa
import pytest

from tests.pipeline.test_pending import VIDEOS, commit
from tests.tiny import TinySound
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.extractors.whisper import Whisper
from vemoclap_batch.extractors.windowed_text import windowed
from vemoclap_batch.media.windows import Window
from vemoclap_batch.pipeline.chunks import merged_extras
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.pipeline.rows import input_in, text_of
from vemoclap_batch.store.store import Store

PROFILE = """
extractors:
  asr: {class: "tests.pipeline.test_original_text:Heard"}
  own: {class: "tests.tiny:TinyText", input: asr, text_column: text_original}
  english: {class: "tests.tiny:TinyText", input: asr}
"""
SEGMENTS = [
    {"start_s": 1.0, "end_s": 2.0, "text": "I am not.", "language": "de"},
    {"start_s": 3.0, "end_s": 4.0, "text": "こんにちは", "language": "ja"},
    {"start_s": 5.0, "end_s": 6.0, "text": "Yes.", "language": "de"},
]
WORDS = [
    {"start_s": at, "end_s": at + 0.3, "text": text, "probability": 0.9}
    for at, text in ((1.0, "I"), (1.3, "am"), (1.6, "not."), (3.0, "こん"), (3.5, "にちは"), (5.0, "Yes."))
]
ORIGINAL = [{"start_s": 1.0, "end_s": 2.0, "text": "Bin ich nicht."}]
GERMAN = {"text_original": "Bin ich nicht.", "segments": SEGMENTS, "words": WORDS, "segments_original": ORIGINAL}


class Heard(TinySound):
    """A transcript in two languages; its results are made up here."""

    name = "tiny-heard"
    columns = {
        name: Whisper.columns[name] for name in ("text", "text_original", "segments", "words", "segments_original")
    }


@pytest.fixture
def config(tmp_path):
    (tmp_path / "p.yaml").write_text(PROFILE)
    return load_config(str(tmp_path / "p.yaml"))


def test_each_reads_its_own_text_from_the_store(tmp_path, config):
    specs, store = resolve(config), Store(str(tmp_path / "out"))
    commit(store, specs, "asr", {"a"}, text="I am not.", **GERMAN)
    rows = find_pending(store, VIDEOS, specs, 3).rows
    texts = {name: text_of(rows, 0, specs[name], specs["asr"]) for name in ("own", "english")}
    assert texts == {"own": "Bin ich nicht.", "english": "I am not."}
    assert specs["own"].fingerprint != specs["english"].fingerprint


def test_each_reads_its_own_pieces_where_windows_are_wanted(tmp_path, config):
    specs, store = resolve(windowed(config, Window(2.0, 2.0))), Store(str(tmp_path / "out"))
    commit(store, specs, "asr", {"a"}, text="I am not.", **GERMAN)
    rows = find_pending(store, VIDEOS, specs, 3).rows
    own, english = (text_of(rows, 0, specs[name], specs["asr"]) for name in ("own", "english"))
    # Half of it lies in either.
    assert own.over(Window(1.5, 1.5)) == {0: "Bin ich nicht.", 1: "Bin ich nicht."}
    assert english.over(Window(1.5, 1.5)) == {0: "I am", 1: "not.", 2: "こんにちは", 3: "Yes."}


def test_the_words_of_a_transcript_are_its_pieces_where_spaces_divide_them():
    pieces = input_in({"segments": SEGMENTS, "words": WORDS}, None, "pieces")
    assert [piece["text"] for piece in pieces] == ["I", "am", "not.", "こんにちは", "Yes."]
    # Tables of older runs have no words.
    assert [piece["text"] for piece in input_in({"segments": SEGMENTS, "words": None}, None, "pieces")] == [
        segment["text"] for segment in SEGMENTS
    ]


def test_chunks_are_put_together():
    empty = {"text": "", "text_original": "", "language": None, "segments": [], "words": []}
    chunks = [
        {**empty, "text": "Hello there.", "text_original": "Hallo du.", "language": "de", "words": WORDS[:1]},
        empty,
        {**empty, "text": "Bye.", "text_original": "Bye.", "language": "en", "words": WORDS[1:2]},
    ]
    columns = {name: Whisper.columns[name] for name in empty}
    decoded = [{"frame_shape": None, "own_samples": 16_000, "first_frame": 0}] * 3
    merged = merged_extras(chunks, columns, decoded, written=False)
    assert (merged["text"], merged["text_original"]) == ("Hello there. Bye.", "Hallo du. Bye.")
    assert (merged["language"], merged["words"]) == ("de", WORDS[:2])
    pa.table({name: [value] for name, value in merged.items()}, pa.schema(list(columns.items())))


def test_a_text_that_its_source_lacks_is_refused():
    with pytest.raises(ConfigError) as caught:
        resolve(load_config("lite", ["extractors.ocr_sentiment.text_column=text_original", "extractors.asr.x=1"]))
    assert "extractors.ocr_sentiment.text_column = 'text_original': the texts of ocr are text" in caught.value.mistakes
    assert any("extractors.asr.x" in mistake for mistake in caught.value.mistakes)


def test_the_default_changes_no_fingerprint():
    stated = resolve(load_config("lite", ["extractors.asr_sentiment.text_column=text"]))
    assert stated["asr_sentiment"].fingerprint == resolve(load_config("lite"))["asr_sentiment"].fingerprint
    other = resolve(load_config("lite", ["extractors.asr_sentiment.text_column=text_original"]))
    assert other["asr_sentiment"].fingerprint != stated["asr_sentiment"].fingerprint
