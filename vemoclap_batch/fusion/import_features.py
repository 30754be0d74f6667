"""Writes the authors' feature file to tables of the store, as if the ``paper`` profile had made them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vemoclap_batch.config import LABELS
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.published import FEATURES, brief, feature_space, read_files
from vemoclap_batch.store import schemas
from vemoclap_batch.store.filesystem import write_atomically
from vemoclap_batch.store.schemas import feature_array
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table

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
    [content] = read_files(path)
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, dict) or not samples:
        raise ConfigError(
            [f"{str(path)!r}: expected a dict with 'samples' (video id → sample); found {brief(content)}"]
        )
    mistakes = _Mistakes(str(path))
    names = _check_layout(samples, mistakes)
    result = Samples(list(map(str, samples)), {name: [] for name in names}, {}, [], _fingerprint(path))
    index_to_label = _index_to_label(content.get("idx_to_label"), mistakes, result.notes)
    widths: dict[str, dict[Any, int]] = {name: {} for name in names}
    for key, sample in samples.items():
        for name, arrays in result.features.items():
            with mistakes.of("features", key):
                arrays.append(_array(sample["features"][name], name))
                if len(arrays[-1]):
                    widths[name][key] = arrays[-1].shape[1]
        with mistakes.of("labels", key):
            result.labels.append(_label(sample, index_to_label))
    result.widths = {name: _width(name, of, mistakes, result.notes) for name, of in widths.items()}
    mistakes.raise_any()
    for name, arrays in result.features.items():
        result.features[name] = [x if len(x) else np.zeros((0, result.widths[name]), np.float32) for x in arrays]
    return result


def import_features(
    store: Store, samples: Samples, source: str, run_id: str, report: Callable[[int], None] | None = None
) -> Imported:
    """Commit the samples that the store lacks, some at a time; the caller holds the store's lock.

    Args:
        store: the output folder.
        samples: of :func:`read_samples`.
        source: name of the file, for the tables' descriptions.
        run_id: of this run.
        report: called with the videos committed so far.
    """
    spaces = {name: feature_space(name, width) for name, width in samples.widths.items()}
    tables = {name: _table(store, samples, name, source) for name in samples.features}
    videos, total, new = store.videos(), len(samples.ids), 0
    content_key = f"import-{samples.fingerprint}"
    notes = samples.notes + _replaced(store, samples.ids, content_key)
    for start in range(0, total, _CHUNK):
        rows = slice(start, start + _CHUNK)
        keys = {"video_id": samples.ids[rows]} | {
            name: [value] * len(samples.ids[rows]) for name, value in (("content_key", content_key), ("run_id", run_id))
        }
        for name, table in tables.items():
            feature = {"feature": feature_array(samples.features[name][rows])}
            # Other columns are null: the file does not say when its items are.
            table.append(_with_nulls(keys | feature, table.schema))
        new += videos.append(_with_nulls(keys | {"warnings": [[]] * len(keys["video_id"])}, schemas.VIDEOS))
        if report:
            report(min(rows.stop, total))
    labelled = _write_labels(store, samples)
    present = {name: sum(len(array) > 0 for array in arrays) for name, arrays in samples.features.items()}
    return Imported(samples.fingerprint, total, new, labelled, present, spaces, notes)


# ---- reading and checking


class _Mistakes:
    """Mistakes in the samples, the first few of each kind named."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._by_kind: dict[str, list[str]] = {}

    def add(self, kind: str, mistake: str) -> None:
        self._by_kind.setdefault(kind, []).append(mistake)

    @contextmanager
    def of(self, kind: str, key: Any) -> Iterator[None]:
        """Record a ValueError as a mistake in a sample."""
        try:
            yield
        except ValueError as error:
            self.add(kind, f"sample {key if isinstance(key, str) else brief(key)!r}: {error}")

    def raise_any(self) -> None:
        lines = []
        for kind, mistakes in self._by_kind.items():
            lines += [f"{self._path!r}: {mistake}" for mistake in mistakes[:_SHOWN]]
            if len(mistakes) > _SHOWN:
                lines.append(f"{self._path!r}: {len(mistakes) - _SHOWN} more samples with wrong {kind}")
        if lines:
            raise ConfigError(lines)


def _check_layout(samples: Mapping[Any, Any], mistakes: _Mistakes) -> list[str]:
    """The names of the features; every sample has to have them all, empty or not."""
    for key, sample in samples.items():
        with mistakes.of("layout", key):
            if not isinstance(sample, dict) or not isinstance(sample.get("features"), dict):
                raise ValueError("expected a dict with 'features' (name → array)")
            if not isinstance(key, str | int) or not str(key) or not str(key).isprintable():
                raise ValueError("a video id is printable text")
    if len(set(map(str, samples))) < len(samples):
        mistakes.add("layout", "two samples have one id")
    mistakes.raise_any()
    names = {name for sample in samples.values() for name in sample["features"]}
    for key, sample in samples.items():
        with mistakes.of("features", key):
            if unknown := [name for name in sample["features"] if name not in FEATURES]:
                raise ValueError(f"unknown feature {brief(unknown[0])}; expected some of {', '.join(FEATURES)}")
            if lacking := sorted(names - sample["features"].keys()):
                raise ValueError(f"no {', '.join(lacking)}, which others have (empty when missing)")
    if not names:
        mistakes.add("features", "no sample has a feature")
    mistakes.raise_any()
    return sorted(names)


def _array(value: Any, name: str) -> np.ndarray:
    """One feature of one sample as float32 [length, width], [0, 0] when it is missing."""
    if value is None or (isinstance(value, list | tuple) and not value):
        return np.zeros((0, 0), np.float32)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise ValueError(f"{name} is no array of numbers")
    if not value.size:
        return np.zeros((0, 0), np.float32)
    sequence = FEATURES[name].sequence
    array = value[None] if value.ndim == 1 and not sequence else value
    if array.ndim != 2 or (len(array) > 1 and not sequence):
        expected = "[length, width]" if sequence else "[1, width]"
        raise ValueError(f"{name} has shape {list(array.shape)}, expected {expected}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if bad := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{name} has {bad} numbers that are not finite")
    return array


def _width(name: str, widths: Mapping[Any, int], mistakes: _Mistakes, notes: list[str]) -> int:
    """The one width of a feature, from those of the samples: the published one, or another that all have."""
    published, counts = FEATURES[name].width, Counter(widths.values())
    expected = published if published in counts or not counts else counts.most_common(1)[0][0]
    for key, width in widths.items():
        if width != expected:
            mistakes.add("widths", f"sample {key!r}: {name} has width {width}, others have {expected}")
    if expected != published:
        notes.append(
            f"{name} has width {expected}, not the published {published}: only a checkpoint of that width fits"
        )
    return expected


def _index_to_label(given: Any, mistakes: _Mistakes, notes: list[str]) -> dict[int, str]:
    if given is None:
        notes.append(f"the file has no idx_to_label: labels are taken in the published order ({', '.join(LABELS)})")
        return dict(enumerate(LABELS))
    try:
        pairs = given.items() if isinstance(given, dict) else enumerate(given)
        labels = {int(index): label.lower() for index, label in pairs}
    except (TypeError, ValueError, AttributeError):
        labels = {}
    if not labels or not set(labels.values()) <= set(LABELS) or len(set(labels.values())) < len(labels):
        expected = f"expected index → each of {', '.join(LABELS)} at most once"
        mistakes.add("labels", f"idx_to_label is {brief(given)}; {expected}")
    return labels


def _label(sample: Mapping[str, Any], labels: Mapping[int, str]) -> str | None:
    value = sample.get("label", sample.get("labels"))
    if value is None:
        return None
    if isinstance(value, str) and value.lower() in LABELS:
        return value.lower()
    try:
        if isinstance(value, list | tuple):  # numpy would unfold nested ones.
            value = [float(number) for number in value]
        numbers = np.atleast_1d(np.asarray(value, float)).ravel()
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    index: float = -1
    if len(numbers) == 1:
        index = float(numbers[0])
    elif set(numbers) == {0.0, 1.0} and numbers.sum() == 1:
        index = float(numbers.argmax())
    if index not in labels:
        expected = f"expected an index or a one-hot vector of {', '.join(labels.values())}"
        raise ValueError(f"label {brief(value)}; {expected}")
    return labels[int(index)]


def _fingerprint(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"import {_VERSION} {content}".encode()).hexdigest()[:12]


# ---- writing


def _table(store: Store, samples: Samples, name: str, source: str) -> Table:
    """The features table of the import, described as an extractor's."""
    width, sequence = samples.widths[name], FEATURES[name].sequence
    if samples.fingerprint not in store.fingerprints(name):
        description = {
            "extractor": name,
            "fingerprint": samples.fingerprint,
            "space": feature_space(name, width),
            "width": width,
            "sequence": sequence,
            "identity": {"imported_from": source, "import_version": _VERSION},
        }
        store.describe_features(name, samples.fingerprint, description)
    return store.features(name, samples.fingerprint, schemas.features(sequence, {}, width))


def _replaced(store: Store, ids: list[str], content_key: str) -> list[str]:
    known = store.videos().read([])
    pairs = zip(known["video_id"].to_pylist(), known["content_key"].to_pylist(), strict=True)
    wanted = set(ids)
    if other := {video for video, key in pairs if video in wanted and key != content_key}:
        return [f"{len(other)} of the videos are in OUT with other content too; the latest import or run counts"]
    return []


def _with_nulls(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """Rows of a schema, of which some columns are given and the others null."""
    count = len(columns["video_id"])
    return pa.table({field.name: pa.nulls(count, field.type) for field in schema} | dict(columns), schema=schema)


def _write_labels(store: Store, samples: Samples) -> int:
    """Add the labels to those of earlier imports, a video named again taking its new label; returns how many."""
    given = {name: label for name, label in zip(samples.ids, samples.labels, strict=True) if label}
    path, known = f"{store.root}/{LABELS_FILE}", {}
    if store.filesystem.get_file_info(path).type == pafs.FileType.File:
        with store.filesystem.open_input_file(path) as stream:
            rows = pq.read_table(stream)
        known = dict(zip(rows["video_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    if (merged := known | given) != known:
        table = pa.table({"video_id": list(merged), "label": list(merged.values())})
        write_atomically(store.filesystem, path, table, store.check)
    return len(given)
