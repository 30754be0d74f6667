"""The authors' feature file becomes tables of the store, as if the ``paper`` profile had made them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vemoclap_batch.config import LABELS, ConfigError
from vemoclap_batch.fusion.published import FEATURES, feature_space
from vemoclap_batch.fusion.safe_pickle import load
from vemoclap_batch.store import schemas
from vemoclap_batch.store.filesystem import write_atomically
from vemoclap_batch.store.schemas import feature_array
from vemoclap_batch.store.store import Store

#: Where the labels go, below OUT.
LABELS_FILE = "labels.parquet"
_VERSION = 1  # of this module's reading, part of the fingerprint
_CHUNK = 256  # videos a shard: about 35 MB of the published features
_SHOWN = 10


@dataclass
class Samples:
    """A feature file that has been checked.

    Attributes:
        ids: of the videos, as the file calls them.
        features: per feature one array [length, width] per video, as the file has it; length 0 = missing.
        widths: per feature.
        labels: per video; None where the file has none.
        fingerprint: of the file's content.
        notes: what a user should know.
    """

    ids: list[str]
    features: dict[str, list[np.ndarray]]
    widths: dict[str, int]
    labels: list[str | None]
    fingerprint: str
    notes: list[str] = field(default_factory=list)


@dataclass
class Imported:
    """What an import did: rows that were new in each table, and how many videos have each feature."""

    fingerprint: str
    videos: int
    new: int
    labelled: int
    present: dict[str, int]
    spaces: dict[str, str | None]
    notes: list[str]


def read_samples(path: str | Path) -> Samples:
    """Read and check the authors' pickle; runs no code of it.

    Layout: ``samples`` → video id → ``features`` (name → array [length, width], empty when missing) and ``label`` or
    ``labels`` (one-hot or index), ``idx_to_label``. A single vector may also be an array [width].

    Raises:
        ConfigError: with the mistakes of all samples, the first ones of each kind.
    """
    try:
        content = load(path)
    except FileNotFoundError as error:
        raise ConfigError([f"{str(path)!r}: no such file"]) from error
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, dict) or not samples:
        found = ", ".join(map(str, list(content)[:_SHOWN])) if isinstance(content, dict) else type(content).__name__
        raise ConfigError([f"{str(path)!r}: expected a dict with 'samples' (video id → sample); found {found}"])
    mistakes = _Mistakes(str(path))
    names = _feature_names(samples, mistakes)
    mistakes.raise_any()
    notes: list[str] = []
    labels = _index_to_label(content.get("idx_to_label"), mistakes, notes)
    ids = [_video_id(name, mistakes) for name in samples]
    if len(set(ids)) < len(ids):
        mistakes.add("ids", "two samples have one id")
    arrays = {
        name: [_array(s["features"].get(name), name, key, mistakes) for key, s in samples.items()] for name in names
    }
    widths = {name: _width(name, ids, found, mistakes, notes) for name, found in arrays.items()}
    given = [_label(sample, key, labels, mistakes) for key, sample in samples.items()]
    mistakes.raise_any()
    shaped = {name: [_shaped(x, widths[name]) for x in found] for name, found in arrays.items()}
    return Samples(ids, shaped, widths, given, _fingerprint(path), notes)


def import_features(
    store: Store, samples: Samples, source: str, run_id: str, report: Callable[[int], None] | None = None
) -> Imported:
    """Commit the samples; what is there already is left as it is, so that an import can be repeated or gone on with.

    The caller holds the store's lock. Memory beyond the samples is that of one chunk.

    Args:
        store: the output folder.
        samples: of :func:`read_samples`.
        source: name of the file, for the tables' descriptions.
        run_id: of this run.
        report: called with the videos committed so far.
    """
    spaces = {name: feature_space(name, width) for name, width in samples.widths.items()}
    tables = {}
    for name, width in samples.widths.items():
        if samples.fingerprint not in store.fingerprints(name):
            store.describe_features(
                name, samples.fingerprint, _description(name, width, spaces[name], samples.fingerprint, source)
            )
        schema = schemas.features(FEATURES[name].sequence, {}, width)
        tables[name] = store.features(name, samples.fingerprint, schema)
    videos, total, new = store.videos(), len(samples.ids), 0
    notes = samples.notes + _shadowed(store, samples)
    for rows in _chunks(total):
        keys = _key_columns(samples, rows, run_id)
        for name, table in tables.items():
            table.append(_feature_rows(keys, samples.features[name][rows], FEATURES[name].sequence))
        new += videos.append(_video_rows(keys))
        if report:
            report(min(rows.stop, total))
    labelled = _write_labels(store, samples)
    present = {name: sum(len(array) > 0 for array in arrays) for name, arrays in samples.features.items()}
    return Imported(samples.fingerprint, total, new, labelled, present, spaces, notes)


# ---- reading and checking


class _Mistakes:
    """Mistakes in the samples, the first few of each kind named."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: dict[str, list[str]] = {}

    def add(self, kind: str, what: str) -> None:
        self.found.setdefault(kind, []).append(what)

    def raise_any(self) -> None:
        lines = []
        for kind, found in self.found.items():
            lines += [f"{self.path!r}: {what}" for what in found[:_SHOWN]]
            if len(found) > _SHOWN:
                lines.append(f"{self.path!r}: {len(found) - _SHOWN} more samples with wrong {kind}")
        if lines:
            raise ConfigError(lines)


def _feature_names(samples: Mapping[Any, Any], mistakes: _Mistakes) -> list[str]:
    """The names that the samples have together; every sample has to have them all, empty or not."""
    names: dict[str, Any] = {}
    for key, sample in samples.items():
        if not isinstance(sample, dict) or not isinstance(sample.get("features"), dict):
            mistakes.add("layout", f"sample {key!r}: expected a dict with 'features' (name → array)")
            continue
        for name in sample["features"]:
            names.setdefault(name, key)
    mistakes.raise_any()
    for name, key in names.items():
        if name not in FEATURES:
            expected = ", ".join(FEATURES)
            mistakes.add("features", f"sample {key!r}: unknown feature {name!r}; expected some of {expected}")
    for key, sample in samples.items():
        if lacking := sorted(names.keys() - sample["features"].keys()):
            mistakes.add("features", f"sample {key!r}: no {', '.join(lacking)}, which others have (empty when missing)")
    if not names:
        mistakes.add("features", "no sample has a feature")
    return sorted(names)


def _video_id(name: Any, mistakes: _Mistakes) -> str:
    text = str(name)
    if not text or not text.isprintable():
        mistakes.add("ids", f"sample {name!r}: a video id is printable text")
    return text


def _array(value: Any, name: str, key: Any, mistakes: _Mistakes) -> np.ndarray:
    """One feature of one sample as float32 [length, width], or [0, 0] when it is missing or wrong."""
    nothing = np.zeros((0, 0), np.float32)
    if value is None or (isinstance(value, list | tuple) and not value):
        return nothing
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        mistakes.add("features", f"sample {key!r}: {name} is no array of numbers")
        return nothing
    array = value
    if not array.size:
        return nothing
    sequence = FEATURES[name].sequence
    if array.ndim == 1 and not sequence:
        array = array[None]
    if array.ndim != 2 or (len(array) > 1 and not sequence):
        expected = "[length, width]" if sequence else "[1, width]"
        mistakes.add("shapes", f"sample {key!r}: {name} has shape {list(array.shape)}, expected {expected}")
        return nothing
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        mistakes.add("numbers", f"sample {key!r}: {name} has {bad} numbers that are not finite")
    return array


def _width(name: str, ids: list[str], arrays: list[np.ndarray], mistakes: _Mistakes, notes: list[str]) -> int:
    """The one width of a feature: the published one, or another that all samples have."""
    published = FEATURES[name].width
    widths = {array.shape[1] for array in arrays if len(array)}
    if len(widths) > 1:
        expected = published if published in widths else max(widths, key=[x.shape[-1] for x in arrays].count)
        for key, array in zip(ids, arrays, strict=True):
            if len(array) and array.shape[1] != expected:
                mistakes.add("widths", f"sample {key!r}: {name} has width {array.shape[1]}, others have {expected}")
        return expected
    width = widths.pop() if widths else published
    if width != published:
        notes.append(f"{name} has width {width}, not the published {published}: only a checkpoint of that width fits")
    return width


def _shaped(array: np.ndarray, width: int) -> np.ndarray:
    return array if len(array) else np.zeros((0, width), np.float32)


def _index_to_label(given: Any, mistakes: _Mistakes, notes: list[str]) -> dict[int, str]:
    if given is None:
        notes.append(f"the file has no idx_to_label: labels are taken in the published order ({', '.join(LABELS)})")
        return dict(enumerate(LABELS))
    try:
        pairs = given.items() if isinstance(given, dict) else enumerate(given)
        labels = {int(index): str(label).lower() for index, label in pairs}
    except (TypeError, ValueError):
        labels = {}
    unknown = sorted(set(labels.values()) - set(LABELS))
    if not labels or unknown or len(set(labels.values())) < len(labels):
        expected = f"expected index → each of {', '.join(LABELS)} at most once"
        mistakes.add("labels", f"idx_to_label is {given!r}"[:300] + f"; {expected}")
    return labels


def _label(sample: Mapping[str, Any], key: Any, labels: Mapping[int, str], mistakes: _Mistakes) -> str | None:
    value = sample.get("label", sample.get("labels"))
    if value is None:
        return None
    if isinstance(value, str) and value.lower() in LABELS:
        return value.lower()
    try:
        numbers = np.atleast_1d(np.asarray(value, float)).ravel()
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    index: float = -1
    if len(numbers) == 1:
        index = float(numbers[0])
    elif set(numbers) == {0.0, 1.0} and numbers.sum() == 1:
        index = float(numbers.argmax())
    if index not in labels:
        told = f"expected an index or a one-hot vector of {', '.join(labels.values())}"
        mistakes.add("labels", f"sample {key!r}: label {value!r}"[:200] + f"; {told}")
        return None
    return labels[int(index)]


def _fingerprint(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"import {_VERSION} {content}".encode()).hexdigest()[:12]


# ---- writing


def _chunks(total: int) -> Iterator[slice]:
    return (slice(at, at + _CHUNK) for at in range(0, total, _CHUNK))


def _shadowed(store: Store, samples: Samples) -> list[str]:
    there = store.videos().read([])
    ids = set(samples.ids)
    pairs = zip(there["video_id"].to_pylist(), there["content_key"].to_pylist(), strict=True)
    other = {video for video, key in pairs if video in ids and key != _content_key(samples)}
    if not other:
        return []
    return [f"{len(other)} of the videos are in OUT with other content too; the latest import or run is what counts"]


def _content_key(samples: Samples) -> str:
    return f"import-{samples.fingerprint}"


def _key_columns(samples: Samples, rows: slice, run_id: str) -> dict[str, list[str]]:
    ids = samples.ids[rows]
    return {
        "video_id": ids,
        "content_key": [_content_key(samples)] * len(ids),
        "run_id": [run_id] * len(ids),
    }


def _feature_rows(keys: Mapping[str, list[str]], arrays: list[np.ndarray], sequence: bool) -> pa.Table:
    columns: dict[str, Iterable[Any]] = {**keys, "feature": feature_array(arrays)}
    if sequence:
        # The file does not say when its items are.
        nulls = pa.nulls(len(arrays), schemas.SECONDS)
        columns |= {"start_s": nulls, "end_s": nulls}
    return pa.table(columns)


def _video_rows(keys: Mapping[str, list[str]]) -> pa.Table:
    count = len(keys["video_id"])
    columns = {field.name: pa.nulls(count, field.type) for field in schemas.VIDEOS} | dict(keys)
    columns["warnings"] = pa.array([[]] * count, pa.list_(pa.string()))
    return pa.table(columns, schema=schemas.VIDEOS)


def _description(name: str, width: int, space: str | None, fingerprint: str, source: str) -> dict[str, Any]:
    return {
        "extractor": name,
        "fingerprint": fingerprint,
        "space": space,
        "width": width,
        "sequence": FEATURES[name].sequence,
        "identity": {"imported_from": source, "import_version": _VERSION},
    }


def _write_labels(store: Store, samples: Samples) -> int:
    """Add the labels to those of earlier imports, a video named again taking its new label; returns how many."""
    given = {name: label for name, label in zip(samples.ids, samples.labels, strict=True) if label}
    path = f"{store.root}/{LABELS_FILE}"
    merged = given
    if store.filesystem.get_file_info(path).type == pafs.FileType.File:
        with store.filesystem.open_input_file(path) as stream:
            there = pq.read_table(stream)
        merged = dict(zip(there["video_id"].to_pylist(), there["label"].to_pylist(), strict=True)) | given
        if len(merged) == there.num_rows and there["label"].to_pylist() == list(merged.values()):
            return len(given)
    if merged:
        table = pa.table({"video_id": list(merged), "label": list(merged.values())})
        write_atomically(store.filesystem, path, table, store.check)
    return len(given)
