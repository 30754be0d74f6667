"""Tests whether the videos that were removed differ in kind from those kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import MonteCarloMethod, chi2_contingency, fisher_exact
from scipy.stats.contingency import association

#: Below this expected count the chi-square distribution is a poor approximation (Cochran, 1954).
LEAST_EXPECTED = 5.0
ROUNDS = 9_999
CHI_SQUARE, FISHER, PERMUTATION = "chi-square", "Fisher's exact", f"permutation, {ROUNDS:,} draws"


def compare(kept: Sequence[int], removed: Sequence[int], seed: int = 1) -> dict[str, Any]:
    """Test whether being removed depends on the kind of a video.

    Pearson's chi-square, without continuity correction. Where counts are too small for it, the same hypothesis is
    tested by Fisher's exact test (two kinds) or on random tables with the same margins (more kinds).

    Args:
        kept: how many videos of each kind are kept.
        removed: how many of each kind are removed.
        seed: of the random tables.

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
            test, p = FISHER, fisher_exact(counts).pvalue
        else:
            drawn = MonteCarloMethod(n_resamples=ROUNDS, rng=np.random.default_rng(seed))
            test, p = PERMUTATION, chi2_contingency(counts, correction=False, method=drawn).pvalue
    return {
        "test": test,
        "statistic": float(statistic),
        "dof": int(dof),
        "p": float(p),
        "cramers_v": float(association(counts, method="cramer")),
        "smallest_expected": float(expected.min()),
        "why": why,
    }


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P values adjusted for their number (Holm, 1979); None stays None."""
    known = np.array([p for p in p_values if p is not None])
    order = np.argsort(known, kind="stable")
    adjusted = np.empty(len(known))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(known[order] * (len(known) - np.arange(len(known)))))
    rest = iter(adjusted.tolist())
    return [None if p is None else next(rest) for p in p_values]
