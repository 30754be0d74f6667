"""Examples in memory, and how features of any length become the fixed tensors the classifier takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vemoclap_batch.fusion.model import FeatureSpec, FusionSpec
from vemoclap_batch.media.windows import evenly_spaced


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

    def subset(self, rows: Sequence[int] | np.ndarray) -> Examples:
        """The examples at these positions."""
        return Examples(
            [self.ids[row] for row in rows],
            {name: [arrays[row] for row in rows] for name, arrays in self.features.items()},
            self.labels[np.asarray(rows, int)],
        )


def statistics(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """The scalar minimum and maximum of one feature over a training set; (0, 1) when it is missing everywhere."""
    present = [array for array in arrays if array.size]
    if not present:
        return 0.0, 1.0
    low, high = min(float(a.min()) for a in present), max(float(a.max()) for a in present)
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


def keyed_rng(*key: object) -> np.random.Generator:
    """A generator whose stream depends on nothing but the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


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


def batches(n: int, size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """The rows of each batch of one epoch: a permutation keyed by (seed, epoch), the last batch may be smaller."""
    order = keyed_rng(seed, epoch).permutation(n)
    yield from (order[start : start + size] for start in range(0, n, size))
