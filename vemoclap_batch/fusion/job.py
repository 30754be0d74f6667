"""One training: all it needs, as data that can travel to a worker, and the work itself."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vemoclap_batch.fusion.checkpoint import DESCRIPTION, WEIGHTS, StateFile
from vemoclap_batch.fusion.data import Data
from vemoclap_batch.fusion.dataset import MEMORY, names_of, open_data
from vemoclap_batch.fusion.model import FusionSpec
from vemoclap_batch.fusion.selection import Selected
from vemoclap_batch.fusion.training import ALONE, History, Team, TrainSettings, fit_statistics, train
from vemoclap_batch.store.filesystem import resolve, write_atomically
from vemoclap_batch.store.folder import Folder
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import KEY

STATE, CURVES, VIDEOS = ".state", "tensorboard", "videos.parquet"
_VERSION = 1  # of what a training does; part of its identity


class Watch(Protocol):
    """Who is told how a training goes; of several workers the first one tells."""

    def at(self, step: int) -> None:
        """A step is done."""

    def evaluated(self, step: int, loss: float, accuracy: float) -> None:
        """The mean loss since the last time, and the validation accuracy."""


@dataclass(frozen=True)
class Job:
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
        about: what the checkpoint's card says of the data and the preset.
        workers: how many train together.
        stream: as of :func:`~vemoclap_batch.fusion.dataset.open_data`.
        save_every_s: seconds between two savings of the state.
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
    def training(self) -> np.ndarray:
        """Positions of the videos that train, int64."""
        return np.setdiff1d(np.arange(self.videos.num_rows), self.validation)

    @property
    def used(self) -> list[str]:
        """What each video is for: ``train`` or ``validation``."""
        held = set(self.validation.tolist())
        return ["validation" if row in held else "train" for row in range(self.videos.num_rows)]

    @property
    def identity(self) -> str:
        """A hash of all that the weights depend on: two jobs with the same one are the same training."""
        columns = [self.videos[name].to_pylist() for name in KEY]
        rows = sorted(zip(*columns, self.labels.tolist(), self.used, strict=True))
        whole = [
            _VERSION, self.settings.model_dump(), self.shape.model_dump(mode="json"), names_of(self.selected),
            self.workers, rows,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def finished(job: Job) -> dict[str, Any] | None:
    """The card of the checkpoint in the job's folder, if it is of this very job."""
    folder = Folder(job.folder)
    if not (folder.has(DESCRIPTION) and folder.has(WEIGHTS)):
        return None
    card = json.loads(folder.read(DESCRIPTION)).get("card", {})
    return card if card.get("identity") == job.identity else None


def state_file(job: Job) -> StateFile:
    """Where the job keeps how far it is."""
    return StateFile(Folder(job.folder) / STATE, job.identity, job.save_every_s)


def open_job(job: Job) -> Data:
    """The features of the job's videos; memory is shared out among the workers, which may be on one machine."""
    return open_data(Store(job.out), job.selected, job.videos, job.labels, job.stream, MEMORY // job.workers)


def work(job: Job, data: Data, watch: Watch, team: Team = ALONE) -> None:
    """Train, as one of the team; its first worker leaves the finished checkpoint in the job's folder.

    A training that was killed goes on from its last state, and ends with the weights of one that was not.
    """
    is_first = team.rank == 0
    state, began = state_file(job), time.monotonic()
    training, validation = data.part(job.training), data.part(job.validation)
    curves = _Curves(job, watch) if is_first else None
    checkpoint, history = train(
        fit_statistics(job.shape, training), training, validation, job.settings, curves.evaluated if curves else None,
        team=team, state=state, at=watch.at if is_first else None,
    )  # fmt: skip
    if curves is None:
        return
    curves.close()
    checkpoint.fingerprints = {name: [feature.fingerprint] for name, feature in job.selected.items()}
    checkpoint.card = {
        **job.about, "settings": job.settings.model_dump(), "workers": job.workers, "device": team.device.type,
        **_outcome(history), "seconds": round(time.monotonic() - began, 1), "identity": job.identity,
    }  # fmt: skip
    _write_videos(job)
    checkpoint.save(job.folder)
    (Folder(job.folder) / STATE).remove()


def _outcome(history: History) -> dict[str, Any]:
    # JSON has no NaN: without validation videos there is no accuracy to tell.
    accuracies = [None if np.isnan(accuracy) else accuracy for accuracy in history.accuracies]
    return {
        "best_step": history.best_step,
        "accuracy": None if np.isnan(history.best_accuracy) else history.best_accuracy,
        "steps": history.steps[-1],
        "history": {"steps": history.steps, "losses": history.losses, "accuracies": accuracies},
    }


def _write_videos(job: Job) -> None:
    """Which videos trained the checkpoint and which chose its step, so that a score on them can be told."""
    table = pa.table({"video_id": job.videos["video_id"], "used": pa.array(job.used, pa.string())})
    write_atomically(*resolve(f"{job.folder}/{VIDEOS}"), table)


def used_videos(folder: str) -> dict[str, str] | None:
    """Video id → ``train`` or ``validation``, of a checkpoint; None when it does not tell."""
    place = Folder(folder)
    if not place.has(VIDEOS):
        return None
    rows = pq.read_table(pa.BufferReader(place.read(VIDEOS)))
    return dict(zip(rows["video_id"].to_pylist(), rows["used"].to_pylist(), strict=True))


class _Curves:
    """TensorBoard's files beside the checkpoint; a training that goes on writes the points after its state anew.

    Beside a checkpoint that is not on this machine there are none: they are files that grow.
    """

    def __init__(self, job: Job, watch: Watch) -> None:
        self._job, self._watch = job, watch
        self._folder = Folder(job.folder) / CURVES
        self._writer: Any = None
        if state_file(job).load() is None:
            self._folder.remove()

    def evaluated(self, step: int, loss: float, accuracy: float) -> None:
        if self._folder.local is not None:
            self._draw(step, loss, accuracy)
        self._watch.evaluated(step, loss, accuracy)

    def _draw(self, step: int, loss: float, accuracy: float) -> None:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._folder.local), purge_step=step)
        self._writer.add_scalar("loss/training", loss, step)
        if not np.isnan(accuracy):
            self._writer.add_scalar("accuracy/validation", accuracy, step)
        self._writer.add_scalar("lr", self._job.settings.lr, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
