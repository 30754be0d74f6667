"""The plan of a run: how many actors each stage gets and what share of the cluster each reserves."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.config import Config, Cost
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.registry import Spec, resolve
from vemoclap_batch.pipeline.cluster import Cluster, this_machine
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.store.store import Store

DECODE = "decode"
#: Audio of a video whose length is not known yet, for the estimate.
ASSUMED_SECONDS = 30.0
#: More actors than an even split of the cores needs, so that a stage that lags can catch up while others wait.
_SLACK = 1.5
#: Share of the cluster's CPUs that actors reserve; the rest is Ray Data's own tasks', without which it would hang.
_RESERVED = 0.85
_DECODE_MEMORY_GB = 0.7
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class StagePlan:
    """One pool of actors.

    Attributes:
        extractors: who share the pool (``decode`` alone for decoding).
        cpus: logical CPUs that each actor reserves; a share for placing it, not a limit on its threads.
        seconds: expected time of one core (or GPU share) for all of the run's work.
    """

    name: str
    extractors: tuple[str, ...]
    actors: int
    cpus: float
    gpus: float
    threads: int
    memory_gb: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """All pools of a run, in the order of the pipeline.

    Attributes:
        block_videos: videos to a block.
    """

    stages: tuple[StagePlan, ...]
    cluster: Cluster
    block_videos: int = 1

    def __str__(self) -> str:
        actors = ", ".join(f"{stage.name} {stage.actors}" for stage in self.stages)
        machine = f"{self.cluster.cpus:g} CPUs and {self.cluster.gpus:g} GPUs"
        return f"on {machine}; actors: {actors}; about {self.seconds:.0f} s and the start-up"

    @property
    def seconds(self) -> float:
        """Expected wall time without start-up: the CPU work over all cores, or the slowest GPU pool."""
        cpu = sum(stage.seconds for stage in self.stages if not stage.gpus) / max(self.cluster.cpus, 1)
        return max([cpu, *[stage.seconds / stage.actors for stage in self.stages if stage.gpus]], default=0.0)

    @property
    def gpu_hours(self) -> float:
        """Expected GPU time, in hours."""
        return sum(stage.seconds * min(stage.gpus, 1) for stage in self.stages if stage.gpus) / 3600

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {**asdict(self), "expected_seconds": self.seconds, "expected_gpu_hours": self.gpu_hours}

    def lacks(self, now: Cluster) -> str | None:
        """Say what the actors need and a cluster does not have; None if it has enough."""
        needed = {
            "CPUs": (sum(stage.actors * stage.cpus for stage in self.stages), now.cpus),
            "GPUs": (sum(stage.actors * stage.gpus for stage in self.stages), now.gpus),
        }
        short = [f"{has:g} of the {need:g} {name}" for name, (need, has) in needed.items() if has < need - _TOLERANCE]
        return " and ".join(short) or None


def model_key(spec: Spec) -> Hashable:
    """Return a key that is equal for extractors which can share one loaded model."""
    return spec.cls, spec.settings.model_dump_json()


def pools(specs: Mapping[str, Spec]) -> list[list[Spec]]:
    """Group the extractors into pools, in the order of the pipeline; readers of text with the same model share one.

    Those on frames come first, so that these can leave the row, then those on audio, then those on text.
    """
    order = sorted(specs.values(), key=lambda spec: 0 if spec.reads_frames else 1 if spec.reads_waveform else 2)
    groups: dict[Hashable, list[Spec]] = {}
    for spec in order:
        groups.setdefault(model_key(spec) if spec.source else spec.name, []).append(spec)
    return list(groups.values())


def block_size(videos: int, config: Config, cpus: float) -> int:
    """Return the videos to a block: as many as are batched together, but few enough to keep every core busy."""
    return max(1, min(config.block_videos, int(videos / (4 * max(cpus, 1)))))


def make_plan(
    config: Config, specs: Mapping[str, Spec], wanted: Mapping[str, int], videos: int, cluster: Cluster,
    audio_s: float = ASSUMED_SECONDS, measured: Mapping[str, float] | None = None,
) -> Plan:  # fmt: skip
    """Size the pools.

    Args:
        config: the run's configuration.
        specs: its extractors.
        wanted: per extractor, how many videos it has to do.
        videos: how many there are to do in all.
        cluster: what there is.
        audio_s: mean length of a video's audio.
        measured: per stage, seconds a video took in earlier runs; goes before the profile's figures.

    Raises:
        ConfigError: the pools cannot fit the cluster; everything that does not fit is named.
    """
    size = block_size(videos, config, cluster.cpus)
    stages = _unsized(config, specs, wanted, audio_s, measured or {})
    _check_fit(stages, cluster)
    # More actors than blocks would idle.
    stages = _sized(stages, max(1, math.ceil(videos / size)), cluster)
    unit = min(1.0, cluster.cpus * _RESERVED / max(sum(stage.actors * stage.threads for stage in stages), 1))
    # Rounded down to what Ray can count (1/10000 of a CPU), so that the sum still fits.
    shares = [replace(stage, cpus=math.floor(unit * stage.threads * 1000) / 1000) for stage in stages]
    return Plan(tuple(shares), cluster, size)


def _unsized(
    config: Config, specs: Mapping[str, Spec], wanted: Mapping[str, int], audio_s: float, measured: Mapping[str, float]
) -> list[StagePlan]:
    """List the stages that have work; 0 actors where the configuration leaves their number open, and no CPUs yet."""

    def cost_of(name: str, cost: Cost) -> float:
        return measured.get(name, cost.per_video_s + cost.per_audio_s * audio_s)

    stages = []
    media = [wanted[spec.name] for spec in specs.values() if spec.source is None and wanted.get(spec.name)]
    if media:
        seconds = max(media) * cost_of(DECODE, config.decode.cost)
        actors = config.decode.actors or 0
        stages.append(StagePlan(DECODE, (DECODE,), actors, 0.0, 0.0, 1, _DECODE_MEMORY_GB, seconds))
    for group in pools(specs):
        names = tuple(spec.name for spec in group if wanted.get(spec.name))
        if names:
            pool = group[0].pool
            seconds = sum(wanted[name] * cost_of(name, specs[name].pool.cost) for name in names)
            size = (pool.actors or 0, 0.0, pool.gpus, pool.threads, pool.memory_gb)
            stages.append(StagePlan("+".join(names), names, *size, seconds))
    return stages


def _sized(stages: Sequence[StagePlan], blocks: int, cluster: Cluster) -> list[StagePlan]:
    """Give actors by each stage's share of the work, at most one a block, as far as memory reaches."""
    total = sum(stage.seconds for stage in stages if not stage.gpus) or 1.0
    spare = cluster.memory_gb - sum(stage.memory_gb for stage in stages)
    counts = {stage.name: stage.actors for stage in stages}
    for stage in sorted(stages, key=lambda stage: stage.seconds):
        if not stage.actors:
            share = 0 if stage.gpus else round(stage.seconds / total * cluster.cpus * _SLACK / stage.threads)
            extra = max(0, min(share - 1, blocks - 1, int(spare / stage.memory_gb)))
            counts[stage.name] = 1 + extra
            spare -= extra * stage.memory_gb
    return [replace(stage, actors=counts[stage.name]) for stage in stages]


def _check_fit(stages: Sequence[StagePlan], cluster: Cluster) -> None:
    gpus = {stage.name: stage.gpus * (stage.actors or 1) for stage in stages if stage.gpus}
    memory = {stage.name: stage.memory_gb * (stage.actors or 1) for stage in stages}
    mistakes = [
        f"{stage.name} wants {stage.threads} threads an actor; the cluster has {cluster.cpus:g} CPUs"
        for stage in stages
        if stage.threads > cluster.cpus
    ]
    for unit, wanted, has in (("GPUs", gpus, cluster.gpus), ("GiB of memory", memory, cluster.memory_gb)):
        if sum(wanted.values()) > has:
            who = ", ".join(f"{name} {count:g}" for name, count in wanted.items())
            mistakes.append(f"the pools want {sum(wanted.values()):g} {unit} ({who}); the cluster has {has:g}")
    if mistakes:
        raise ConfigError(mistakes)


def dry_run(videos: pa.Table, out: str | None, config: Config) -> dict[str, Any]:
    """Compare a manifest with an output folder (an empty one unless given) and size the pools for this machine.

    Returns:
        ``videos``, ``videos_to_do``, ``cells`` per extractor (done, missing, given_up), ``plan`` and ``costs_from``.
    """
    specs = resolve(config)
    with TemporaryDirectory() as empty:
        store = Store(out or empty)
        pending = find_pending(store, videos, specs, config.pipeline.max_attempts)
        measured = measured_costs(store, {name: spec.fingerprint for name, spec in specs.items()})
        audio_s = pc.mean(store.videos().read(["duration_s"])["duration_s"]).as_py() or ASSUMED_SECONDS
    wanted, count = pending.wanted, pending.rows.num_rows
    return {
        "videos": videos.num_rows,
        "videos_to_do": count,
        "cells": {
            name: {"done": pending.done[name], "missing": wanted.get(name, 0), "given_up": pending.given_up[name]}
            for name in specs
        },
        "plan": make_plan(config, specs, wanted, count, this_machine(), audio_s, measured).as_dict(),
        "costs_from": "measured in earlier runs" if measured else "the profile's figures",
    }


def measured_costs(store: Store, fingerprints: Mapping[str, str]) -> dict[str, float]:
    """Return seconds per video of each stage, over the runs in OUT that used the same fingerprints."""
    seconds: dict[str, float] = {}
    items: dict[str, int] = {}
    for run in store.runs():
        for name, stage in run["stages"].items():
            if name == DECODE or run["fingerprints"].get(name) == fingerprints.get(name):
                seconds[name] = seconds.get(name, 0.0) + stage["seconds"]
                items[name] = items.get(name, 0) + stage["items"] + stage["failed"]
    return {name: seconds[name] / items[name] for name in seconds if items[name]}
