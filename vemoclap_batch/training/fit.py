"""Training on a store's features: what is asked for becomes jobs, one a seed, here or on several workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from vemoclap_batch.config import LABELS, Config, ConfigError, describe_errors
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.fusion.data import Data, validation_rows
from vemoclap_batch.fusion.dataset import Labelled, classifier_spec, find_labelled
from vemoclap_batch.fusion.job import Job, finished, open_job, state_file, work
from vemoclap_batch.fusion.model import FusionSpec
from vemoclap_batch.fusion.scoring import score
from vemoclap_batch.fusion.selection import Selected, select
from vemoclap_batch.fusion.training import PRESETS, Alone, TrainSettings
from vemoclap_batch.report.progress import Tracker, tracking
from vemoclap_batch.store.filesystem import is_remote, local_path
from vemoclap_batch.store.folder import Folder
from vemoclap_batch.store.store import Store

__all__ = ["fit", "score", "seed_folder"]

_VALIDATION_SHARE = 0.1


def fit(
    store: Store, labels: str, checkpoint: str, config: Config, *, preset: str = "quick",
    chosen: Mapping[str, str] | None = None, names: Sequence[str] | None = None, d_model: int = 512, heads: int = 4,
    dropout: float = 0.5, seed: int = 1, seeds: Sequence[int] | None = None, hyper: Mapping[str, Any] | None = None,
    workers: int = 1, stream: bool | None = None, save_every_s: float = 30.0, address: str | None = None,
    verbose: bool = False, say: Callable[[str], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a classifier on the videos of the split ``train`` and save it.

    The best step is chosen on the labels file's own validation videos, else on a tenth of the training videos; those
    of other splits are never looked at. A training that was killed goes on from its state, and one that is finished
    already is not done again.

    Args:
        store: the output folder with the features.
        labels: the labels file.
        checkpoint: folder of the classifier, or with ``seeds`` of one folder a seed (:func:`seed_folder`).
        config: its profile names the features and prefers its own fingerprints.
        preset: a name in :data:`~vemoclap_batch.fusion.training.PRESETS`.
        chosen: the user's choice of fingerprints.
        names: features to train on; without it all that the profile has and the store holds.
        d_model: width of the classifier.
        heads: its attention heads.
        dropout: its dropout.
        seed: the same seed and number of workers give the same weights.
        seeds: train one classifier for each of these instead, on the same split.
        hyper: hyper-parameters that differ from the preset's.
        workers: processes that train together, by Ray Train; 1 trains in this process, without Ray.
        stream: read features from disk rather than memory; None decides by their size.
        save_every_s: seconds between two savings of the state; a kill costs no more.
        address: of the Ray cluster, for more than one worker.
        verbose: show Ray's log.
        say: told after each evaluation; without it a progress display says so on standard error.

    Returns:
        The card of the checkpoint, its folder and features; with ``seeds`` the mean and deviation of the validation
        accuracy, and the cards by folder name.

    Raises:
        ConfigError: wrong names, settings or labels, or nothing to train on.
        RunBroken: the training broke off.
    """
    settings, called = training_settings(preset, hyper or {})
    selected = select_for_training(store, config, names, chosen or {})
    shape = classifier_spec(selected, config.sampling.frames, d_model=d_model, heads=heads, dropout=dropout)
    if workers < 1:
        raise ConfigError([f"--workers {workers}: expected at least 1"])
    labelled = find_labelled(store, labels, selected, LABELS)
    every = [
        _job(store, labelled, selected, shape, settings.model_copy(update={"seed": each}), folder)
        for each, folder in _folders(checkpoint, seed, seeds)
    ]
    every = [
        replace(
            job, about={"preset": called} | job.about, workers=workers, stream=stream, save_every_s=save_every_s
        )
        for job in every
    ]  # fmt: skip
    runner = _Runner(every, config, address, verbose, say)
    cards = {Folder(job.folder).name: runner.card(job) for job in every}
    found = {"checkpoint": checkpoint, "features": sorted(selected)}
    if seeds is None:
        return {**next(iter(cards.values())), **found}
    return {**_summary(list(cards.values())), **found, "seeds": cards}


def seed_folder(checkpoint: str, seed: int) -> str:
    """Where the classifier of one of several seeds goes."""
    return f"{checkpoint.rstrip('/')}/seed-{seed}"


def _folders(checkpoint: str, seed: int, seeds: Sequence[int] | None) -> list[tuple[int, str]]:
    if seeds is None:
        return [(seed, checkpoint)]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError([f"--seeds {','.join(map(str, seeds))}: expected different numbers"])
    return [(each, seed_folder(checkpoint, each)) for each in seeds]


def training_settings(preset: str, hyper: Mapping[str, Any]) -> tuple[TrainSettings, str]:
    """The hyper-parameters, and what reports call them: the preset and what differs from it."""
    if preset not in PRESETS:
        raise ConfigError([f"--preset {preset!r}: expected one of {', '.join(PRESETS)}"])
    base = PRESETS[preset]
    try:
        settings = TrainSettings.model_validate(base.model_dump() | dict(hyper))
    except ValidationError as error:
        raise ConfigError(describe_errors("--hyper", error)) from error
    return settings, in_words(preset, settings)


def in_words(preset: str, settings: TrainSettings) -> str:
    """What reports call hyper-parameters: the preset and what differs from it."""
    base = PRESETS[preset].model_dump()
    changed = [f"{name}={value}" for name, value in settings.model_dump().items() if value != base[name]]
    return ", ".join([preset, *changed])


def _job(
    store: Store, labelled: Labelled, selected: dict[str, Selected], shape: FusionSpec, settings: TrainSettings,
    folder: str,
) -> Job:  # fmt: skip
    training, validation = labelled.rows("train"), labelled.validation()
    source = "the labels file's"
    if not len(validation):
        ids = [labelled.ids[row] for row in training]
        validation = training[validation_rows(ids, labelled.labels[training], _VALIDATION_SHARE, settings.seed)]
        source = f"{_VALIDATION_SHARE:.0%} of the training videos, stratified by label, seed {settings.seed}"
    rows = np.union1d(training, validation)
    about = {
        "n_train": len(rows) - len(validation), "n_validation": len(validation), "split": labelled.source,
        "validation": source, "blacklist": labelled.blacklist,
    }  # fmt: skip
    address = store.address if is_remote(store.address) else local_path(store.address)
    held = np.searchsorted(rows, np.sort(validation))
    return Job(
        address, selected, labelled.videos.take(rows), labelled.labels[rows], held, shape, settings,
        Folder(folder).address, about,
    )  # fmt: skip


class _Runner:
    """Runs jobs one after another; the features, which they share, are read once and only if a job needs them."""

    def __init__(
        self, every: Sequence[Job], config: Config, address: str | None, verbose: bool,
        say: Callable[[str], None] | None,
    ) -> None:  # fmt: skip
        self._every, self._config, self._say = every, config, say
        self._address, self._verbose = address, verbose

    @cached_property
    def _data(self) -> Data:
        return open_job(self._every[0])

    def card(self, job: Job) -> dict[str, Any]:
        """Train, go on with a training or find it done; its card."""
        card = finished(job)
        if card is None:
            with tracking(f"{Folder(job.folder).name}: steps", job.settings.max_steps) as tracker:
                self._train(job, _Display(tracker, self._say or tracker.say, job))
            card = finished(job)
        assert card is not None
        return card

    def _train(self, job: Job, display: _Display) -> None:
        display.begin()
        if job.workers == 1:
            has_gpu = self._config.uses_gpu and torch.cuda.is_available()
            work(job, self._data, display, Alone(torch.device("cuda" if has_gpu else "cpu")))
            return
        from vemoclap_batch.training.distributed import train_distributed

        train_distributed(job, self._config, display, self._address, self._verbose)


class _Display:
    """Shows how a training goes."""

    def __init__(self, tracker: Tracker, say: Callable[[str], None], job: Job) -> None:
        self._tracker, self._say, self._job = tracker, say, job

    def begin(self) -> None:
        saved = state_file(self._job).load()
        if saved:
            self._say(f"going on from step {saved.progress['place']['step']}")

    def at(self, step: int) -> None:
        self._tracker.at(step)

    def evaluated(self, step: int, loss: float, accuracy: float) -> None:
        self._say(
            f"step {step}: loss {loss:.4f}, validation accuracy {accuracy:.3f} (preset {self._job.about['preset']})"
        )


def _summary(cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    accuracies = [card["accuracy"] for card in cards if card["accuracy"] is not None]
    mean = float(np.mean(accuracies)) if accuracies else None
    deviation = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    shared = {name: cards[0][name] for name in ("preset", "n_train", "n_validation", "split", "blacklist")}
    return {**shared, "accuracy": mean, "accuracy_deviation": deviation}


def select_for_training(
    store: Store, config: Config, names: Sequence[str] | None, chosen: Mapping[str, str]
) -> dict[str, Selected]:
    """The features tables that a training reads: those named, else all that the profile has and the store holds.

    Raises:
        ConfigError: unknown names, or none of the features is there.
    """
    specs = {name: spec for name, spec in resolve(config).items() if spec.space is not None}
    if unknown := sorted(set(names or []) - set(specs)):
        raise ConfigError([f"--use {name!r}: expected one of {', '.join(specs)}" for name in unknown])
    wanted = names or [name for name in specs if store.fingerprints(name)]
    if not wanted:
        raise ConfigError([f"{store.address} holds no features of profile {config.profile!r}"])
    preferred = {name: specs[name].fingerprint for name in wanted}
    return select(store, {name: specs[name].space for name in wanted}, chosen, preferred)
