"""Explanations: exact Shapley values of the features, the drop without each item, and the command."""

import json
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.commands import here
from tests.pipeline.feature_store import make_store
from tests.tiny import tiny_checkpoint
from vemoclap_batch.cli.app import main
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.data import Examples, to_tensors
from vemoclap_batch.fusion.explain import explain_examples, shapley_values
from vemoclap_batch.fusion.left_out import leave_out, of_any, subsets
from vemoclap_batch.fusion.model import FUSIONS, build
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec
from vemoclap_batch.store.store import Store

LABELS = ("joy", "fear", "anger")
SPEC = FusionSpec(
    features={
        "asr_sentiment": FeatureSpec(width=3, length=1, sequence=False),
        "beats": FeatureSpec(width=2, length=3, sequence=True, minimum=-1.0, maximum=2.0),
        "clip": FeatureSpec(width=4, length=5, sequence=True, minimum=-2.0, maximum=3.0),
        "face_emotion": FeatureSpec(width=3, length=4, sequence=True),
        "ocr_sentiment": FeatureSpec(width=3, length=1, sequence=False),
    },
    labels=LABELS,
    d_model=8,
    heads=2,
)


def checkpoint(seed, fusion="cross_attention", names=None, scale=1.0):
    """Random weights, large ones too: the probabilities are then near 0 and 1."""
    features = {name: feature for name, feature in SPEC.features.items() if names is None or name in names}
    torch.manual_seed(seed)
    model = build(SPEC.model_copy(update={"fusion": fusion, "features": features})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return Checkpoint(model, temperature=0.8)


def examples(seed, count=6, names=None):
    """Sequences from none to more items than are taken."""
    rng = np.random.default_rng(seed)
    features = {}
    for name, of in SPEC.features.items():
        if names is None or name in names:
            most = of.length + 3 if of.sequence else 2
            arrays = [rng.normal(size=(int(rng.integers(0, most)), of.width)) for _ in range(count)]
            features[name] = [array.astype(np.float32) for array in arrays]
    return Examples([f"v{at}" for at in range(count)], features, np.full(count, -1))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    fusion=st.sampled_from(FUSIONS),
    names=st.sets(st.sampled_from(sorted(SPEC.features)), min_size=1),
    scale=st.sampled_from([0.3, 1.0, 3.0]),
)
def test_contributions_sum_to_the_difference_from_a_video_without_features(seed, fusion, names, scale):
    judged, videos = checkpoint(seed, fusion, names, scale), examples(seed, names=names)
    found = explain_examples(judged, videos)
    empty = Examples(["none"], {name: [np.zeros((0, SPEC.features[name].width), "f4")] for name in names}, np.zeros(1))
    assert np.abs(found.whole - judged.probabilities(videos)).max() < 1e-5
    assert np.abs(found.empty - judged.probabilities(empty)).max() < 1e-5
    assert np.abs(found.shapley.sum(1) - (found.whole - found.empty)).max() < 1e-4
    for number, name in enumerate(found.names):
        absent = [row for row, array in enumerate(videos.features[name]) if not len(array)]
        assert (found.shapley[absent, number] == 0).all()


def test_shapley_values_are_the_mean_gain_over_all_orders():
    values = np.random.default_rng(0).normal(size=(2, 16, 3))
    expected = np.zeros((2, 4, 3))
    orders = list(permutations(range(4)))
    for order in orders:
        coalition = 0
        for player in order:
            expected[:, player] += values[:, coalition | 1 << player] - values[:, coalition]
            coalition |= 1 << player
    assert np.allclose(shapley_values(values), expected / len(orders))
    assert subsets(2).tolist() == [[False, False], [True, False], [False, True], [True, True]]


@pytest.mark.numeric
@pytest.mark.parametrize("names", [None, {"beats", "clip"}, {"clip", "face_emotion", "ocr_sentiment"}])
def test_attention_in_one_pass_says_what_asking_for_each_subset_and_item_does(names):
    model = checkpoint(3, names=names).model
    batch = to_tensors(examples(3, names=names), model.spec)
    with torch.inference_mode():
        (fast, fast_items), (slow, slow_items) = leave_out(model, batch), of_any(model, batch)
    assert torch.allclose(fast, slow, atol=1e-5)
    assert fast_items.keys() == slow_items.keys() == set(model.spec.sequences)
    for name, logits in slow_items.items():
        assert logits.shape == (6, SPEC.features[name].length, len(LABELS))
        assert torch.allclose(fast_items[name], logits, atol=1e-5)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """A store of 18 videos and a classifier whose predictions it has, of whole videos and of windows."""
    folder = make_store(tmp_path_factory.mktemp("explained"), per_label=3)
    model = tiny_checkpoint(folder / "model")
    options = ["--model", model, "--profile", folder / "tiny.yaml"]
    assert here(main, "predict", folder / "out", *options).returncode == 0
    return folder, options


def rows_of(folder, name):
    [table] = [size.table for size in Store(str(folder / "out")).sizes() if size.table.startswith(name)]
    store, fingerprint = Store(str(folder / "out")), table.rpartition("/")[2]
    made = store.explanations(fingerprint) if name == "explanations" else store.predictions(fingerprint, LABELS)
    return {row["video_id"]: row for row in made.read().to_pylist()}


def test_every_prediction_gets_an_explanation_once(predicted):
    folder, options = predicted
    ended = here(main, "explain", folder / "out", *options, "--json")
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    assert said["counts"] == {"new": 18, "skipped": 0, "incomplete": 0, "nothing": 0}
    explained, judged = rows_of(folder, "explanations"), rows_of(folder, "predictions")
    assert explained.keys() == judged.keys()
    for name, row in explained.items():
        assert row["label"] == judged[name]["label"]
        assert row["probability"] == pytest.approx(judged[name]["confidence"], abs=1e-5)
        total = sum(part["value"] for part in row["contributions"])
        assert total == pytest.approx(row["probability"] - row["empty_probability"], abs=1e-4)
        absent = {part["feature"] for part in row["contributions"] if not part["present"]}
        assert absent == set(judged[name]["missing"])
        assert {item["feature"] for item in row["items"]} == {"clip"}
        assert len(row["items"]) <= 16
        assert all(item["start_s"] is not None for item in row["items"])
    assert set(said["shares"]) == {"clip", "asr_sentiment"}
    again = json.loads(here(main, "explain", folder / "out", *options, "--json").stdout.splitlines()[-1])
    assert again["counts"] == {"new": 0, "skipped": 18, "incomplete": 0, "nothing": 0}
    assert rows_of(folder, "explanations") == explained


def test_windows_are_explained_and_those_with_nothing_to_go_by_are_not(tmp_path):
    folder = make_store(tmp_path, per_label=2, sound_db=[-90.0, -90.0], faceless=True)
    model = tiny_checkpoint(folder / "model", names=("clip",))
    options = ["--model", model, "--profile", folder / "tiny.yaml"]
    assert here(main, "predict", folder / "out", *options, "--window", 1).returncode == 0
    ended = here(main, "explain", folder / "out", *options, "--json")
    assert ended.returncode == 0, ended.stderr
    store = Store(str(folder / "out"))
    fingerprint = json.loads(ended.stdout.splitlines()[-1])["table"]
    judged = store.predictions(fingerprint, LABELS).read(["window_start_s", "label"]).to_pylist()
    told = {(row["video_id"], row["window_start_s"]) for row in judged if row["label"] is not None}
    explained = store.explanations(fingerprint).read(["window_start_s", "items"]).to_pylist()
    assert {(row["video_id"], row["window_start_s"]) for row in explained} == told
    assert 0 < len(told) < len(judged)
    for row in explained:
        starts = [item["start_s"] for item in row["items"]]
        assert all(row["window_start_s"] - 1e-3 <= start < row["window_start_s"] + 1 for start in starts)


def test_what_is_asked_for_wrongly_is_named_and_nothing_is_written(predicted, tmp_path):
    folder, options = predicted
    before = sorted(path for path in (folder / "out").rglob("*"))
    ended = here(main, "explain", tmp_path / "none", "--model", tmp_path / "no-model", "--hop", -1)
    assert ended.returncode == 2
    assert [word for word in ("--hop", "no-model", "no such output folder") if word not in ended.stderr] == []
    ended = here(main, "explain", folder / "out", *options, "--window", 3)
    assert ended.returncode == 2
    assert "no predictions of such windows" in ended.stderr
    other = tiny_checkpoint(tmp_path / "other", names=("clip",))
    ended = here(main, "explain", folder / "out", "--model", other)
    assert ended.returncode == 2
    assert "no predictions of model" in ended.stderr
    assert sorted(path for path in (folder / "out").rglob("*")) == before


def test_status_lists_explanations_and_gc_removes_them_with_their_predictions(tmp_path):
    folder = make_store(tmp_path, per_label=1)
    profile = ["--profile", folder / "tiny.yaml"]
    tables = {}
    for names in (("clip", "asr_sentiment"), ("clip",)):
        model = tiny_checkpoint(folder / "-".join(names), names=names)
        for command in ("predict", "explain"):
            ended = here(main, command, folder / "out", "--model", model, *profile, "--json")
            assert ended.returncode == 0, ended.stderr
        tables[names] = json.loads(ended.stdout.splitlines()[-1])["table"]
    older, newer = (f"explanations/{table}" for table in tables.values())
    said = json.loads(here(main, "status", folder / "out", *profile, "--json").stdout.splitlines()[-1])
    assert {older, newer} <= {table["table"] for table in said["tables"]}
    compacted = json.loads(here(main, "compact", folder / "out", "--json").stdout.splitlines()[-1])
    assert newer in {table["table"] for table in compacted["tables"]}
    removed = json.loads(here(main, "gc", folder / "out", *profile, "--json").stdout.splitlines()[-1])
    assert {table["table"] for table in removed["tables"]} == {older, older.replace("explanations", "predictions")}
    assert not (folder / "out" / older).exists()
    assert Store(str(folder / "out")).explanations(tables[("clip",)]).read().num_rows == 6
