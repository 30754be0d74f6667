"""The classifier agrees with the published one and keeps what it was trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.data import Examples, normalised, to_tensors
from vemoclap_batch.fusion.description import check_spaces, digest
from vemoclap_batch.fusion.model import AttentionClassifier
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec
from vemoclap_batch.media.windows import evenly_spaced

pytestmark = pytest.mark.numeric

REFERENCE = Path(__file__).parents[1] / "data" / "fusion_attention.safetensors"


def test_logits_equal_the_published_ones():
    with safe_open(REFERENCE, "pt") as file:
        meta = {name: json.loads(value) for name, value in file.metadata().items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    lengths = meta["feature_lengths"]
    features = {
        name: FeatureSpec(width=width, length=lengths[name], sequence=lengths[name] > 1)
        for name, width in meta["feature_dims"].items()
    }
    model = AttentionClassifier(FusionSpec(features=features, d_model=meta["d_model"], heads=meta["num_heads"])).eval()
    model.load_state_dict({name[6:]: x for name, x in tensors.items() if name.startswith("state.")})
    with torch.inference_mode():
        logits = model({name: tensors[f"input.{name}"] for name in features})
    torch.testing.assert_close(logits, tensors["logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.softmax(-1), tensors["probabilities"], rtol=1e-5, atol=1e-6)


def spec(**features):
    return FusionSpec(features=features, d_model=8, heads=2, dropout=0.0)


SEQUENCE = FeatureSpec(width=3, length=4, sequence=True, minimum=-1, maximum=3, space="s/1")
SINGLE = FeatureSpec(width=2, length=1, sequence=False, space="t/1")


@pytest.mark.parametrize(
    "features",
    [{"a": SEQUENCE}, {"b": SINGLE}, {"a": SEQUENCE, "b": SINGLE}, {"a": SEQUENCE, "c": SEQUENCE, "b": SINGLE}],
)
def test_any_set_of_features_makes_a_classifier(features):
    shape = spec(**features)
    batch = {name: torch.rand(5, f.length, f.width) for name, f in features.items()}
    assert AttentionClassifier(shape)(batch).shape == (5, 6)


def test_padding_and_missing_features_are_zero_after_normalising():
    out = normalised(np.full((2, 3), 1.0, np.float32), SEQUENCE)
    assert out.tolist() == [[0.5] * 3, [0.5] * 3, [0.0] * 3, [0.0] * 3]
    assert not normalised(np.zeros((0, 3), np.float32), SEQUENCE).any()


@given(items=st.integers(0, 40), length=st.integers(1, 20), width=st.integers(1, 4), low=st.floats(-9, 9))
def test_what_is_padded_has_its_items_first_and_then_nothing(items, length, width, low):
    feature = FeatureSpec(width=width, length=length, sequence=True, minimum=low, maximum=low + 2, space="s/1")
    # Every item is another, and none is 0 once normalised.
    array = low + 1 + np.linspace(0, 1, items * width, dtype=np.float32).reshape(items, width)
    out = normalised(array, feature)
    kept = min(items, length)
    assert (out.shape, out.dtype) == ((length, width), np.float32)
    assert not out[kept:].any()
    np.testing.assert_allclose(out[:kept], (array[evenly_spaced(items, length)] - low) / 2, atol=1e-5)
    assert (out[:kept] >= 0.49).all()


def test_longer_sequences_keep_evenly_spaced_items():
    items = np.arange(11, dtype=np.float32)[:, None].repeat(3, 1)
    kept = normalised(items, SEQUENCE)[:, 0] * 4 - 1
    np.testing.assert_allclose(kept, [0, 3, 7, 10], atol=1e-5)  # round(linspace(0, 10, 4))


def test_the_training_sample_is_sorted_and_depends_on_its_key_alone():
    items = np.arange(40, dtype=np.float32)[:, None].repeat(3, 1)
    examples = Examples(["x", "y"], {"a": [items, items]}, np.array([0, 1]))
    shape = spec(a=SEQUENCE)
    first = to_tensors(examples, shape, epoch=0, seed=1)["a"]
    again = to_tensors(examples.subset([1]), shape, epoch=0, seed=1)["a"]
    later = to_tensors(examples, shape, epoch=1, seed=1)["a"]
    assert torch.equal(first[1], again[0])
    assert not torch.equal(first, later)
    assert (first[0, :, 0].diff() > 0).all()


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    torch.manual_seed(0)
    made = Checkpoint(AttentionClassifier(spec(a=SEQUENCE, b=SINGLE)), 1.5, {"a": ["f1"]}, {"note": "é"})
    made.save(tmp_path / "ckpt")
    read = Checkpoint.load(tmp_path / "ckpt")
    examples = Examples(
        ["x"], {"a": [np.ones((9, 3), np.float32)], "b": [np.zeros((0, 2), np.float32)]}, np.array([-1])
    )
    np.testing.assert_array_equal(made.probabilities(examples), read.probabilities(examples))
    assert (read.temperature, read.fingerprints, read.card, read.spec) == (1.5, {"a": ["f1"]}, {"note": "é"}, made.spec)
    before = digest(tmp_path / "ckpt")
    made.temperature = 2.0
    made.save(tmp_path / "ckpt")
    assert digest(tmp_path / "ckpt") != before


def test_probabilities_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    checkpoint = Checkpoint(AttentionClassifier(spec(a=SEQUENCE, b=SINGLE)))
    rng = np.random.default_rng(0)
    arrays = {
        "a": [rng.random((n, 3), np.float32) for n in range(9)],
        "b": [rng.random((n % 2, 2), np.float32) for n in range(9)],
    }
    examples = Examples([str(n) for n in range(9)], arrays, np.full(9, -1))
    np.testing.assert_allclose(checkpoint.probabilities(examples, 9), checkpoint.probabilities(examples, 1), rtol=1e-5)


@pytest.mark.parametrize("broken", ["no folder", "no json", "no weights", "other shape", "garbage"])
def test_a_broken_checkpoint_is_named(tmp_path, broken):
    folder = tmp_path / "ckpt"
    if broken != "no folder":
        Checkpoint(AttentionClassifier(spec(a=SEQUENCE))).save(folder)
    if broken == "no json":
        (folder / "model.json").unlink()
    if broken == "no weights":
        (folder / "model.safetensors").unlink()
    if broken == "garbage":
        (folder / "model.safetensors").write_bytes(b"garbage")
    if broken == "other shape":
        text = (folder / "model.json").read_text()
        (folder / "model.json").write_text(text.replace('"d_model": 8', '"d_model": 16'))
    with pytest.raises(ConfigError, match="ckpt"):
        Checkpoint.load(folder)


def test_another_space_is_an_error_that_names_both():
    checkpoint = Checkpoint(AttentionClassifier(spec(a=SEQUENCE, b=SINGLE)))
    with pytest.raises(ConfigError) as caught:
        check_spaces(checkpoint.spec, {"a": "other/9"})
    assert "trained on space s/1, this is other/9" in caught.value.mistakes[0]
    assert "needs it (space t/1)" in caught.value.mistakes[1]
