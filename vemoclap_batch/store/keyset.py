"""A set of millions of strings in 16 bytes each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

_DIGEST = 16  # 128 bits: two of 10**9 keys share a digest with a chance of 10**-21.
_MERGE_AT = 10_000


class KeySet:
    """Remembers digests of strings: a sorted array for the many, a small set for the latest."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Start with some keys."""
        self._sorted = np.sort(np.array([_digest(key) for key in keys], dtype=f"V{_DIGEST}").view(f"S{_DIGEST}"))
        self._latest: set[bytes] = set()

    def add(self, key: str) -> bool:
        """Add a key; returns whether it is new."""
        digest = _digest(key)
        if digest in self._latest or self._in_sorted(digest):
            return False
        self._latest.add(digest)
        if len(self._latest) >= _MERGE_AT:
            latest = np.array(list(self._latest), dtype=f"V{_DIGEST}").view(f"S{_DIGEST}")
            self._sorted = np.sort(np.concatenate([self._sorted, latest]))
            self._latest.clear()
        return True

    def _in_sorted(self, digest: bytes) -> bool:
        at = np.searchsorted(self._sorted, np.bytes_(digest))
        return bool(at < len(self._sorted) and self._sorted[at] == digest)


def _digest(key: str) -> bytes:
    # numpy's S type strips trailing NULs, so the last byte is never one.
    raw = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
    return raw[:-1] + bytes([raw[-1] | 1])
