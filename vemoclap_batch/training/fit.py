"""Training on a store's features: one classifier, or one for each of several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from vemoclap_batch.config import LABELS, Config, describe_errors
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.fusion.data import Data, validation_rows
from vemoclap_batch.fusion.dataset import Labelled, find_labelled
from vemoclap_batch.fusion.selection import Selected, select
from vemoclap_batch.fusion.spec import FusionSpec
from vemoclap_batch.fusion.training import PRESETS, TrainSettings, classifier_spec
from vemoclap_batch.report.progress import tracking
from vemoclap_batch.store.folder import Folder
from vemoclap_batch.store.store import Store
from vemoclap_batch.training.train_loop import TrainLoopConfig, train_loop

_VALIDATION_SHARE = 0.1


def fit(
    store: Store, labels: str, checkpoint: str, config: Config, *, preset: str = "quick",
    chosen: Mapping[str, str] | None = None, names: Sequence[str] | None = None, seed: int = 1,
    seeds: Sequence[int] | None = None, hyper: Mapping[str, Any] | None = None, workers: int = 1,
    stream: bool | None = None, save_every_s: float = 30.0, address: str | None = None, verbose: bool = False,
    say: Callable[[str], None] | None = None, **sizes: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train a classifier on the videos of the split ``train`` and save it.

    The best step is chosen on the labels file's own validation videos, else on a tenth of the training videos; those
    of other splits are not read. A killed training resumes from its state; a finished one is not repeated.

    Args:
        store: the output folder with the features.
        labels: the labels file.
        checkpoint: folder of the classifier, or with ``seeds`` of one folder a seed (:func:`seed_folder`).
        config: its profile names the features and prefers its own fingerprints.
        preset: a name in :data:`~vemoclap_batch.fusion.training.PRESETS`.
        chosen: the user's choice of fingerprints.
        names: features to train on; without it all that the profile has and the store holds.
        seed: the same seed and number of workers give the same weights.
        seeds: train one classifier for each of these instead, on the same split.
        hyper: hyper-parameters that differ from the preset's.
        workers: processes that train together, by Ray Train; 1 trains in this process, without Ray.
        stream: read features from disk rather than memory; None decides by their size.
        save_every_s: least seconds between two saves of the state.
        address: of the Ray cluster, for more than one worker.
        verbose: show Ray's log.
        say: called with a line after each evaluation; without it a progress display shows it on standard error.
        **sizes: ``d_model``, ``heads`` and ``dropout`` of the classifier, where they are not the published ones.

    Returns:
        The card of the checkpoint, its folder and features; with ``seeds`` mean and deviation of the accuracies.

    Raises:
        ConfigError: wrong names, settings or labels, or nothing to train on.
        RunBroken: the training failed.
    """
    settings, preset_words = training_settings(preset, hyper or {})
    selected = select_for_training(store, config, names, chosen or {})
    shape = classifier_spec(selected, config.sampling.frames, **sizes)
    if workers < 1:
        raise ConfigError([f"--workers {workers}: expected at least 1"])
    folders = _folders(checkpoint, seed, seeds)
    labelled = find_labelled(store, labels, selected, LABELS)
    options = {"workers": workers, "stream": stream, "save_every_s": save_every_s}
    data: Data | None = None
    cards = {}
    for each, folder in folders.items():
        seeded = settings.model_copy(update={"seed": each})
        training = _loop_config(store, labelled, selected, shape, seeded, preset_words, folder, options)
        if training.finished_card() is None:
            if data is None and workers == 1:
                data = training.open_data()  # The seeds share it.
            _train(training, data, config, say, address, verbose)
        cards[Folder(folder).name] = training.finished_card() or {}
    result: dict[str, Any] = {"checkpoint": checkpoint, "features": sorted(selected)}
    if seeds is None:
        return cards.popitem()[1] | result
    return _summary(list(cards.values())) | result | {"seeds": cards}


def seed_folder(checkpoint: str, seed: int) -> str:
    """Where the classifier of one of several seeds goes."""
    return f"{checkpoint.rstrip('/')}/seed-{seed}"


def _folders(checkpoint: str, seed: int, seeds: Sequence[int] | None) -> dict[int, str]:
    if seeds is None:
        return {seed: checkpoint}
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError([f"--seeds {','.join(map(str, seeds))}: expected different numbers"])
    return {each: seed_folder(checkpoint, each) for each in seeds}


def training_settings(preset: str, hyper: Mapping[str, Any]) -> tuple[TrainSettings, str]:
    """The hyper-parameters, and what reports call them (:func:`in_words`)."""
    if preset not in PRESETS:
        raise ConfigError([f"--preset {preset!r}: expected one of {', '.join(PRESETS)}"])
    try:
        settings = TrainSettings.model_validate(PRESETS[preset].model_dump() | dict(hyper))
    except ValidationError as error:
        raise ConfigError(describe_errors("--hyper", error)) from error
    return settings, in_words(preset, settings)


def in_words(preset: str, settings: TrainSettings) -> str:
    """What reports call hyper-parameters: the preset and what differs from it."""
    base = PRESETS[preset].model_dump()
    changed = [f"{name}={value}" for name, value in settings.model_dump().items() if value != base[name]]
    return ", ".join([preset, *changed])


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


def _loop_config(
    store: Store, labelled: Labelled, selected: dict[str, Selected], shape: FusionSpec, settings: TrainSettings,
    preset: str, folder: str, options: Mapping[str, Any],
) -> TrainLoopConfig:  # fmt: skip
    training, validation = labelled.rows("train"), labelled.validation()
    source = "the labels file's"
    if not len(validation):
        ids = labelled.videos["video_id"].take(training).to_pylist()
        validation = training[validation_rows(ids, labelled.labels[training], _VALIDATION_SHARE, settings.seed)]
        source = f"{_VALIDATION_SHARE:.0%} of the training videos, stratified by label, seed {settings.seed}"
    rows = np.union1d(training, validation)
    about = {
        "preset": preset, "n_train": len(rows) - len(validation), "n_validation": len(validation),
        "split": labelled.source, "validation": source, "blacklist": labelled.blacklist,
    }  # fmt: skip
    return TrainLoopConfig(
        Folder(store.address).address, selected, labelled.videos.take(rows), labelled.labels[rows],
        np.searchsorted(rows, np.sort(validation)), shape, settings, Folder(folder).address, about, **options,
    )  # fmt: skip


def _train(
    training: TrainLoopConfig, data: Data | None, config: Config, say: Callable[[str], None] | None,
    address: str | None, verbose: bool,
) -> None:  # fmt: skip
    """Run a training, in this process if its data is given, and show its progress."""
    with tracking(f"{Folder(training.folder).name}: steps", training.settings.max_steps) as tracker:
        log = say or tracker.log
        if saved := training.state.load():
            log(f"resuming from step {saved['progress']['step']}")

        def on_progress(step: int, loss: float | None, accuracy: float | None) -> None:
            tracker.update(step)
            if loss is not None:
                preset = training.about["preset"]
                log(f"step {step}: loss {loss:.4f}, validation accuracy {accuracy:.3f} (preset {preset})")

        if data is not None:
            has_gpu = config.uses_gpu and torch.cuda.is_available()
            train_loop(training, data, on_progress, torch.device("cuda" if has_gpu else "cpu"))
            return
        from vemoclap_batch.training.distributed import train_distributed

        train_distributed(training, config, on_progress, address, verbose)


def _summary(cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    accuracies = [card["accuracy"] for card in cards if card["accuracy"] is not None]
    mean = float(np.mean(accuracies)) if accuracies else None
    deviation = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    shared = {name: cards[0][name] for name in ("preset", "n_train", "n_validation", "split", "blacklist")}
    return {**shared, "accuracy": mean, "accuracy_deviation": deviation}
