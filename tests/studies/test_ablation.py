"""Ablations on a store with known structure: they show what carries the label, and no trial runs twice."""

import json
import os
import shutil
import signal
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import dying
from tests.pipeline.feature_store import PROFILE
from vemoclap_batch.config import LABELS, load_config
from vemoclap_batch.errors import ConfigError, RunBroken
from vemoclap_batch.extractors.base import Result
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.media.windows import evenly_spaced
from vemoclap_batch.pipeline.commit import Committer
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.pipeline.rows import with_results
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.studies.ablation import Options, ablate, arms
from vemoclap_batch.studies.ablation_data import Frames, find_frames, is_contained, ladder

pytestmark = pytest.mark.numeric

WANTED, PER_LABEL = 7, 20
HYPER = {"max_steps": 60, "evaluate_every": 20, "lr": 2e-2, "patience": 60}
OPTIONS = {"seeds": [1, 2], "d_model": 16, "heads": 2, "dropout": 0.1, "hyper": HYPER}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Clip tells the label in every frame but the first, faces (here ``beats``) and what is said are noise.

    Faces are in some of the frames only, as real ones are.
    """
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "tiny.yaml").write_text(PROFILE)
    specs = resolve(config(folder))
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat(np.arange(6), PER_LABEL))
    ids = [f"v{at}" for at in range(len(truth))]
    videos = pa.table({"video_id": ids, "content_key": ["1"] * len(ids), "uri": ids})
    store = Store(str(folder / "out"))
    times, results = np.arange(WANTED) / 3, {name: [] for name in specs}
    for label in truth:
        points = rng.normal(size=(WANTED, 3)) * 0.2
        points[1:, :2] += [np.cos(label * np.pi / 3), np.sin(label * np.pi / 3)]
        seen = rng.random(WANTED) < 0.6
        noise, said = rng.normal(size=(seen.sum(), 3)), rng.normal(size=(1, 2))
        results["clip"].append(Result(points.astype(np.float32), times, times, {"brightness": 0.5}))
        results["beats"].append(Result(noise.astype(np.float32), times[seen], times[seen], {"brightness": 0.5}))
        results["asr"].append(Result(np.zeros((0, 0), np.float32), extras={"text": ""}))
        results["asr_sentiment"].append(Result(said.astype(np.float32)))
    with Committer(store, specs, find_pending(store, videos, specs, 3), "r1") as committer:
        for name, spec in specs.items():
            committer.add(with_results(videos, spec, results[name], 0.0, 0.0))
    rows = [
        dict.fromkeys(schemas.VIDEOS.names) | row | {"frame_times": times.tolist(), "run_id": "r1"}
        for row in videos.to_pylist()
    ]
    store.videos().append(pa.Table.from_pylist(rows, schema=schemas.VIDEOS))
    seconds = {"decode": 30.0, "clip": 84.0, "beats": 42.0, "asr": 60.0, "asr_sentiment": 12.0}
    stages = {name: {"items": 120, "failed": 0, "seconds": taken} for name, taken in seconds.items()}
    fingerprints = {name: spec.fingerprint for name, spec in specs.items()}
    store.write_json("runs/r1.json", {"stages": stages, "fingerprints": fingerprints})
    lines = ["video_id,label", *[f"{name},{LABELS[label]}" for name, label in zip(ids, truth, strict=True)]]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def config(folder):
    return load_config(str(folder / "tiny.yaml"), [f"sampling.frames={WANTED}"])


def run(folder, studies, **options):
    store = Store(str(folder / "out"))
    return ablate(store, str(folder / "labels.csv"), studies, config(folder), Options(**(OPTIONS | options)))


def by_name(found, study):
    return {row["name"]: row for row in found["studies"][study]}


@pytest.fixture(scope="module")
def killed(filled, address):
    """The job, killed when its third trial has ended, just before it keeps that; how many it kept."""
    trials = filled / "out" / "ablation" / "trials"
    command = dying(
        "/ablation/trials/", 3, "jobs/ablate.py", filled / "out", "--labels", filled / "labels.csv", "--seeds", "1,2",
        "--profile", filled / "tiny.yaml", "--set", f"sampling.frames={WANTED}", "--d-model", "16", "--heads",
        "2", "--dropout", "0.1", "--address", address,
        *[item for pair in HYPER.items() for item in ("--hyper", "=".join(map(str, pair)))],
    )  # fmt: skip
    job = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": os.getcwd()}, capture_output=True, text=True, check=False
    )
    assert job.returncode == -signal.SIGKILL, job.stderr
    return len(list(trials.glob("*.json")))


@pytest.fixture(scope="module")
def found(filled, killed, cluster):
    return run(filled, ["frames", "modalities", "fusion"])


def test_a_killed_job_goes_on_and_a_finished_one_trains_nothing(filled, killed, found):
    # 4 numbers of frames, 6 subsets and 4 fusions more, each with two seeds.
    assert killed == 2
    assert found["trials"] == {"run": 28 - killed, "kept": killed}
    again = run(filled, ["frames", "modalities", "fusion"])
    assert again["trials"] == {"run": 0, "kept": 28}
    assert again["studies"] == found["studies"]


def test_only_what_changed_is_trained_again(filled, found, cluster, tmp_path):
    for name in ("tiny.yaml", "labels.csv"):
        shutil.copy(filled / name, tmp_path)
    shutil.copytree(filled / "out", tmp_path / "out")
    trials = sorted((tmp_path / "out" / "ablation" / "trials").glob("*.json"))
    gone = json.loads(trials[0].read_text())
    trials[0].unlink()
    again = run(tmp_path, ["frames", "modalities", "fusion"])
    assert again["trials"]["run"] == 1
    # All chance is keyed: the same trial ends the same.
    assert json.loads(trials[0].read_text())["hits"] == gone["hits"]
    labels = (tmp_path / "labels.csv").read_text().splitlines()
    labels[1] = labels[1].split(",")[0] + "," + ("joy" if not labels[1].endswith("joy") else "fear")
    (tmp_path / "other.csv").write_text("\n".join(labels) + "\n")
    other = ablate(
        Store(str(tmp_path / "out")), str(tmp_path / "other.csv"), ["frames"], config(tmp_path),
        Options(**(OPTIONS | {"seeds": [1], "numbers": [7]})),
    )  # fmt: skip
    assert other["trials"] == {"run": 1, "kept": 0}


def test_the_modality_that_carries_the_label_shows(found):
    rows = by_name(found, "modalities")
    assert list(rows) == [
        "all", "without asr_sentiment", "without beats", "without clip", "asr_sentiment alone", "beats alone",
        "clip alone",
    ]  # fmt: skip
    assert rows["clip alone"]["accuracy"] > 0.85
    assert rows["all"]["accuracy"] > 0.7
    for name in ("without clip", "beats alone", "asr_sentiment alone"):
        assert rows[name]["accuracy"] < 0.4
        assert rows[name]["difference"] < -0.3


def test_frames_without_the_label_do_not_help_and_more_do(found):
    rows = by_name(found, "frames")
    assert list(rows) == ["n = 1", "n = 2", "n = 4", "n = 7"]
    assert rows["n = 1"]["accuracy"] < 0.4
    assert rows["n = 7"]["accuracy"] > 0.7
    assert rows["n = 7"]["difference"] == 0
    flops = [row["flops"] for row in rows.values()]
    assert flops == sorted(set(flops))


def test_extraction_is_counted_by_what_the_runs_measured(found):
    frames, modalities = by_name(found, "frames"), by_name(found, "modalities")
    # Seconds a video: decode 0.25, clip 0.7 and faces 0.35 by the frame, speech 0.5 and its sentiment 0.1.
    assert frames["n = 7"]["extract_s"] == pytest.approx(0.25 + 0.7 + 0.35 + 0.6)
    assert frames["n = 1"]["extract_s"] == pytest.approx(0.25 + (0.7 + 0.35) / 7 + 0.6)
    assert modalities["clip alone"]["extract_s"] == pytest.approx(0.25 + 0.7)
    assert modalities["asr_sentiment alone"]["extract_s"] == pytest.approx(0.25 + 0.6)


def test_every_fusion_learns_and_has_its_cost(found):
    rows = by_name(found, "fusion")
    assert list(rows) == ["cross-attention", "concatenation", "addition", "transformer", "late"]
    assert all(row["accuracy"] > 0.5 for row in rows.values())
    assert rows["cross-attention"]["parameters"] > rows["concatenation"]["parameters"] > rows["addition"]["parameters"]
    assert all(row["one_ms"] > 0 and row["predict_mib"] > 0 for row in rows.values())


def test_tables_say_what_they_are_made_of(filled, found):
    for study in ("frames", "modalities", "fusion"):
        folder = filled / "out" / "ablation" / study
        table, page = pq.read_table(folder / "table.parquet").to_pylist(), (folder / "table.md").read_text()
        assert [row["name"] for row in table] == list(by_name(found, study))
        for text in ("Preset quick, lr=0.02", "seeds 1, 2", "stratified by label, 80% train, seed 1", "24 videos"):
            assert text in page
        for name, fingerprint in found["about"]["fingerprints"].items():
            assert f"{name} {fingerprint}" in page
            assert f"{name}={fingerprint}" in table[0]["fingerprints"]
        assert table[0]["preset"] == found["about"]["preset"]
        assert table[0]["seeds"] == [1, 2]
        for name in ("accuracy.png", "cost.png"):
            assert (folder / name).read_bytes()[:4] == b"\x89PNG"


def test_a_trial_that_breaks_off_is_named(filled, cluster):
    with pytest.raises(RunBroken, match=r"n = 1, seed 1: .*the loss is not finite"):
        run(filled, ["frames"], numbers=[1], seeds=[1], hyper=HYPER | {"lr": 1e30})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"numbers": [1, 8]}, "only 7 frames were extracted"),
        ({"seeds": [1, 1]}, "--seeds 1,1"),
        ({"split": "train"}, "train or choose the best step"),
        ({"split": "nowhere"}, "splits: test, train"),
        ({"heads": 3}, "a multiple of heads"),
        ({"preset": "slow"}, "--preset 'slow'"),
    ],
)
def test_wrong_wishes_are_refused_before_anything_runs(filled, options, said):
    with pytest.raises(ConfigError, match=said):
        run(filled, ["frames"], **options)


# ---- frames


def test_of_31_frames_fewer_are_the_very_ones_that_extracting_fewer_takes():
    assert ladder(31) == [1, 2, 4, 7, 16, 31]
    for length in range(31, 3000):
        whole = evenly_spaced(length, 31)
        for n in (1, 2, 4, 16, 31):
            assert np.array_equal(whole[evenly_spaced(31, n)], evenly_spaced(length, n))
        # Of seven one may fall exactly between two frames, where rounding is anyone's guess.
        apart = np.abs(whole[evenly_spaced(31, 7)] - evenly_spaced(length, 7))
        assert apart.max() <= 1
        assert all(number * (length - 1) % 6 == 3 for number in np.flatnonzero(apart))


def test_of_32_frames_they_are_not_and_the_error_is_told():
    assert ladder(32) == [1, 2, 4, 8, 16, 32]
    assert [n for n in ladder(32) if is_contained(32, n)] == [1, 2, 32]
    frames = Frames(32, np.array([32, 32, 5]), {}, [])
    length = 31 * 1000 + 1
    apart = np.abs(evenly_spaced(length, 32)[evenly_spaced(32, 16)] - evenly_spaced(length, 16)) / (length - 1)
    mean, most = frames.position_error(16)
    assert most == pytest.approx(apart.max(), abs=1e-4)
    # The third video has five frames, all of which both take.
    assert mean == pytest.approx((2 * apart.sum()) / 37, abs=1e-4)
    assert most <= 0.5 / 31
    assert frames.position_error(32) == frames.position_error(2) == frames.position_error(1) == (0, 0)
    every = np.unique(np.concatenate([evenly_spaced(3 * 5 * 7 * 31 * 10 + 1, n) for n in ladder(32)]))
    assert len(every) == 52


def test_faces_are_those_of_the_frames_that_are_kept(filled):
    store = Store(str(filled / "out"))
    from vemoclap_batch.training.fit import select_for_training

    selected = select_for_training(store, config(filled), None, {})
    videos = store.current_videos().select(["video_id", "content_key"])
    frames = find_frames(store, selected, videos)
    assert frames.wanted == WANTED
    assert frames.notes == []
    kept = frames.kept(4, ["clip", "beats", "asr_sentiment"])
    assert set(kept) == {"clip", "beats"}
    times = selected["beats"].table(store).read(["start_s"]).to_pylist()
    start_s = {row["video_id"]: np.array(row["start_s"]) for row in times}
    for name, clip, faces in zip(videos["video_id"].to_pylist(), kept["clip"], kept["beats"], strict=True):
        assert clip.tolist() == [0, 2, 4, 6]
        assert set(start_s[name][faces]) == set(start_s[name]) & set(np.array([0, 2, 4, 6]) / 3)


def test_of_two_features_no_line_is_there_twice():
    lines = arms("modalities", ["clip", "beats"], [], 16)
    assert [arm.name for arm in lines] == ["all", "beats alone", "clip alone"]
    assert [arm.name for arm in arms("modalities", ["clip"], [], 16)] == ["all"]
