"""The questions the paper leaves open, as studies: many trainings on the same features and videos, and what each costs.

A trial is one training and its score; it is kept in OUT as it ends, under a hash of all that it depends on, and is not
run again. Trials run side by side as Ray tasks, one CPU each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
import torch

from vemoclap_batch.config import LABELS, Config, ConfigError
from vemoclap_batch.errors import RunBroken
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.fusion.cost import measure
from vemoclap_batch.fusion.dataset import MEMORY, find_labelled, names_of
from vemoclap_batch.fusion.evaluation import bootstrap
from vemoclap_batch.fusion.model import FusionSpec
from vemoclap_batch.fusion.selection import Selected
from vemoclap_batch.fusion.training import TrainSettings
from vemoclap_batch.fusion.variants import FUSIONS
from vemoclap_batch.pipeline.cluster import connected
from vemoclap_batch.pipeline.progress import tracking
from vemoclap_batch.store.filesystem import is_remote, local_path
from vemoclap_batch.store.store import Store
from vemoclap_batch.studies.ablation_data import Extraction, Frames, find_frames, ladder
from vemoclap_batch.studies.ablation_tables import write_study
from vemoclap_batch.studies.ablation_trial import VALIDATION_SHARE, Arm, Setup, Trial, run_trial, short_hash
from vemoclap_batch.training.fit import select_for_training, training_settings

STUDIES = ("frames", "modalities", "fusion")
#: Frames that the other studies take: the published number.
FRAMES = 16
_VERSION = 1  # of how a cost is measured; part of its key

# ---- the studies


def arms(study: str, features: Sequence[str], numbers: Sequence[int], frames: int) -> list[Arm]:
    """The lines of a study's table.

    Args:
        study: one of :data:`STUDIES`.
        features: all of them.
        numbers: of frames, for the study of these.
        frames: how many the other studies take.
    """
    every = tuple(sorted(features))
    if study == "frames":
        return [Arm(f"n = {n}", every, n) for n in numbers]
    if study == "fusion":
        return [Arm(fusion.replace("_", "-"), every, frames, fusion) for fusion in FUSIONS]
    subsets = {every: "all"}
    if len(every) > 2:  # Of two features, the one without the other is the other alone.
        subsets |= {tuple(other for other in every if other != name): f"without {name}" for name in every}
    if len(every) > 1:
        subsets |= {(name,): f"{name} alone" for name in every}
    return [Arm(name, subset, frames) for subset, name in subsets.items()]


def _base(study: str, lines: Sequence[Arm], frames: int) -> Arm:
    """The line that the others are compared with: the published classifier, of all features."""
    return next((arm for arm in lines if arm.frames == frames), lines[-1]) if study == "frames" else lines[0]


def ablate(
    store: Store, labels: str, studies: Sequence[str], config: Config, *, preset: str = "quick",
    seeds: Sequence[int] = (1, 2, 3), numbers: Sequence[int] | None = None, split: str = "test",
    chosen: Mapping[str, str] | None = None, names: Sequence[str] | None = None, d_model: int = 512, heads: int = 4,
    dropout: float = 0.5, hyper: Mapping[str, Any] | None = None, address: str | None = None, verbose: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run studies and write ``OUT/ablation/<study>``: ``table.parquet``, ``table.md``, ``accuracy.png``, ``cost.png``.

    Args:
        store: the output folder with the features.
        labels: the labels file.
        studies: of :data:`STUDIES`.
        config: its profile names the features and prefers its own fingerprints.
        preset: of the hyper-parameters.
        seeds: each trains every line once.
        numbers: of frames; by default those of :func:`~vemoclap_batch.studies.ablation_data.ladder`.
        split: which videos are scored.
        chosen: the user's choice of fingerprints.
        names: features; without it all that the profile has and the store holds.
        d_model: width of the classifiers.
        heads: their attention heads.
        dropout: their dropout.
        hyper: hyper-parameters that differ from the preset's.
        address: of the Ray cluster.
        verbose: show Ray's log.

    Returns:
        ``studies`` (the rows of each table), ``trials`` (how many ran and how many were there), ``about`` (what all
        tables are made of) and ``out``.

    Raises:
        ConfigError: wrong names, settings or labels, or nothing to train on.
        RunBroken: a trial broke off; those that ended are kept.
    """
    settings, called = training_settings(preset, hyper or {})
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError([f"--seeds {','.join(map(str, seeds))}: expected different numbers"])
    selected = select_for_training(store, config, names, chosen or {})
    setup, about = _set_up(store, labels, selected, split, d_model, heads, dropout)
    frames = min(FRAMES, setup.frames.wanted or FRAMES)
    numbers = _numbers(numbers, setup.frames, config)
    lines = {study: arms(study, list(selected), numbers, frames) for study in studies}
    every = list(dict.fromkeys(arm for study in studies for arm in lines[study]))
    trials = [Trial(arm, settings.model_copy(update={"seed": seed})) for arm in every for seed in seeds]
    runner = _Runner(store, setup, address, verbose)
    results, ran = runner.run(trials, every)
    about |= {"preset": called, "seeds": list(seeds), "frames": frames, **_sizes(next(iter(results.values())))}
    extraction = Extraction.of(store, selected, resolve(config), list(setup.frames.numbers))
    tables = {}
    for study in studies:
        base = _base(study, lines[study], frames)
        tables[study] = [
            _line(arm, base, seeds, settings, runner, results, extraction, setup.frames) for arm in lines[study]
        ]
        write_study(store.filesystem, f"{store.root}/ablation/{study}", study, tables[study], base.name, about)
    counts = {"run": ran, "kept": len(results) - ran}
    return {"studies": tables, "trials": counts, "about": about, "out": store.address}


def _set_up(
    store: Store, labels: str, selected: dict[str, Selected], split: str, d_model: int, heads: int, dropout: float
) -> tuple[Setup, dict[str, Any]]:
    if d_model < 1 or heads < 1 or d_model % heads or not 0 <= dropout < 1:
        raise ConfigError(
            [f"--d-model {d_model}, --heads {heads}, --dropout {dropout}: expected a multiple of the heads, 0 to 1"]
        )
    labelled = find_labelled(store, labels, selected, LABELS)
    test, training, validation = labelled.rows(split), labelled.rows("train"), labelled.validation()
    if common := np.intersect1d(np.union1d(training, validation), test).size:
        raise ConfigError([f"--split {split}: {common} of these videos train or choose the best step"])
    frames = find_frames(store, selected, labelled.videos)
    address = store.address if is_remote(store.address) else local_path(store.address)
    setup = Setup(
        address, selected, labelled.videos, labelled.labels, training, validation, test, frames, d_model, heads, dropout
    )
    share = f"{VALIDATION_SHARE:.0%} of the training videos, stratified by label, drawn by each seed"
    return setup, {
        "split": split, "split_source": labelled.source, "blacklist": labelled.blacklist,
        "validation": "the labels file's" if len(validation) else share, "fingerprints": names_of(selected),
        "d_model": d_model, "heads": heads, "dropout": dropout, "extracted": frames.wanted,
        "frame_features": sorted(frames.numbers), "notes": frames.notes,
    }  # fmt: skip


def _numbers(given: Sequence[int] | None, frames: Frames, config: Config) -> list[int]:
    if given is None:
        return ladder(frames.wanted or config.sampling.frames)
    mistakes = [f"--n {n}: expected at least 1" for n in given if n < 1]
    if frames.wanted is not None:
        more = [n for n in given if n > frames.wanted]
        mistakes += [f"--n {n}: only {frames.wanted} frames were extracted (extract --frames {n})" for n in more]
    if mistakes:
        raise ConfigError(mistakes)
    return sorted(set(given))


def _sizes(result: Mapping[str, Any]) -> dict[str, int]:
    return {name: result[name] for name in ("n_train", "n_validation", "n_test")}


def _line(
    arm: Arm, base: Arm, seeds: Sequence[int], settings: TrainSettings, runner: _Runner,
    results: Mapping[str, dict[str, Any]], extraction: Extraction, frames: Frames,
) -> dict[str, Any]:  # fmt: skip
    """One row of a study's table."""
    own, others = (
        [results[runner.setup.key(Trial(one, settings.model_copy(update={"seed": seed})))] for seed in seeds]
        for one in (arm, base)
    )
    accuracy, deviation = _mean([result["accuracy"] for result in own])
    f1, f1_deviation = _mean([result["macro_f1"] for result in own])
    difference = _mean([mine["accuracy"] - its["accuracy"] for mine, its in zip(own, others, strict=True)])
    interval = bootstrap(np.mean([result["hits"] for result in own], axis=0))
    errors = frames.position_error(arm.frames)
    return {
        "name": arm.name, "features": list(arm.features), "frames": arm.frames, "fusion": arm.fusion,
        "accuracy": accuracy, "accuracy_deviation": deviation, "accuracy_low": interval[0],
        "accuracy_high": interval[1], "macro_f1": f1, "macro_f1_deviation": f1_deviation,
        "difference": difference[0], "difference_deviation": difference[1],
        "extract_s": extraction.per_video(arm.features, frames.share(arm.frames)),
        **runner.cost(arm), "train_s": _mean([result["seconds"] for result in own])[0],
        "steps": _mean([result["steps"] for result in own])[0],
        "position_error_mean": errors[0], "position_error_max": errors[1],
    }  # fmt: skip


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample deviation; 0 of a single one."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


# ---- on Ray


class _Runner:
    """Runs what is not there yet and keeps each result as it comes, in ``OUT/ablation/trials`` and ``…/costs``."""

    def __init__(self, store: Store, setup: Setup, address: str | None, verbose: bool) -> None:
        self.setup = setup
        self._store, self._address, self._verbose = store, address, verbose

    def cost(self, arm: Arm) -> dict[str, Any]:
        """What the classifier of an arm costs, measured by :meth:`run`."""
        found = self._store.read_json(self._cost_path(arm))
        assert found is not None
        return found["cost"]

    def _cost_path(self, arm: Arm) -> str:
        # The shape alone: two spaces of one width cost the same.
        shape = self.setup.shape(arm)
        sizes = {name: (feature.width, feature.length, feature.sequence) for name, feature in shape.features.items()}
        rest = [shape.d_model, shape.heads, len(shape.labels), shape.fusion, torch.__version__]
        return f"ablation/costs/{short_hash([_VERSION, sizes, rest])}.json"

    def run(self, trials: Sequence[Trial], every: Sequence[Arm]) -> tuple[dict[str, dict[str, Any]], int]:
        """The results by key, and how many of them were not there before."""
        wanted = {self.setup.key(trial): trial for trial in trials}
        paths = {key: f"ablation/trials/{key}.json" for key in wanted}
        there = {key: found for key, path in paths.items() if (found := self._store.read_json(path)) is not None}
        todo = {key: trial for key, trial in wanted.items() if key not in there}
        costs = {path: arm for arm in every if self._store.read_json(path := self._cost_path(arm)) is None}
        if todo or costs:
            with connected(self._address, self._verbose) as cluster:
                if cluster.cpus < 1:
                    raise ConfigError([f"the cluster has {cluster.cpus:g} CPUs; a trial takes one"])
                self._measure(costs)
                there |= self._train(todo, paths, MEMORY // max(1, int(cluster.cpus)))
        return there, len(todo)

    def _measure(self, costs: Mapping[str, Arm]) -> None:
        """One after another in one process, and before the trials: what runs beside it would change the times."""
        actor: Any = ray.remote(num_cpus=1)(_Meter).remote()
        for path, arm in costs.items():
            found = ray.get(actor.measure.remote(self.setup.shape(arm)))
            self._store.write_json(path, {"cost": found, "shape": self.setup.shape(arm).model_dump(mode="json")})

    def _train(self, todo: Mapping[str, Trial], paths: Mapping[str, str], memory: int) -> dict[str, dict[str, Any]]:
        task = ray.remote(num_cpus=1, max_retries=2)(run_trial)
        setup = ray.put(replace(self.setup, memory=memory))
        running = {task.remote(setup, trial): key for key, trial in todo.items()}
        found: dict[str, dict[str, Any]] = {}
        broken: list[str] = []
        with tracking("trials", len(todo)) as tracker:
            while running:
                (ended,), _ = ray.wait(list(running))
                key = running.pop(ended)
                try:
                    found[key] = ray.get(ended)
                    self._store.write_json(paths[key], found[key])
                except ray.exceptions.RayError as error:
                    broken.append(f"{todo[key].arm.name}, seed {todo[key].settings.seed}: {_cause(error)}")
                tracker.at(len(found) + len(broken), len(broken))
        if broken:
            raise RunBroken("; ".join(broken))
        return found


def _cause(error: Exception) -> str:
    """The last line of what went wrong in a task, without its stack."""
    return str(error).strip().splitlines()[-1]


class _Meter:
    """Measures classifiers in a process of its own, on one thread."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def measure(self, spec: FusionSpec) -> dict[str, Any]:
        """What a classifier of this shape costs."""
        return measure(spec).as_dict()
