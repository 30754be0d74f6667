"""Sets of labels that hold the right one with a stated probability: split-conformal prediction, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from vemoclap_batch.config import MOST_LABELS

#: How often a set holds the right label, of each class.
COVERAGE = 0.9


class PredictionSets(BaseModel):
    """Which labels belong to the set of a prediction.

    The label-conditional form of split-conformal prediction (Sadinle, Lei and Wasserman, 2019, arXiv 1609.00451): a
    label is in the set if its probability is at least the threshold of its class, which ``coverage`` of the calibration
    examples of that class exceed. Of new examples like those, as many sets hold the right label.

    Attributes:
        coverage: the share of sets that hold the right label, of each class.
        thresholds: label → the least probability; 0 for a class with too few examples, which is in every set.
        examples: how many there were of each label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    coverage: float = Field(gt=0, lt=1)
    thresholds: dict[str, float]
    examples: dict[str, int]

    @classmethod
    def fit(
        cls, probabilities: np.ndarray, truth: np.ndarray, labels: Sequence[str], coverage: float = COVERAGE
    ) -> PredictionSets:
        """Find the thresholds.

        Args:
            probabilities: float [n, labels], of examples that did not train the classifier.
            truth: the given label of each, int [n].
            labels: names, in the order of the columns.
            coverage: the share of sets that are to hold the right label.
        """
        thresholds, examples = {}, {}
        for at, label in enumerate(labels):
            given = np.sort(probabilities[truth == at, at])
            # Of n + 1 exchangeable probabilities the new one is below the k-th least of n with probability k / (n + 1).
            k = int((1 - coverage) * (len(given) + 1) + 1e-9)
            thresholds[label] = float(given[k - 1]) if k else 0.0
            examples[label] = len(given)
        return cls(coverage=coverage, thresholds=thresholds, examples=examples)

    def contains(self, probabilities: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """Which labels belong to each set, bool [n, labels]; the likeliest one always does, so that no set is empty."""
        least = np.array([self.thresholds[label] for label in labels])
        inside = probabilities >= least
        inside[np.arange(len(inside)), probabilities.argmax(1)] = True
        return inside

    def sets(self, probabilities: np.ndarray, labels: Sequence[str]) -> list[list[str]]:
        """The set of each prediction, the likeliest label first.

        Args:
            probabilities: float [n, labels].
            labels: names, in the order of the columns.
        """
        inside = self.contains(probabilities, labels)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        return [
            [labels[at] for at in ranked if row[at]] for ranked, row in zip(order.tolist(), inside, strict=True)
        ]  # fmt: skip


def score_sets(
    sets: PredictionSets, probabilities: np.ndarray, truth: np.ndarray, labels: Sequence[str]
) -> dict[str, Any]:
    """How large the sets of labelled examples are, and how many hold the given label.

    Args:
        sets: the thresholds.
        probabilities: float [n, labels], n at least 1.
        truth: the given label of each, int [n].
        labels: names, in the order of the columns.

    Returns:
        ``wanted_coverage``, ``coverage``, ``coverage_per_class`` (of the labels that are given to any), ``mean_size``,
        ``unsure`` (the share of sets of more than two labels).
    """
    inside = sets.contains(probabilities, labels)
    holds, sizes = inside[np.arange(len(truth)), truth], inside.sum(1)
    return {
        "wanted_coverage": sets.coverage,
        "coverage": float(holds.mean()),
        "coverage_per_class": {
            label: float(holds[truth == at].mean()) for at, label in enumerate(labels) if (truth == at).any()
        },
        "mean_size": float(sizes.mean()),
        "unsure": float((sizes > MOST_LABELS).mean()),
    }
