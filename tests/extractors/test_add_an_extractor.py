"""docs/add-an-extractor.md says what is so: its class, profile, test and command, as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.clips import make_clip

GUIDE = Path(__file__).parents[2] / "docs" / "add-an-extractor.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a reader would have put the two files."""
    code, _, _ = blocks("python")
    (tmp_path / "mean_colour.py").write_text(code)
    (profile,) = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(profile)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, folder):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_needs_no_ray(folder):
    _, _, test = blocks("python")
    run([sys.executable, "-c", test + "\nimport sys; assert 'ray' not in sys.modules"], folder)


def test_the_example_is_short_and_gives_nothing_without_frames(folder):
    code, _, test = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) < 40
    empty = test.split("red = ")[0] + (
        "clip = Clip('a', np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0), np.zeros(0, np.float32), 2.0)\n"
        "[result] = MeanColour(MeanColour.Settings(), Resources()).extract([clip])\n"
        "assert result.feature.shape == (0, 3) and result.extras == {'brightness': None}, result\n"
    )
    run([sys.executable, "-W", "error", "-c", empty], folder)


def test_the_command_extracts_it(folder):
    (folder / "videos").mkdir()
    blue = np.full((48, 64, 3), (0, 0, 255), np.uint8)
    make_clip(folder / "videos" / "blue.mp4", frames=[blue] * 20, audio=False)
    (command,) = blocks("bash")
    words = shlex.split(command)
    assert words[:2] == ["PYTHONPATH=.", "vemoclap-batch"]
    run([sys.executable, "-m", "vemoclap_batch", *words[2:]], folder)
    _, reading, _ = blocks("python")
    read = reading + "\nassert abs(table['feature'].to_numpy()[0][0] - [0, 0, 1]).max() < 0.02, table"
    assert "0.07" in run([sys.executable, "-c", read], folder)
