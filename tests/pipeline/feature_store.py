"""A store with known structure: the label of each video is written in its features, under noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from vemoclap_batch.config import LABELS, load_config
from vemoclap_batch.extractors.base import Result
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.pipeline.commit import Committer
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.pipeline.rows import with_results
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store

PROFILE = """
extractors:
  clip: {class: "tests.tiny:TinyFrames"}
  beats: {class: "tests.tiny:TinyFrames"}
  asr: {class: "tests.tiny:TinySound"}
  asr_sentiment: {class: "tests.tiny:TinyText", input: asr}
"""


def make_store(
    folder: Path, per_label: int = 30, noise: float = 0.3, seed: int = 0, shards: int = 1,
    sound_db: list[float] | None = None, faceless: bool = False,
) -> Path:  # fmt: skip
    """Fill ``folder``: ``out`` (the store), ``tiny.yaml`` (its profile), ``labels.csv`` (ids and labels, no split).

    The items of ``clip`` and ``beats``, 4 to 23 of them, lie around a point on a circle, one angle a label; every
    second video has an ``asr_sentiment`` too, whose second number is the label. If ``faceless``, faces were looked for
    in all of them and not found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    profile = folder / "tiny.yaml"
    profile.write_text(PROFILE + ('  face_emotion: {class: "tests.tiny:TinyFrames"}\n' if faceless else ""))
    specs = resolve(load_config(str(profile)))
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(6), per_label))
    ids = [f"v{at}" for at in range(len(truth))]
    videos = pa.table({"video_id": ids, "content_key": ["1"] * len(ids), "uri": [f"/clips/{name}.mp4" for name in ids]})
    store = Store(str(folder / "out"))
    pending = find_pending(store, videos, specs, 3)
    for part in np.array_split(np.arange(len(truth)), shards):
        results = {name: [] for name in specs}
        for row in part:
            angle = truth[row] * np.pi / 3
            for name in ("clip", "beats"):
                points = rng.normal(size=(int(rng.integers(4, 24)), 3)) * noise + [np.cos(angle), np.sin(angle), 0]
                times = np.arange(len(points)) / 10
                results[name].append(Result(points.astype(np.float32), times, times, {"brightness": 0.5}))
            if faceless:
                none = np.zeros((0, 3), np.float32)
                results["face_emotion"].append(Result(none, none[:, 0], none[:, 0], {"brightness": 0.5}))
            results["asr"].append(Result(np.zeros((0, 0), np.float32), extras={"text": ""}))
            said = [[rng.normal(), truth[row] + noise * rng.normal()]] if row % 2 else np.zeros((0, 2))
            results["asr_sentiment"].append(Result(np.array(said, np.float32).reshape(-1, 2)))
        with Committer(store, specs, pending, "r1") as committer:
            for name, spec in specs.items():
                committer.add(with_results(videos.take(part), spec, results[name], 0.0, 0.0))
    common = dict.fromkeys(schemas.VIDEOS.names) | {"duration_s": 2.0, "sound_db": sound_db, "run_id": "r1"}
    rows = [common | row for row in videos.to_pylist()]
    store.videos().append(pa.Table.from_pylist(rows, schema=schemas.VIDEOS))
    lines = ["video_id,label", *[f"{name},{LABELS[label]}" for name, label in zip(ids, truth, strict=True)]]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder
