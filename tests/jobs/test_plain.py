"""The jobs by plain Python, without a submission: extract and train; the last line is what came of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clips import make_clip
from tests.pipeline.feature_store import make_store

ROOT = Path(__file__).parents[2]


def run(job, *words):
    done = subprocess.run(
        [sys.executable, ROOT / "jobs" / job, *map(str, words)], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.usefixtures("cluster")
def test_extract(tmp_path, frames_profile, address):
    clip = make_clip(tmp_path / "clip.mp4", seconds=1)
    summary = run("extract.py", clip, "-o", tmp_path / "out", "--profile", frames_profile, "--address", address)
    assert summary["counts"] == {"videos": 1, "done": 1, "skipped": 0, "failed": 0}


def test_train(tmp_path):
    filled = make_store(tmp_path / "filled", per_label=5)
    card = run(
        "train.py", filled / "out", "--labels", filled / "labels.csv", "-o", tmp_path / "ckpt", "--profile",
        filled / "tiny.yaml", "--preset", "quick", "--hyper", "max_steps=20", "--d-model", "8",
    )  # fmt: skip
    assert card["steps"] == 20
    assert (tmp_path / "ckpt" / "model.safetensors").is_file()
