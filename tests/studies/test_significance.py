"""Tests of kept against removed videos, on tables whose answer is known."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, fisher_exact

from vemoclap_batch.studies.significance import CHI_SQUARE, FISHER, PERMUTATION, compare, holm


def test_chi_square_of_a_case_done_by_hand():
    found = compare([10, 20], [20, 10])
    assert found["test"] == CHI_SQUARE
    assert found["statistic"] == pytest.approx(60 * (10 * 10 - 20 * 20) ** 2 / 30**4)
    assert found["dof"] == 1
    assert found["p"] == pytest.approx(chi2.sf(20 / 3, 1))
    assert found["cramers_v"] == pytest.approx(1 / 3)
    assert found["smallest_expected"] == 15
    assert found["why"] is None


def test_removal_that_is_the_same_for_every_kind_is_no_association():
    found = compare([90, 180, 270], [10, 20, 30])
    assert (found["statistic"], found["dof"]) == (pytest.approx(0), 2)
    assert found["p"] == pytest.approx(1)


def test_small_counts_of_two_kinds_go_to_fisher():
    found = compare([9, 1], [1, 4])
    assert found["test"] == FISHER
    assert found["p"] == pytest.approx(fisher_exact([[9, 1], [1, 4]])[1])
    assert found["why"] == "an expected count of 1.7 is too small for the chi-square test"


def test_small_counts_of_more_kinds_are_permuted_to_the_exact_p():
    kept, removed = np.array([6, 2, 1]), np.array([1, 2, 3])
    columns, total, out = kept + removed, 15, 6
    expected = np.outer([9, 6], columns) / total

    def statistic(drawn):
        return ((np.stack([columns - drawn, drawn]) - expected) ** 2 / expected).sum()

    chances = {
        drawn: np.prod([comb(n, k) for n, k in zip(columns, drawn, strict=True)]) / comb(total, out)
        for drawn in product(*[range(n + 1) for n in columns])
        if sum(drawn) == out
    }
    assert sum(chances.values()) == pytest.approx(1)
    exact = sum(p for drawn, p in chances.items() if statistic(np.array(drawn)) >= statistic(removed) - 1e-9)
    found = compare(kept.tolist(), removed.tolist())
    assert found["test"] == PERMUTATION
    assert found["p"] == pytest.approx(exact, abs=0.02)
    assert found["dof"] == 2
    assert compare(kept.tolist(), removed.tolist()) == found


def test_kinds_that_no_video_is_of_do_not_count():
    assert compare([10, 0, 20], [20, 0, 10]) == compare([10, 20], [20, 10])


@pytest.mark.parametrize(
    ("kept", "removed", "why"),
    [
        ([5, 5], [0, 0], "one side has no videos"),
        ([0, 0], [3, 2], "one side has no videos"),
        ([5, 0], [3, 0], "all videos are of one kind"),
        ([0, 0], [0, 0], "one side has no videos"),
    ],
)
def test_what_cannot_be_tested_says_so(kept, removed, why):
    found = compare(kept, removed)
    assert found["p"] is None
    assert found["test"] is None
    assert found["why"] == f"no test: {why}"


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=6))
@settings(max_examples=40)
def test_p_is_a_probability_and_the_rows_may_be_swapped(columns):
    kept, removed = ([column[row] for column in columns] for row in (0, 1))
    found, swapped = compare(kept, removed), compare(removed, kept)
    if found["p"] is None:
        assert swapped["p"] is None
        return
    assert 0 < found["p"] <= 1 + 1e-9
    assert found["statistic"] == pytest.approx(swapped["statistic"])
    assert found["p"] == pytest.approx(swapped["p"], abs=0.03)
    assert 0 <= found["cramers_v"] <= 1 + 1e-9


def test_holm():
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
