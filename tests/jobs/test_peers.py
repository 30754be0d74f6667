"""The ways that others have give what the pipeline gives; how long anything took is not asked."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from bench import peers
from bench.videos import write_video
from bench.ways import WAYS
from tests.commands import here
from tests.tiny import PROFILE
from vemoclap_batch.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Two short clips and a profile, which the processes of the benchmark find as well."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    clips = [write_video(tmp_path / f"{number}.mp4", 2, size=(320, 180), fps=10, seed=number) for number in range(2)]
    profile = tmp_path / "tiny.yaml"
    profile.write_text(PROFILE)
    return clips, profile


def went(videos, wall_s, cpu_s=0.0, results=None):
    return peers.Went(videos, wall_s, 1.0, cpu_s, 2**20, results or {})


def test_all_ways_find_the_same(given):
    clips, profile = given
    done = here(peers.main, *clips, "--count", 2, "--profile", profile, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    installed = [way for way in WAYS if way != "daft" or importlib.util.find_spec("daft")]
    assert [row["way"].split()[0] for row in found["rows"]] == list(WAYS)
    assert [row["way"] for row in found["rows"] if row["wall_s"]] == installed
    assert all(found[f"times_as_fast_as_{way}"] > 0 for way in installed if way != "ours")
    assert found["settings"]["videos"] == [2]


def test_a_way_that_fails_says_why(given):
    clips, profile = given
    settings = ["extractors.asr.scale=-1"]
    with pytest.raises(RuntimeError, match="this model does not load"):
        peers.measure([str(clips[0])], 1, str(profile), settings, ["loop"])


def test_only_known_ways_are_gone():
    with pytest.raises(ConfigError, match="--only 'spark': expected some of loop, pools, daft, ours"):
        peers.measure([], only=["loop", "spark"])


def test_a_start_up_does_not_count_as_work():
    figures = peers._figures({
        "loop": [went(25, 60), went(100, 210)],  # 2 s a clip
        "daft": [went(25, 50), went(100, 125)],  # 1 s a clip
        "ours": [went(25, 25), went(100, 100)],  # 1 s a clip
    })  # fmt: skip
    assert figures == {
        "times_as_fast_as_loop": 2.1,
        "times_as_fast_as_loop_without_startup": 2,
        "times_as_fast_as_daft": 1.25,
        "times_as_fast_as_daft_without_startup": 1,
    }


def test_a_row_says_how_busy_the_cores_were():
    row = peers._row("ours", [went(20, 30, cpu_s=40), went(100, 110, cpu_s=160)])
    assert row["s_per_clip"] == 1
    assert row["cpu_s_per_clip"] == row["cores_busy"] == 1.5


def test_two_runs_that_do_not_tell_give_no_figure():
    assert peers._figures({"loop": [went(2, 9), went(4, 8)], "ours": [went(2, 1), went(4, 2)]}) == {
        "times_as_fast_as_loop": 4
    }


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (("hello", np.ones((2, 3), np.float32)), None),
        (("hello", np.ones((2, 3), np.float32) + 5e-5), None),
        (("hallo", np.ones((2, 3), np.float32)), "loop has the text 'hello', ours 'hallo'"),
        (("hello", np.ones((1, 3), np.float32)), "has shape"),
        (("hello", np.ones((2, 3), np.float32) + 5e-4), "are 0.0005 apart"),
        (("hello", np.full((2, 3), np.nan, np.float32)), "are nan apart"),
    ],
)
def test_what_differs_is_said(result, said):
    expected = {("v", "asr"): ("hello", np.ones((2, 3), np.float32))}
    if said is None:
        peers._check_same({"loop": expected, "ours": {("v", "asr"): result}})
    else:
        with pytest.raises(RuntimeError, match=said):
            peers._check_same({"loop": expected, "ours": {("v", "asr"): result}})


def test_a_missing_result_is_said():
    with pytest.raises(RuntimeError, match="loop has 1 results and ours 0"):
        peers._check_same({"loop": {("v", "asr"): (None, np.zeros(0))}, "ours": {}})
