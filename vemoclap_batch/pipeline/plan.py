"""How many actors each stage gets and what share of the machine each takes, before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vemoclap_batch.config import Config, ConfigError, Cost
from vemoclap_batch.extractors.registry import Spec

DECODE = "decode"
#: Sound of a video whose length is not known yet, for the estimate.
ASSUMED_SECONDS = 30.0
#: More actors than an even split of the cores needs, so that a stage that lags can catch up while others wait.
_SLACK = 1.5
#: Share of the cluster's CPUs that actors reserve; the rest is Ray Data's own tasks', without which it would hang.
_RESERVED = 0.85
_DECODE_MEMORY_GB = 0.7


@dataclass(frozen=True)
class Cluster:
    """What the cluster has."""

    cpus: float
    gpus: float
    memory_gb: float


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
    """All pools of a run, in the order of the pipeline."""

    stages: tuple[StagePlan, ...]
    cluster: Cluster

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


@dataclass(frozen=True)
class _Demand:
    name: str
    extractors: tuple[str, ...]
    actors: int | None
    threads: int
    gpus: float
    memory_gb: float
    seconds: float


def pools(specs: Mapping[str, Spec]) -> list[list[Spec]]:
    """The extractors in the order of the pipeline, those with the same class and settings together.

    Visual ones first, so that the frames can leave the row; then those on sound; then those on text.
    """
    order = sorted(specs.values(), key=lambda spec: 0 if spec.reads_frames else 1 if spec.reads_waveform else 2)
    groups: dict[tuple[Any, ...], list[Spec]] = {}
    for spec in order:
        group = (spec.cls, spec.settings.model_dump_json()) if spec.source else (spec.name,)
        groups.setdefault(group, []).append(spec)
    return list(groups.values())


def make_plan(
    config: Config, specs: Mapping[str, Spec], wanted: Mapping[str, int], blocks: int, cluster: Cluster,
    audio_s: float = ASSUMED_SECONDS, measured: Mapping[str, float] | None = None,
) -> Plan:  # fmt: skip
    """Size the pools.

    Args:
        config: the run's configuration.
        specs: its extractors.
        wanted: per extractor, how many videos it has to do.
        blocks: how many blocks of videos there will be; more actors than blocks would idle.
        cluster: what there is.
        audio_s: mean length of a video's sound.
        measured: per stage, seconds a video took in earlier runs; goes before the profile's figures.

    Raises:
        ConfigError: the pools cannot fit the cluster; everything that does not fit is named.
    """
    demands = _demands(config, specs, wanted, audio_s, measured or {})
    _check_fit(demands, cluster)
    counts = _counts(demands, blocks, cluster)
    shares = sum(counts[d.name] * d.threads for d in demands)
    unit = min(1.0, cluster.cpus * _RESERVED / max(shares, 1))
    # Rounded down to what Ray can count (1/10000 of a CPU), so that the sum still fits.
    stages = [
        StagePlan(
            d.name, d.extractors, counts[d.name], math.floor(unit * d.threads * 1000) / 1000,
            d.gpus, d.threads, d.memory_gb, d.seconds,
        )
        for d in demands
    ]  # fmt: skip
    return Plan(tuple(stages), cluster)


def _demands(
    config: Config, specs: Mapping[str, Spec], wanted: Mapping[str, int], audio_s: float, measured: Mapping[str, float]
) -> list[_Demand]:
    def cost_of(name: str, cost: Cost) -> float:
        return measured.get(name, cost.per_video_s + cost.per_audio_s * audio_s)

    demands = []
    media = [spec for spec in specs.values() if spec.source is None and wanted.get(spec.name)]
    if media:
        videos = max(wanted[spec.name] for spec in media)
        seconds = videos * cost_of(DECODE, config.decode.cost)
        demands.append(_Demand(DECODE, (DECODE,), config.decode.actors, 1, 0.0, _DECODE_MEMORY_GB, seconds))
    for group in pools(specs):
        active = tuple(spec.name for spec in group if wanted.get(spec.name))
        if active:
            pool = group[0].pool
            seconds = sum(wanted[name] * cost_of(name, specs[name].pool.cost) for name in active)
            demands.append(
                _Demand("+".join(active), active, pool.actors, pool.threads, pool.gpus, pool.memory_gb, seconds)
            )
    return demands


def _counts(demands: Sequence[_Demand], blocks: int, cluster: Cluster) -> dict[str, int]:
    """Actors by each stage's share of the work, no more than there are blocks, as far as memory reaches."""
    total = sum(d.seconds for d in demands if not d.gpus) or 1.0
    counts = {}
    for d in demands:
        by_share = max(1, round(d.seconds / total * cluster.cpus * _SLACK / d.threads)) if not d.gpus else 1
        counts[d.name] = d.actors or min(by_share, max(1, blocks))
    spare = cluster.memory_gb - sum(d.memory_gb for d in demands)
    for d in sorted(demands, key=lambda d: d.seconds):
        if d.actors is None:
            extra = min(counts[d.name] - 1, max(0, int(spare / d.memory_gb)))
            counts[d.name] = 1 + extra
            spare -= extra * d.memory_gb
    return counts


def _check_fit(demands: Sequence[_Demand], cluster: Cluster) -> None:
    mistakes = []
    gpus = sum(d.gpus * (d.actors or 1) for d in demands)
    if gpus > cluster.gpus:
        who = ", ".join(f"{d.name} {d.gpus * (d.actors or 1):g}" for d in demands if d.gpus)
        mistakes.append(f"the pools want {gpus:g} GPUs ({who}); the cluster has {cluster.gpus:g}")
    memory = sum(d.memory_gb * (d.actors or 1) for d in demands)
    if memory > cluster.memory_gb:
        who = ", ".join(f"{d.name} {d.memory_gb * (d.actors or 1):g}" for d in demands)
        mistakes.append(f"the pools want {memory:.1f} GiB of memory ({who}); the cluster has {cluster.memory_gb:.1f}")
    too_wide = [d for d in demands if d.threads > cluster.cpus]
    mistakes += [
        f"{d.name} wants {d.threads} threads an actor; the cluster has {cluster.cpus:g} CPUs" for d in too_wide
    ]
    if mistakes:
        raise ConfigError(mistakes)
