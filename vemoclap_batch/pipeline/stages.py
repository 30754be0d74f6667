"""The stages of a run: which extractors run in one chain, what a pool of equal chains takes, and the plan of all pools.

Extractors on CPUs and on GPUs take turns: a CPU chain with decoding, a GPU chain, and a CPU chain of those that read
from it. Each is as early as what it reads allows, so that a run has few stages.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vemoclap_batch.config import Config
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.pipeline.cluster import Cluster

DECODE = "decode"
#: Host memory of a chain's process without models, of CUDA in it, and of the process that decodes for it, in GiB.
PROCESS_GB, CUDA_HOST_GB, DECODER_GB = 0.3, 1.5, 0.4
#: Blocks under way for each chain: one that it works on and one that waits.
IN_FLIGHT = 2
#: What the extractors of one video make, and its texts, in bytes.
RESULT_BYTES = 1 << 20
_TINY = 1e-6
#: Names of the stages, in order; a fourth and later ones are numbered.
_NAMES = ("cpu chain", "gpu chain", "text chain")


@dataclass(frozen=True)
class Chain:
    """The extractors of one stage, in the order in which they run; ``decode`` is first where the chain decodes."""

    name: str
    extractors: tuple[str, ...]
    on_gpu: bool


@dataclass(frozen=True)
class StagePlan:
    """One pool of equal chains.

    Attributes:
        extractors: what each chain runs, in order; ``decode`` is first where it decodes.
        actors: chains for which there is room now.
        asked: chains that are asked for in all; those beyond ``actors`` wait for nodes that join.
        cpus, gpus: what each chain reserves of Ray's CPUs and GPUs.
        threads: threads of each extractor of a chain.
        memory_gb: host memory of a chain, in GiB.
        gpu_memory_gb: GPU memory of a chain, in GiB.
        seconds: expected time of one chain for all of the run's work.
        core_seconds: CPU time that the work takes.
        gpu_seconds: time in which a GPU computes.
        costs: by extractor, seconds of all its work, alone on a core or GPU.
    """

    name: str
    extractors: tuple[str, ...]
    actors: int
    asked: int
    cpus: float
    gpus: float
    threads: int
    memory_gb: float
    gpu_memory_gb: float
    seconds: float
    core_seconds: float = 0.0
    gpu_seconds: float = 0.0
    costs: Mapping[str, float] = field(default_factory=dict)

    @property
    def costliest(self) -> str:
        """The extractor that takes most of its time."""
        return max(self.costs, key=lambda name: self.costs[name], default=self.extractors[0])

    @property
    def chains(self) -> int:
        """How many chains to expect: those for which there is room, or all that are asked for while there is none."""
        return self.actors or self.asked

    @property
    def chains_per_gpu(self) -> int:
        """How many chains share a GPU; 0 for a chain on CPUs."""
        return int(1 / self.gpus) if self.gpus else 0

    def torch_device(self, config: Config) -> str:
        """The torch device of its extractors: ``cpu``, or where it has a GPU what ``pipeline.gpu_device`` says."""
        return config.pipeline.gpu_device if self.gpus else "cpu"


def model_key(spec: Spec) -> Hashable:
    """Return a key that is equal for extractors which can share one loaded model."""
    return spec.cls, spec.settings.model_dump_json()


def chains(specs: Mapping[str, Spec], wanted: Mapping[str, int]) -> list[Chain]:
    """Divide the extractors that have work into chains, in the order of the pipeline.

    The first chain decodes if any extractor of media has work, also where all others run on GPUs.

    Args:
        specs: the extractors of a run, each after the ones it reads from.
        wanted: per extractor, how many videos it has to do. What an extractor without work made is in the store.
    """
    stage: dict[str, int] = {}
    depth: dict[str, int] = {}
    for name, spec in specs.items():
        if wanted.get(name):
            reads = [source for source in spec.reads if source in stage]
            earliest = max((stage[source] for source in reads), default=0)
            # CPU chains have even numbers, GPU chains odd ones.
            stage[name] = earliest + (earliest + spec.resources.gpu) % 2
            depth[name] = max((depth[source] + 1 for source in reads), default=0)
    members: dict[int, list[str]] = {0: [DECODE]} if any(specs[name].source is None for name in stage) else {}
    # Frames first, then audio, then texts, so that the chain can drop what no later extractor reads.
    for name in sorted(stage, key=lambda name: (depth[name], _kind(specs[name]))):
        members.setdefault(stage[name], []).append(name)
    return [Chain(_name(number), tuple(members[number]), number % 2 == 1) for number in sorted(members)]


def _kind(spec: Spec) -> int:
    return 0 if spec.reads_frames else 1 if spec.reads_waveform else 2


def _name(number: int) -> str:
    return _NAMES[number] if number < len(_NAMES) else f"{_NAMES[2 - number % 2]} {(number + 1) // 2}"


def models(names: Sequence[str], specs: Mapping[str, Spec]) -> list[tuple[str, ...]]:
    """Put together the extractors that share a model: each is loaded once."""
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        groups.setdefault(model_key(specs[name]), []).append(name)
    return [tuple(group) for group in groups.values()]


def gpu_memory_gb(names: Sequence[str], specs: Mapping[str, Spec]) -> float:
    """Return the GPU memory that the models of these extractors take together, in GiB."""
    return sum(max(specs[name].resources.gpu_memory_gb for name in model) for model in models(names, specs))


def host_memory_gb(names: Sequence[str], specs: Mapping[str, Spec]) -> float:
    """Return the host memory of a chain of these extractors, in GiB."""
    loaded = models([name for name in names if name != DECODE], specs)
    sizes = [max(specs[name].resources.memory_gb for name in model) for model in loaded]
    if any(specs[name].resources.gpu for name in names if name != DECODE):
        # One after another they are read, and leave for the GPU.
        return PROCESS_GB + CUDA_HOST_GB + max(sizes)
    return PROCESS_GB + sum(sizes) + (DECODER_GB if DECODE in names else 0.0)


def split_over_gpus(
    names: Sequence[str], specs: Mapping[str, Spec], capacity_gb: float
) -> list[tuple[str, ...]] | None:
    """Divide extractors into the fewest groups whose models fit a GPU, none before what it reads from.

    That is bin packing with precedence; a run has few models, so it is solved exactly, as an integer programme.

    Args:
        names: extractors in the order in which they run.
        specs: all extractors.
        capacity_gb: memory of a GPU for models.

    Returns:
        The groups in the order of the pipeline; None if there is no such division.
    """
    units = models(names, specs)
    sizes = [gpu_memory_gb(unit, specs) for unit in units]
    for count in range(max(1, math.ceil(sum(sizes) / capacity_gb)), len(units) + 1):
        if (group_of := _packed(units, sizes, specs, count, capacity_gb)) is not None:
            found: list[list[str]] = [[] for _ in range(count)]
            for name in names:
                found[next(group for unit, group in zip(units, group_of, strict=True) if name in unit)].append(name)
            return [tuple(group) for group in found if group]
    return None


def _packed(
    units: Sequence[tuple[str, ...]], sizes: Sequence[float], specs: Mapping[str, Spec], count: int, capacity_gb: float
) -> list[int] | None:
    """Find a group for each unit, so that all fit into ``count`` of them; None if that cannot be."""
    # Here, since it takes a third of a second to import and few runs need it.
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    # x[unit, group] is 1 where the unit is in the group.
    shape = (len(units), count)
    constraints = []
    for at in range(len(units)):
        row = np.zeros(shape)
        row[at] = 1
        constraints.append(LinearConstraint(row.ravel(), 1, 1))
    for column in range(count):
        row = np.zeros(shape)
        row[:, column] = sizes
        constraints.append(LinearConstraint(row.ravel(), 0, capacity_gb))
    for reader, unit in enumerate(units):
        for source, other in enumerate(units):
            if source != reader and any(name in specs[extractor].reads for extractor in unit for name in other):
                row = np.zeros(shape)
                row[reader] += np.arange(count)
                row[source] -= np.arange(count)
                constraints.append(LinearConstraint(row.ravel(), 0, np.inf))
    result = milp(np.zeros(row.size), constraints=constraints, integrality=1, bounds=Bounds(0, 1))
    return result.x.reshape(shape).argmax(axis=1).tolist() if result.success else None


@dataclass(frozen=True)
class Plan:
    """All stages of a run, in the order of the pipeline.

    Attributes:
        block_videos: videos of a block, at most; see :meth:`block_sizes`.
        video_bytes: what a video takes between stages.
        notes: what the plan takes for granted, in words.
    """

    stages: tuple[StagePlan, ...]
    cluster: Cluster
    block_videos: int = 1
    video_bytes: int = RESULT_BYTES
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        machine = f"{self.cluster.cpus:g} CPUs and {self.cluster.gpus:g} GPUs"
        stages = ", ".join(f"{stage.actors} × {stage.name} ({'+'.join(stage.extractors)})" for stage in self.stages)
        return f"on {machine}; {stages}; about {self.seconds:.0f} s and the start-up"

    @property
    def cpu_seconds(self) -> float:
        """Expected wall time if GPUs took none: that of all CPUs, which the stages share, or of the slowest chains."""
        shared = sum(stage.core_seconds for stage in self.stages) / self.cluster.cpus if self.cluster.cpus else 0.0
        return max([shared, *[stage.seconds / max(stage.chains, 1) for stage in self.stages if not stage.gpus]])

    @property
    def gpu_seconds(self) -> float:
        """Expected wall time if CPUs took none: of the slowest chains on GPUs; 0 without GPUs."""
        return max((stage.seconds / max(stage.chains, 1) for stage in self.stages if stage.gpus), default=0.0)

    @property
    def seconds(self) -> float:
        """Expected wall time without start-up."""
        return max(self.cpu_seconds, self.gpu_seconds)

    @property
    def bottleneck(self) -> str | None:
        """The stage that the others wait for; None if there is nothing to do."""
        on_gpu = self.gpu_seconds > self.cpu_seconds
        stages = [stage for stage in self.stages if bool(stage.gpus) == on_gpu] or self.stages
        return max(stages, key=lambda stage: stage.seconds / max(stage.chains, 1)).name if stages else None

    @property
    def gpus_fed(self) -> float | None:
        """How many GPUs the CPUs keep busy; None without GPUs."""
        return self.gpus * self.gpu_seconds / self.cpu_seconds if self.gpu_seconds and self.cpu_seconds else None

    @property
    def gpus_used(self) -> float:
        """GPUs that would do the work in the same time if each were busy all the time."""
        return sum(stage.seconds * stage.gpus for stage in self.stages) / self.seconds if self.seconds else 0.0

    @property
    def gpus(self) -> float:
        """GPUs that the run holds."""
        return sum(stage.chains * stage.gpus for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        """Expected GPU-hours for which the run holds GPUs, start-up apart."""
        return self.gpus * self.seconds / 3600

    @property
    def object_store_bytes(self) -> int:
        """Object-store memory that full blocks take while all chains that are asked for are busy."""
        return object_store_bytes([stage.asked for stage in self.stages], self.block_videos * self.video_bytes)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        cluster = {"cpus": self.cluster.cpus, "gpus": self.cluster.gpus, "memory_gb": self.cluster.memory_gb}
        expected = {
            "expected_seconds": self.seconds,
            "expected_gpu_hours": self.gpu_hours,
            "bottleneck": self.bottleneck,
            "gpus_held": self.gpus,
            "gpus_used": self.gpus_used,
            "gpus_fed": self.gpus_fed,
        }
        found = asdict(self)
        return {**found, "cluster": {**found["cluster"], **cluster}, **expected}

    def devices(self) -> dict[str, dict[str, Any]]:
        """For each extractor the kind of device that it runs on, and the threads of its chain: for ``runs/``."""
        return {
            name: {"device": self._kind(stage), "threads": stage.threads}
            for stage in self.stages
            for name in stage.extractors
        }

    def _kind(self, stage: StagePlan) -> str:
        return device_kind(self.cluster.gpu_type, stage.chains_per_gpu)

    def places(self) -> list[dict[str, int]]:
        """Put the chains for which there is room on the nodes; returns chains by stage for each kind of node."""
        free = [[node.cpus, node.gpus, node.memory_gb] for node in self.cluster.nodes for _ in range(node.count)]
        kinds = [kind for kind, node in enumerate(self.cluster.nodes) for _ in range(node.count)]
        found: list[dict[str, int]] = [{} for _ in self.cluster.nodes]
        for stage in sorted(self.stages, key=lambda stage: (-stage.gpus, stage.cpus)):
            left, takes = stage.actors, (stage.cpus, stage.gpus, stage.memory_gb)
            # What reserves neither CPUs nor GPUs is spread.
            most = stage.actors if stage.cpus or stage.gpus else math.ceil(stage.actors / max(len(free), 1))
            for kind, node in zip(kinds, free, strict=True):
                room = min(int((has + _TINY) / need) for has, need in zip(node, takes, strict=True) if need)
                count = min(left, most, room)
                if count:
                    node[:] = [has - count * need for has, need in zip(node, takes, strict=True)]
                    found[kind][stage.name] = found[kind].get(stage.name, 0) + count
                    left -= count
        return found

    def block_sizes(self, videos: int) -> list[int]:
        """Cut videos into blocks: single ones at first, so that the first result comes early, then larger ones.

        Sizes double once every chain of the bottleneck has had a block. They become smaller again at the end (guided
        self-scheduling: Polychronopoulos and Kuck, 1987), so that none of these works long after the others.
        """
        chains = next((max(stage.chains, 1) for stage in self.stages if stage.name == self.bottleneck), 1)
        sizes: list[int] = []
        left = videos
        while left:
            doubled = 2 ** min(len(sizes) // chains, 30)
            sizes.append(min(doubled, self.block_videos, math.ceil(left / (2 * chains))))
            left -= sizes[-1]
        return sizes

    def lacks(self, now: Cluster) -> str | None:
        """Say what one chain of every stage takes and a cluster does not have; None if it has enough."""
        needed = {
            "CPUs": (sum(stage.cpus for stage in self.stages), now.cpus),
            "GPUs": (sum(stage.gpus for stage in self.stages), now.gpus),
            "GiB of memory": (sum(stage.memory_gb for stage in self.stages), now.memory_gb),
        }
        short = [f"{has:.3g} of the {need:.3g} {unit}" for unit, (need, has) in needed.items() if has < need - _TINY]
        if short:
            return f"only {' and '.join(short)} that a chain of every stage takes"
        free = [[node.cpus, node.gpus, node.memory_gb] for node in now.nodes for _ in range(node.count)]
        for stage in sorted(self.stages, key=lambda stage: (stage.gpus, stage.cpus, stage.memory_gb), reverse=True):
            takes = (stage.cpus, stage.gpus, stage.memory_gb)
            places = (node for node in free if all(has >= need - _TINY for has, need in zip(node, takes, strict=True)))
            if (place := next(places, None)) is None:
                words = f"{stage.cpus:g} CPUs, {stage.gpus:.3g} GPUs and {stage.memory_gb:.3g} GiB of memory"
                return f"no node with the {words} that a {stage.name} takes"
            place[:] = [has - need for has, need in zip(place, takes, strict=True)]
        return None


def object_store_bytes(pools: Sequence[int], block_bytes: int) -> int:
    """Return the object-store memory that keeps the chains of all stages busy.

    Ray Data divides its limit equally among operators, and charges blocks that wait before a pool to the operator
    before it: so each share has to hold what the largest pool works on and what the one before it has made.

    Args:
        pools: chains of each stage.
        block_bytes: size of a full block.
    """
    blocks = max((IN_FLIGHT * (after + before) for after, before in zip(pools, [0, *pools], strict=False)), default=0)
    return len(pools) * blocks * block_bytes


def device_kind(gpu_type: str | None, chains_per_gpu: int) -> str:
    """Name the kind of device that costs are of: ``cpu``, or a type of GPU with the share of it (``gpu H100 1/4``)."""
    return f"gpu {gpu_type or 'of unknown type'} 1/{chains_per_gpu}" if chains_per_gpu else "cpu"
