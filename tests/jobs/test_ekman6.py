"""Ekman-6 in miniature, from a folder of clips to the page: killed half-way, gone on with, done again for nothing."""

import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.clips import make_clip, sine
from tests.commands import dying, here
from vemoclap_batch.config import LABELS

pytestmark = pytest.mark.numeric

ROOT = Path(__file__).parents[2]
PER_CLASS = 6
#: The colour of a class' clips; what tests.tiny makes of frames is their mean colour.
COLOURS = ((220, 30, 30), (30, 160, 30), (30, 30, 200), (230, 220, 40), (60, 60, 60), (200, 60, 200))
PROFILE = """
sampling: {{frames: 4}}
extractors:
  clip: {{class: "tests.tiny:TinyFrames", calls: {calls}}}
  asr: {{class: "tests.tiny:TinySound"}}
  asr_sentiment: {{class: "tests.tiny:TinyText", input: asr}}
"""
TRAINING = [
    "--preset", "quick", "--seeds", "1,2", "--d-model", "16", "--heads", "2", "--dropout", "0.1",
    *[f"--hyper={setting}" for setting in ("lr=1e-2", "max_steps=300", "evaluate_every=50")],
]  # fmt: skip


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """Six classes, each of its colour; the last clip of every class has the next one's, and is on the blacklist."""
    top = tmp_path_factory.mktemp("ekman6")
    rng = np.random.default_rng(0)
    for at, label in enumerate(LABELS):
        for number in range(PER_CLASS):
            colour = COLOURS[(at + (number == PER_CLASS - 1)) % 6]
            frames = [
                np.clip(np.array(colour) + rng.normal(0, 8, (48, 64, 3)), 0, 255).astype(np.uint8) for _ in range(6)
            ]
            (top / "data" / label).mkdir(parents=True, exist_ok=True)
            make_clip(top / "data" / label / f"{label}_{number}.mp4", frames=frames, audio=sine(0.5))
    wrong = [f"{label}_{PER_CLASS - 1}.mp4" for label in LABELS]
    (top / "a <b>list.txt").write_text("\n".join(["# of the wrong colour", *wrong]) + "\n")
    # Which half a clip is in is given, so that the wrong ones are in both.
    rows = [f"{label}_{number}.mp4,{'test' if number % 2 else 'train'}" for label in LABELS for number in range(5)]
    rows += [f"{name},{'test' if at % 2 else 'train'}" for at, name in enumerate(wrong)]
    (top / "split.csv").write_text("file,split\n" + "\n".join(rows) + "\n")
    (top / "mini.yaml").write_text(PROFILE.format(calls=top / "calls.txt"))
    return top


def words(mini, address):
    return [
        "jobs/ekman6.py", str(mini / "data"), "-o", str(mini / "out"), "--split", str(mini / "split.csv"),
        "--blacklist", str(mini / "a <b>list.txt"), "--profile", str(mini / "mini.yaml"), "--address", address,
        *TRAINING, "--json",
    ]  # fmt: skip


def run(command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def done(mini, address):
    """The report of a run that was killed between two trainings and started again."""
    killed = run(dying("/models/as-given/seed-2/", 1, *words(mini, address)))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (mini / "out" / "ekman6" / "models" / "as-given" / "seed-1" / "model.json").exists()
    assert not (mini / "out" / "ekman6" / "report.json").exists()
    whole = run([sys.executable, *words(mini, address)])
    assert whole.returncode == 0, whole.stderr
    return json.loads(whole.stdout.splitlines()[-1])


def files(mini):
    paths = [path for path in (mini / "out").rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in paths if path.suffix in {".safetensors", ".parquet"}}


@pytest.fixture
def job(monkeypatch):
    """The job as a module of this process."""
    monkeypatch.syspath_prepend(ROOT / "jobs")
    return importlib.import_module("ekman6")


def test_a_killed_job_goes_on_and_a_finished_one_trains_and_extracts_nothing(mini, done, address, job):
    calls = [line for line in (mini / "calls.txt").read_text().splitlines() if line.startswith("frames")]
    assert len(calls) == len(set(calls)) == 6 * PER_CLASS
    before = {path: at for path, at in files(mini).items() if path.parent.name != "ekman6"}
    assert len([path for path in before if path.name == "model.safetensors"]) == 4
    again = here(job.main, *words(mini, address)[1:])
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1]) == done
    assert {path: at for path, at in files(mini).items() if path.parent.name != "ekman6"} == before


def test_each_model_is_scored_on_both_sets(done):
    scores = {(found["trained_on"], found["scored_on"]): found for found in done["scores"]}
    assert list(scores) == [(a, b) for a in ("as given", "cleaned") for b in ("as given", "cleaned")]
    assert [found["n"] for found in scores.values()] == [15, 12, 15, 12]
    assert scores["cleaned", "cleaned"]["accuracy"] > 0.9
    # Three of the fifteen have the colour of another class.
    assert scores["cleaned", "as given"]["accuracy"] == pytest.approx(0.8, abs=0.05)
    assert done["videos"]["cleaned"]["joy"] == {"train": 3, "test": 2}
    assert (done["failed"], done["split_source"]) == (0, "file split.csv")
    assert done["about"]["preset"] == "quick, lr=0.01, max_steps=300, evaluate_every=50"
    assert done["cards"]["cleaned"]["n_train"] + done["cards"]["cleaned"]["n_validation"] == 18


def test_the_page_shows_ours_beside_the_published(mini, done):
    folder = mini / "out" / "ekman6"
    assert json.loads((folder / "report.json").read_text()) == done
    # Well-formed: what is not markup cannot have become any.
    page = ElementTree.fromstring((folder / "report.html").read_text().removeprefix("<!doctype html>"))
    rows = [["".join(cell.itertext()) for cell in row.iter("td")] for row in next(page.iter("table")).iter("tr")]
    assert ["CTEN (CVPR 2023)", "as given", "as given", "58.2", "", "", ""] in rows
    best = done["scores"][3]
    assert [row[3] for row in rows if row[:3] == ["vemoclap_batch", "cleaned", "cleaned"]] == [
        f"{100 * best['accuracy']:.1f} ± {100 * best['accuracy_deviation']:.1f}"
    ]
    pictures = [image.get("src") for image in page.iter("img")]
    assert len(pictures) == 8
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert not list(page.iter("b"))
    assert "a <b>list.txt" in "".join(page.itertext())
    assert (folder / "analysis" / "analysis.md").exists()


@pytest.mark.parametrize(
    "wrong", [["--preset", "slow"], ["--seeds", "1,x"], ["--split", "nowhere.csv"], ["--profile", "nosuch"]]
)
def test_mistakes_are_told_before_anything_starts(mini, tmp_path, job, wrong):
    done = here(job.main, mini / "data", "-o", tmp_path / "out", *wrong)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert wrong[1] in done.stderr
    assert not (tmp_path / "out").exists()
