"""A night: what is left for the next one, drift, the summary, the hook; and a second night that overlaps."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clips import make_clip
from vemoclap_batch.config import LABELS
from vemoclap_batch.manifest import read_sources
from vemoclap_batch.pipeline.nightly import as_markdown, call_hook, drift, split_settled
from vemoclap_batch.store.lock import writer

ROOT = Path(__file__).parents[2]
counts = st.dictionaries(st.sampled_from(LABELS), st.integers(0, 200))


def test_a_file_that_may_still_be_uploading_waits(tmp_path):
    for name, age in (("old.mp4", 1000), ("new.mp4", 10)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    settled, waiting = split_settled(read_sources([str(tmp_path)]).rows, settle_s=600)
    assert [Path(uri).name for uri in settled["uri"].to_pylist()] == ["old.mp4"]
    assert [Path(uri).name for uri in waiting] == ["new.mp4"]


def test_drift_is_flagged_when_it_is_large_and_no_accident():
    steady = {"joy": 500, "anger": 500}
    assert drift({"joy": 90, "anger": 10}, steady)["flagged"]
    assert not drift({"joy": 52, "anger": 48}, steady)["flagged"]
    assert drift({"joy": 9, "anger": 1}, steady) == {"flagged": False, "p_value": None, "distance": None, "shift": {}}
    # So many labels that a tiny difference is no accident is no drift yet.
    tiny = drift({"joy": 52_000, "anger": 48_000}, {"joy": 50_000, "anger": 50_000})
    assert tiny["p_value"] < 1e-6
    assert not tiny["flagged"]


@given(counts, counts)
def test_drift_is_a_distance(tonight, before):
    there, back = drift(tonight, before), drift(before, tonight)
    if there["distance"] is not None:
        assert 0 <= there["distance"] <= 1
        assert there["distance"] == pytest.approx(back["distance"])
        assert sum(there["shift"].values()) == pytest.approx(0, abs=1e-9)
    assert not drift(tonight, tonight)["flagged"]


def test_the_hook_gets_the_summary_and_no_shell(tmp_path, capfd):
    seen = tmp_path / "seen.txt"
    script = f"import os, sys; open({str(seen)!r}, 'w').write(os.environ['VEMOCLAP_STATUS'] + sys.stdin.read())"
    call_hook(f'{sys.executable} -c "{script}" ; touch {tmp_path}/shell', "attention", "text")
    assert seen.read_text() == "attentiontext"
    assert not (tmp_path / "shell").exists()
    call_hook("/no/such/command", "ok", "")
    assert "the hook failed" in capfd.readouterr().err


@pytest.fixture
def model(tmp_path):
    """A fusion checkpoint for the tiny extractor of frames."""
    from tests.tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path / "model", ["clip"])


def job(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "jobs" / "nightly.py", *map(str, arguments)],
        text=True,
        capture_output=True,
        check=False,
    )


def test_two_nights(tmp_path, frames_profile, model, address):
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    make_clip(clips / "first.mp4", seconds=1)
    late = make_clip(clips / "late.mp4", seconds=1)
    os.utime(clips / "first.mp4", (time.time() - 3600,) * 2)
    seen = tmp_path / "seen.json"
    hook = f"{sys.executable} -c \"import sys; open({str(seen)!r}, 'w').write(sys.stdin.read())\""
    arguments = ["--source", clips, "--out", out, "--profile", frames_profile, "--model", model, "--hook", hook]
    arguments += ["--address", address]

    night = job(*arguments)
    assert night.returncode == 0, night.stderr
    summary = json.loads(night.stdout.splitlines()[-1])
    assert summary["counts"] == {"videos": 1, "done": 1, "skipped": 0, "failed": 0, "left_for_next_night": 1}
    assert sum(summary["labels"].values()) == 1
    assert not seen.exists()
    text = (out / "nightly" / f"{summary['run_id']}.md").read_text()
    assert text == as_markdown(json.loads((out / "nightly" / f"{summary['run_id']}.json").read_text()))

    os.utime(late, (time.time() - 3600,) * 2)
    (clips / "broken.mp4").write_bytes(b"no video")
    os.utime(clips / "broken.mp4", (time.time() - 3600,) * 2)
    night = job(*arguments)
    assert night.returncode == 3, night.stderr
    summary = json.loads(night.stdout.splitlines()[-1])
    assert summary["counts"] == {"videos": 3, "done": 1, "skipped": 1, "failed": 1, "left_for_next_night": 0}
    assert sum(summary["failures"].values()) == 1
    assert sum(summary["labels_before"].values()) == 1
    assert json.loads(seen.read_text()) == summary

    with writer(str(out), "the night before"):
        night = job(*arguments)
    assert night.returncode == 4
    assert "the night before" in seen.read_text()
