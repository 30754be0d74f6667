"""The questions the paper leaves open, as studies: many trainings on the same features and videos, and what each costs.

A trial is one training and its score. It is kept in OUT as soon as it ends, under a hash of all that it depends on, and
not run again. Trials run side by side as Ray tasks, one CPU each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import ray
import torch

from vemoclap_batch.config import LABELS, Config
from vemoclap_batch.errors import ConfigError, RunBroken
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.fusion.cost import measure
from vemoclap_batch.fusion.dataset import MEMORY, find_labelled
from vemoclap_batch.fusion.evaluation import bootstrap, mean_and_deviation
from vemoclap_batch.fusion.model import FUSIONS
from vemoclap_batch.fusion.selection import Selected, names_of
from vemoclap_batch.fusion.spec import FusionSpec
from vemoclap_batch.fusion.training import TrainSettings
from vemoclap_batch.pipeline.cluster import connected
from vemoclap_batch.report.progress import tracking
from vemoclap_batch.store.folder import Folder
from vemoclap_batch.store.store import Store
from vemoclap_batch.studies.ablation_data import Extraction, Frames, find_frames, ladder
from vemoclap_batch.studies.ablation_tables import write_study
from vemoclap_batch.studies.ablation_trial import VALIDATION_SHARE, Arm, Setup, run_trial, short_hash
from vemoclap_batch.training.fit import select_for_training, training_settings

STUDIES = ("frames", "modalities", "fusion")
#: Frames that the other studies take: the published number.
FRAMES = 16
_VERSION = 1  # of how a cost is measured; part of its key

# ---- the studies


@dataclass(frozen=True)
class Options:
    """What the studies train and score.

    Attributes:
        preset: of the hyper-parameters.
        hyper: hyper-parameters that differ from the preset's.
        seeds: each trains every line of a table once.
        numbers: of frames; by default those of :func:`~vemoclap_batch.studies.ablation_data.ladder`.
        split: which videos are scored.
        chosen: the user's choice of fingerprints.
        names: features; without it all that the profile has and the store holds.
        d_model: width of the classifiers.
        heads: their attention heads.
        dropout: their dropout.
    """

    preset: str = "quick"
    hyper: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (1, 2, 3)
    numbers: Sequence[int] | None = None
    split: str = "test"
    chosen: Mapping[str, str] = field(default_factory=dict)
    names: Sequence[str] | None = None
    d_model: int = 512
    heads: int = 4
    dropout: float = 0.5


def arms(study: str, features: Sequence[str], numbers: Sequence[int], frames: int) -> list[Arm]:
    """The lines of a study's table: one for each of ``numbers`` of frames, or all of the number ``frames``."""
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


def ablate(
    store: Store, labels: str, studies: Sequence[str], config: Config, options: Options, *,
    address: str | None = None, verbose: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run studies and write ``OUT/ablation/<study>``: ``table.parquet``, ``table.md``, ``accuracy.png``, ``cost.png``.

    The profile of ``config`` names the features, whose fingerprints it prefers; ``studies`` are of :data:`STUDIES`.

    Returns:
        ``studies`` (the rows of each table), ``trials`` (how many ran and how many were there), ``about`` (what all
        tables are made of) and ``out``.

    Raises:
        ConfigError: wrong names, settings or labels, or nothing to train on.
        RunBroken: a trial broke off; those that ended are kept.
    """
    settings, called = training_settings(options.preset, options.hyper)
    seeds = options.seeds
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError([f"--seeds {','.join(map(str, seeds))}: expected different numbers"])
    selected = select_for_training(store, config, options.names, options.chosen)
    setup, about = _set_up(store, labels, selected, settings, options)
    frames = min(FRAMES, setup.frames.wanted or FRAMES)
    numbers = _numbers(options.numbers, setup.frames, config)
    lines = {study: arms(study, list(selected), numbers, frames) for study in studies}
    every = list(dict.fromkeys(arm for study in studies for arm in lines[study]))
    outcome = _run(store, setup, [(arm, seed) for arm in every for seed in seeds], address, verbose)
    sizes = {name: outcome.results[every[0], seeds[0]][name] for name in ("n_train", "n_validation", "n_test")}
    about |= {"preset": called, "seeds": list(seeds), "frames": frames, **sizes}
    extraction = Extraction.of(store, selected, resolve(config), list(setup.frames.numbers))
    tables = {}
    for study in studies:
        base = _base(study, lines[study], frames)
        tables[study] = [_line(arm, base, seeds, outcome, extraction, setup.frames) for arm in lines[study]]
        write_study(Folder(store.address) / "ablation" / study, study, tables[study], base.name, about)
    return {"studies": tables, "trials": outcome.counts, "about": about, "out": store.address}


def _base(study: str, lines: Sequence[Arm], frames: int) -> Arm:
    """The line that the others are compared with: the published classifier, of all features."""
    return next((arm for arm in lines if arm.frames == frames), lines[-1]) if study == "frames" else lines[0]


def _set_up(
    store: Store, labels: str, selected: dict[str, Selected], settings: TrainSettings, options: Options
) -> tuple[Setup, dict[str, Any]]:
    """What all trials share, and what a table says of it."""
    labelled = find_labelled(store, labels, selected, LABELS)
    test, training, validation = labelled.rows(options.split), labelled.rows("train"), labelled.validation()
    if common := np.intersect1d(np.union1d(training, validation), test).size:
        raise ConfigError([f"--split {options.split}: {common} of these videos train or choose the best step"])
    frames = find_frames(store, selected, labelled.videos)
    sizes = {"d_model": options.d_model, "heads": options.heads, "dropout": options.dropout}
    out, videos = Folder(store.address).address, labelled.videos
    setup = Setup(out, selected, videos, labelled.labels, training, validation, test, frames, settings, sizes)
    setup.shape(Arm("all", tuple(selected), 1))  # Sizes that do not fit are told before anything runs.
    share = f"{VALIDATION_SHARE:.0%} of the training videos, stratified by label, drawn by each seed"
    return setup, {
        "split": options.split, "split_source": labelled.source, "blacklist": labelled.blacklist,
        "validation": "the labels file's" if len(validation) else share, "fingerprints": names_of(selected),
        **sizes, "extracted": frames.wanted, "frame_features": sorted(frames.numbers), "notes": frames.notes,
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


def _line(
    arm: Arm, base: Arm, seeds: Sequence[int], outcome: _Outcome, extraction: Extraction, frames: Frames
) -> dict[str, Any]:
    """One row of a study's table."""
    own, others = ([outcome.results[one, seed] for seed in seeds] for one in (arm, base))
    accuracy, deviation = mean_and_deviation([result["accuracy"] for result in own])
    f1, f1_deviation = mean_and_deviation([result["macro_f1"] for result in own])
    differences = [mine["accuracy"] - its["accuracy"] for mine, its in zip(own, others, strict=True)]
    difference, difference_deviation = mean_and_deviation(differences)
    low, high = bootstrap(np.mean([result["hits"] for result in own], axis=0))
    mean_error, most_error = frames.position_error(arm.frames)
    return {
        "name": arm.name, "features": list(arm.features), "frames": arm.frames, "fusion": arm.fusion,
        "accuracy": accuracy, "accuracy_deviation": deviation, "accuracy_low": low, "accuracy_high": high,
        "macro_f1": f1, "macro_f1_deviation": f1_deviation,
        "difference": difference, "difference_deviation": difference_deviation,
        "extract_s": extraction.per_video(arm.features, frames.share(arm.frames)), **outcome.costs[arm],
        "train_s": float(np.mean([result["seconds"] for result in own])),
        "steps": float(np.mean([result["steps"] for result in own])),
        "position_error_mean": mean_error, "position_error_max": most_error,
    }  # fmt: skip


# ---- on Ray


@dataclass
class _Outcome:
    """What all trials gave: results by arm and seed, what each arm's classifier costs, and how many trials ran."""

    results: dict[tuple[Arm, int], dict[str, Any]]
    costs: dict[Arm, dict[str, Any]]
    counts: dict[str, int]


def _run(store: Store, setup: Setup, trials: Sequence[tuple[Arm, int]], address: str | None, verbose: bool) -> _Outcome:
    """Run the trials and measure the costs that OUT does not hold yet; each result is stored as it comes."""
    paths = {(arm, seed): f"ablation/trials/{setup.key(arm, seed)}.json" for arm, seed in trials}
    cost_paths = {arm: f"ablation/costs/{_cost_key(setup.shape(arm))}.json" for arm, _ in trials}
    wanted = {*paths.values(), *cost_paths.values()}
    stored = {path: content for path in wanted if (content := store.read_json(path)) is not None}
    to_measure = {path: setup.shape(arm) for arm, path in cost_paths.items() if path not in stored}
    to_train = {path: trial for trial, path in paths.items() if path not in stored}
    if to_train or to_measure:
        with connected(address, verbose) as cluster:
            if cluster.cpus < 1:
                raise ConfigError([f"the cluster has {cluster.cpus:g} CPUs; a trial takes one"])
            # One after another and before the trials: what runs beside it would change the times.
            for path, shape in to_measure.items():
                cost = ray.get(ray.remote(num_cpus=1)(_cost).remote(shape))
                stored[path] = {"cost": cost, "shape": shape.model_dump(mode="json")}
                store.write_json(path, stored[path])
            stored |= _train(store, replace(setup, memory=MEMORY // max(1, int(cluster.cpus))), to_train)
    return _Outcome(
        {trial: stored[path] for trial, path in paths.items()},
        {arm: stored[path]["cost"] for arm, path in cost_paths.items()},
        {"run": len(to_train), "kept": len(set(paths.values())) - len(to_train)},
    )


def _cost_key(shape: FusionSpec) -> str:
    # The sizes alone: two feature spaces of one width cost the same.
    sizes = {name: (feature.width, feature.length, feature.sequence) for name, feature in shape.features.items()}
    rest = [shape.d_model, shape.heads, len(shape.labels), shape.fusion, torch.__version__]
    return short_hash([_VERSION, sizes, rest])


def _cost(shape: FusionSpec) -> dict[str, Any]:
    """What a classifier of this shape costs on one thread."""
    torch.set_num_threads(1)
    return asdict(measure(shape))


def _train(store: Store, setup: Setup, trials: Mapping[str, tuple[Arm, int]]) -> dict[str, dict[str, Any]]:
    """Run trials side by side; their results by the path they are stored at."""
    task = ray.remote(num_cpus=1, max_retries=2)(run_trial)
    shared = ray.put(setup)
    running = {task.remote(shared, arm, seed): path for path, (arm, seed) in trials.items()}
    results: dict[str, dict[str, Any]] = {}
    broken: list[str] = []
    with tracking("trials", len(trials)) as tracker:
        while running:
            (ended,), _ = ray.wait(list(running))
            path = running.pop(ended)
            try:
                results[path] = ray.get(ended)
                store.write_json(path, results[path])
            except ray.exceptions.RayError as error:
                arm, seed = trials[path]
                # The last line is the cause; the others are the task's stack.
                broken.append(f"{arm.name}, seed {seed}: {str(error).strip().splitlines()[-1]}")
            tracker.update(len(results) + len(broken), len(broken))
    if broken:
        raise RunBroken("; ".join(broken))
    return results
