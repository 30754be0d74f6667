"""The measurements of a GPU work without one, on toys; how long anything took is not asked."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bench import gpu
from bench.videos import write_video
from tests.commands import here
from tests.tiny import FRAMES_PROFILE

JOBS = Path(__file__).parents[2] / "jobs"
#: In place of Python: notes its arguments, does nothing for long at `batches`, fails at `weights`.
_STUB = """#!/bin/sh
[ "$1" = - ] && exit 0
shift 2
echo "$@" >>"$NOTES"
case "$1" in weights) exit 7;; batches) exec sleep 60;; esac
"""


@pytest.fixture(scope="module")
def job():
    """jobs/benchmark.py's own main."""
    spec = importlib.util.spec_from_file_location("benchmark_job", JOBS / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def models(job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu") / "models"
    done = here(job, "gpu", "weights", folder, "--quick")
    assert done.returncode == 0, done.stderr
    return folder


def rows(path):
    return json.loads(path.read_text())["rows"]


def test_every_model_is_compared_and_timed(job, models, tmp_path):
    for part in ("parity", "batches"):
        done = here(job, "gpu", part, models, "--device", "cpu", "--quick", "--out", tmp_path / f"{part}.json")
        assert done.returncode == 0, done.stderr
    names = ["asr", "beats", "clip", "face_emotion", "face_emotion: expressions", "asr_sentiment"]
    compared, timed = rows(tmp_path / "parity.json"), rows(tmp_path / "batches.json")
    assert [row["model"] for row in compared] == names
    # Against itself; a random detector finds no face, speech has no feature.
    assert {row["relative_error"] for row in compared} == {0, None}
    assert [row["relative_error"] is None for row in compared] == [name in {"asr", "face_emotion"} for name in names]
    assert [(row["model"], row["clips"]) for row in timed] == [(name, size) for name in names for size in (1, 2)]
    assert all(row["ms_per_clip"] > 0 for row in timed)
    done = here(job, "gpu", "table", tmp_path)
    assert done.returncode == 0
    assert done.stdout.count("face_emotion: expressions") == 3


def test_whisper_is_timed_in_every_arithmetic(job, models, tmp_path):
    done = here(job, "gpu", "whisper", models, "--device", "cpu", "--quick", "--out", tmp_path / "whisper.json")
    assert done.returncode == 0, done.stderr
    found = [(row["compute_type"], row["beams"], row["windows"]) for row in rows(tmp_path / "whisper.json")]
    assert found == [(kind, beams, size) for kind in ("float32", "int8_float32") for beams in (5, 1) for size in (1, 2)]


def test_a_run_has_a_gpu_chain_where_ray_counts_a_gpu(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    profile = yaml.safe_load(FRAMES_PROFILE)
    profile["extractors"]["clip"]["resources"] = {"gpu": True}
    (models / "profile.yaml").write_text(yaml.safe_dump(profile))
    clip = write_video(tmp_path / "clip.mp4", 2, size=(320, 180), fps=5)
    out = tmp_path / "chains.json"
    command = ["gpu", "chains", models, "--clips", clip, "--count", 2, "--chains-per-gpu", 2, "--device", "cpu"]
    words = [sys.executable, JOBS / "benchmark.py", *command, "--out", out]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [row] = rows(out)
    assert row["videos"] == 2
    assert row["chains_per_gpu"] == 2
    assert [stage.rpartition(" ")[0] for stage in row["plan"]] == ["cpu chain", "gpu chain"]
    assert 0 < row["first_commit_s"] <= row["wall_s"]
    assert row["gpu_busy_between_commits"] is None


def test_what_nvidia_smi_saw_is_of_the_time_asked_for():
    looks = gpu.Looks([(1.0, 0.0, 100.0), (2.0, 0.5, 300.0), (3.0, 1.0, 200.0), (4.0, 0.0, 100.0)])
    assert looks.busy(2, 3) == 0.75
    assert looks.memory_mib(2.5) == 200
    assert gpu.Looks().busy() is gpu.Looks().memory_mib() is None


def test_a_part_that_fails_or_takes_too_long_stops_no_other(tmp_path):
    stub, notes = tmp_path / "python", tmp_path / "notes"
    stub.write_text(_STUB)
    stub.chmod(0o755)
    clip = tmp_path / "clip.mp4"
    clip.touch()
    environment = {**os.environ, "PYTHON": str(stub), "NOTES": str(notes), "LIMIT_S": "8"}
    done = subprocess.run(
        ["bash", JOBS / "bench" / "gpu.sh", tmp_path / "out", clip, "--quick"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    asked = [line.split()[0] for line in notes.read_text().splitlines()]
    assert asked == ["weights", *["chains"] * 5, "whisper", "batches", "table"]
    assert done.returncode == 1
    assert "weights: exit status 7" in done.stdout
    assert "batches: exit status 124" in done.stdout
    assert "parity: no time left" in done.stdout
