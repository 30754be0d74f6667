"""Planning: how many chains each stage gets, what each reserves, and how many videos a block has."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow.compute as pc

from vemoclap_batch.config import Config, GpuCost
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.pipeline.cluster import Cluster, Node
from vemoclap_batch.pipeline.stages import (
    DECODE,
    RESULT_BYTES,
    Chain,
    Plan,
    StagePlan,
    chains,
    device_kind,
    gpu_memory_gb,
    host_memory_gb,
    object_store_bytes,
    split_over_gpus,
)
from vemoclap_batch.store.store import Store

#: Seconds a video that earlier runs measured: kind of device (see :func:`device_kind`) → extractor → seconds.
Measured = Mapping[str, Mapping[str, float]]
#: Audio of a video whose length is not known yet, for the estimate.
ASSUMED_SECONDS = 30.0
#: GPU memory that a process takes for its CUDA context and libraries, in GiB, and the share of a GPU that stays free.
CUDA_GB, _GPU_SPARE = 0.6, 0.1
_MOST_PER_GPU, _MOST_THREADS = 4, 8
#: Share of an extractor's time that more threads do not shorten (Amdahl).
_SERIAL = 0.2
#: More chains of texts than an even split needs, so that one that lags can catch up.
_SLACK = 1.5
#: Seconds of work that a chain should have which waits for a node: nodes take minutes to start, models up to one.
_WORTH_S = 600.0
#: A task should last longer than the first, about the second; videos of a block with GPUs at least, at all at most.
_TASK_S, _BLOCK = (2.0, 3.5), (16, 64)
#: Runs whose costs a plan takes: each is a file to read, on an object store perhaps.
_NEWEST = 20
_GIB = 1024**3
_TINY = 1e-6


def make_plan(
    config: Config, specs: Mapping[str, Spec], wanted: Mapping[str, int], videos: int, cluster: Cluster,
    audio_s: float = ASSUMED_SECONDS, measured: Measured | None = None,
) -> Plan:  # fmt: skip
    """Size the stages.

    Args:
        config: the run's configuration.
        specs: its extractors, each after the ones it reads from.
        wanted: per extractor, how many videos it has to do.
        videos: how many there are to do in all.
        cluster: what there is. One that can grow may still be empty.
        audio_s: mean length of a video's audio.
        measured: see :func:`measured_costs`; goes before the profile's figures.

    Raises:
        ConfigError: some chain has no place on a cluster that cannot grow; says what would help.
    """
    planner = _Planner(config, specs, wanted, videos, cluster, audio_s, measured or {})
    found, most = planner.divided(chains(specs, wanted))
    # Fewer chains a GPU may leave memory that chains on CPUs need more.
    counts = [most] if config.pipeline.chains_per_gpu else range(most, 0, -1)
    plans = [planner.plan(found, count) for count in counts]
    fastest = min(plan.seconds for plan in plans)
    plan = next(plan for plan in plans if plan.seconds <= 1.01 * fastest)
    if without := [stage for stage in plan.stages if not stage.actors and not cluster.can_grow]:
        raise ConfigError([planner.no_place(stage) for stage in without])
    return plan


@dataclass
class _Planner:
    """Sizes stages for one cluster; see :func:`make_plan`."""

    config: Config
    specs: Mapping[str, Spec]
    wanted: Mapping[str, int]
    videos: int
    cluster: Cluster
    audio_s: float
    measured: Measured
    notes: list[str] = field(default_factory=list)

    def divided(self, found: Sequence[Chain]) -> tuple[list[Chain], int]:
        """Divide GPU chains so that the models of each fit a GPU; returns how many chains may share one, too."""
        settings = self.config.pipeline
        on_gpu = [chain for chain in found if chain.on_gpu]
        if not on_gpu:
            return list(found), 1
        names = ", ".join(name for chain in on_gpu for name in chain.extractors)
        if not self.cluster.gpus and not self.cluster.can_grow:
            raise ConfigError(
                [f"{names} run on GPUs, and the cluster has none; with --set accelerator=cpu they run on its CPUs"]
            )
        memory_gb = settings.gpu_memory_gb or self.cluster.gpu_memory_gb
        if memory_gb is None:
            count = settings.chains_per_gpu or 1
            what = (
                f"the GPUs' memory, which is not known (pipeline.gpu_memory_gb), holds {count} chains with all models"
            )
            self.notes.append(what)
            return list(found), count
        if len({node.gpu_memory_gb for node in self.cluster.nodes if node.gpus}) > 1:
            self.notes.append(f"GPUs are shared as those with {memory_gb:g} GiB can be")
        room = memory_gb * (1 - _GPU_SPARE) - _TINY
        takes = CUDA_GB + gpu_memory_gb(on_gpu[0].extractors, self.specs)
        if len(on_gpu) == 1 and takes <= room:
            # With few videos first a chain on every GPU.
            spread = math.ceil(self.videos / max(self.cluster.gpus, 1))
            return list(found), settings.chains_per_gpu or max(1, min(_MOST_PER_GPU, int(room / takes), spread))
        groups = [part for chain in found for part in self._split(chain, memory_gb, room - CUDA_GB)]
        if (count := sum(group.on_gpu for group in groups)) > self.cluster.gpus and not self.cluster.can_grow:
            raise ConfigError(
                [
                    f"the models of {names} take {count} GPUs of {memory_gb:g} GiB, and the cluster has "
                    f"{self.cluster.gpus:g}; extractors.NAME.resources.gpu=false runs one on the CPUs"
                ]
            )
        return groups, 1

    def _split(self, chain: Chain, memory_gb: float, room_gb: float) -> list[Chain]:
        if not chain.on_gpu:
            return [chain]
        groups = split_over_gpus(chain.extractors, self.specs, room_gb)
        if groups is None:
            sizes = {name: self.specs[name].resources.gpu_memory_gb for name in chain.extractors}
            largest = max(sizes, key=lambda name: sizes[name])
            raise ConfigError(
                [
                    f"the models of {', '.join(sizes)} cannot be divided over GPUs of {memory_gb:g} GiB, of which "
                    f"{room_gb:.3g} are for models: {largest} takes {sizes[largest]:g}; "
                    f"extractors.{largest}.resources.gpu=false runs it on the CPUs"
                ]
            )
        several = len(groups) > 1
        names = [f"{chain.name} {at} of {len(groups)}" if several else chain.name for at in range(1, len(groups) + 1)]
        return [Chain(name, group, True) for name, group in zip(names, groups, strict=True)]

    def plan(self, found: Sequence[Chain], per_gpu: int) -> Plan:
        """Size all stages for so many chains a GPU: first those on GPUs, then texts, then CPUs with what is left."""
        free = list(self.cluster.nodes)
        on_gpu, _ = self._on_gpus(found, free, per_gpu)
        texts = [self._beside(chain, on_gpu, found[0]) for chain in found[1:] if not chain.on_gpu]
        for text in texts:
            # As they reserve no CPU, all of them may be placed on any node.
            free = [replace(node, memory_gb=max(0.0, node.memory_gb - text.asked * text.memory_gb)) for node in free]
        on_gpu, free = self._on_gpus(found, free, per_gpu)
        first = [self._on_cpus(chain, free, alone=len(found) == 1) for chain in found[:1] if not chain.on_gpu]
        sized = {stage.name: stage for stage in self._growing([*first, *on_gpu, *texts])}
        stages = tuple(sized[chain.name] for chain in found)
        notes = [*self.notes]
        if threads := max((stage.threads for stage in stages if stage.threads > 1), default=0):
            notes.append(f"a chain with {threads} threads is {_speed(threads):.1f} times as fast as with one")
        if on_gpu:
            notes.append("a chain on a GPU takes a core for as long as its extractors would take alone")
        video_bytes = self._video_bytes(stages)
        size = self._block_videos(stages, video_bytes)
        return Plan(stages, self.cluster, size, video_bytes, tuple(dict.fromkeys(notes)))

    def _on_gpus(
        self, found: Sequence[Chain], nodes: Sequence[Node], per_gpu: int
    ) -> tuple[list[StagePlan], list[Node]]:
        """Size the stages on GPUs; returns what they leave of the nodes, too."""
        stages = [self._on_gpu(chain, per_gpu) for chain in found if chain.on_gpu]
        if not stages:
            return [], list(nodes)
        host_gb = max(stage.memory_gb for stage in stages)
        places = [min(int(node.gpus) * per_gpu, int(node.memory_gb / host_gb)) for node in nodes]
        stages = self._shared(stages, sum(count * node.count for count, node in zip(places, nodes, strict=True)))
        free = [node.memory_gb - count * host_gb for count, node in zip(places, nodes, strict=True)]
        return stages, [replace(node, memory_gb=left) for node, left in zip(nodes, free, strict=True)]

    def _on_gpu(self, chain: Chain, per_gpu: int) -> StagePlan:
        """A chain with a share of a GPU, and no CPU: so that no chain on CPUs takes its place."""
        seconds, alone, busy = self._gpu_seconds(chain.extractors, per_gpu)
        # Rounded down to what Ray can count, so that so many fit.
        share = math.floor(10_000 / per_gpu) / 10_000
        memory_gb = CUDA_GB + gpu_memory_gb(chain.extractors, self.specs)
        host_gb = host_memory_gb(chain.extractors, self.specs)
        # A thread of its own feeds the GPU, or waits for it, for as long as the work would take alone.
        size = (0, 0, 0.0, share, 1, host_gb, memory_gb)
        return StagePlan(chain.name, chain.extractors, *size, seconds, sum(alone.values()), busy, alone)

    def _shared(self, stages: list[StagePlan], places: int) -> list[StagePlan]:
        """Give each stage at least one place, and the rest where they shorten the longest time."""
        counts = dict.fromkeys((stage.name for stage in stages), 0)
        for _ in range(min(places, sum(self._videos_of(stage.extractors) for stage in stages))):
            open_ = [stage for stage in stages if counts[stage.name] < self._videos_of(stage.extractors)]
            slowest = max(open_, key=lambda stage: stage.seconds / (counts[stage.name] or _TINY))
            counts[slowest.name] += 1
        return [replace(stage, actors=counts[stage.name], asked=counts[stage.name]) for stage in stages]

    def _beside(self, chain: Chain, on_gpu: Sequence[StagePlan], first: Chain) -> StagePlan:
        """Chains that keep up with the GPUs. They reserve no CPU: those before them may take all that there are.

        There are no more than every node has cores for, and memory beside what all its GPUs and cores take.
        """
        costs = self._core_seconds(chain.extractors)
        core_seconds = sum(costs.values())
        gpu_s = max(stage.seconds / max(stage.chains, 1) for stage in on_gpu)
        host_gb = host_memory_gb(chain.extractors, self.specs)
        others_gb = [
            int(node.gpus) * max(int(1 / stage.gpus) * stage.memory_gb for stage in on_gpu)
            + (0.0 if first.on_gpu else node.cpus * host_memory_gb(first.extractors, self.specs))
            for node in self.cluster.nodes
        ]
        left = zip(self.cluster.nodes, others_gb, strict=True)
        rooms = [min(node.cpus, (node.memory_gb - taken_gb) / host_gb) for node, taken_gb in left if node.cpus]
        wanted = min(self._videos_of(chain.extractors), math.ceil(_SLACK * core_seconds / max(gpu_s, _TINY)))
        count = max(1, min(wanted, int(min(rooms, default=wanted))))
        size = (count, count, 0.0, 0.0, 1, host_gb, 0.0)
        return StagePlan(chain.name, chain.extractors, *size, core_seconds, core_seconds, 0.0, costs)

    def _on_cpus(self, chain: Chain, nodes: Sequence[Node], alone: bool) -> StagePlan:
        """One chain a core; where memory or videos allow fewer, each has more cores.

        Beside other stages CPUs have to bound the chains of every node, and not memory: else those that come first
        might take the memory that others need.
        """
        host_gb = host_memory_gb(chain.extractors, self.specs)
        costs = self._core_seconds(chain.extractors)
        core_seconds = sum(costs.values())
        most = min(self.config.pipeline.cpu_chains or self.videos, self._videos_of(chain.extractors))
        held = [int(max(node.memory_gb, 0) / host_gb) for node in nodes]
        best = (0.0, 0, 1)
        for cpus in range(1, int(max((node.cpus for node in nodes), default=0)) + 1):
            cores = [int(node.cpus / cpus) for node in nodes]
            if alone or all(here <= most_here for here, most_here in zip(cores, held, strict=True)):
                rooms = [min(pair) * node.count for *pair, node in zip(cores, held, nodes, strict=True)]
                count = min(most, sum(rooms))
                # Of equally fast ones the first: fewer threads.
                best = max(best, (count * _speed(cpus), count, cpus), key=lambda option: option[0])
        _, count, cpus = best
        threads = min(cpus, _MOST_THREADS)
        size = (count, count, float(cpus), 0.0, threads, host_gb, 0.0)
        return StagePlan(chain.name, chain.extractors, *size, core_seconds / _speed(threads), core_seconds, costs=costs)

    def _growing(self, stages: list[StagePlan]) -> list[StagePlan]:
        """Ask for more chains than there is room for, where nodes may join: as many as the work is worth.

        GPUs are asked for as long as the chains on CPUs that are asked for can feed them. Where the models are divided
        over several, one part might take all GPUs that join, so none are asked for.
        """
        if not self.cluster.can_grow:
            return stages
        divided = sum(bool(stage.gpus) for stage in stages) > 1
        if divided:
            self.notes.append("the models are divided over several GPUs: no chain is added on GPUs that join")
        found = []
        fed_s = 0.0
        for stage in stages:
            worth = min(math.ceil(stage.seconds / _WORTH_S), self._videos_of(stage.extractors))
            if stage.gpus:
                worth = 1 if divided else min(worth, math.ceil(stage.seconds / fed_s)) if fed_s else worth
            if stage.name == stages[0].name and not stage.gpus and self.config.pipeline.cpu_chains:
                worth = self.config.pipeline.cpu_chains
            asked = max(1, stage.actors, min(worth, self.config.pipeline.max_chains))
            if not stage.gpus:
                fed_s = max(fed_s, stage.seconds / asked)
            found.append(replace(stage, asked=asked))
        return found

    def no_place(self, stage: StagePlan) -> str:
        """Say what a chain of a stage takes that no node has."""
        need = f"{stage.memory_gb:.3g} GiB of memory" + (f" and {stage.gpus:g} GPU" if stage.gpus else " and a CPU")
        largest = max((node.memory_gb for node in self.cluster.nodes), default=0.0)
        beside = " beside those on GPUs" if self.cluster.gpus else ""
        return (
            f"no node has room for a {stage.name} ({', '.join(stage.extractors)}){beside}: it takes {need}, by "
            f"extractors.NAME.resources.memory_gb; the largest node gives {largest:.3g} GiB to actors"
        )

    def _video_bytes(self, stages: Sequence[StagePlan]) -> int:
        """What a video takes between stages: frames and audio, if a later one reads any."""
        reads = [self.specs[name] for stage in stages[1:] for name in stage.extractors]
        frames = min(self.config.sampling.frames, self.config.decode.whole_frames)
        size = RESULT_BYTES
        if any(spec.reads_frames for spec in reads):
            size += frames * 3 * self.config.sampling.short_side**2 * 16 // 9  # RGB, 16 to 9
        if any(spec.reads_waveform for spec in reads):
            size += 120 * SAMPLE_RATE * 2  # two minutes of int16
        return size

    def _block_videos(self, stages: Sequence[StagePlan], video_bytes: int) -> int:
        """Videos of a full block: the shortest stage's task lasts some seconds, and the object store has room."""
        shortest_s = min((stage.seconds / self._videos_of(stage.extractors) for stage in stages), default=0.0)
        size = 1 if shortest_s > _TASK_S[0] else min(_BLOCK[1], math.ceil(_TASK_S[1] / max(shortest_s, _TINY)))
        if any(stage.gpus for stage in stages):
            size = max(size, _BLOCK[0])
        takes = object_store_bytes([stage.chains for stage in stages], video_bytes)
        if takes and self.cluster.nodes:
            size = min(size, int(self.cluster.object_store_gb * _GIB / 2 / takes))
        return max(1, min(size, self.config.pipeline.block_videos or size))

    def _videos_of(self, names: Sequence[str]) -> int:
        """Videos that a stage with these extractors has to do."""
        media = [self.wanted.get(spec.name, 0) for spec in self.specs.values() if spec.source is None]
        return max(max(media) if name == DECODE else self.wanted[name] for name in names)

    def _core_seconds(self, names: Sequence[str]) -> dict[str, float]:
        """Seconds of one core for all work of each of some extractors."""
        known = self.measured.get(device_kind(None, 0), {})
        costs = {name: self.config.decode.cost if name == DECODE else self.specs[name].resources.cost for name in names}
        return {name: self._videos_of([name]) * known.get(name, cost.of(self.audio_s)) for name, cost in costs.items()}

    def _gpu_seconds(self, names: Sequence[str], per_gpu: int) -> tuple[float, dict[str, float], float]:
        """Seconds for all work of some extractors: of a chain beside others, of each alone, and of the GPU computing.

        A chain that is alone leaves the GPU idle while it prepares what goes there; several fill it, and wait for it.
        """
        known = self.measured.get(device_kind(self.cluster.gpu_type, per_gpu), {})
        alone = {}
        measured = others = busy = others_busy = 0.0
        for name in names:
            resources, videos = self.specs[name].resources, self._videos_of([name])
            cost = resources.gpu_cost or GpuCost(per_video_s=resources.cost.of(self.audio_s) / 10)
            alone[name] = seconds = videos * cost.of(self.audio_s)
            busy += seconds * cost.busy
            if name in known:
                measured += videos * known[name]
            else:
                others, others_busy = others + seconds, others_busy + seconds * cost.busy
        return measured + max(others, per_gpu * others_busy), alone, busy


def _speed(cpus: int) -> float:
    """How many times as fast a chain is with so many cores (Amdahl)."""
    return 1 / (_SERIAL + (1 - _SERIAL) / min(cpus, _MOST_THREADS))


def estimates(store: Store, specs: Mapping[str, Spec]) -> tuple[float | None, Measured]:
    """Return what OUT says of videos and extractors: mean seconds of audio, None without any, and measured costs."""
    audio_s = pc.mean(store.videos().read(["duration_s"])["duration_s"]).as_py()
    return audio_s, measured_costs(store, {name: spec.fingerprint for name, spec in specs.items()}, _NEWEST)


def measured_costs(store: Store, fingerprints: Mapping[str, str], newest: int = 0) -> dict[str, dict[str, float]]:
    """Return seconds a video that the runs in OUT with the same fingerprints measured.

    Args:
        store: the output folder.
        fingerprints: of the extractors, by name.
        newest: read so many of the newest runs only; 0: all.

    Returns:
        By kind of device (:func:`device_kind`), then by stage. On CPUs seconds of one core; on GPUs those of one of the
        chains that share a GPU. Runs of version 0.1, which had no chains, were on CPUs.
    """
    seconds: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    items: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for run in store.runs(newest):
        for name, stage in run["stages"].items():
            if name == DECODE or run["fingerprints"].get(name) == fingerprints.get(name):
                device = stage.get("device", device_kind(None, 0))
                seconds[device][name] += stage["seconds"] * _speed(stage.get("threads", 1))
                items[device][name] += stage["items"] + stage["failed"]
    return {
        device: {name: total / items[device][name] for name, total in of_stage.items() if items[device][name]}
        for device, of_stage in seconds.items()
    }
