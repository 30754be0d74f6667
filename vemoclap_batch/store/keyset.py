"""Which of some strings may be among millions of others, in 8 bytes each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

_MERGE_AT = 10_000


class KeyFilter:
    """Remembers 64-bit hashes of strings: it never misses one, and takes one of 10**12 for another.

    The hashes are Python's own, keyed anew in each process, so that nobody can choose strings that collide.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Start with some keys."""
        self._sorted = np.fromiter(map(hash, keys), np.int64)
        self._sorted.sort()
        self._latest: set[int] = set()

    def add(self, keys: Sequence[str]) -> None:
        """Remember some more."""
        self._latest.update(map(hash, keys))
        if len(self._latest) >= _MERGE_AT:
            latest = np.fromiter(self._latest, np.int64, len(self._latest))
            self._sorted = np.sort(np.concatenate([self._sorted, latest]))
            self._latest.clear()

    def may_hold(self, keys: Sequence[str]) -> np.ndarray:
        """For each key, False if it was never added; True if it was, or if its hash equals that of one: bool [n]."""
        hashes = _hashes(keys)
        latest = np.array([number in self._latest for number in hashes.tolist()], bool)
        if not len(self._sorted):
            return latest
        at = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        return (self._sorted[at] == hashes) | latest


def _hashes(keys: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(hash, keys), np.int64, len(keys))
