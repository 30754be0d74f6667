"""The authors' checkpoint files become a checkpoint that gives their numbers."""

import json
import pathlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from vemoclap_batch.config import LABELS
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.data import Examples
from vemoclap_batch.fusion.model import AttentionClassifier
from vemoclap_batch.fusion.published import FEATURES, HEADS, LEAK, feature_space, read_checkpoint
from vemoclap_batch.fusion.spec import FusionSpec

pytestmark = pytest.mark.numeric

REFERENCE = Path(__file__).parents[1] / "data" / "fusion_attention.safetensors"


@pytest.fixture
def reference(tmp_path):
    """The reference as the authors' files: model.pt, and stats.pt that leaves the inputs as they are."""
    with safe_open(REFERENCE, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = {name: json.loads(value) for name, value in file.metadata().items()}
    torch.save({name[6:]: x for name, x in tensors.items() if name.startswith("state.")}, tmp_path / "model.pt")
    identity = {name: stats(0, 1) for name in meta["feature_dims"]}
    torch.save(identity, tmp_path / "stats.pt")
    return tmp_path, tensors, meta


def stats(low, high):
    numbers = {"mean": 0.5, "std": 1.0, "min": low, "max": high}
    return {name: np.float32(x) for name, x in numbers.items()}


def released(meta, **changes):
    """A configuration with what the released one holds."""
    return {
        "feature_dims": meta["feature_dims"],
        "feature_lengths": meta["feature_lengths"],
        "features": list(meta["feature_dims"]),
        "d_model": meta["d_model"],
        "n_labels": 6,
        "labels": list(LABELS),
        "n_heads": 8,
        "dropout": 0.4,
        "n_frames": 16,
        "normalize_data": True,
        "amp": True,
        "device": torch.device("cuda"),
        "save_path": pathlib.PosixPath("/somewhere/else"),
        "train_ratio": 0.9,
    } | changes


def inputs(tensors):
    arrays = {name: list(tensors[f"input.{name}"].numpy()) for name in FEATURES}
    return Examples(["a", "b", "c"], arrays, np.full(3, -1))


@pytest.mark.parametrize("with_config", [False, True])
def test_the_logits_are_the_published_ones(reference, with_config):
    folder, tensors, meta = reference
    config = folder / "model_config.pt" if with_config else None
    if with_config:
        torch.save(released(meta), config)
    made = read_checkpoint(folder / "model.pt", config, folder / "stats.pt")
    made.checkpoint.save(folder / "ckpt")
    read = Checkpoint.load(folder / "ckpt")
    with torch.inference_mode():
        logits = read.model({name: tensors[f"input.{name}"] for name in FEATURES})
    assert ((logits - tensors["logits"]).abs() <= 1e-5 * tensors["logits"].abs().max()).all()
    torch.testing.assert_close(logits, tensors["logits"], rtol=1e-5, atol=1e-6)
    # The whole way that predict takes: normalising with the given statistics, padding, softmax.
    found = read.probabilities(inputs(tensors))
    np.testing.assert_allclose(found, tensors["probabilities"], rtol=1e-5, atol=1e-7)
    assert {name: (x.width, x.length) for name, x in read.spec.features.items()} == {
        name: (width, meta["feature_lengths"][name]) for name, width in meta["feature_dims"].items()
    }
    assert (read.spec.d_model, read.spec.heads, read.spec.labels) == (32, 4, LABELS)
    assert read.spec.dropout == (0.4 if with_config else 0.5)
    assert read.card["imported_from"] == "model.pt"
    assert LEAK in read.card["notes"]


def test_heads_are_four_unless_told_and_another_number_in_the_configuration_is_warned_of(reference):
    folder, tensors, meta = reference
    torch.save(released(meta), folder / "config.pt")
    four = read_checkpoint(folder / "model.pt", folder / "config.pt")
    eight = read_checkpoint(folder / "model.pt", folder / "config.pt", heads=8)
    assert four.checkpoint.spec.heads == HEADS == 4
    assert any("4 attention heads, though the configuration says 8" in line for line in four.warnings)
    assert not any("attention heads" in line for line in eight.warnings)
    batch = {name: tensors[f"input.{name}"] for name in FEATURES}
    assert not torch.allclose(four.checkpoint.model(batch), eight.checkpoint.model(batch), atol=1e-3)
    with pytest.raises(ConfigError, match="d_model 32 must be a multiple of heads 5"):
        read_checkpoint(folder / "model.pt", heads=5)


def test_the_normalisation_is_the_released_one_unless_given(reference):
    folder, _, meta = reference
    made = read_checkpoint(folder / "model.pt")
    clip = made.checkpoint.spec.features["clip"]
    assert (clip.minimum, clip.maximum) == (-11.513216, 5.377771)
    assert any("released classifier's minimum" in note for note in made.notes)
    torch.save({name: stats(-2, 7) for name in FEATURES}, folder / "stats.pt")
    given = read_checkpoint(folder / "model.pt", stats=folder / "stats.pt").checkpoint.spec.features
    assert {(x.minimum, x.maximum) for x in given.values()} == {(-2.0, 7.0)}
    torch.save(released(meta, normalize_data=False), folder / "config.pt")
    plain = read_checkpoint(folder / "model.pt", folder / "config.pt")
    assert {(x.minimum, x.maximum) for x in plain.checkpoint.spec.features.values()} == {(0.0, 1.0)}
    assert any("no normalisation" in note for note in plain.notes)


def test_labels_keep_the_order_of_the_configuration(reference):
    folder, tensors, meta = reference
    turned = [name.title() for name in reversed(LABELS)]
    for labels in (turned, dict(enumerate(turned)), np.array(turned)):
        torch.save(released(meta, labels=labels), folder / "config.pt")
        made = read_checkpoint(folder / "model.pt", folder / "config.pt", folder / "stats.pt")
        assert made.checkpoint.spec.labels == tuple(reversed(LABELS))
    torch.testing.assert_close(
        made.checkpoint.model({name: tensors[f"input.{name}"] for name in FEATURES}), tensors["logits"]
    )


def test_published_widths_get_the_published_spaces(tmp_path):
    torch.manual_seed(0)
    shape = FusionSpec(features=FEATURES, d_model=8, heads=2)
    torch.save(AttentionClassifier(shape).state_dict(), tmp_path / "model.pt")
    made = read_checkpoint(tmp_path / "model.pt", heads=2)
    assert made.checkpoint.spec == shape
    assert not made.warnings
    assert feature_space("clip", 512) == "vemoclap/clip-vit-b32-openai"
    assert feature_space("clip", 16) == "imported/clip-16"


@pytest.mark.parametrize("names", [["clip"], ["asr_sentiment", "ocr_sentiment"], ["beats", "clip", "ocr_sentiment"]])
def test_a_classifier_of_some_features_is_read_too(tmp_path, names):
    shape = FusionSpec(features={name: FEATURES[name] for name in names}, d_model=8)
    model = AttentionClassifier(shape)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    read = read_checkpoint(tmp_path / "model.pt").checkpoint
    assert read.spec == shape
    batch = {name: torch.rand(2, x.length, x.width) for name, x in shape.features.items()}
    torch.testing.assert_close(read.model(batch), model.eval()(batch))


def test_all_mistakes_are_named_with_their_file(reference):
    folder, _, meta = reference
    torch.save(
        released(
            meta, d_model=64, n_labels=7, labels=["anger", "happy"], feature_dims={**meta["feature_dims"], "clip": 17},
            feature_lengths={**meta["feature_lengths"], "asr_sentiment": 3}, features=["clip"],
        ),
        folder / "config.pt",
    )  # fmt: skip
    torch.save({"clip": stats(3, 3), "beats": {"min": np.zeros(4)}}, folder / "stats.pt")
    with pytest.raises(ConfigError) as caught:
        read_checkpoint(folder / "model.pt", folder / "config.pt", folder / "stats.pt")
    text = str(caught.value)
    for expected in (
        "features names clip; the weights have asr_sentiment, beats, clip, face_emotion, ocr_sentiment",
        "feature_dims of clip is 17; the weights take 16",
        "feature_lengths of asr_sentiment is 3",
        "stats.pt': clip has min 3.0 and max 3.0",
        "stats.pt': no min and max of 'beats'",
        "stats.pt': no min and max of 'ocr_sentiment'",
        "d_model is 64; the weights have 32",
        "n_labels is 7; the weights have 6",
        "2 labels (anger, happy); the weights have 6",
        "labels anger, happy; expected each of anger",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {"state_dict": state},
            "expected a plain state_dict, parameter → tensor; found a dict, {'state_dict'",
        ),
        (lambda _: [1, 2], "found a list"),
        (lambda state: {f"module.{name}": x for name, x in state.items()}, "encoders of no feature"),
        (lambda state: {name.replace(".clip.", ".gait."): x for name, x in state.items()}, "encoders of gait"),
        (
            lambda state: {k: x for k, x in state.items() if "norms" not in k},
            'Missing key(s) in state_dict: "attn_norms.beats_clip.weight", ',
        ),
        (lambda state: state | {"extra.weight": torch.ones(1)}, 'Unexpected key(s) in state_dict: "extra.weight"'),
        (
            lambda state: state | {"cls_mlp.0.weight": torch.ones(6, 8)},
            "size mismatch for cls_mlp.0.weight: copying a param with shape torch.Size([6, 8])",
        ),
        (lambda state: state | {"encoders.clip.weight": torch.ones(8)}, "has shape [8], expected [d_model, width]"),
        (
            lambda state: state | {"encoders.clip.bias": torch.full((32,), torch.nan)},
            "encoders.clip.bias holds numbers",
        ),
        (lambda state: state | {"encoders.clip.bias": torch.ones(32, dtype=torch.int64)}, "holds int64"),
        (lambda state: state | {"cls_mlp.0.bias": torch.tensor(1.0)}, "no cls_mlp.0.bias of shape [labels]"),
        # A wrong shape that would ask for 40 GB if the classifier were made of it.
        (
            lambda state: state | {"encoders.asr_sentiment.weight": torch.ones(100_000, 1)},
            "current model is torch.Size([100000, 16])",
        ),
    ],
)
def test_other_contents_are_refused_by_name(reference, change, message):
    folder, _, _ = reference
    torch.save(change(torch.load(folder / "model.pt")), folder / "model.pt")
    with pytest.raises(ConfigError) as caught:
        read_checkpoint(folder / "model.pt")
    assert message in str(caught.value)
    assert "model.pt" in str(caught.value)


def test_files_that_are_not_there_are_all_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "c.pt")
    assert len(caught.value.mistakes) == 3


def test_pairs_of_pairs_of_pairs_are_named_without_unfolding_them(reference):
    folder, _, meta = reference
    pairs = "x"
    for _ in range(100):
        pairs = (pairs, pairs)
    torch.save(released(meta, d_model=pairs, labels=[pairs]), folder / "config.pt")
    with pytest.raises(ConfigError, match=r"(?s)labels = .*d_model = ") as caught:
        read_checkpoint(folder / "model.pt", folder / "config.pt")
    assert len(str(caught.value)) < 2000
    torch.save({name: {"min": pairs, "max": 1.0} for name in FEATURES}, folder / "stats.pt")
    with pytest.raises(ConfigError, match="no min and max of 'clip'"):
        read_checkpoint(folder / "model.pt", stats=folder / "stats.pt")


def test_a_configuration_of_other_types_is_named(reference):
    folder, _, meta = reference
    torch.save(released(meta, d_model="wide", labels=5, feature_dims=[1], dropout=1.5), folder / "config.pt")
    with pytest.raises(ConfigError) as caught:
        read_checkpoint(folder / "model.pt", folder / "config.pt")
    for key in ("d_model = 'wide'", "labels = 5", "feature_dims = [1]"):
        assert key in str(caught.value)
    torch.save(released(meta, dropout=1.5), folder / "config.pt")
    with pytest.raises(ConfigError, match="dropout"):
        read_checkpoint(folder / "model.pt", folder / "config.pt")
    torch.save([1], folder / "config.pt")
    with pytest.raises(ConfigError, match="expected a dict of settings, found a list"):
        read_checkpoint(folder / "model.pt", folder / "config.pt")
