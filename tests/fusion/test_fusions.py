"""The fusions that are compared: each is what it says, learns, is saved as itself, and costs what arithmetic says."""

import json

import numpy as np
import pytest
import torch

from tests.fusion.test_training import QUICK, made
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.cost import BATCH, measure
from vemoclap_batch.fusion.evaluation import evaluate
from vemoclap_batch.fusion.model import FUSIONS, AttentionClassifier, LateAverage, alone, build
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec
from vemoclap_batch.fusion.training import fit_statistics, train

pytestmark = pytest.mark.numeric

FEW = QUICK.model_copy(update={"lr": 1e-2, "max_steps": 60, "evaluate_every": 20})
D, N, LABELS = 16, 6, ("anger", "disgust", "fear")


def shape(fusion, n=N, **changed):
    features = {
        "face": FeatureSpec(width=4, length=n, sequence=True),
        "sound": FeatureSpec(width=3, length=n, sequence=True),
        "text": FeatureSpec(width=2, length=1, sequence=False),
    }
    settings = {"labels": LABELS, "d_model": D, "heads": 2, "dropout": 0.1} | changed
    return FusionSpec(features=features, fusion=fusion, **settings)


def batch(n=5):
    torch.manual_seed(1)
    return {name: torch.randn(n, f.length, f.width) for name, f in shape("addition").features.items()}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_learns_by_all_of_its_parameters_what_is_in_all_features(fusion, tmp_path):
    training, test = made(150, 1), made(100, 2)
    spec = fit_statistics(shape(fusion), training)
    model = build(spec)
    torch.nn.functional.cross_entropy(model(batch()), torch.zeros(5, dtype=torch.int64)).backward()
    assert all(x.grad is not None for x in model.parameters())
    checkpoint, _ = train(spec, training, test, FEW)
    probabilities = checkpoint.probabilities(test)
    # One feature alone tells one label from the other two: 0.55 or so.
    assert evaluate(probabilities, test.labels, LABELS)["accuracy"] > 0.7
    checkpoint.save(tmp_path / "made")
    again = Checkpoint.load(tmp_path / "made")
    assert type(again.model) is type(model)
    assert np.array_equal(again.probabilities(test), probabilities)


def test_the_published_fusion_is_not_written_so_that_digests_stay(tmp_path):
    assert "fusion" not in shape("cross_attention").model_dump(mode="json")
    assert shape("late").model_dump(mode="json")["fusion"] == "late"
    Checkpoint(build(shape("addition"))).save(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["spec"]["fusion"] == "addition"


def test_the_published_classifier_is_not_built_for_another_fusion():
    with pytest.raises(ValueError, match="addition"):
        AttentionClassifier(shape("addition"))


def test_concatenation_and_addition_are_that():
    x = batch()
    for fusion in ("concatenation", "addition"):
        model = build(shape(fusion)).eval()
        means = [(x[name] @ layer.weight.T + layer.bias).mean(1) for name, layer in model.encoders.items()]
        joined = torch.cat(means, -1) if fusion == "concatenation" else sum(means)
        last = model.cls_mlp[0]
        assert torch.allclose(model(x), joined.clamp(min=0) @ last.weight.T + last.bias, atol=1e-5)


def test_the_transformer_knows_whose_item_it_sees_and_not_its_place():
    model = build(shape("transformer", dropout=0.0)).eval()
    x = batch()
    turned = x | {"face": x["face"].flip(1)}
    assert torch.allclose(model(x), model(turned), atol=1e-5)
    before = model(x)
    with torch.no_grad():
        model.kinds["face"] += 1.0
    assert not torch.allclose(model(x), before, atol=1e-3)


def test_late_fusion_is_the_mean_of_classifiers_that_were_trained_apart():
    examples = made(60, 1)
    spec = fit_statistics(shape("late"), examples)
    few = FEW.model_copy(update={"max_steps": 10})
    each = {name: train(alone(spec, name), examples, examples.subset([]), few)[0] for name in spec.features}
    model = LateAverage.assemble(spec, {name: checkpoint.model for name, checkpoint in each.items()})
    mean = np.mean([checkpoint.probabilities(examples) for checkpoint in each.values()], axis=0)
    assert np.allclose(Checkpoint(model).probabilities(examples), mean, atol=1e-6)
    assert set(each["text"].spec.features) == {"text"}


def by_hand(fusion, n=N, d=D):
    """Multiplications and additions of the matrix products for one video."""
    encode = 2 * d * (4 * n + 3 * n + 2)
    if fusion == "cross_attention":
        # Three projections a sequence; for both pairs the layer's four, and the scores and their sums.
        return encode + 2 * 3 * 2 * n * d * d + 2 * (4 * 2 * n * d * d + 2 * 2 * n * n * d) + 2 * 3 * d * 3
    if fusion == "transformer":
        m = 2 * n + 2
        return encode + 4 * 2 * m * d * d + 2 * 2 * m * m * d + 2 * 2 * m * d * 4 * d + 2 * d * 3
    return encode + 2 * d * 3 * (1 if fusion == "addition" else 3)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_costs_are_what_arithmetic_says(fusion):
    found = measure(shape(fusion))
    assert found.flops == by_hand(fusion)
    assert found.parameters == sum(x.numel() for x in build(shape(fusion)).parameters())
    assert found.one_ms > 0
    assert found.batch_ms > 0
    weights, inputs = 4 * found.parameters / 2**20, 4 * BATCH * (N * 7 + 2) / 2**20
    # Nothing can do with less than this; the rest is activations, of a few times the encoded batch.
    encoded = 4 * BATCH * D * (2 * N + 2) / 2**20
    assert weights + inputs < found.predict_mib < weights + inputs + 20 * encoded
    assert found.train_mib > max(4 * weights + inputs, found.predict_mib)


def test_memory_and_operations_grow_with_the_frames_and_are_the_same_each_time():
    few, many, again = (measure(shape("cross_attention", n)) for n in (2, 16, 16))
    assert few.predict_mib < many.predict_mib
    assert few.flops < many.flops
    assert few.parameters == many.parameters
    assert (many.predict_mib, many.train_mib, many.flops) == (again.predict_mib, again.train_mib, again.flops)
