"""Finds frames by a text or by an example, by the cosine of their stored embeddings. Needs no index.

One query is one pass over the embeddings by a matrix product. Reading them takes most of the time, so that a library of
vector search would win little (docs/benchmarks.md), and an approximate index would take longer to build than it saves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.config import Config
from vemoclap_batch.errors import ConfigError, Failure
from vemoclap_batch.extractors.base import FRAMES, Resources
from vemoclap_batch.extractors.open_clip import OpenClip, OpenClipSettings
from vemoclap_batch.extractors.registry import Spec, resolve
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.worker import DecodeWorker
from vemoclap_batch.report.html.thumbnails import webp
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table, keys

#: Whose embeddings are searched.
EXTRACTOR = "clip"
#: Rows (videos) that are read at a time; a video has some tens of embeddings.
_ROWS = 2048
_SAME_S = 0.02


@dataclass(frozen=True)
class Hit:
    """A frame that was found: its video's key, the second of the video and the cosine."""

    key: str
    time_s: float | None
    score: float


def searched(store: Store, config: Config, by_text: bool) -> Spec:
    """Choose the extractor whose embeddings are searched: the profile's own, which must have made those of the folder.

    Raises:
        ConfigError: the profile has none or no text tower, its weights are missing, or the folder has embeddings by
            another model or other settings only.
    """
    if EXTRACTOR not in config.extractors:
        raise ConfigError([f"profile {config.profile!r} has no extractor {EXTRACTOR!r}, whose embeddings are searched"])
    only = config.model_copy(update={"extractors": {EXTRACTOR: config.extractors[EXTRACTOR]}})
    spec = resolve(only)[EXTRACTOR]
    if by_text and not issubclass(spec.cls, OpenClip):
        raise ConfigError(
            [
                f"profile {config.profile!r} has no text tower ({spec.cls.name}): search with --like FILE, or with "
                "--profile paper in a folder whose features it made"
            ]
        )
    tables = store.fingerprints(EXTRACTOR)
    if spec.fingerprint not in tables:
        there = ", ".join(f"{name} ({made['space']})" for name, made in tables.items()) or "none"
        raise ConfigError(
            [
                f"{store.address!r} has no {EXTRACTOR} features {spec.fingerprint} of these settings, only {there}. "
                "Give the --profile, --set, --frames, --window and --hop that they were made with"
            ]
        )
    return spec


def embed_text(spec: Spec, text: str) -> np.ndarray:
    """The query of a text: float32 [1, width], of length 1.

    Raises:
        ConfigError: the model does not load.
    """
    from vemoclap_batch.extractors.open_clip_text import embed_texts

    assert isinstance(spec.settings, OpenClipSettings)
    try:
        return embed_texts(spec.models["model"], spec.settings, [text])
    except (OSError, ValueError) as error:
        raise ConfigError([f"extractors.{EXTRACTOR}: {error}"]) from error


def embed_file(spec: Spec, config: Config, path: str) -> np.ndarray:
    """The query of a video or picture: float32 [frames, width], each of length 1.

    Raises:
        ConfigError: it cannot be decoded, or has no picture.
    """
    assert FRAMES in spec.cls.inputs
    with DecodeWorker(Sampling(**config.sampling.model_dump()), Limits(policy=config.sources.policy)) as worker:
        decoded = worker.decode(path, path, want_audio=False)
    if isinstance(decoded, Failure):
        raise ConfigError([f"--like {path!r}: {decoded.message}"])
    if not len(decoded[0].frames):
        raise ConfigError([f"--like {path!r}: it has no pictures"])
    [result] = spec.cls(spec.settings, Resources(os.cpu_count() or 1, "cpu", spec.models)).extract([decoded[0]])
    if isinstance(result, Failure):
        raise ConfigError([f"--like {path!r}: {result.message}"])
    return normalised(result.feature)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Vectors float32 [n, width] scaled to length 1; zeros stay."""
    lengths = np.sqrt(np.einsum("nw,nw->n", vectors, vectors))
    return vectors / np.maximum(lengths, np.float32(1e-12))[:, None]


def scores(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The largest cosine of each vector, float32 [n, width], with the vectors of a query of length 1: float32 [n]."""
    lengths = np.sqrt(np.einsum("nw,nw->n", vectors, vectors))
    return (vectors @ query.T).max(1) / np.maximum(lengths, np.float32(1e-12))


def search(
    table: Table, videos: pa.Table, query: np.ndarray, width: int, top: int,
    report: Callable[[int], None] = lambda done: None,
) -> list[Hit]:  # fmt: skip
    """The frames most like a query, best first; memory is that of a few thousand videos, however many there are.

    Args:
        table: of the embeddings.
        videos: ``video_id`` and ``content_key`` of the current ones.
        query: float32 [n, width], of length 1.
        width: of the embeddings.
        top: how many frames.
        report: called with the number of videos that were looked at.
    """
    wanted = keys(videos).combine_chunks()
    best: list[Hit] = []
    done = 0
    for batch in _batches(table):
        is_wanted = pc.is_in(keys(batch), value_set=wanted)
        rows = batch if pc.all(is_wanted).as_py() else batch.filter(is_wanted)
        best = _better(best, rows, query, width, top)
        done += rows.num_rows
        report(done)
    return best


def _batches(table: Table) -> Iterator[pa.RecordBatch]:
    # One file ahead at most, so that what is read stays small.
    columns = ["video_id", "content_key", "feature", "start_s"]
    return table.dataset().to_batches(columns=columns, batch_size=_ROWS, batch_readahead=2, fragment_readahead=1)


def _better(best: Sequence[Hit], rows: pa.RecordBatch, query: np.ndarray, width: int, top: int) -> list[Hit]:
    lists = rows["feature"]
    numbers = pc.list_flatten(pc.list_flatten(lists)).to_numpy(zero_copy_only=False)
    if not len(numbers):
        return list(best)
    found = scores(numbers.reshape(-1, width), query)
    count = min(top, len(found))
    chosen = np.argpartition(-found, count - 1)[:count]
    owners = pc.list_parent_indices(lists).to_numpy()
    firsts = np.searchsorted(owners, owners[chosen])
    names = keys(rows)
    hits = []
    for item, first in zip(chosen.tolist(), firsts.tolist(), strict=True):
        owner = int(owners[item])
        times = rows["start_s"][owner].as_py() or ()
        place = item - first
        hits.append(Hit(names[owner].as_py(), times[place] if place < len(times) else None, float(found[item])))
    return sorted([*best, *hits], key=lambda hit: (-hit.score, hit.key, hit.time_s or 0.0))[:top]


def describe(
    store: Store, hits: Sequence[Hit], predictions: str | None, config: Config, pictures: bool
) -> list[dict[str, Any]]:
    """What to show of each hit: ``video_id``, ``uri``, ``time_s``, ``score``, ``label``, ``confidence``, ``thumbnail``.

    The label is that of the window in which the frame lies. The thumbnail is WebP, None where the video is no longer
    where it was, or ``pictures`` are not wanted.
    """
    of = pa.array([hit.key for hit in hits], pa.string())
    media = store.videos().read(["uri"], of=of)
    uris = dict(zip(keys(media).to_pylist(), media["uri"].to_pylist(), strict=True))
    emotions: dict[str, list[Mapping[str, Any]]] = {}
    made = store.read_json(f"predictions/{predictions}/model.json") if predictions else None
    if predictions and made:
        columns = ["window_start_s", "window_end_s", "label", "confidence"]
        rows = store.predictions(predictions, made["labels"]).read(columns, of=of)
        for key, row in zip(keys(rows).to_pylist(), rows.to_pylist(), strict=True):
            emotions.setdefault(key, []).append(row)
    shown = _pictures(hits, uris, config) if pictures else {}
    result = []
    for hit in hits:
        window = _window_of(emotions.get(hit.key, ()), hit.time_s or 0.0)
        result.append(
            {
                "video_id": hit.key.partition("\0")[0], "uri": uris.get(hit.key), "time_s": hit.time_s,
                "score": round(hit.score, 4), "label": window.get("label"), "confidence": window.get("confidence"),
                "thumbnail": shown.get((hit.key, hit.time_s)),
            }
        )  # fmt: skip
    return result


def _window_of(windows: Sequence[Mapping[str, Any]], time_s: float) -> Mapping[str, Any]:
    holding = [of for of in windows if of["window_start_s"] <= time_s < (of["window_end_s"] or np.inf)]

    # Of windows that overlap, the one whose middle is nearest.
    def distance(of: Mapping[str, Any]) -> float:
        return abs((of["window_start_s"] + (of["window_end_s"] or 0.0)) / 2 - time_s)

    return min(holding or windows, default={}, key=distance)


def _pictures(
    hits: Sequence[Hit], uris: Mapping[str, str | None], config: Config
) -> dict[tuple[str, float | None], bytes]:
    """The frames of hits, decoded as they were for the embeddings."""
    wanted: dict[str, set[float]] = {}
    for hit in hits:
        if uris.get(hit.key) and hit.time_s is not None:
            wanted.setdefault(hit.key, set()).add(hit.time_s)
    found: dict[tuple[str, float | None], bytes] = {}
    with DecodeWorker(Sampling(**config.sampling.model_dump()), Limits(policy=config.sources.policy)) as worker:
        for key, times in wanted.items():
            left = set(times)
            with closing(worker.chunks(key, str(uris[key]), want_audio=False)) as chunks:
                for decoded in chunks:
                    if isinstance(decoded, Failure):
                        break
                    for frame, time_s in zip(decoded[0].frames, decoded[0].frame_times, strict=True):
                        for wanted_s in [time for time in left if abs(time - time_s) < _SAME_S]:
                            found[key, wanted_s] = webp(frame)
                            left.discard(wanted_s)
                    if not left:
                        break
    return found
