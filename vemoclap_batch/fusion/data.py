"""Labelled videos with their features, and the tensors of fixed size that a classifier takes of them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vemoclap_batch.media.windows import evenly_spaced

if TYPE_CHECKING:
    from torch import Tensor

    from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec

Rows = Sequence[int] | np.ndarray
#: Videos whose features are in memory at a time, where a whole set is read.
CHUNK = 256


class Data(Protocol):
    """Labelled videos whose features can be read some at a time: :class:`Examples`, or a view of them."""

    ids: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        """How many videos."""

    def subset(self, rows: Rows) -> Examples:
        """The examples at these positions."""

    def part(self, rows: Rows) -> Data:
        """These positions alone, their features where they are."""


@dataclass
class Examples:
    """Videos with their features and, for training and evaluation, labels.

    Attributes:
        ids: one per video.
        features: per feature one float32 array [length, width] per video, in memory or memory-mapped; length 0 =
            missing.
        labels: index into the labels, int64 [n]; -1 = not known.
    """

    ids: list[str]
    features: dict[str, list[np.ndarray]]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: Rows) -> Examples:
        """The examples at these positions; arrays are shared."""
        return Examples(
            [self.ids[row] for row in rows],
            {name: [arrays[row] for row in rows] for name, arrays in self.features.items()},
            self.labels[np.asarray(rows, int)],
        )

    part = subset


class MemmapFeatures:
    """One feature of many videos in a memory-mapped file, for sets that do not fit into memory.

    It has no name, so that even a killed process leaves nothing behind, and lies in ``TMPDIR``: 4 bytes a number.
    """

    def __init__(self, videos: int, width: int) -> None:
        """Make room for so many videos, all missing as yet, with items of so many numbers."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._spans = np.zeros((videos, 2), np.int64)  # first item of each video and the one after its last
        self._items, self._width = 0, width

    def put(self, video: int, array: np.ndarray) -> None:
        """Add the feature of one video, float32 [length, width]."""
        self._file.write(np.ascontiguousarray(array, np.float32).data)
        self._spans[video] = self._items, self._items + len(array)
        self._items += len(array)

    def arrays(self) -> list[np.ndarray]:
        """All features, views of the file: float32 [length, width] for each video."""
        self._file.flush()
        shape = (self._items, self._width)
        # An empty file cannot be mapped.
        items = np.asarray(np.memmap(self._file, np.float32, "r", shape=shape)) if shape[0] else np.zeros(shape, "f4")
        return [items[first:end] for first, end in self._spans]


def chunks(n: int, size: int = CHUNK) -> list[np.ndarray]:
    """Positions 0 … n-1 in runs of ``size``, the last one may be shorter."""
    return [np.arange(start, min(start + size, n)) for start in range(0, n, size)]


def statistics(data: Data, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The scalar minimum and maximum of each feature over a training set; (0, 1) where it is missing everywhere."""
    low, high = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    for rows in chunks(len(data)):
        features = data.subset(rows).features
        for name in names:
            for array in filter(len, features[name]):
                low[name] = min(low[name], float(array.min()))
                high[name] = max(high[name], float(array.max()))
    return {name: _range(low[name], high[name]) for name in names}


def _range(low: float, high: float) -> tuple[float, float]:
    if low > high:
        return 0.0, 1.0
    return low, high if high > low else low + 1.0


def normalised(array: np.ndarray, feature: FeatureSpec, rows: np.ndarray | None = None) -> np.ndarray:
    """One video's feature as the classifier takes it: float32 [feature.length, feature.width].

    Longer sequences keep ``rows`` (evenly spaced ones unless given); padding is zero *after* normalising, and so is a
    missing feature, as published.
    """
    out = np.zeros((feature.length, feature.width), np.float32)
    if len(array):
        kept = array[evenly_spaced(len(array), feature.length) if rows is None else rows]
        out[: len(kept)] = (kept - feature.minimum) / (feature.maximum - feature.minimum)
    return out


def to_tensors(examples: Examples, spec: FusionSpec, epoch: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """A batch for the classifier: per feature float32 [batch, length, width].

    With an ``epoch``, longer sequences take a sorted random sample of items (the published augmentation), keyed by
    (seed, epoch, video id) so that it does not depend on the batch or the worker.
    """
    import torch  # Here, so that reading features does not load it.

    batch = {}
    for name, feature in spec.features.items():
        arrays = []
        for array, video in zip(examples.features[name], examples.ids, strict=True):
            rows = None
            if epoch is not None and len(array) > feature.length:
                rows = np.sort(keyed_rng(seed, epoch, video, name).choice(len(array), feature.length, replace=False))
            arrays.append(normalised(array, feature, rows))
        batch[name] = torch.from_numpy(np.stack(arrays))
    return batch


def keyed_number(*key: object) -> int:
    """A number of 63 bits that depends on nothing but the key."""
    return _hash(key) >> 1


def keyed_rng(*key: object) -> np.random.Generator:
    """A generator whose stream depends on nothing but the key."""
    return np.random.default_rng(_hash(key))


def _hash(key: tuple[object, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def keyed_order(ids: Sequence[str], *key: object) -> np.ndarray:
    """A permutation of positions, int64 [n], that depends on the key and each video's id alone.

    The order in which the videos are given makes no difference.
    """
    return np.array(sorted(range(len(ids)), key=lambda row: (keyed_number(*key, ids[row]), ids[row])), np.int64)


def drop_modalities(
    batch: Mapping[str, Tensor], examples: Examples, probability: float, epoch: int, seed: int
) -> dict[str, Tensor]:
    """Make each present feature missing with a probability, but never all of an example's: modality dropout."""
    out = {name: x.clone() for name, x in batch.items()}
    for row, video in enumerate(examples.ids):
        present = [name for name in sorted(out) if len(examples.features[name][row])]
        rng = keyed_rng(seed, epoch, video, "modality")
        dropped = [name for name in present if rng.random() < probability]
        if len(dropped) == len(present) and dropped:
            dropped.remove(dropped[int(rng.integers(len(dropped)))])
        for name in dropped:
            out[name][row] = 0
    return out


def batches(ids: Sequence[str], size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """The positions of each batch of one epoch: a permutation keyed by (seed, epoch, video id).

    The last batch may be smaller.
    """
    order = keyed_order(ids, seed, epoch)
    yield from (order[start : start + size] for start in range(0, len(order), size))


def validation_rows(ids: Sequence[str], labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Positions, sorted, of a stratified share of the videos, keyed by (seed, video id)."""
    order = keyed_order(ids, seed, "validation")
    chosen: list[int] = []
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        chosen += rows[: round(len(rows) * fraction)].tolist()
    return np.array(sorted(chosen), np.int64)
