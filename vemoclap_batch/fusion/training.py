"""Training of a classifier, with the published hyper-parameters as defaults.

In a process group of ``torch.distributed`` all workers train the same classifier: each takes its share of every batch,
and gradients are summed over them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from vemoclap_batch.errors import ConfigError, RunBroken
from vemoclap_batch.fusion.checkpoint import Checkpoint, TrainingState
from vemoclap_batch.fusion.data import (
    Data,
    Examples,
    batches,
    chunks,
    drop_modalities,
    keyed_number,
    statistics,
    to_tensors,
)
from vemoclap_batch.fusion.model import build
from vemoclap_batch.fusion.selection import Selected
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec


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


@dataclass
class History:
    """The step, mean loss and validation accuracy of every evaluation, and the best of them.

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


@dataclass
class Progress:
    """Steps taken, the epoch and its next batch, and the losses since the last evaluation."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    losses: int = 0


def classifier_spec(selected: Mapping[str, Selected], length: int, **sizes: Any) -> FusionSpec:
    """The classifier of these features; its normalisation is not measured yet.

    Args:
        selected: the features.
        length: items that it takes of each sequence.
        sizes: other fields of :class:`~vemoclap_batch.fusion.model.FusionSpec`, such as ``d_model``.

    Raises:
        ConfigError: the sizes do not fit together.
    """
    features = {
        name: FeatureSpec(width=x.width, length=length if x.sequence else 1, sequence=x.sequence, space=x.space)
        for name, x in selected.items()
    }
    try:
        return FusionSpec(features=features, **sizes)
    except ValidationError as error:
        raise ConfigError([f"--d-model, --heads, --dropout: {item['msg']}" for item in error.errors()]) from error


def fit_statistics(spec: FusionSpec, data: Data) -> FusionSpec:
    """The same shape with the normalisation statistics of a training set."""
    fitted = {
        name: spec.features[name].model_copy(update={"minimum": low, "maximum": high})
        for name, (low, high) in statistics(data, list(spec.features)).items()
    }
    return spec.model_copy(update={"features": fitted})


def train(
    spec: FusionSpec,
    training: Data | Callable[[int], Data],
    validation: Data,
    settings: TrainSettings,
    report: Callable[[int, float, float], None] | None = None,
    *,
    device: torch.device | str = "cpu",
    state: TrainingState | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Checkpoint, History]:
    """Train a classifier; the weights returned are those of the best validation accuracy.

    Everything random (first weights, order, frames, dropout) is keyed by the seed, the step and the rank: the same
    seed and number of workers on the same kind of machine give the same weights, also of a training that was killed
    and resumed. Without dropout another number of workers gives the same within rounding.

    Args:
        spec: its shape, with the normalisation statistics to use (see :func:`fit_statistics`).
        training: labelled examples, or a function that makes those of an epoch.
        validation: labelled examples that choose the best step; when empty, the last weights are kept.
        settings: hyper-parameters.
        report: called with step, mean loss and validation accuracy after each evaluation.
        device: of this process.
        state: where rank 0 saves its progress; the training resumes from it.
        on_step: called with the step, after each.

    Raises:
        RunBroken: the loss is not finite any more.
    """
    device = torch.device(device)
    with _keyed_randomness(device):
        trainer = _Trainer(spec, settings, device)
        saved = state.load() if state else None
        if saved:
            trainer.load_state_dict(saved)
        progress, history = trainer.progress, trainer.history
        while not trainer.is_over:
            data = training(progress.epoch) if callable(training) else training
            order = list(batches(data.ids, settings.batch, settings.seed, progress.epoch))
            while progress.batch < len(order) and not trainer.is_over:
                trainer.step(data, order[progress.batch])
                if progress.step % settings.evaluate_every == 0 or progress.step == settings.max_steps:
                    trainer.evaluate(validation)
                    if report:
                        report(progress.step, history.losses[-1], history.accuracies[-1])
                if state and trainer.rank == 0 and state.is_due:
                    state.save(trainer.state_dict())
                if on_step:
                    on_step(progress.step)
            if progress.batch >= len(order):
                progress.epoch, progress.batch = progress.epoch + 1, 0
    trainer.model.load_state_dict(trainer.best)
    return Checkpoint(trainer.model.cpu().eval()), history


@contextmanager
def _keyed_randomness(device: torch.device) -> Iterator[None]:
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


class _Trainer:
    """The classifier with its optimiser, and all that a resumed training needs."""

    def __init__(self, spec: FusionSpec, settings: TrainSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.rank, self.workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        torch.manual_seed(settings.seed)
        self.model = build(spec).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.is_mixed = settings.amp and device.type == "cuda"
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.is_mixed)
        self.history, self.progress = History(), Progress()
        self.best = self._weights()
        self._class_weights: Tensor | None = None

    @property
    def is_over(self) -> bool:
        """Whether the steps, or the patience, are used up."""
        step = self.progress.step
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
        self.progress.step += 1
        self.progress.batch += 1
        torch.manual_seed(keyed_number(self.settings.seed, self.progress.step, self.rank))
        own = rows[self.rank :: self.workers]
        # Each worker divides by the weight of the whole batch: the sum over workers is the mean over the batch,
        # however unevenly it was shared out.
        total = self._class_weights[torch.from_numpy(data.labels[rows])].sum().item()
        self.optimizer.zero_grad()
        loss = self._backward(data.subset(own), self._class_weights, total) if len(own) else 0.0
        self.progress.loss += self._reduce_gradients(loss)
        self.progress.losses += 1
        self.scaler.unscale_(self.optimizer)
        for parameter, part in self._idle:
            if parameter.grad is not None:
                parameter.grad[part] = 0
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_gradients)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _backward(self, examples: Examples, class_weights: Tensor, total: float) -> float:
        settings, epoch = self.settings, self.progress.epoch
        batch = to_tensors(examples, self.model.spec, epoch, settings.seed)
        if settings.modality_dropout:
            batch = drop_modalities(batch, examples, settings.modality_dropout, epoch, settings.seed)
        batch = {name: x.to(self.device) for name, x in batch.items()}
        with torch.autocast(self.device.type, torch.float16) if self.is_mixed else nullcontext():
            logits = self.model(batch)  # [B, labels]
        loss = nn.functional.cross_entropy(
            logits.float(), torch.from_numpy(examples.labels).to(self.device), class_weights.to(self.device),
            reduction="sum", label_smoothing=settings.label_smoothing,
        ) / total  # fmt: skip
        self.scaler.scale(loss).backward()
        return float(loss.detach())

    def _reduce_gradients(self, loss: float) -> float:
        """Sum the gradients and the loss over the workers, in one exchange; returns the summed loss."""
        if self.workers == 1:
            return loss
        parameters = list(self.model.parameters())
        gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in parameters]
        flat = torch.cat([*(x.reshape(-1) for x in gradients), gradients[0].new_tensor([loss])])
        dist.all_reduce(flat)
        *parts, summed = flat.split([*(x.numel() for x in parameters), 1])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return float(summed)

    @cached_property
    def _idle(self) -> list[tuple[Tensor, slice]]:
        """Biases that make no difference: one of all keys moves all scores of a query alike, and softmax none.

        Their gradients are zero, but computed ones are rounding errors, which Adam would scale up to whole steps: the
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
        history, progress = self.history, self.progress
        if not math.isfinite(progress.loss):
            raise RunBroken(
                f"the loss is not finite any more by step {progress.step}: lr {self.settings.lr} is too much"
            )
        accuracy, loss = self._validate(validation)
        history.steps.append(progress.step)
        history.losses.append(progress.loss / progress.losses)
        history.accuracies.append(accuracy)
        progress.loss, progress.losses = 0.0, 0
        # Without a validation set every step is as good as it gets so far.
        if np.isnan(accuracy) or accuracy > history.best_accuracy:
            history.improved_step = progress.step
        elif accuracy < history.best_accuracy or loss >= history.best_loss:
            return
        history.best_step, history.best_accuracy, history.best_loss = progress.step, accuracy, loss
        self.best = self._weights()

    def _validate(self, data: Data) -> tuple[float, float]:
        """Accuracy and mean negative log-likelihood; NaN without videos. The workers share the videos."""
        if not len(data):
            return math.nan, math.nan
        checkpoint, sums = Checkpoint(self.model), torch.zeros(2, dtype=torch.float64)
        for rows in chunks(len(data))[self.rank :: self.workers]:
            probabilities, labels = checkpoint.probabilities(data.subset(rows)), data.labels[rows]
            given = np.maximum(probabilities[np.arange(len(rows)), labels], 1e-12)
            sums += torch.tensor([(probabilities.argmax(1) == labels).sum(), -np.log(given).sum()])
        sums = sums.to(self.device)
        if self.workers > 1:
            dist.all_reduce(sums)
        return float(sums[0]) / len(data), float(sums[1]) / len(data)

    def _weights(self) -> dict[str, Tensor]:
        return {name: x.detach().cpu().clone() for name, x in self.model.state_dict().items()}

    def _weigh(self, labels: np.ndarray) -> Tensor:
        """The weight of each label in the loss, float32 [labels]: 1, or the rarer the more."""
        names = self.model.spec.labels
        if not self.settings.class_weights:
            return torch.ones(len(names))
        counts = np.bincount(labels, minlength=len(names))
        weights = np.where(counts > 0, len(labels) / np.maximum(counts, 1) / max(1, (counts > 0).sum()), 0.0)
        return torch.tensor(weights, dtype=torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on; random numbers are no part of it, since they are keyed."""
        return {
            "model": self._weights(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
            "history": asdict(self.history),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.progress, self.history = Progress(**state["progress"]), History(**state["history"])
