"""An output folder of made-up videos as a run leaves it, for benchmarks of what reads one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.rows import Blocks, manifest
from vemoclap_batch.config import LABELS, load_config, own_checkpoint
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.model import build
from vemoclap_batch.fusion.predict import predict
from vemoclap_batch.fusion.selection import Selected, selected_from
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec
from vemoclap_batch.pipeline.commit import Committer
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.pipeline.run import Classifier
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store

_BLOCK = 256
#: The published model's features: width, and whether they are sequences.
PUBLISHED = {
    "asr_sentiment": (768, False), "beats": (768, True), "clip": (512, True), "face_emotion": (768, True),
    "ocr_sentiment": (768, False),
}  # fmt: skip


def lite_output(folder: Path, videos: int, files: list[Path] | None = None) -> Store:
    """What ``label`` with the profile ``lite`` leaves: all tables, with made-up numbers and words, and predictions.

    Args:
        folder: of the output.
        videos: how many.
        files: real ones that the videos lie in, in turn; without them there are no such files.
    """
    config, rows = load_config("lite"), manifest(videos)
    if files:
        rows = rows.set_column(2, "uri", pa.array([str(files[at % len(files)]) for at in range(videos)]))
    specs, store = resolve(config), Store(str(folder))
    blocks = Blocks(specs)
    with store.writing("bench"):
        with Committer(store, specs, find_pending(store, rows, specs, 3), "bench", every_s=60.0, rows=10_000) as to:
            for block in blocks.of(rows, [min(_BLOCK, videos - at) for at in range(0, videos, _BLOCK)]):
                to.add(block)
        classifier = Classifier.load(own_checkpoint(config))
        selected = selected_from(specs, sorted(classifier.description.spec.features))
        predict(store, rows, classifier, selected, "bench")
    return store


def published_output(folder: Path, videos: int) -> tuple[Store, Classifier, dict[str, Selected]]:
    """Features of the published shapes, all of them there, with random predictions of the published classifier."""
    rng = np.random.default_rng(0)
    features = {
        name: FeatureSpec(width=width, length=16 if sequence else 1, sequence=sequence, space=name)
        for name, (width, sequence) in PUBLISHED.items()
    }
    Checkpoint(build(FusionSpec(features=features, labels=LABELS)).eval()).save(folder / "model")
    store, rows = Store(str(folder / "out")), manifest(videos)
    selected = {name: Selected(name, "0" * 12, name, width, sequence) for name, (width, sequence) in PUBLISHED.items()}
    common = dict.fromkeys(schemas.VIDEOS.names) | {"duration_s": 30.0, "run_id": "bench"}
    with store.writing("bench"):
        described = [common | row for row in rows.to_pylist()]
        store.videos().append(pa.Table.from_pylist(described, schema=schemas.VIDEOS))
        for of in selected.values():
            write_features(store, of, rows, rng)
        classifier = Classifier.load(str(folder / "model"))
        predict(store, rows, classifier, selected, "bench")
    return store, classifier, selected


def write_features(store: Store, of: Selected, videos: pa.Table, rng: np.random.Generator, items: int = 16) -> None:
    """Write a features table of random numbers, so many items a video of a sequence, two seconds apart."""
    description: dict[str, object] = {"space": of.space, "width": of.width, "sequence": of.sequence, "identity": {}}
    store.describe_features(of.name, of.fingerprint, description)
    table = of.table(store)
    for at in range(0, videos.num_rows, 10_000):
        some, count = videos.slice(at, 10_000), items if of.sequence else 1
        numbers = pa.array(rng.standard_normal(some.num_rows * count * of.width, np.float32))
        # One list in the other, without a Python object an item.
        inner = pa.ListArray.from_arrays(pa.array(range(0, len(numbers) + 1, of.width), pa.int32()), numbers)
        ends = pa.array(range(0, len(inner) + 1, count), pa.int32())
        columns = {name: some[name] for name in ("video_id", "content_key")}
        columns["run_id"] = pa.array(["bench"] * some.num_rows)
        columns["feature"] = pa.ListArray.from_arrays(ends, inner)
        if of.sequence:
            times = pa.ListArray.from_arrays(ends, pa.array(np.tile(np.arange(count) * 2.0, some.num_rows)))
            columns |= {"start_s": times, "end_s": times}
        table.append(pa.table(columns))
