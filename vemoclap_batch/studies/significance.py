"""Whether the videos that were removed are of other kinds than those kept: tests of two rows of counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2_contingency, fisher_exact

#: Where a count that is expected is smaller, the chi-square distribution is no good approximation (Cochran, 1954).
LEAST_EXPECTED = 5.0
ROUNDS = 9_999
CHI_SQUARE, FISHER, PERMUTATION = "chi-square", "Fisher's exact", f"permutation, {ROUNDS:,} draws"


def compare(kept: Sequence[int], removed: Sequence[int], seed: int = 1) -> dict[str, Any]:
    """Test whether being removed depends on the kind of a video.

    Pearson's chi-square, without continuity correction. Where counts are too small for it, the same hypothesis is
    tested by Fisher's exact test (two kinds) or by drawing at random which videos are removed, with both margins kept.

    Args:
        kept: how many videos of each kind are kept.
        removed: how many of each kind are removed.
        seed: of the draws.

    Returns:
        ``test`` (which one gave ``p``), ``statistic`` (always the chi-square statistic), ``dof``, ``p``,
        ``cramers_v`` (0: no association, 1: the kind decides), ``smallest_expected`` and ``why``, which says why it is
        not the chi-square test, if it is not. Without two kinds and two rows all but ``why`` are None.
    """
    counts = np.array([kept, removed], np.int64)
    counts = counts[:, counts.sum(0) > 0]
    if counts.shape[1] < 2 or not counts.sum(1).all():
        reason = "all videos are of one kind" if counts.sum() and counts.shape[1] < 2 else "one side has no videos"
        none = dict.fromkeys(("test", "statistic", "dof", "p", "cramers_v", "smallest_expected"))
        return none | {"why": f"no test: {reason}"}
    statistic, p, dof, expected = chi2_contingency(counts, correction=False)
    test, why = CHI_SQUARE, None
    if expected.min() < LEAST_EXPECTED:
        why = f"an expected count of {expected.min():.1f} is too small for the chi-square test"
        if counts.shape[1] == 2:
            test, p = FISHER, fisher_exact(counts)[1]
        else:
            test, p = PERMUTATION, _permuted(counts, float(statistic), expected, seed)
    return {
        "test": test,
        "statistic": float(statistic),
        "dof": int(dof),
        "p": float(p),
        "cramers_v": float(np.sqrt(statistic / counts.sum())),
        "smallest_expected": float(expected.min()),
        "why": why,
    }


def _permuted(counts: np.ndarray, statistic: float, expected: np.ndarray, seed: int) -> float:
    """The share of random choices of as many removed videos that are at least as uneven, the observed one included."""
    columns, rows = counts.sum(0), counts.sum(1)
    # The kinds of videos drawn without replacement: a permutation of which ones are removed gives the same counts.
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(columns, rows[1], size=ROUNDS)  # [rounds, kinds]
    tables = np.stack([columns - drawn, drawn], axis=1)  # [rounds, 2, kinds]
    statistics = ((tables - expected) ** 2 / expected).sum((1, 2))
    return float((1 + (statistics >= statistic - 1e-9).sum()) / (1 + ROUNDS))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P values adjusted for their number (Holm, 1979); None stays None."""
    order = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    worst = 0.0
    for rank, (p, at) in enumerate(order):
        worst = max(worst, min(1.0, p * (len(order) - rank)))
        adjusted[at] = worst
    return adjusted
