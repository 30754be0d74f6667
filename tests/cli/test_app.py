"""The commands around the main job, on a store that the test fills: train, evaluate, predict, plan, manifest."""

import json
import os

import numpy as np
import pyarrow as pa
import pytest

from tests.commands import here
from tests.tiny import PROFILE
from vemoclap_batch.cli.app import main
from vemoclap_batch.config import LABELS, load_config
from vemoclap_batch.extractors.base import Result
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.pipeline.actors import with_results
from vemoclap_batch.pipeline.commit import Committer
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store

PER_LABEL = 30


def command(*arguments):
    """Run a command in this process."""
    return here(main, *arguments)


def last(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store whose videos' colours tell their label, a labels file without split and the profile."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "tiny.yaml").write_text(PROFILE)
    specs = resolve(load_config(str(folder / "tiny.yaml")))
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(6), PER_LABEL)
    ids = [f"v{at}" for at in range(len(truth))]
    videos = pa.table({"video_id": ids, "content_key": ["1"] * len(ids), "uri": [f"/clips/{name}.mp4" for name in ids]})
    store = Store(str(folder / "out"))
    committer = Committer(store, specs, find_pending(store, videos, specs, 3), "r1")
    results = {name: [] for name in specs}
    for label in truth:
        colours = rng.normal(size=(int(rng.integers(4, 20)), 3)) * 0.3 + [np.cos(label), np.sin(label), 0]
        times = np.arange(len(colours)) / 10
        results["clip"].append(Result(colours.astype(np.float32), times, times, {"brightness": 0.5}))
        results["asr"].append(Result(np.zeros((0, 0), np.float32), extras={"text": ""}))
        results["asr_sentiment"].append(Result(np.zeros((0, 2), np.float32)))
    for name, spec in specs.items():
        committer.commit(with_results(videos, spec, results[name], 0.0, 0.0))
    rows = [
        dict.fromkeys(schemas.VIDEOS.names) | row | {"duration_s": 2.0, "run_id": "r1"} for row in videos.to_pylist()
    ]
    store.videos().append(pa.Table.from_pylist(rows, schema=schemas.VIDEOS))
    lines = ["video_id,label", *[f"{name},{LABELS[label]}" for name, label in zip(ids, truth, strict=True)]]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(filled):
    done = command(
        "train", filled / "out", "--labels", filled / "labels.csv", "-o", filled / "ckpt", "--profile",
        filled / "tiny.yaml", "--preset", "quick", "--d-model", 32, "--json",
    )  # fmt: skip
    return last(done)


def test_training_learns_and_evaluation_says_so(filled, trained):
    assert trained["features"] == ["asr_sentiment", "clip"]
    assert trained["n_train"] + trained["n_validation"] == 6 * PER_LABEL * 0.8
    done = command(
        "evaluate", filled / "out", "--model", filled / "ckpt", "--labels", filled / "labels.csv",
        "-o", filled / "eval", "--profile", filled / "tiny.yaml", "--json",
    )  # fmt: skip
    scores = last(done)
    assert scores["n"] == 6 * PER_LABEL * 0.2
    assert scores["accuracy"] > 0.8
    assert "stratified by label" in scores["split_source"]
    assert json.loads((filled / "eval" / "metrics.json").read_text())["accuracy"] == scores["accuracy"]
    assert (filled / "eval" / "confusion.png").stat().st_size > 5_000


@pytest.mark.usefixtures("trained")
def test_predict_fills_the_table_once(filled):
    arguments = ("predict", filled / "out", "--model", filled / "ckpt", "--profile", filled / "tiny.yaml", "--json")
    first, second = last(command(*arguments)), last(command(*arguments))
    assert first["counts"] == {"new": 180, "skipped": 0, "incomplete": 0}
    assert second["counts"] == {"new": 0, "skipped": 180, "incomplete": 0}
    rows = Store(str(filled / "out")).predictions(first["table"], LABELS).read().to_pylist()
    for row in rows:
        shares = [row[f"p_{label}"] for label in LABELS]
        assert abs(sum(shares) - 1) < 1e-6
        assert row["confidence"] == max(shares) == row[f"p_{row['label']}"]
        assert (row["window_start_s"], row["window_end_s"], row["missing"]) == (0.0, 2.0, ["asr_sentiment"])


@pytest.mark.usefixtures("trained")
def test_features_of_another_space_are_refused_by_name(filled, tmp_path):
    done = command("label", filled, "-o", tmp_path / "o", "--profile", "lite", "--model", filled / "ckpt")
    assert done.returncode == 2
    (tmp_path / "clip.mp4").write_bytes(b"x")
    done = command("label", tmp_path, "-o", tmp_path / "o", "--profile", "lite", "--model", filled / "ckpt")
    assert done.returncode == 2
    assert "the model was trained on space tiny/colour, this is lite/" in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_profile_without_a_checkpoint_names_the_ways_out(filled, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"x")
    done = command("label", tmp_path, "-o", tmp_path / "o", "--profile", filled / "tiny.yaml")
    assert done.returncode == 2
    assert "--model" in done.stderr
    assert "extract" in done.stderr


def test_plan_starts_nothing(filled, tmp_path):
    (tmp_path / "new.mp4").write_bytes(b"x")
    found = last(command("plan", tmp_path, "-o", filled / "out", "--profile", filled / "tiny.yaml", "--json"))
    assert found["cells"]["clip"] == {"done": 0, "missing": 1, "given_up": 0}
    assert [stage["name"] for stage in found["plan"]["stages"]] == ["decode", "clip", "asr", "asr_sentiment"]


def test_manifest_and_its_mistakes(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    done = command("manifest", tmp_path, "-o", tmp_path / "list.csv")
    assert done.returncode == 0
    assert "1 videos written" in done.stdout
    assert str(tmp_path / "a.mp4") in (tmp_path / "list.csv").read_text()
    done = command("manifest", tmp_path, "-o", tmp_path / "list.txt")
    assert done.returncode == 2
    assert ".csv" in done.stderr


def test_help_explains_every_command():
    done = command("--help")
    for name in (
        "label",
        "extract",
        "predict",
        "train",
        "evaluate",
        "analyze",
        "suggest-blacklist",
        "plan",
        "manifest",
        "models",
        "import",
        "status",
        "retry",
        "compact",
        "gc",
        "demo",
    ):
        assert name in done.stdout
        assert command(name, "--help").returncode == 0


def test_addresses_that_may_not_be_read_are_refused_before_anything_starts(tmp_path):
    (tmp_path / "list.csv").write_text("uri\n/etc/passwd.mp4\nftp://host/a.mp4\n")
    done = command("plan", tmp_path / "list.csv", "--set", f"sources.roots=[{tmp_path}]")
    assert done.returncode == 2
    assert "may not be read ('/etc/passwd.mp4': it lies outside" in done.stderr
    assert "may not be read ('ftp://host/a.mp4': scheme 'ftp'" in done.stderr


def test_what_a_terminal_would_take_for_a_command_is_spelled_out(tmp_path, capsys):
    (tmp_path / "m.csv").write_text("uri,video_id\na.mp4,same\nb\x1b[31m.mp4,same\n")
    with pytest.raises(SystemExit) as left:
        main(["extract", str(tmp_path / "m.csv"), "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert "a control character in uri" in said
    assert "\x1b" not in said


def test_a_name_that_is_no_text_is_a_mistake(tmp_path, capsys):
    path = os.path.join(os.fsencode(tmp_path), b"\xff\x1b.mp4")
    with open(path, "wb") as stream:
        stream.write(b"x")
    with pytest.raises(SystemExit) as left:
        main(["extract", os.fsdecode(path), "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert (left.value.code, "in the name" in said, "\x1b" in said) == (2, True, False)
