"""Finds labels that are probably wrong, by confident learning (Northcutt et al., 2021, arXiv 1911.00068).

Every video is judged by a classifier that was not trained on it. A video counts as confidently of a label when that
label's probability reaches the mean probability that videos given the label have of it. How many videos of each given
label are confidently of another one says how many labels are wrong; the least plausible ones are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores

from vemoclap_batch.fusion.data import Data, keyed_order, validation_rows
from vemoclap_batch.fusion.spec import FusionSpec
from vemoclap_batch.fusion.training import History, TrainSettings, fit_statistics, train

#: Share of a fold's training videos that chooses the best step.
VALIDATION_SHARE = 0.1


@dataclass
class Plausibility:
    """How plausible the given labels are.

    Attributes:
        scores: float64 [n], (1 + probability of the given label - that of the likeliest other) / 2: 0 is worst.
        likelier: the likeliest other label, int64 [n].
        suspects: positions of the labels that seem wrong, int64, the least plausible first.
    """

    scores: np.ndarray
    likelier: np.ndarray
    suspects: np.ndarray


def fold_numbers(ids: Sequence[str], labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Which fold tests each video, int64 [n]: as many of each label in each fold, keyed by (seed, video id).

    Args:
        ids: of the videos.
        labels: label index of each, int [n]; each label at least twice, so that no fold holds all of one.
        folds: how many, at least 2.
        seed: of the drawing.
    """
    order = keyed_order(ids, seed, "fold")
    by_label = order[np.argsort(labels[order], kind="stable")]
    numbers = np.empty(len(ids), np.int64)
    # Counted across labels, so that no fold gets the odd one of every label.
    numbers[by_label] = np.arange(len(ids)) % folds
    return numbers


def out_of_fold(
    shape: FusionSpec,
    data: Data,
    numbers: np.ndarray,
    settings: TrainSettings,
    device: torch.device | str = "cpu",
    report: Callable[[int, History], None] | None = None,
) -> np.ndarray:
    """The probabilities that each video gets from a classifier trained without it: float64 [n, labels].

    Args:
        shape: of the classifier; its normalisation is measured on each fold's training videos.
        data: labelled videos.
        numbers: the fold that tests each video, as of :func:`fold_numbers`.
        settings: hyper-parameters.
        device: that trains.
        report: called after each fold with its number and its history.
    """
    probabilities = np.zeros((len(data), len(shape.labels)))
    for number in np.unique(numbers):
        tested, others = np.flatnonzero(numbers == number), np.flatnonzero(numbers != number)
        ids = [data.ids[row] for row in others]
        validation = validation_rows(ids, data.labels[others], VALIDATION_SHARE, settings.seed)
        training = data.part(np.delete(others, validation))
        checkpoint, history = train(
            fit_statistics(shape, training), training, data.part(others[validation]), settings, device=device
        )
        probabilities[tested] = checkpoint.probabilities(data.part(tested))
        if report:
            report(int(number), history)
    return probabilities


def judge(probabilities: np.ndarray, labels: np.ndarray) -> Plausibility:
    """Judge given labels by out-of-fold probabilities.

    Args:
        probabilities: float [n, labels], of classifiers that have not seen the example.
        labels: index of the given label, int [n]; labels that no example is given are ignored.

    Raises:
        ValueError: fewer than two different labels are given.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError("at least two different labels are needed")
    shares = probabilities[:, present]
    # All of it may be on a label that is not given, which says nothing about those that are.
    shares = np.where(shares.sum(1, keepdims=True) > 0, shares, 1.0)
    shares = shares / shares.sum(1, keepdims=True)
    given = np.searchsorted(present, labels)
    scores = get_label_quality_scores(given, shares, method="normalized_margin")
    is_suspect = find_label_issues(given, shares, filter_by="prune_by_noise_rate", n_jobs=1)
    suspects = np.flatnonzero(is_suspect)
    suspects = suspects[np.argsort(scores[suspects], kind="stable")]
    shares[np.arange(len(given)), given] = -1.0
    return Plausibility(np.asarray(scores, np.float64), present[shares.argmax(1)], suspects)
