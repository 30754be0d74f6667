"""What one worker does in a training, and all that it needs, as data that Ray can send to it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from vemoclap_batch.fusion.checkpoint import VIDEOS, TrainingState
from vemoclap_batch.fusion.data import Data
from vemoclap_batch.fusion.dataset import MEMORY, open_data
from vemoclap_batch.fusion.description import DESCRIPTION, WEIGHTS
from vemoclap_batch.fusion.selection import Selected, names_of
from vemoclap_batch.fusion.spec import FusionSpec
from vemoclap_batch.fusion.training import History, TrainSettings, fit_statistics, train
from vemoclap_batch.store.filesystem import resolve, write_atomically
from vemoclap_batch.store.folder import Folder
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import KEY

STATE_FOLDER, CURVES = ".state", "tensorboard"
_VERSION = 1  # of what a training does; part of its identity

#: Called with the step, after each; after an evaluation also with the mean loss since the last one and the accuracy.
OnProgress = Callable[[int, float | None, float | None], None]


@dataclass(frozen=True)
class TrainLoopConfig:
    """One training.

    Attributes:
        out: absolute address of the store.
        selected: the table that serves each feature.
        videos: ``video_id`` and ``content_key`` of all videos that train or validate.
        labels: index of each one's label, int64 [n].
        validation: positions of those that choose the best step; the others train.
        shape: of the classifier; normalisation is still to be measured.
        settings: hyper-parameters.
        folder: absolute address of where the checkpoint goes; all workers must reach it.
        about: of the data and the preset, for the checkpoint's card.
        workers: how many train together.
        stream, save_every_s: as of :func:`~vemoclap_batch.training.fit.fit`.
    """

    out: str
    selected: dict[str, Selected]
    videos: pa.Table
    labels: np.ndarray
    validation: np.ndarray
    shape: FusionSpec
    settings: TrainSettings
    folder: str
    about: dict[str, Any]
    workers: int = 1
    stream: bool | None = None
    save_every_s: float = 30.0

    @property
    def used(self) -> list[str]:
        """What each video is for: ``train`` or ``validation``."""
        validation = set(self.validation.tolist())
        return ["validation" if row in validation else "train" for row in range(self.videos.num_rows)]

    @property
    def identity(self) -> str:
        """A hash of all that the weights depend on: two configurations with the same one are the same training."""
        columns = [self.videos[name].to_pylist() for name in KEY]
        rows = sorted(zip(*columns, self.labels.tolist(), self.used, strict=True))
        content = [
            _VERSION, self.settings.model_dump(), self.shape.model_dump(mode="json"), names_of(self.selected),
            self.workers, rows,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def state(self) -> TrainingState:
        """Where the training saves its progress."""
        return TrainingState(Folder(self.folder) / STATE_FOLDER, self.identity, self.save_every_s)

    def open_data(self) -> Data:
        """The features of the videos; memory is divided among the workers, which may be on one machine."""
        return open_data(Store(self.out), self.selected, self.videos, self.labels, self.stream, MEMORY // self.workers)

    def finished_card(self) -> dict[str, Any] | None:
        """The card of the checkpoint in the folder, if this training made it."""
        folder = Folder(self.folder)
        if not (folder.has(DESCRIPTION) and folder.has(WEIGHTS)):
            return None
        card = json.loads(folder.read(DESCRIPTION)).get("card", {})
        return card if card.get("identity") == self.identity else None


def train_loop(config: TrainLoopConfig, data: Data, on_progress: OnProgress, device: torch.device) -> None:
    """Train, alone or as one worker of a process group; rank 0 leaves the finished checkpoint in the folder.

    A training that was killed resumes from its last state, and ends with the weights of one that was not.
    """
    began, used = time.monotonic(), np.array(config.used)
    training, validation = (data.part(np.flatnonzero(used == name)) for name in ("train", "validation"))
    spec = fit_statistics(config.shape, training)
    if dist.is_initialized() and dist.get_rank():
        train(spec, training, validation, config.settings, device=device, state=config.state)
        return
    writer = _summary_writer(config)

    def report(step: int, loss: float, accuracy: float) -> None:
        if writer:
            writer.add_scalar("loss/training", loss, step)
            if not np.isnan(accuracy):
                writer.add_scalar("accuracy/validation", accuracy, step)
            writer.add_scalar("lr", config.settings.lr, step)
            writer.flush()
        on_progress(step, loss, accuracy)

    checkpoint, history = train(
        spec, training, validation, config.settings, report,
        device=device, state=config.state, on_step=lambda step: on_progress(step, None, None),
    )  # fmt: skip
    if writer:
        writer.close()
    checkpoint.fit_sets(validation)
    checkpoint.fingerprints = {name: [feature.fingerprint] for name, feature in config.selected.items()}
    checkpoint.card = {
        **config.about, "settings": config.settings.model_dump(), "workers": config.workers, "device": device.type,
        **_outcome(history), "seconds": round(time.monotonic() - began, 1), "identity": config.identity,
    }  # fmt: skip
    # Which videos trained the checkpoint and which chose its step, so that a score on them is known to leak.
    videos = pa.table({"video_id": config.videos["video_id"], "used": pa.array(config.used, pa.string())})
    write_atomically(*resolve(f"{config.folder}/{VIDEOS}"), videos)
    checkpoint.save(config.folder)
    (Folder(config.folder) / STATE_FOLDER).remove()


def _outcome(history: History) -> dict[str, Any]:
    # JSON has no NaN: without validation videos there is no accuracy.
    accuracies = [None if np.isnan(accuracy) else accuracy for accuracy in history.accuracies]
    return {
        "best_step": history.best_step,
        "accuracy": None if np.isnan(history.best_accuracy) else history.best_accuracy,
        "steps": history.steps[-1],
        "history": {"steps": history.steps, "losses": history.losses, "accuracies": accuracies},
    }


def _summary_writer(config: TrainLoopConfig) -> Any:
    """Writes TensorBoard's files beside the checkpoint; a resumed training writes those after its state anew.

    None for a checkpoint that is not on this machine: they are files that grow, which an object store does not have.
    """
    folder, saved = Folder(config.folder) / CURVES, config.state.load()
    if saved is None:
        folder.remove()
    if folder.local is None:
        return None
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder.local), purge_step=saved["progress"]["step"] + 1 if saved else None)
