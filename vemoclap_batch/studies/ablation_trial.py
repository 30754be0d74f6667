"""One trial of an ablation: a training on some features with some fusion, and its score."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.data import Data, validation_rows
from vemoclap_batch.fusion.dataset import MEMORY, names_of, open_data
from vemoclap_batch.fusion.evaluation import evaluate
from vemoclap_batch.fusion.model import FeatureSpec, Fusion, FusionSpec
from vemoclap_batch.fusion.selection import Selected
from vemoclap_batch.fusion.training import TrainSettings, fit_statistics, train
from vemoclap_batch.fusion.variants import LateAverage, alone
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import KEY
from vemoclap_batch.studies.ablation_data import Frames, Thinned

VALIDATION_SHARE = 0.1
_VERSION = 1  # of what a trial does; part of its key


@dataclass(frozen=True)
class Arm:
    """One line of a study's table: what is trained, once a seed."""

    name: str
    features: tuple[str, ...]
    frames: int
    fusion: Fusion = "cross_attention"


@dataclass(frozen=True)
class Trial:
    """One training and its score."""

    arm: Arm
    settings: TrainSettings


@dataclass(frozen=True)
class Setup:
    """What all trials share.

    Attributes:
        out: absolute address of the store.
        videos: ``video_id`` and ``content_key``, one row a video that has every feature.
        labels: index of each one's label, int64 [n].
        training, validation, test: positions of the videos; without ``validation`` a tenth of the training videos,
            drawn by a trial's seed, takes its place.
        memory: bytes of features that one trial may hold.
    """

    out: str
    selected: dict[str, Selected]
    videos: pa.Table
    labels: np.ndarray
    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    frames: Frames
    d_model: int
    heads: int
    dropout: float
    memory: int = MEMORY

    def key(self, trial: Trial) -> str:
        """A hash of all that a trial's result depends on."""
        used = [self.videos[name].to_pylist() for name in KEY]
        rows = sorted(zip(*used, self.labels.tolist(), self._uses(), strict=True))
        tables = {name: fp for name, fp in names_of(self.selected).items() if name in trial.arm.features}
        shape = self.shape(trial.arm).model_dump(mode="json")
        return short_hash([_VERSION, tables, shape, trial.arm.fusion, trial.settings.model_dump(), rows])

    def _uses(self) -> list[int]:
        uses = np.zeros(self.videos.num_rows, int)
        for number, rows in enumerate((self.training, self.validation, self.test)):
            uses[rows] += 1 << number
        return uses.tolist()

    def shape(self, arm: Arm) -> FusionSpec:
        """The classifier of an arm; normalisation is still to be measured."""
        features = {
            name: FeatureSpec(
                width=self.selected[name].width, length=arm.frames if self.selected[name].sequence else 1,
                sequence=self.selected[name].sequence, space=self.selected[name].space,
            )
            for name in arm.features
        }  # fmt: skip
        return FusionSpec(
            features=features, d_model=self.d_model, heads=self.heads, dropout=self.dropout, fusion=arm.fusion
        )

    def open(self, arm: Arm) -> Data:
        """The features of an arm, of as many frames as it takes."""
        selected = {name: self.selected[name] for name in arm.features}
        data = open_data(Store(self.out), selected, self.videos, self.labels, None, self.memory)
        return Thinned(data, self.frames.kept(arm.frames, arm.features))

    def divide(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the videos that train, and of those that choose the best step."""
        if len(self.validation):
            return np.setdiff1d(self.training, self.validation), self.validation
        ids = self.videos["video_id"].to_pylist()
        held = validation_rows([ids[r] for r in self.training], self.labels[self.training], VALIDATION_SHARE, seed)
        return np.delete(self.training, held), self.training[held]


def run_trial(setup: Setup, trial: Trial) -> dict[str, Any]:
    """Train and score, on one thread; the result as JSON takes it."""
    torch.set_num_threads(1)
    began = time.monotonic()
    data = setup.open(trial.arm)
    training, validation = setup.divide(trial.settings.seed)
    spec = fit_statistics(setup.shape(trial.arm), data.part(training))
    checkpoint, steps = _train(spec, data.part(training), data.part(validation), trial.settings)
    test = data.part(setup.test)
    probabilities = checkpoint.probabilities(test)
    scores = evaluate(probabilities, test.labels, spec.labels)
    return {
        "arm": {"features": list(trial.arm.features), "frames": trial.arm.frames, "fusion": trial.arm.fusion},
        "settings": trial.settings.model_dump(),
        "fingerprints": names_of({name: setup.selected[name] for name in trial.arm.features}),
        "n_train": len(training), "n_validation": len(validation), "n_test": len(test),
        **{name: scores[name] for name in ("accuracy", "macro_f1")},
        "hits": (probabilities.argmax(1) == test.labels).astype(int).tolist(),
        "steps": steps, "seconds": round(time.monotonic() - began, 2), "torch": torch.__version__,
    }  # fmt: skip


def _train(spec: FusionSpec, training: Data, validation: Data, settings: TrainSettings) -> tuple[Checkpoint, int]:
    """A classifier of any fusion and how many steps it took; those of a late average are trained apart."""
    if spec.fusion != "late":
        checkpoint, history = train(spec, training, validation, settings)
        return checkpoint, history.steps[-1]
    each = {name: train(alone(spec, name), training, validation, settings) for name in spec.features}
    model = LateAverage.assemble(spec, {name: checkpoint.model for name, (checkpoint, _) in each.items()})
    return Checkpoint(model), sum(history.steps[-1] for _, history in each.values())


def short_hash(content: Any) -> str:
    """16 hex digits that depend on JSON content alone."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
