"""The main job as a newcomer runs it: the demo, with the real lite models, then the same again."""

import json
import os
import subprocess
import sys

import duckdb
import pytest

from vemoclap_batch.cli.app import main

pytestmark = pytest.mark.numeric


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "vemoclap_batch", *map(str, arguments)], env=os.environ | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory, address):
    out = tmp_path_factory.mktemp("demo")
    done = command("demo", "-o", out, "--json", RAY_ADDRESS=address)
    assert done.returncode == 0, done.stderr
    return out, done


def test_every_clip_is_labelled_with_what_is_in_it(demo):
    _, done = demo
    found = json.loads(done.stdout.splitlines()[-1])
    rows = {row["name"]: row for row in found["rows"]}
    assert len(rows) == 5
    assert all(0 < row["confidence"] <= 1 and row["runner_up"] != row["label"] for row in rows.values())
    # Beckett: "Ever tried. Ever failed. No matter."; the small model may mishear a word.
    assert "failed" in rows["astronaut speaks.mp4"]["heard"].lower()
    assert "1 face" in rows["astronaut speaks.mp4"]["seen"]
    assert "best of times" in rows["two cities.mp4"]["heard"].lower()
    assert "what a wonderful surprise" in rows["silent film card.mp4"]["read"]
    assert rows["silent film card.mp4"]["heard"] == "(no speech)"
    assert "face" in rows["man in a car.mp4"]["seen"]
    assert found["counts"] == {"videos": 5, "done": 5, "skipped": 0, "failed": 0}
    assert "5 done, 0 skipped, 0 failed" in done.stdout


def test_the_tables_join_in_duckdb(demo):
    out, _ = demo
    tables = f"{out}/tables"
    rows = duckdb.sql(
        f"""select p.label, p.confidence, a.text, len(c.feature), len(f.faces), v.has_audio, p.missing
        from '{tables}/predictions/*/part-*.parquet' p
        join '{tables}/videos/part-*.parquet' v using (video_id, content_key)
        join '{tables}/features/asr/*/part-*.parquet' a using (video_id, content_key)
        join '{tables}/features/clip/*/part-*.parquet' c using (video_id, content_key)
        join '{tables}/features/face_emotion/*/part-*.parquet' f using (video_id, content_key)"""
    ).fetchall()
    assert len(rows) == 5
    assert all(frames == 16 for *_, frames, _, _, _ in rows)
    assert {has_audio for *_, has_audio, _ in rows} == {True, False}
    assert all(("beats" in missing) == (not has_audio) for *_, has_audio, missing in rows)


def test_the_same_again_does_nothing(demo, capsys):
    out, _ = demo
    with pytest.raises(SystemExit) as left:
        main(["label", str(out / "clips"), "-o", str(out / "tables"), "--json"])
    assert not left.value.code
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["counts"]["skipped"] == 5
    assert found["plan"] is None
    assert found["stages"] == {}
    assert found["predictions"]["new"] == 0
