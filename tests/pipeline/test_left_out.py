"""What a model of texts was not given is said in its table, in the notes of the run and in the table it prints."""

import numpy as np
import pyarrow as pa
import pytest

from tests.clips import make_clip, text
from vemoclap_batch.config import load_config
from vemoclap_batch.media.windows import Window
from vemoclap_batch.pipeline.pending import features_table
from vemoclap_batch.pipeline.run import run
from vemoclap_batch.report.digest import digest
from vemoclap_batch.sources.manifest import read_sources

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.numeric]

PROFILE = """
extractors:
  ocr: {class: "vemoclap_batch.extractors.ocr:PaddleOcr", resources: {memory_gb: 0.3}}
  ocr_sentiment:
    class: "vemoclap_batch.extractors.minilm:MiniLM"
    input: ocr
    multilingual: false
    resources: {memory_gb: 0.1}
"""
SAID = {"german": "ICH HABE SO GROSSE ANGST\nvor der dunklen Nacht", "english": "I AM SO HAPPY\nto see you again"}


@pytest.fixture
def clips(tmp_path):
    (tmp_path / "clips").mkdir()
    for name, lines in SAID.items():
        make_clip(tmp_path / "clips" / f"{name}.mp4", frames=[text(lines)] * 10, size=(640, 360), audio=False)
    (tmp_path / "texts.yaml").write_text(PROFILE)
    return read_sources([str(tmp_path / "clips")]).rows


@pytest.mark.parametrize("window", [None, Window(1.0, 1.0)], ids=["whole", "windows"])
def test_german_is_left_out_and_english_is_not(clips, tmp_path, window):
    config = load_config(str(tmp_path / "texts.yaml"), ["sampling.frames=2"])
    done = run(clips, str(tmp_path / "out"), config, window=window)
    assert done.summary()["notes"] == [
        "ocr_sentiment: the texts of 1 videos have a note, such as a language left out; see its table"
    ]
    table = features_table(done.store, done.specs["ocr_sentiment"])
    german, english = table.read().sort_by([("video_id", "descending")]).to_pylist()
    assert german["video_id"].startswith("german")
    assert (len(german["feature"]), len(english["feature"])) == (0, 1)
    note = "left out, as the model knows en: de"
    if window:
        assert german["notes"] == [{"start_s": 0.0, "end_s": 1.0, "note": note}]
        assert english["notes"] == []
        return
    assert (german["language"], german["note"]) == ("de", note)
    assert (english["language"], english["note"]) == ("en", None)
    tables = {name: features_table(done.store, spec) for name, spec in done.specs.items()}
    shown = {row["name"]: row["read"] for row in digest(clips, None, tables, ())}
    assert shown["german.mp4"].endswith(f"; {note}")
    assert note not in shown["english.mp4"]


def test_nothing_left_out_makes_no_note():
    from vemoclap_batch.pipeline.commit import _noted

    fields = {
        "note": ["left out", None, None],
        "notes": [[{"note": "a"}, {"note": "b"}], [], None],
        "text": ["a", "", None],
    }
    counted = {
        name: _noted(pa.chunked_array([pa.array([{name: value} for value in values])]))
        for name, values in fields.items()
    }
    assert counted == {"note": 1, "notes": 1, "text": 0}
    assert np.isscalar(counted["note"])
