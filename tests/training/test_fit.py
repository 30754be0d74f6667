"""Training and scoring on a store: what is learnt, what is said of it, and that a kill changes nothing."""

import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event

from tests.commands import dying
from tests.pipeline.feature_store import make_store
from vemoclap_batch import Output, predict
from vemoclap_batch.config import LABELS, load_config
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.dataset import find_labelled, open_data, stored_bytes
from vemoclap_batch.fusion.evaluation import score
from vemoclap_batch.fusion.selection import select
from vemoclap_batch.store.store import Store
from vemoclap_batch.training.fit import fit, seed_folder

pytestmark = pytest.mark.numeric

HYPER = {"max_steps": 60, "evaluate_every": 20, "lr": 3e-3}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("fit") / "made", shards=4)


def run(filled, checkpoint, **options):
    options = {"preset": "quick", "d_model": 16, "heads": 2, "dropout": 0.2, "hyper": HYPER} | options
    labels = options.pop("labels", filled / "labels.csv")
    config = load_config(str(filled / "tiny.yaml"))
    return fit(Store(str(filled / "out")), str(labels), str(checkpoint), config, **options)


def weights(checkpoint):
    return load_file(checkpoint / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def scalars(folder):
    """TensorBoard's points: (tag, step) → values, in the order written (records are length, crc, data, crc)."""
    found = {}
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                found.setdefault((value.tag, event.step), []).append(value.simple_value)
    return found


@pytest.fixture(scope="module")
def trained(filled):
    return run(filled, filled / "ckpt", d_model=32, hyper={"lr": 1e-2, "max_steps": 200, "evaluate_every": 50})


def test_what_is_in_the_features_is_learnt_and_the_report_says_from_what(filled, trained, tmp_path):
    assert trained["features"] == ["asr_sentiment", "beats", "clip"]
    assert trained["n_train"] + trained["n_validation"] == 6 * 30 * 0.8
    assert trained["preset"].startswith("quick, lr=0.01, max_steps=200")
    result = score(Store(str(filled / "out")), str(filled / "ckpt"), str(filled / "labels.csv"), folder=str(tmp_path))
    assert result["accuracy"] > 0.8
    assert result["n"] == 36
    assert result["split_source"] == "stratified by label, 80% train, seed 1"
    assert result["preset"] == trained["preset"]
    assert result["blacklist"] is None
    assert result["leaks"] is None
    assert result["fingerprints"].keys() == {"clip", "beats", "asr_sentiment"}
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    for name in ("confusion.png", "reliability.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("trained")
def test_curves_are_there(filled):
    found = scalars(filled / "ckpt" / "tensorboard")
    assert {tag for tag, _ in found} == {"loss/training", "accuracy/validation", "lr"}
    assert {step for _, step in found} == {50, 100, 150, 200}
    card = Checkpoint.load(filled / "ckpt").card
    assert [found["accuracy/validation", step][0] for step in (50, 100, 150, 200)] == pytest.approx(
        card["history"]["accuracies"]
    )
    assert not (filled / "ckpt" / ".state").exists()


@pytest.mark.usefixtures("trained")
def test_prediction_sets_are_those_of_the_validation_videos(filled):
    sets, card = Checkpoint.load(filled / "ckpt").sets, Checkpoint.load(filled / "ckpt").card
    assert sum(sets.examples.values()) == card["n_validation"]
    result = score(Store(str(filled / "out")), str(filled / "ckpt"), str(filled / "labels.csv"), split="all")
    scores = result["prediction_sets"]
    assert 0.8 < scores["coverage"] <= 1
    assert 1 <= scores["mean_size"] <= len(result["labels"])
    predict(filled / "out", filled / "ckpt", profile=str(filled / "tiny.yaml"))
    for row in Output(filled / "out").predictions().to_pylist():
        assert row["label_set"][0] == row["label"]
        assert all(row[f"p_{label}"] >= sets.thresholds[label] for label in row["label_set"][1:])


@pytest.mark.usefixtures("trained")
def test_a_score_on_videos_it_was_trained_on_says_that_it_leaks(filled):
    result = score(Store(str(filled / "out")), str(filled / "ckpt"), str(filled / "labels.csv"), split="all")
    assert "of the 180 videos scored, 132 of them trained the model and 12 of them chose its step" in result["leaks"]
    assert result["leaks"] in result["model_notes"]


def test_a_checkpoint_whose_card_says_so_leaks_whatever_it_is_scored_on(filled, trained, tmp_path):
    checkpoint = Checkpoint.load(filled / "ckpt")
    checkpoint.card = {"leaks": "trained on 90 % of everything", "notes": ["imported"]}
    checkpoint.save(tmp_path / "theirs")
    result = score(Store(str(filled / "out")), str(tmp_path / "theirs"), str(filled / "labels.csv"))
    assert result["leaks"] == "trained on 90 % of everything"
    assert result["model_notes"] == ["imported", "trained on 90 % of everything"]


def test_test_videos_are_never_looked_at(filled, tmp_path):
    """Their labels may be anything: the weights stay the same."""
    rows = [line.split(",") for line in (filled / "labels.csv").read_text().split()[1:]]
    for name, wrong in (("right", False), ("wrong", True)):
        lines = [
            f"{video},{'joy' if wrong and at % 3 == 0 else label},{'test' if at % 3 == 0 else 'train'}"
            for at, (video, label) in enumerate(rows)
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(["video_id,label,split", *lines]))
        result = run(filled, tmp_path / name, labels=tmp_path / f"{name}.csv")
        assert result["split"] == "the labels file's column split"
    assert same(weights(tmp_path / "right"), weights(tmp_path / "wrong"))


def test_validation_videos_of_the_labels_file_choose_the_step(filled, tmp_path):
    rows = [line.split(",") for line in (filled / "labels.csv").read_text().split()[1:]]
    names = ["train", "train", "validation", "test"]
    lines = [f"{video},{label},{names[at % 4]}" for at, (video, label) in enumerate(rows)]
    (tmp_path / "labels.csv").write_text("\n".join(["video_id,label,split", *lines]))
    result = run(filled, tmp_path / "ckpt", labels=tmp_path / "labels.csv")
    assert (result["n_train"], result["n_validation"], result["validation"]) == (90, 45, "the labels file's")


def test_the_order_of_the_labels_file_makes_no_difference(filled, tmp_path):
    head, *lines = (filled / "labels.csv").read_text().split()
    (tmp_path / "other.csv").write_text("\n".join([head, *reversed(lines)]))
    run(filled, tmp_path / "first")
    run(filled, tmp_path / "second", labels=tmp_path / "other.csv")
    assert same(weights(tmp_path / "first"), weights(tmp_path / "second"))


def test_features_that_stream_give_the_same_weights(filled, tmp_path):
    run(filled, tmp_path / "memory", stream=False)
    run(filled, tmp_path / "disk", stream=True)
    assert same(weights(tmp_path / "memory"), weights(tmp_path / "disk"))


def test_size_decides_whether_features_stream(filled):
    store = Store(str(filled / "out"))
    selected = select(store, {"clip": "tiny/colour", "asr_sentiment": "tiny/length"})
    found = find_labelled(store, str(filled / "labels.csv"), selected, LABELS)
    held = open_data(store, selected, found.videos, found.labels)
    total = sum(array.nbytes for arrays in held.features.values() for array in arrays)
    # An empty list takes a place too.
    assert total <= stored_bytes(store, selected) <= total + 4 * 180
    spooled = open_data(store, selected, found.videos, found.labels, memory=total - 1)
    assert all(isinstance(array.base.base, np.memmap) for array in spooled.features["clip"])
    rows = [170, 3, 3, 60]
    for name, arrays in held.subset(rows).features.items():
        assert all(
            np.array_equal(a, b)
            for a, b in zip(arrays, spooled.part(range(180)).subset(rows).features[name], strict=True)
        )


def test_several_seeds_share_a_split_and_give_mean_and_deviation(filled, tmp_path):
    result = run(filled, tmp_path / "ckpt", seeds=[1, 2, 3])
    assert list(result["seeds"]) == ["seed-1", "seed-2", "seed-3"]
    run(filled, tmp_path / "alone", seed=2)
    assert same(weights(tmp_path / "alone"), weights(tmp_path / "ckpt" / "seed-2"))
    store, labels = Store(str(filled / "out")), str(filled / "labels.csv")
    scored = score(store, str(tmp_path / "ckpt"), labels, folder=str(tmp_path / "eval"))
    each = [score(store, seed_folder(str(tmp_path / "ckpt"), seed), labels) for seed in (1, 2, 3)]
    accuracies = [one["accuracy"] for one in each]
    assert scored["accuracy"] == pytest.approx(np.mean(accuracies))
    assert scored["accuracy_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert scored["confusion_matrix"] == np.sum([one["confusion_matrix"] for one in each], axis=0).tolist()
    assert scored["leaks"] is None
    assert (tmp_path / "eval" / "reliability.png").exists()


def test_a_finished_training_is_not_done_again_and_another_one_is(filled, tmp_path):
    first = run(filled, tmp_path / "ckpt")
    before = (tmp_path / "ckpt" / "model.safetensors").stat().st_mtime_ns
    assert run(filled, tmp_path / "ckpt") == first
    assert (tmp_path / "ckpt" / "model.safetensors").stat().st_mtime_ns == before
    run(filled, tmp_path / "ckpt", hyper={**HYPER, "class_weights": True, "label_smoothing": 0.1})
    assert (tmp_path / "ckpt" / "model.safetensors").stat().st_mtime_ns > before


def test_all_mistakes_are_named(filled, tmp_path):
    with pytest.raises(ConfigError) as caught:
        run(filled, tmp_path / "x", hyper={"lr": -1, "depth": 3})
    assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == ["--hyper.lr = -1", "--hyper.depth = 3"]
    for options, expected in (
        ({"preset": "slow"}, "--preset 'slow'"),
        ({"seeds": [1, 1]}, "--seeds 1,1"),
        ({"workers": 0}, "--workers 0"),
        ({"heads": 3}, "multiple of heads"),
    ):
        with pytest.raises(ConfigError, match=expected):
            run(filled, tmp_path / "x", **options)


def test_checkpoints_of_different_presets_are_not_averaged(filled, tmp_path):
    run(filled, tmp_path / "seed-1")
    run(filled, tmp_path / "seed-2", hyper={**HYPER, "max_steps": 40})
    with pytest.raises(ConfigError, match="seed-2: trained with preset"):
        score(Store(str(filled / "out")), str(tmp_path), str(filled / "labels.csv"))


# ---- killed and gone on with


def killed_after(states, filled, checkpoint):
    """Train in a process that is killed when it would save its state once more than so often."""
    command = dying(
        r"/\.state/training\.pt$", states + 1,
        ROOT / "jobs" / "train.py", filled / "out", "--labels", filled / "labels.csv", "-o", checkpoint,
        "--profile", str(filled / "tiny.yaml"), "--preset", "quick", "--d-model", "16", "--heads", "2",
        "--hyper", "max_steps=200", "--hyper", "modality_dropout=0.2", "--save-every", "0",
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def saved_step(path):
    """How far a state is."""
    return torch.load(path, weights_only=True)["state"]["progress"]["step"]


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(filled, tmp_path, capsys):
    options = {"dropout": 0.5, "hyper": {"max_steps": 200, "modality_dropout": 0.2}}
    whole = run(filled, tmp_path / "whole", **options)
    state = tmp_path / "killed" / ".state" / "training.pt"
    killed = []
    for states in (45, 70):
        killed_after(states, filled, tmp_path / "killed")
        killed.append(saved_step(state))
    assert 40 <= killed[0] < killed[1] < 200
    done = run(filled, tmp_path / "killed", **options)
    assert f"resuming from step {killed[1]}" in capsys.readouterr().err
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert whole["history"] == done["history"]
    assert not state.exists()


def test_a_damaged_state_is_named(filled, tmp_path):
    state = tmp_path / "ckpt" / ".state" / "training.pt"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match="damaged"):
        run(filled, tmp_path / "ckpt")


def test_a_state_of_another_training_is_not_gone_on_from(filled, tmp_path):
    from vemoclap_batch.fusion.checkpoint import TrainingState
    from vemoclap_batch.store.folder import Folder

    state = TrainingState(Folder(tmp_path / "ckpt" / ".state"), "another")
    state.save({})
    run(filled, tmp_path / "ckpt")
    run(filled, tmp_path / "fresh")
    assert same(weights(tmp_path / "ckpt"), weights(tmp_path / "fresh"))


def test_the_blacklist_that_the_labels_file_names_is_in_every_report(filled, tmp_path):
    head, *lines = (filled / "labels.csv").read_text().split()
    (tmp_path / "labels.csv").write_text("\n".join([f"{head},blacklist", *(f"{line},problems.txt" for line in lines)]))
    assert run(filled, tmp_path / "ckpt", labels=tmp_path / "labels.csv")["blacklist"] == "problems.txt"
    result = score(Store(str(filled / "out")), str(tmp_path / "ckpt"), str(tmp_path / "labels.csv"))
    assert result["blacklist"] == "problems.txt"
