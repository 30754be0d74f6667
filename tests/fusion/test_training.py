"""Training finds structure that is there, the same seed gives the same weights, and the scores are right."""

import numpy as np
import pytest
import torch

from vemoclap_batch.errors import RunBroken
from vemoclap_batch.fusion.data import Examples, drop_modalities, to_tensors, validation_rows
from vemoclap_batch.fusion.evaluation import draw_confusion, evaluate
from vemoclap_batch.fusion.model import AttentionClassifier
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec
from vemoclap_batch.fusion.training import PRESETS, TrainSettings, fit_statistics, train

pytestmark = pytest.mark.numeric

LABELS = ("anger", "disgust", "fear")
SHAPE = FusionSpec(
    features={
        "face": FeatureSpec(width=4, length=6, sequence=True),
        "sound": FeatureSpec(width=3, length=6, sequence=True),
        "text": FeatureSpec(width=2, length=1, sequence=False),
    },
    labels=LABELS, d_model=16, heads=2, dropout=0.1,
)  # fmt: skip


def made(n, seed):
    """Each label moves one dimension of one feature."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    features = {"face": [], "sound": [], "text": []}
    for label in labels:
        face, sound = rng.normal(size=(rng.integers(2, 12), 4)), rng.normal(size=(5, 3))
        text = rng.normal(size=(1, 2))
        face[:, 0] += 2.5 * (label == 0)
        sound[:, 1] += 2.5 * (label == 1)
        text[:, 0] += 2.5 * (label == 2)
        for name, array in zip(features, (face, sound, text), strict=True):
            features[name].append(array.astype(np.float32))
    return Examples([f"v{seed}-{row}" for row in range(n)], features, labels.astype(np.int64))


QUICK = TrainSettings(lr=3e-3, max_steps=300, evaluate_every=50, patience=300)


def test_it_learns_what_is_there():
    examples = made(300, 1)
    held = validation_rows(examples.ids, examples.labels, 0.2, seed=1)
    training, validation = examples.subset(np.delete(np.arange(300), held)), examples.subset(held)
    checkpoint, history = train(fit_statistics(SHAPE, training), training, validation, QUICK)
    test = made(200, 2)
    result = evaluate(checkpoint.probabilities(test), test.labels, LABELS)
    assert result["accuracy"] > 0.75
    assert history.best_accuracy == max(history.accuracies)
    assert result["accuracy_interval"][0] < result["accuracy"] < result["accuracy_interval"][1]


def test_the_same_seed_gives_the_same_weights():
    examples = made(60, 1)
    shape = fit_statistics(SHAPE, examples)
    runs = [
        train(shape, examples, examples.subset([]), QUICK.model_copy(update={"max_steps": 20, "seed": seed}))[0]
        for seed in (1, 1, 2)
    ]
    first, again, other = ([x.clone() for x in run.model.state_dict().values()] for run in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_it_stops_when_validation_gets_no_better():
    examples = made(60, 1)
    settings = QUICK.model_copy(update={"lr": 1e-9, "max_steps": 10_000, "evaluate_every": 5, "patience": 20})
    _, history = train(fit_statistics(SHAPE, examples), examples, examples, settings)
    assert history.steps[-1] < 100


def test_the_published_settings_are_the_defaults():
    assert PRESETS["published"] == TrainSettings(
        lr=1e-5, batch=32, max_steps=200_000, evaluate_every=5_000, patience=100_000, clip_gradients=1.0, seed=1
    )


def test_modality_dropout_leaves_something():
    examples = made(200, 3)
    batch = to_tensors(examples, SHAPE)
    dropped = drop_modalities(batch, examples, 0.7, epoch=0, seed=1)
    present = torch.stack([dropped[name].abs().sum((1, 2)) > 0 for name in SHAPE.features])
    assert present.any(0).all()
    assert 0.2 < present.float().mean() < 0.6


def test_scores_are_right_on_a_case_done_by_hand():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.2, 0.8, 0.0], [0.3, 0.7, 0.0]])
    result = evaluate(probabilities, np.array([0, 1, 1, 1]), LABELS)
    assert result["accuracy"] == 0.75
    assert result["uar"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert result["confusion_matrix"] == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert result["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)


def test_calibration_error_of_perfect_confidence_is_zero():
    assert evaluate(np.eye(3), np.arange(3), LABELS)["calibration_error"] == 0


def test_the_confusion_matrix_is_drawn():
    assert draw_confusion(evaluate(np.eye(3), np.arange(3), LABELS), LABELS)[:4] == b"\x89PNG"


class Group:
    """A process group of two, of which this process is one rank: what the others send is given."""

    def __init__(self, rank, others=()):
        self.rank, self.others, self.sent = rank, others, []

    def all_reduce(self, values):
        self.sent.append(values.clone())
        for other in self.others:
            values += other.sent[len(self.sent) - 1]

    def train(self, monkeypatch, *arguments):
        with monkeypatch.context() as patch:
            for name, value in (("is_initialized", True), ("get_rank", self.rank), ("get_world_size", 2)):
                patch.setattr(torch.distributed, name, lambda value=value: value)
            patch.setattr(torch.distributed, "all_reduce", self.all_reduce)
            return train(*arguments)


def test_two_workers_share_every_batch_and_sum_to_its_mean_loss(monkeypatch):
    """Both halves of a step, one after the other, are the gradients of the whole: also of an odd batch, weighted."""
    examples = made(61, 4)
    shape = fit_statistics(SHAPE.model_copy(update={"dropout": 0.0}), examples)
    settings = QUICK.model_copy(
        update={"max_steps": 1, "batch": 61, "class_weights": True, "label_smoothing": 0.1, "modality_dropout": 0.3}
    )
    arguments = shape, examples, examples.subset([]), settings
    second = Group(1)
    second.train(monkeypatch, *arguments)
    first = Group(0, [second])
    _, shared = first.train(monkeypatch, *arguments)
    _, alone = train(*arguments)
    assert shared.losses == pytest.approx(alone.losses, rel=1e-5)
    counts = np.bincount(examples.labels)
    weights = torch.tensor(61 / counts / 3, dtype=torch.float32)
    torch.manual_seed(settings.seed)
    reference = AttentionClassifier(shape)
    batch = drop_modalities(to_tensors(examples, shape, 0, 1), examples, 0.3, 0, 1)
    loss_of = torch.nn.CrossEntropyLoss(weights, label_smoothing=0.1)
    loss = loss_of(reference(batch), torch.from_numpy(examples.labels))
    assert alone.losses[0] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    flat = torch.cat([x.grad.reshape(-1) for x in reference.parameters()])
    torch.testing.assert_close((first.sent[0] + second.sent[0])[:-1], flat, atol=1e-6, rtol=1e-4)


def test_a_bias_of_all_keys_makes_no_difference_and_is_left_alone():
    shape = SHAPE.model_copy(update={"dropout": 0.0})
    examples = made(64, 5)
    settings = QUICK.model_copy(update={"max_steps": 10})
    torch.manual_seed(settings.seed)
    before = AttentionClassifier(shape).state_dict()
    after, _ = train(shape, examples, examples.subset([]), settings)
    state = after.model.state_dict()
    probabilities = after.probabilities(examples)
    for name in ("key_proj.face.bias", "key_proj.sound.bias"):
        assert torch.equal(state[name], before[name])
        state[name].add_(1.0)
    inner, d = "attention_layers.face_sound.in_proj_bias", shape.d_model
    assert torch.equal(state[inner][d : 2 * d], before[inner][d : 2 * d])
    assert not torch.equal(state[inner][2 * d :], before[inner][2 * d :])
    np.testing.assert_allclose(after.probabilities(examples), probabilities, atol=1e-6)


def test_training_leaves_the_random_numbers_of_the_caller_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(SHAPE, made(40, 1), made(10, 2), QUICK.model_copy(update={"max_steps": 3}))
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_not_finite_ends_it():
    examples = made(40, 1)
    examples.features["face"][3][0, 0] = np.nan
    with pytest.raises(RunBroken, match="not finite any more by step"):
        train(SHAPE, examples, examples.subset([]), QUICK)


def test_of_steps_with_the_same_accuracy_the_surest_is_kept_and_patience_goes_on():
    """Two videos of validation are soon right; the loss on them says that later steps are better."""
    training, validation = made(300, 1), made(400, 2)
    easy = validation.subset([int(np.flatnonzero(validation.labels == label)[0]) for label in (0, 1)])
    settings = QUICK.model_copy(update={"max_steps": 2_000, "evaluate_every": 10, "patience": 150})
    _, history = train(fit_statistics(SHAPE, training), training, easy, settings)
    assert history.best_accuracy == 1
    assert history.improved_step == history.steps[history.accuracies.index(1.0)]
    assert history.steps[-1] == history.improved_step + 150
    assert history.best_step > history.improved_step
