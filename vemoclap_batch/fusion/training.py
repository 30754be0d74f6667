"""Training of the classifier, with the published hyper-parameters as defaults; alone or as one of several workers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vemoclap_batch.errors import RunBroken
from vemoclap_batch.fusion.checkpoint import Checkpoint, Saved, StateFile
from vemoclap_batch.fusion.data import (
    Data,
    Examples,
    batches,
    chunks,
    drop_modalities,
    keyed_number,
    statistics,
    to_tensors,
    validation_rows,
)
from vemoclap_batch.fusion.model import FusionSpec
from vemoclap_batch.fusion.variants import build


class TrainSettings(BaseModel):
    """How the classifier is trained; the defaults are the published ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: float = Field(1e-5, gt=0)
    batch: int = Field(32, ge=1, description="examples of a step, all workers together")
    max_steps: int = Field(200_000, ge=1)
    evaluate_every: int = Field(5_000, ge=1)
    patience: int = Field(100_000, ge=1, description="steps without a better validation accuracy before it ends")
    clip_gradients: float = Field(1.0, gt=0)
    seed: int = 1
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: bool = False
    modality_dropout: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    amp: bool = Field(True, description="mixed precision (float16), on a GPU only")


PRESETS = {
    "published": TrainSettings(),
    "quick": TrainSettings(lr=1e-3, max_steps=2_000, evaluate_every=100, patience=500),
}


class Team(Protocol):
    """The workers that train one classifier together."""

    rank: int
    size: int
    device: torch.device

    def add(self, values: Tensor) -> None:
        """Sum a tensor over the workers, in place; all call it with the same shape."""


@dataclass
class Alone:
    """A team of one."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    size: int = 1

    def add(self, values: Tensor) -> None:
        """Nothing to sum."""


ALONE = Alone()


@dataclass
class History:
    """What happened: the step, mean loss and validation accuracy of every evaluation, and the best of them.

    Attributes:
        best_step: of the best accuracy; of several such steps the one with the least loss on the validation videos,
            since a few videos often give the same accuracy at many steps.
        improved_step: when the accuracy was last better than ever; patience counts from here.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    best_step: int = 0
    best_accuracy: float = -1.0
    best_loss: float = math.inf
    improved_step: int = 0


Report = Callable[[int, float, float], None]


def fit_statistics(spec: FusionSpec, data: Data) -> FusionSpec:
    """The same shape with the normalisation statistics of a training set."""
    found = statistics(data, list(spec.features))
    fitted = {
        name: feature.model_copy(update={"minimum": found[name][0], "maximum": found[name][1]})
        for name, feature in spec.features.items()
    }
    return spec.model_copy(update={"features": fitted})


def split_validation(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Take a stratified share of a training set away for choosing the best step: (training, validation)."""
    held = validation_rows(examples.ids, examples.labels, fraction, seed)
    return examples.subset(np.setdiff1d(np.arange(len(examples)), held)), examples.subset(held)


def train(
    spec: FusionSpec,
    training: Data | Callable[[int], Data],
    validation: Data,
    settings: TrainSettings,
    report: Report | None = None,
    *,
    team: Team = ALONE,
    state: StateFile | None = None,
    at: Callable[[int], None] | None = None,
) -> tuple[Checkpoint, History]:
    """Train a classifier; the weights returned are those of the best validation accuracy.

    All chance (first weights, order, frames, dropout) is keyed by the seed, the step and the worker, so the same seed
    and number of workers on the same kind of machine give the same weights, also when a killed training goes on from
    its state. Without dropout another number of workers gives the same within rounding.

    Args:
        spec: its shape; the normalisation statistics in it are used as they are (see :func:`fit_statistics`).
        training: labelled examples, or a function that makes those of an epoch.
        validation: labelled examples that choose the best step; when empty, the last weights are kept.
        settings: hyper-parameters.
        report: called with step, mean loss and validation accuracy after each evaluation.
        team: the workers that train together, each of which calls this with the same arguments.
        state: where the first worker keeps how far it is; what is there is gone on from.
        at: called with the step, after each.
    """
    with _keyed_chance(team.device):
        learner = _Learner(spec, settings, team)
        saved = state.load() if state else None
        if saved:
            learner.restore(saved)
        _steps(learner, training, validation, report, state, at)
    learner.model.load_state_dict(learner.best)
    return Checkpoint(learner.model.cpu().eval()), learner.history


@contextmanager
def _keyed_chance(device: torch.device) -> Iterator[None]:
    """Leave the caller's random numbers as they are; on a GPU, sum in the same order each time."""
    before = torch.are_deterministic_algorithms_enabled()
    is_gpu = device.type == "cuda"
    if is_gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.random.fork_rng([device] if is_gpu else []):
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def _steps(
    learner: _Learner, training: Data | Callable[[int], Data], validation: Data, report: Report | None,
    state: StateFile | None, at: Callable[[int], None] | None,
) -> None:  # fmt: skip
    settings, place = learner.settings, learner.place
    while not learner.is_over:
        data = training(place.epoch) if callable(training) else training
        order = list(batches(data.ids, settings.batch, settings.seed, place.epoch))
        while place.batch < len(order) and not learner.is_over:
            learner.step(data, order[place.batch])
            if place.step % settings.evaluate_every == 0 or place.step == settings.max_steps:
                learner.evaluate(validation)
                if report:
                    report(place.step, learner.history.losses[-1], learner.history.accuracies[-1])
            if state and learner.team.rank == 0 and state.is_due:
                state.save(learner.saved())
            if at:
                at(place.step)
        if place.batch >= len(order):
            place.epoch, place.batch = place.epoch + 1, 0


@dataclass
class _Place:
    """How far a training is: steps taken, the epoch and its next batch, losses since the last evaluation."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    losses: int = 0


class _Learner:
    """The classifier with its optimiser, and all that has to be kept to go on after a kill."""

    def __init__(self, spec: FusionSpec, settings: TrainSettings, team: Team) -> None:
        self.settings, self.team = settings, team
        torch.manual_seed(settings.seed)
        self.model = build(spec).to(team.device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.is_mixed = settings.amp and team.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=self.is_mixed)
        self.history, self.place = History(), _Place()
        self.best = self._weights()
        self._class_weights: Tensor | None = None

    @property
    def is_over(self) -> bool:
        """Whether the steps, or the patience, are used up."""
        step = self.place.step
        return step >= self.settings.max_steps or step - self.history.improved_step >= self.settings.patience

    def step(self, data: Data, rows: np.ndarray) -> None:
        """Learn from one batch, of which each worker takes its share.

        Args:
            data: the whole training set.
            rows: of the batch, the same for every worker.
        """
        if self._class_weights is None:
            self._class_weights = self._weigh(data.labels)
        self.model.train()
        self.place.step += 1
        self.place.batch += 1
        torch.manual_seed(keyed_number(self.settings.seed, self.place.step, self.team.rank))
        own = rows[self.team.rank :: self.team.size]
        # Each worker divides by the weight of the whole batch: the sum over workers is the mean over the batch,
        # however unevenly it was shared out.
        whole = self._class_weights[torch.from_numpy(data.labels[rows])].sum().item()
        self.optimiser.zero_grad()
        loss = self._backward(data.subset(own), whole) if len(own) else 0.0
        self.place.loss += self._sum_gradients(loss)
        self.place.losses += 1
        self.scaler.unscale_(self.optimiser)
        for parameter, part in self._idle:
            if parameter.grad is not None:
                parameter.grad[part] = 0
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_gradients)
        self.scaler.step(self.optimiser)
        self.scaler.update()

    def _backward(self, examples: Examples, whole: float) -> float:
        settings, epoch = self.settings, self.place.epoch
        batch = to_tensors(examples, self.model.spec, epoch, settings.seed)
        if settings.modality_dropout:
            batch = drop_modalities(batch, examples, settings.modality_dropout, epoch, settings.seed)
        batch = {name: x.to(self.team.device) for name, x in batch.items()}
        device = self.team.device.type
        with torch.autocast(device, torch.float16) if self.is_mixed else nullcontext():
            logits = self.model(batch)  # [B, labels]
        assert self._class_weights is not None
        loss = nn.functional.cross_entropy(
            logits.float(), torch.from_numpy(examples.labels).to(self.team.device),
            self._class_weights.to(self.team.device), reduction="sum", label_smoothing=settings.label_smoothing,
        ) / whole  # fmt: skip
        self.scaler.scale(loss).backward()
        return float(loss.detach())

    def _sum_gradients(self, loss: float) -> float:
        """Sum the workers' gradients, and with them the loss, in one exchange; returns the summed loss."""
        if self.team.size == 1:
            return loss
        gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in self.model.parameters()]
        flat = torch.cat([*(x.reshape(-1) for x in gradients), gradients[0].new_tensor([loss])])
        self.team.add(flat)
        start = 0
        for parameter in self.model.parameters():
            parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        return float(flat[-1])

    @cached_property
    def _idle(self) -> list[tuple[Tensor, slice]]:
        """Biases that make no difference: one of all keys moves all scores of a query alike, and softmax none.

        Their gradients are zero; computed they are rounding, which Adam would blow up to whole steps, so that the
        weights would depend on the number of workers. Dropout tells keys apart after the first of the two biases.
        """
        spec, parameters = self.model.spec, dict(self.model.named_parameters())
        inner = [x for name, x in parameters.items() if name.endswith("in_proj_bias")]
        outer = [x for name, x in parameters.items() if name.startswith("key_proj.") and name.endswith("bias")]
        return [(x, slice(spec.d_model, 2 * spec.d_model)) for x in inner] + [
            (x, slice(None)) for x in outer if not spec.dropout
        ]

    def evaluate(self, validation: Data) -> None:
        """Record the mean loss since the last time and the validation accuracy; keep the weights if they are best."""
        history, place = self.history, self.place
        if not math.isfinite(place.loss):
            raise RunBroken(f"the loss is not finite any more by step {place.step}: lr {self.settings.lr} is too much")
        accuracy, loss = self._validate(validation)
        history.steps.append(place.step)
        history.losses.append(place.loss / place.losses)
        history.accuracies.append(accuracy)
        place.loss, place.losses = 0.0, 0
        # Without a validation set every step is as good as it gets so far.
        if np.isnan(accuracy) or accuracy > history.best_accuracy:
            history.improved_step = place.step
        elif accuracy < history.best_accuracy or loss >= history.best_loss:
            return
        history.best_step, history.best_accuracy, history.best_loss = place.step, accuracy, loss
        self.best = self._weights()

    def _validate(self, data: Data) -> tuple[float, float]:
        """Accuracy and mean negative log-likelihood; NaN without videos. The workers share the videos."""
        if not len(data):
            return math.nan, math.nan
        checkpoint, sums = Checkpoint(self.model), torch.zeros(2, dtype=torch.float64)
        for rows in chunks(len(data))[self.team.rank :: self.team.size]:
            found, labels = checkpoint.probabilities(data.subset(rows)), data.labels[rows]
            given = np.maximum(found[np.arange(len(rows)), labels], 1e-12)
            sums += torch.tensor([(found.argmax(1) == labels).sum(), -np.log(given).sum()])
        sums = sums.to(self.team.device)
        self.team.add(sums)
        return float(sums[0]) / len(data), float(sums[1]) / len(data)

    def _weights(self) -> dict[str, Tensor]:
        return {name: x.detach().clone() for name, x in self.model.state_dict().items()}

    def _weigh(self, labels: np.ndarray) -> Tensor:
        """The weight of each label in the loss, float32 [labels]: 1, or the rarer the more."""
        names = self.model.spec.labels
        if not self.settings.class_weights:
            return torch.ones(len(names))
        counts = np.bincount(labels, minlength=len(names))
        weights = np.where(counts > 0, len(labels) / np.maximum(counts, 1) / max(1, (counts > 0).sum()), 0.0)
        return torch.tensor(weights, dtype=torch.float32)

    # ---- what is kept to go on after a kill

    def saved(self) -> Saved:
        """All that the next steps depend on; chance is no part of it, since it is keyed."""
        tensors = {f"model.{name}": x for name, x in self.model.state_dict().items()}
        tensors |= {f"best.{name}": x for name, x in self.best.items()}
        for number, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": x for name, x in moments.items()}
        progress = {"place": asdict(self.place), "history": asdict(self.history), "scaler": self.scaler.state_dict()}
        return Saved(tensors, progress)

    def restore(self, saved: Saved) -> None:
        """Be as :meth:`saved` was."""
        self.place, self.history = _Place(**saved.progress["place"]), History(**saved.progress["history"])
        self.model.load_state_dict(_named(saved.tensors, "model."))
        self.best = {name: x.to(self.team.device) for name, x in _named(saved.tensors, "best.").items()}
        moments: dict[int, dict[str, Any]] = {}
        for key, x in _named(saved.tensors, "adam.").items():
            number, name = key.split(".", 1)
            moments.setdefault(int(number), {})[name] = x
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})
        if saved.progress["scaler"]:
            self.scaler.load_state_dict(saved.progress["scaler"])


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
