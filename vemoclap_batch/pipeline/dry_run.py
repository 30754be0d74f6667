"""What a run would do, without doing it."""

from __future__ import annotations

from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.config import Config
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.pipeline.cluster import this_machine
from vemoclap_batch.pipeline.graph import block_size
from vemoclap_batch.pipeline.pending import find_work
from vemoclap_batch.pipeline.plan import ASSUMED_SECONDS, make_plan
from vemoclap_batch.store.store import Store


def dry_run(videos: pa.Table, out: str | None, config: Config) -> dict[str, Any]:
    """Compare a manifest with an output folder (an empty one unless given) and size the pools for this machine.

    Returns:
        ``videos``, ``videos_to_do``, ``cells`` per extractor (done, missing, given_up), ``plan`` and ``costs_from``.
    """
    specs = resolve(config)
    with TemporaryDirectory() as empty:
        store = Store(out or empty)
        work = find_work(store, videos, specs, config.pipeline.max_attempts)
        measured = measured_costs(store, {name: spec.fingerprint for name, spec in specs.items()})
        audio_s = _mean_duration(store) or ASSUMED_SECONDS
    cluster = this_machine()
    size = block_size(work.rows.num_rows, config, cluster.cpus)
    plan = make_plan(config, specs, work.wanted, -(-work.rows.num_rows // size), cluster, audio_s, measured)
    return {
        "videos": videos.num_rows,
        "videos_to_do": work.rows.num_rows,
        "cells": {
            name: {"done": work.done[name], "missing": work.wanted.get(name, 0), "given_up": work.given_up[name]}
            for name in specs
        },
        "plan": plan.as_dict(),
        "costs_from": "measured in earlier runs" if measured else "the profile's figures",
    }


def measured_costs(store: Store, fingerprints: Mapping[str, str]) -> dict[str, float]:
    """Seconds per video of each stage, over the runs in OUT that used the same fingerprints."""
    seconds: dict[str, float] = {}
    items: dict[str, int] = {}
    for run in store.runs():
        for name, stage in run["stages"].items():
            if name == "decode" or run["fingerprints"].get(name) == fingerprints.get(name):
                seconds[name] = seconds.get(name, 0.0) + stage["seconds"]
                items[name] = items.get(name, 0) + stage["items"] + stage["failed"]
    return {name: seconds[name] / items[name] for name in seconds if items[name]}


def _mean_duration(store: Store) -> float | None:
    return pc.mean(store.videos().read(["duration_s"])["duration_s"]).as_py()
