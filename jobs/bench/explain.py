"""How long explanations take: of the published model's shapes, and of lite's own checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.memory import highest_memory
from bench.outputs import lite_output, published_output
from bench.report import Report
from vemoclap_batch.config import load_config, own_checkpoint
from vemoclap_batch.fusion.explain import explain, find_predictions, selection
from vemoclap_batch.fusion.selection import select
from vemoclap_batch.pipeline.run import Classifier
from vemoclap_batch.store.store import Store
from vemoclap_batch.upkeep.gc import predictions_by_age


def measure(videos: int = 1000) -> Report:
    """Explain the predictions of so many made-up videos, everything from reading the features to the commit.

    Raises:
        RuntimeError: not every prediction got an explanation.
    """
    rows = []
    with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
        store, classifier, _ = published_output(Path(folder) / "published", videos)
        rows.append(_time("published shapes, 5 features, 512 wide", store, classifier, videos))
        store = lite_output(Path(folder) / "lite", videos)
        own = Classifier.load(own_checkpoint(load_config("lite")))
        rows.append(_time("lite's checkpoint, 4 features, 128 wide", store, own, videos))
    figures = {
        "seconds": rows[0]["seconds"], "lite_seconds": rows[1]["seconds"],
        "memory_gb": round(highest_memory() / 1e9, 2),
    }  # fmt: skip
    return Report("explain", {"videos": videos, "torch_threads": torch.get_num_threads()}, rows, figures)


def _time(what: str, store: Store, classifier: Classifier, videos: int) -> dict[str, Any]:
    spaces = {name: feature.space for name, feature in classifier.description.spec.features.items()}
    fingerprint = find_predictions(store, classifier.digest, None, False, predictions_by_age(store))
    selected = select(store, spaces, selection(store, fingerprint)[0])
    began, cpu = time.perf_counter(), time.process_time()
    with store.writing("explain"):
        done = explain(store, store.current_videos(), classifier, selected, fingerprint, "explain")
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    if done.new != videos or done.table.read().num_rows != videos - done.nothing:
        raise RuntimeError(f"{done.new} of {videos} videos were explained")
    return {"model": what, "videos": videos, "seconds": round(seconds, 2), "cpu_s": round(cpu_s, 2)}
