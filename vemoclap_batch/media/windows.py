"""Which items of a sequence are kept, and where windows start."""

from __future__ import annotations

import numpy as np


def evenly_spaced(length: int, n: int) -> np.ndarray:
    """Positions of ``n`` evenly spaced items: ``round(linspace(0, length - 1, n))``; all when there are no more.

    Args:
        length: how many items there are.
        n: how many are wanted, at least 1.

    Returns:
        int64 [min(length, n)], strictly increasing.
    """
    if length <= n:
        return np.arange(length)
    return np.round(np.linspace(0, length - 1, n)).astype(np.int64)


def window_starts(samples: int, size: int = 48_000, hop: int = 24_000) -> list[int]:
    """First sample of every window of ``size`` that fits, one that fits exactly counting; [0] for a shorter sound.

    No sound at all (0 samples) has no window.
    """
    if samples <= 0:
        return []
    return list(range(0, max(samples - size, 0) + 1, hop))
