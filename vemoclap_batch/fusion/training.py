"""Training of the classifier on examples in memory, with the published hyper-parameters as defaults."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.data import Examples, batches, drop_modalities, keyed_rng, statistics, to_tensors
from vemoclap_batch.fusion.model import AttentionClassifier, FeatureSpec, FusionSpec


class TrainSettings(BaseModel):
    """How the classifier is trained; the defaults are the published ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: float = Field(1e-5, gt=0)
    batch: int = Field(32, ge=1)
    max_steps: int = Field(200_000, ge=1)
    evaluate_every: int = Field(5_000, ge=1)
    patience: int = Field(100_000, ge=1, description="steps without a better validation accuracy before it ends")
    clip_gradients: float = Field(1.0, gt=0)
    seed: int = 1
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: bool = False
    modality_dropout: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)


PRESETS = {
    "published": TrainSettings(),
    "quick": TrainSettings(lr=1e-3, max_steps=2_000, evaluate_every=100, patience=500),
}


@dataclass
class History:
    """What happened: the step and validation accuracy of every evaluation, and the best of them."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    best_step: int = 0
    best_accuracy: float = -1.0


Report = Callable[[int, float, float], None]


def fit_statistics(spec: FusionSpec, examples: Examples) -> FusionSpec:
    """The same shape with the normalisation statistics of a training set."""
    fitted: dict[str, FeatureSpec] = {}
    for name, feature in spec.features.items():
        low, high = statistics(examples.features[name])
        fitted[name] = feature.model_copy(update={"minimum": low, "maximum": high})
    return spec.model_copy(update={"features": fitted})


def split_validation(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Take a stratified share of a training set away for choosing the best step: (training, validation)."""
    held: list[int] = []
    for label in np.unique(examples.labels):
        rows = np.flatnonzero(examples.labels == label)
        held += keyed_rng(seed, "validation", int(label)).permutation(rows)[: round(len(rows) * fraction)].tolist()
    kept = sorted(set(range(len(examples))) - set(held))
    return examples.subset(kept), examples.subset(sorted(held))


def train(
    spec: FusionSpec,
    training: Examples | Callable[[int], Examples],
    validation: Examples,
    settings: TrainSettings,
    report: Report | None = None,
) -> tuple[Checkpoint, History]:
    """Train a classifier; the weights returned are those of the best validation accuracy.

    Args:
        spec: its shape; the normalisation statistics in it are used as they are (see :func:`fit_statistics`).
        training: labelled examples, or a function that makes those of an epoch.
        validation: labelled examples that choose the best step; when empty, the last weights are kept.
        settings: hyper-parameters; the same seed on the same machine gives the same weights.
        report: called with step, mean loss and validation accuracy after each evaluation.
    """
    torch.manual_seed(settings.seed)
    model = AttentionClassifier(spec)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    examples = training(0) if callable(training) else training
    loss_of = nn.CrossEntropyLoss(_class_weights(examples, spec, settings), label_smoothing=settings.label_smoothing)
    history, best = History(), copy.deepcopy(model.state_dict())
    step, epoch, losses = 0, 0, []
    while step < settings.max_steps and step - history.best_step < settings.patience:
        for rows in batches(len(examples), settings.batch, settings.seed, epoch):
            step += 1
            losses.append(_step(model, examples.subset(rows), settings, optimiser, loss_of, epoch))
            if step % settings.evaluate_every and step < settings.max_steps:
                continue
            accuracy = _accuracy(model, validation)
            _record(history, step, float(np.mean(losses)), accuracy)
            losses.clear()
            if history.best_step == step:
                best = copy.deepcopy(model.state_dict())
            if report:
                report(step, history.losses[-1], accuracy)
            if step >= settings.max_steps or step - history.best_step >= settings.patience:
                break
        epoch += 1
        examples = training(epoch) if callable(training) else examples
    model.load_state_dict(best)
    return Checkpoint(model.eval()), history


def _step(
    model: AttentionClassifier,
    examples: Examples,
    settings: TrainSettings,
    optimiser: torch.optim.Optimizer,
    loss_of: nn.Module,
    epoch: int,
) -> float:
    model.train()
    batch = to_tensors(examples, model.spec, epoch, settings.seed)
    if settings.modality_dropout:
        batch = drop_modalities(batch, examples, settings.modality_dropout, epoch, settings.seed)
    loss = loss_of(model(batch), torch.from_numpy(examples.labels))
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.clip_gradients)
    optimiser.step()
    return float(loss.detach())


def _record(history: History, step: int, loss: float, accuracy: float) -> None:
    history.steps.append(step)
    history.losses.append(loss)
    history.accuracies.append(accuracy)
    # Without a validation set every step is as good as it gets so far.
    if np.isnan(accuracy) or accuracy > history.best_accuracy:
        history.best_step, history.best_accuracy = step, accuracy


def _accuracy(model: AttentionClassifier, examples: Examples) -> float:
    if not len(examples):
        return float("nan")
    return float((Checkpoint(model).probabilities(examples).argmax(1) == examples.labels).mean())


def _class_weights(examples: Examples, spec: FusionSpec, settings: TrainSettings) -> Tensor | None:
    if not settings.class_weights:
        return None
    counts = np.bincount(examples.labels, minlength=len(spec.labels))
    weights = np.where(counts > 0, len(examples) / np.maximum(counts, 1) / max(1, (counts > 0).sum()), 0.0)
    return torch.tensor(weights, dtype=torch.float32)
