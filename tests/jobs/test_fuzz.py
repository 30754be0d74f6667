"""Mutants of every kind through the true decode worker, and what the job says when one ends as none may."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fuzz.broken_files import mutants
from fuzz.mutants import boxes, kinds, mutate
from tests.clips import make_clip
from vemoclap_batch.errors import ErrorType

ROOT = Path(__file__).parents[2]
EVERYWHERE = ["bits", "header bits", "noise", "zeros", "cut out", "truncated"]
BOXED = ["swapped boxes", "dimensions", "durations", "huge sizes", "no samples", "sound rates"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "a clip.mp4"
    return make_clip(path, options={"g": "8"}, container_options={"movflags": "faststart"})


def fuzz(*arguments):
    command = [sys.executable, "jobs/fuzz_media.py", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.returncode < 2 else None, done.stderr


def test_one_mutant_of_each_kind_ends_well(clip, tmp_path):
    code, said, errors = fuzz(clip, "--count", 12, "--keep", tmp_path / "broken")
    assert code == 0, errors
    assert (said["mutants"], said["broken"]) == (12, [])
    assert list(said["by_kind"]) == EVERYWHERE + BOXED
    assert sum(said["results"].values()) == 12
    assert set(said["results"]) <= {"whole", "salvaged", *map(str, ErrorType)}
    assert said["slowest"]["seconds"] > 0
    assert 20 < said["peak_mib"] < 2000
    assert not (tmp_path / "broken").exists()


def test_mutants_that_take_too_long_are_named_and_kept(clip, tmp_path):
    keep = tmp_path / "broken"
    code, said, errors = fuzz(clip, "--count", 2, "--bound", 0.001, "--seed", 7, "--keep", keep)
    assert code == 1
    names = [outcome["name"] for outcome in said["broken"]]
    assert names == ["a clip 7-0 bits.mp4", "a clip 7-1 header bits.mp4"]
    assert "broken: a clip 7-0 bits.mp4: it took" in errors
    # The same seed gives the same bytes.
    assert {path.name: path.read_bytes() for path in keep.iterdir()} == {
        name: content for name, _, content in mutants([clip], 2, 7)
    }


def test_wrong_usage(tmp_path):
    code, _, errors = fuzz(tmp_path / "nowhere.mp4")
    assert code == 2
    assert "no such file" in errors


def test_every_kind_damages(clip, tmp_path):
    content = clip.read_bytes()
    assert kinds(content) == EVERYWHERE + BOXED
    audio = make_clip(tmp_path / "s.wav", video=False).read_bytes()
    assert kinds(audio) == EVERYWHERE
    for kind in kinds(content):
        made = [mutate(content, kind, np.random.default_rng(seed)) for seed in range(8)]
        assert len({*made, content}) > 4, kind
        same_length = {"cut out", "truncated"} ^ set(kinds(content))
        assert (len(made[0]) == len(content)) == (kind in same_length)
    assert clip.read_bytes() == content


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("dimensions", {b"tkhd", b"stsd"}),
        ("durations", {b"tkhd", b"mvhd", b"mdhd", b"elst", b"stts"}),
        ("sound rates", {b"mdhd", b"stsd", b"mp4a"}),
        ("no samples", {b"stts", b"ctts", b"stsc", b"stco", b"stss", b"stsz"}),
    ],
)
def test_a_field_is_changed_where_it_lies(clip, kind, changed):
    content = clip.read_bytes()
    leaves = [box for box in boxes(content) if box.kind in changed]
    for seed in range(20):
        made = mutate(content, kind, np.random.default_rng(seed))
        places = [at for at, (one, other) in enumerate(zip(content, made, strict=True)) if one != other]
        assert all(any(box.content <= at < box.end for box in leaves) for at in places)


def test_swapped_boxes_keep_every_byte(clip):
    content = clip.read_bytes()
    made = mutate(content, "swapped boxes", np.random.default_rng(0))
    assert made != content
    assert sorted(made) == sorted(content)
