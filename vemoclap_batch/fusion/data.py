"""Examples, and how features of any length become the fixed tensors the classifier takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vemoclap_batch.fusion.model import FeatureSpec, FusionSpec
from vemoclap_batch.media.windows import evenly_spaced

Rows = Sequence[int] | np.ndarray
#: Videos whose features are in memory at a time, where all of a set are gone through.
CHUNK = 256


class Data(Protocol):
    """Labelled videos whose features can be had some at a time: in memory (:class:`Examples`) or on disk (a spool).

    Attributes:
        ids: one per video.
        labels: index into the labels, int64 [n]; -1 = not known.
    """

    ids: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        """How many videos."""

    def subset(self, rows: Rows) -> Examples:
        """The examples at these positions, in memory."""

    def part(self, rows: Rows) -> Data:
        """These positions alone, their features where they are."""


@dataclass
class Examples:
    """Videos with their features and, for training and evaluation, labels.

    Attributes:
        ids: one per video.
        features: per feature one float32 array [length, width] per video; length 0 = missing.
        labels: index into the labels, int64 [n]; -1 = not known.
    """

    ids: list[str]
    features: dict[str, list[np.ndarray]]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: Rows) -> Examples:
        """The examples at these positions."""
        return Examples(
            [self.ids[row] for row in rows],
            {name: [arrays[row] for row in rows] for name, arrays in self.features.items()},
            self.labels[np.asarray(rows, int)],
        )

    def part(self, rows: Rows) -> Examples:
        """The examples at these positions."""
        return self.subset(rows)


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
    batch = {}
    for name, feature in spec.features.items():
        arrays = examples.features[name]
        rows = [
            None if epoch is None else _sample(len(a), feature.length, (seed, epoch, video, name))
            for a, video in zip(arrays, examples.ids, strict=True)
        ]
        batch[name] = torch.from_numpy(np.stack([normalised(a, feature, r) for a, r in zip(arrays, rows, strict=True)]))
    return batch


def _sample(length: int, n: int, key: tuple[object, ...]) -> np.ndarray | None:
    if length <= n:
        return None
    return np.sort(keyed_rng(*key).choice(length, n, replace=False))


def keyed_number(*key: object) -> int:
    """A number of 63 bits that depends on nothing but the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def keyed_rng(*key: object) -> np.random.Generator:
    """A generator whose stream depends on nothing but the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def keyed_order(ids: Sequence[str], *key: object) -> np.ndarray:
    """A permutation of positions, int64 [n], that depends on the key and each video's id alone.

    The order in which the videos are given, by a labels file or by shards, makes no difference.
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
    held: list[int] = []
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        held += rows[: round(len(rows) * fraction)].tolist()
    return np.array(sorted(held), np.int64)
