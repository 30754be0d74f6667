"""SIGTERM: nothing new is begun and what is under way is committed; see test_drivers.py for what comes after."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow.dataset as ds

from tests.clips import make_clip
from tests.commands import telling
from tests.pipeline.faulty import held, held_profile
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]


def committed(out):
    shards = list((Path(out) / "features" / "clip").rglob("part-*.parquet"))
    return sorted(ds.dataset(shards).to_table(columns=["video_id"])["video_id"].to_pylist()) if shards else []


def test_a_run_that_is_asked_to_stop(tmp_path, address):
    clips, out, calls = tmp_path / "clips", tmp_path / "out", tmp_path / "calls.txt"
    clips.mkdir()
    for at in range(10):
        make_clip(clips / f"clip{at}.mp4", seconds=1)
    (tmp_path / "hold").touch()
    arguments = [clips, "-o", out, "--profile", held_profile(tmp_path), "--address", address]
    command = telling(tmp_path / "told", ROOT / "jobs" / "extract.py", *arguments)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    # Two are in the store and the third is held: it is under way when the signal comes.
    wait_for(lambda: (len(committed(out)), held(calls)) == (2, True) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: (tmp_path / "told").exists() or process.poll() is not None)
    (tmp_path / "hold").unlink()
    told, said = (text.decode() for text in process.communicate(timeout=300))
    assert process.returncode == 143, said
    assert "the same command goes on" in said
    kept = committed(out)
    assert len(kept) == 3
    # What was begun was committed, nothing was computed for nothing.
    assert sorted(line.split()[1] for line in calls.read_text().splitlines() if line.startswith("frames")) == kept
    [summary] = [json.loads(path.read_text()) for path in (out / "runs").iterdir()]
    assert summary["stopped"]
    last = json.loads(told.splitlines()[-1])
    assert [last[name] for name in ("run_id", "counts", "stopped")] == [summary["run_id"], summary["counts"], True]
    assert last["counts"] == {"videos": 10, "done": len(kept), "skipped": 0, "failed": 0}
    assert last["left"] == 10 - len(kept)
    assert not list((out / "errors").glob("*.parquet"))


def test_a_run_that_is_asked_to_stop_while_ray_starts(tmp_path, frames_profile):
    make_clip(tmp_path / "clip.mp4", seconds=1)
    command = [sys.executable, "-m", "vemoclap_batch", "extract", tmp_path / "clip.mp4", "-o", tmp_path / "out"]
    process = subprocess.Popen(
        [*command, "--profile", frames_profile, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    # Its own: the session's Ray is another process's.
    wait_for(lambda: process.poll() is not None or psutil.Process(process.pid).children())
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    told, said = (text.decode() for text in process.communicate(timeout=300))
    assert process.returncode == 143, said
    last = json.loads(told.splitlines()[-1])
    assert (last["stopped"], last["left"], last["counts"]["failed"]) == (True, 1, 0)
