"""How good predictions are: numbers and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from vemoclap_batch.fusion.data import keyed_rng


def evaluate(probabilities: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Score predictions against given labels.

    Args:
        probabilities: float [n, labels].
        truth: label index of each example, int [n].
        labels: names, in the order of the columns.

    Returns:
        ``n``, ``accuracy`` with its 95 % bootstrap interval, ``macro_f1`` and ``uar`` (mean over the classes present),
        ``per_class`` (precision, recall, f1, n), ``confusion_matrix`` (rows: given label) and ``calibration_error``.
    """
    predicted, present = probabilities.argmax(1), np.unique(truth)
    everything = range(len(labels))
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=everything, zero_division=0.0
    )
    return {
        "n": len(truth),
        "accuracy": float(accuracy_score(truth, predicted)),
        "accuracy_interval": bootstrap(predicted == truth),
        "macro_f1": float(f1_score(truth, predicted, labels=present, average="macro", zero_division=0.0)),
        "uar": float(recall[present].mean()),
        "per_class": {
            label: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
            for label, p, r, f, n in zip(labels, precision, recall, f1, support, strict=True)
        },
        "confusion_matrix": confusion_matrix(truth, predicted, labels=everything).tolist(),
        "calibration_error": calibration_error(probabilities, truth),
    }


def bootstrap(hits: np.ndarray, rounds: int = 2000, seed: int = 1) -> list[float]:
    """The 95 % percentile bootstrap interval of a mean of hits."""
    rng = keyed_rng(seed, "bootstrap")
    means = [rng.choice(hits, len(hits)).mean() for _ in range(rounds)]
    return [float(x) for x in np.percentile(means, [2.5, 97.5])]


def calibration_error(probabilities: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the top label over equal-width bins (Guo et al., 2017, arXiv 1706.04599)."""
    confidence, hits = probabilities.max(1), probabilities.argmax(1) == truth
    at = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(hits[at == b].mean() - confidence[at == b].mean()) * (at == b).mean() for b in np.unique(at)]
    return float(sum(gaps))


def draw_confusion(result: dict[str, Any], labels: Sequence[str], path: str | Path) -> None:
    """Draw the confusion matrix of :func:`evaluate` as a PNG, rows normalised, counts written in."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.array(result["confusion_matrix"])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    axes.set(
        xticks=range(len(labels)), yticks=range(len(labels)), xlabel="predicted", ylabel="given",
        title=f"accuracy {result['accuracy']:.3f}, macro F1 {result['macro_f1']:.3f}, n = {result['n']}",
    )  # fmt: skip
    axes.set_xticklabels(labels, rotation=35, ha="right")
    axes.set_yticklabels(labels)
    for row, column in np.ndindex(counts.shape):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    figure.colorbar(image, label="share of the given label")
    figure.savefig(path, dpi=120)
