"""The part of the benchmark of texts that tells languages apart."""

import json

import pytest

from bench import text, text_languages
from tests.extractors.sentences import SENTENCES


def test_it_counts_what_is_lost_and_what_is_left_out():
    texts = [(language, said) for language in ("en", "de", "ja") for said in SENTENCES[language]]
    report = text_languages.measure([*texts, ("de", "Good morning, ladies and gentlemen!")], "sentences")
    rows = {row["language"]: row for row in report.rows}
    assert [rows[name]["texts"] for name in ("en", "de", "ja")] == [12, 13, 12]
    assert rows["en"]["left_out_percent"] == 0
    assert rows["de"]["left_out_percent"] == round(100 * 12 / 13, 1)
    assert report.figures["foreign_left_out_percent"] == 96.0
    assert report.figures["english_lost_percent"] == report.figures["english_shortened_percent"] == 0


def test_english_may_come_from_a_file(tmp_path, capsys):
    path = tmp_path / "english.tsv"
    path.write_text("".join(f"{said}\t3\n" for said in [*SENTENCES["en"], SENTENCES["fr"][0]]), "utf-8")
    with pytest.raises(SystemExit) as left:
        text.main(["languages", "--folder", str(tmp_path), "--english", str(path), "--json"])
    assert not left.value.code
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["english_lost_percent"] == round(100 / 13, 2)
    assert "foreign_left_out_percent" not in found
