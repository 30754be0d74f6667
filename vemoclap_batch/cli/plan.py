"""The command ``plan``: what a run would do on a cluster that is there or is not."""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import print_json
from vemoclap_batch.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from vemoclap_batch.config import Config
    from vemoclap_batch.pipeline.cluster import Cluster, Node
    from vemoclap_batch.pipeline.plan import Measured
    from vemoclap_batch.pipeline.stages import Plan, StagePlan

_KEYS = ("cpus", "gpus", "memory_gb", "gpu_memory_gb", "nodes", "gpu_type")
_COUNTS = ("cpus", "gpus", "nodes")
#: Memory of a node for each of its CPUs, where ``--cluster`` does not say, in GiB.
_GB_A_CPU = 4.0

ClusterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cluster", metavar="cpus=N[,gpus=N][,memory_gb=X][,gpu_memory_gb=X][,gpu_type=H100][,nodes=N]",
        help="Plan for such a cluster [default: this machine]. cpus, gpus and memory_gb are of all its nodes together, "
        "gpu_memory_gb of one GPU. Once for each kind of node.",
    ),
]  # fmt: skip


def plan(
    source: opt.Sources,
    out: Annotated[str | None, typer.Option("-o", "--out", help="Output folder to compare with.")] = None,
    profile: opt.Profile = "lite", frames: opt.Frames = None, settings: opt.Settings = None, as_json: opt.Json = False,
    models_dir: opt.ModelsDir = None, window: opt.WindowS = None, hop: opt.HopS = None, cluster: ClusterOption = None,
    videos: Annotated[
        int | None, typer.Option(min=1, help="Plan for so many videos like the sources, with nothing done.")
    ] = None,
    price_gpu_hour: Annotated[float | None, typer.Option(min=0, help="Price of a GPU for an hour.")] = None,
) -> None:  # fmt: skip
    """Dry run: what is missing, which chains would run where, how long it takes. Starts nothing, needs no weights."""
    from vemoclap_batch.request import request

    there = read_cluster(cluster) if cluster else None
    asked = request(source, profile, settings, frames, models_dir, window, hop)
    planned, found = dry_run(asked.manifest.rows, out, asked.config, there, videos)
    for name, cells in found["cells"].items():
        print(f"{name:<14} {cells['done']:>8} done {cells['missing']:>8} missing {cells['given_up']:>6} given up")
    for line in [*_nodes(planned), *_stages(planned)]:
        print(line)
    if fed := feeding(planned):
        print(fed)
    of = f"of {found['videos']} videos to do" if videos is None else "videos"
    print(
        f"{found['videos_to_do']} {of}: about {planned.seconds:.0f} s and the start-up, "
        f"{planned.gpu_hours:.2f} GPU-hours ({found['costs_from']})"
    )
    cost = None
    if price_gpu_hour is not None:
        cost = round(planned.gpu_hours * price_gpu_hour, 2)
        print(f"{planned.gpu_hours:.2f} GPU-hours at {price_gpu_hour:g} cost {cost:.2f}")
    notes = found.pop("notes") + (_of_cluster(cluster, planned.cluster) if cluster else [])
    for note in notes:
        print(f"assumed: {note}")
    result = {**found, "plan": planned.as_dict() | {"notes": notes, "feeds": fed}, "expected_cost": cost}
    print_json(result, as_json)


def dry_run(
    videos: pa.Table, out: str | None, config: Config, cluster: Cluster | None = None, count: int | None = None
) -> tuple[Plan, dict[str, Any]]:
    """Compare a manifest with an output folder (an empty one unless given) and plan; needs no weights.

    Args:
        videos: the manifest's rows.
        out: the output folder.
        config: the run's configuration. With ``accelerator: auto`` extractors run on GPUs if the cluster has any.
        cluster: to plan for; this machine without one.
        count: plan for so many videos, of which nothing is there yet, in place of the manifest's.

    Returns:
        The plan, and what it is made from: ``videos``, ``videos_to_do``, ``cells`` per extractor (done, missing,
        given_up), ``costs_from`` and ``notes``, which say what is taken for granted.
    """
    from vemoclap_batch.extractors.registry import resolve_for_plan
    from vemoclap_batch.pipeline.cluster import this_machine
    from vemoclap_batch.pipeline.pending import find_pending
    from vemoclap_batch.pipeline.plan import ASSUMED_SECONDS, estimates, make_plan
    from vemoclap_batch.store.store import Store

    cluster = cluster or this_machine()
    if config.accelerator == "auto":
        config = config.model_copy(update={"accelerator": "gpu" if cluster.gpus else "cpu"})
    specs, missing = resolve_for_plan(config)
    with TemporaryDirectory() as empty:
        store = Store(out or empty)
        pending = find_pending(store, videos, specs, config.pipeline.max_attempts)
        audio_s, measured = estimates(store, specs)
    wanted = dict.fromkeys(specs, count) if count else pending.wanted
    plan = make_plan(
        config, specs, wanted, count or pending.rows.num_rows, cluster, audio_s or ASSUMED_SECONDS, measured
    )
    notes = [*plan.notes]
    if audio_s is None:
        notes.append(f"a video has {ASSUMED_SECONDS:g} s of audio; a folder with videos of the sources would say")
    if missing:
        notes.append("what OUT has of extractors whose weights are not on this machine counts as missing")
    return plan, {
        "videos": videos.num_rows,
        "videos_to_do": count or pending.rows.num_rows,
        "cells": {
            name: {
                "done": pending.done[name],
                "missing": pending.wanted.get(name, 0),
                "given_up": pending.given_up[name],
            }
            for name in specs
        },
        "costs_from": _costs_from(plan, measured),
        "notes": notes,
    }


def _costs_from(plan: Plan, measured: Measured) -> str:
    used = {name for name, of in plan.devices().items() if name in measured.get(of["device"], {})}
    unknown = sorted({name for stage in plan.stages for name in stage.extractors} - used)
    if not used:
        return "the profile's figures"
    return f"measured in earlier runs; {', '.join(unknown)} by the profile" if unknown else "measured in earlier runs"


def read_cluster(items: Sequence[str]) -> Cluster:
    """Read ``--cluster``: one item for each kind of node.

    Raises:
        ConfigError: with every mistake.
    """
    from vemoclap_batch.pipeline.cluster import Cluster

    mistakes: list[str] = []
    nodes = [node for item in items if (node := _node(item, mistakes)) is not None]
    if mistakes:
        raise ConfigError([f"--cluster {mistake}" for mistake in mistakes])
    return Cluster(tuple(nodes))


def _node(item: str, mistakes: list[str]) -> Node | None:
    """Read one kind of node; what is wrong is added to the mistakes."""
    from vemoclap_batch.pipeline.cluster import FOR_ACTORS, Node

    values: dict[str, float] = {}
    gpu_type = None
    before = len(mistakes)
    for part in item.split(","):
        key, equals, text = (word.strip() for word in part.partition("="))
        if not equals or key not in _KEYS:
            mistakes.append(f"{item!r}: {part!r} is none of {'=, '.join(_KEYS)}=")
        elif key == "gpu_type":
            gpu_type = text
        elif key in values:
            mistakes.append(f"{item!r}: {key} is given twice")
        else:
            # A value that is wrong is there all the same: it is not missing.
            values[key] = number = _number(text)
            least = 0 if key == "gpus" else 1 if key in _COUNTS else 0.1
            if not least <= number < 1e9 or (key in _COUNTS and number % 1):
                what = "a whole number" if key in _COUNTS else "a number of GiB"
                mistakes.append(f"{item!r}: {key}={text}: expected {what}, at least {least:g}")
    if "cpus" not in values:
        mistakes.append(f"{item!r}: cpus is missing, such as cpus=64")
    if len(mistakes) > before:
        return None
    count = values.get("nodes", 1)
    mistakes += [
        f"{item!r}: {key}={values[key]:g} cannot be divided among {count:g} equal nodes; give --cluster for each kind"
        for key in ("cpus", "gpus")
        if values.get(key, 0) % count
    ]
    if ("gpu_memory_gb" in values or gpu_type) and not values.get("gpus"):
        mistakes.append(f"{item!r}: gpu_memory_gb and gpu_type are of gpus, of which there are none")
    cpus, gpus = values["cpus"] / count, values.get("gpus", 0) / count
    memory_gb = values.get("memory_gb", _GB_A_CPU * values["cpus"]) / count
    return Node(cpus, gpus, memory_gb * FOR_ACTORS, values.get("gpu_memory_gb"), int(count), gpu_type)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _of_cluster(items: Sequence[str], cluster: Cluster) -> list[str]:
    """What is taken for granted of a cluster that is not there."""
    from vemoclap_batch.pipeline.cluster import FOR_ACTORS

    notes = [f"Ray gives {FOR_ACTORS:.0%} of a node's memory to actors, and the rest to its object store"]
    if any("memory_gb" not in item.replace("gpu_memory_gb", "") for item in items):
        notes.append(f"a node has {_GB_A_CPU:g} GiB of memory a CPU, where memory_gb does not say")
    return notes


def _nodes(planned: Plan) -> list[str]:
    """A line for each kind of node, with its chains."""
    lines = []
    for node, counts in zip(planned.cluster.nodes, planned.places(), strict=True):
        nodes = f"{node.count} nodes, each with" if node.count > 1 else "1 node with"
        memory = f" of {node.gpu_memory_gb:g} GiB" if node.gpu_memory_gb else ""
        gpus = f", {node.gpus:g} GPUs{memory}" if node.gpus else ""
        chains = ", ".join(f"{count} × {name}" for name, count in counts.items()) or "no chain"
        lines.append(f"{nodes} {node.cpus:g} CPUs{gpus}, {node.memory_gb:.0f} GiB for actors: {chains}")
    return lines


def _stages(planned: Plan) -> list[str]:
    """A line for each stage."""
    return [
        f"{stage.actors} × {stage.name}, {_size(stage, planned.cluster)}: {', '.join(stage.extractors)}; "
        f"about {stage.seconds / max(stage.chains, 1):.0f} s, most of it {stage.costliest}"
        for stage in planned.stages
    ]


def _size(stage: StagePlan, cluster: Cluster) -> str:
    if stage.gpus:
        of = f" of {cluster.gpu_memory_gb:g}" if cluster.gpu_memory_gb else ""
        return f"{stage.chains_per_gpu} a GPU, each with {stage.gpu_memory_gb:.1f}{of} GiB of its memory"
    return f"each with {stage.threads} threads and {stage.memory_gb:.1f} GiB"


def feeding(planned: Plan) -> str | None:
    """Say in words what feeds what, and what the bottleneck is; None without work."""
    if planned.bottleneck is None:
        return None
    slowest = next(stage for stage in planned.stages if stage.name == planned.bottleneck)
    if planned.gpus_fed is None:
        return f"the bottleneck is {slowest.costliest}: {_share(slowest)} of the CPUs' time"
    cores, held = planned.cluster.cpus, planned.gpus
    fed = f"{cores:g} cores feed {planned.gpus_fed:.1f} GPUs"
    if planned.gpus_fed >= held:
        return f"{fed} and there are {held:g}: {slowest.costliest} on the GPUs is the bottleneck"
    return (
        f"{fed} of {held:g}: {slowest.costliest} is the bottleneck; {more_cores(planned):.0f} more cores a GPU would "
        "keep all busy"
    )


def more_cores(planned: Plan) -> float:
    """How many more cores a GPU it takes that the CPUs keep all GPUs busy."""
    a_gpu = planned.cluster.cpus / planned.gpus
    return a_gpu * (planned.gpus / (planned.gpus_fed or planned.gpus) - 1)


def _share(stage: StagePlan) -> str:
    return f"{stage.costs[stage.costliest] / max(sum(stage.costs.values()), 1e-9):.0%}"
