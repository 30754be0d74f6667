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
from vemoclap_batch.fusion.dataset import MEMORY, open_data
from vemoclap_batch.fusion.evaluation import evaluate
from vemoclap_batch.fusion.model import LateAverage, alone
from vemoclap_batch.fusion.selection import Selected, names_of
from vemoclap_batch.fusion.spec import Fusion, FusionSpec
from vemoclap_batch.fusion.training import TrainSettings, classifier_spec, fit_statistics, train
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
class Setup:
    """What all trials share.

    Attributes:
        out: absolute address of the store.
        videos: ``video_id`` and ``content_key``, one row a video that has every feature.
        labels: index of each one's label, int64 [n].
        training, validation, test: positions of the videos; without ``validation`` a tenth of the training videos,
            drawn by a trial's seed, takes its place.
        settings: of each training, but for its seed.
        sizes: ``d_model``, ``heads`` and ``dropout`` of the classifiers.
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
    settings: TrainSettings
    sizes: dict[str, Any]
    memory: int = MEMORY

    def seeded(self, seed: int) -> TrainSettings:
        """The settings of a trial."""
        return self.settings.model_copy(update={"seed": seed})

    def key(self, arm: Arm, seed: int) -> str:
        """A hash of all that a trial's result depends on."""
        at, parts = np.arange(self.videos.num_rows), (self.training, self.validation, self.test)
        uses = sum(np.isin(at, rows) << bit for bit, rows in enumerate(parts))
        ids = [self.videos[name].to_pylist() for name in KEY]
        rows = sorted(zip(*ids, self.labels.tolist(), np.asarray(uses).tolist(), strict=True))
        tables = {name: fp for name, fp in names_of(self.selected).items() if name in arm.features}
        shape = self.shape(arm).model_dump(mode="json")
        return short_hash([_VERSION, tables, shape, arm.fusion, self.seeded(seed).model_dump(), rows])

    def shape(self, arm: Arm) -> FusionSpec:
        """The classifier of an arm; normalisation is still to be measured."""
        selected = {name: self.selected[name] for name in arm.features}
        return classifier_spec(selected, arm.frames, fusion=arm.fusion, **self.sizes)

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


def run_trial(setup: Setup, arm: Arm, seed: int) -> dict[str, Any]:
    """Train and score, on one thread; the result as JSON takes it."""
    torch.set_num_threads(1)
    began = time.monotonic()
    data, settings = setup.open(arm), setup.seeded(seed)
    training, validation = setup.divide(seed)
    spec = fit_statistics(setup.shape(arm), data.part(training))
    checkpoint, steps = _train(spec, data.part(training), data.part(validation), settings)
    test = data.part(setup.test)
    probabilities = checkpoint.probabilities(test)
    scores = evaluate(probabilities, test.labels, spec.labels)
    return {
        "arm": {"features": list(arm.features), "frames": arm.frames, "fusion": arm.fusion},
        "settings": settings.model_dump(),
        "fingerprints": names_of({name: setup.selected[name] for name in arm.features}),
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
