"""How good predictions are: numbers and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from vemoclap_batch.fusion.data import keyed_rng
from vemoclap_batch.report.pages import figure

ROUNDS = 2000
BINS = 15
#: The scores that several seeds are compared by.
SUMMARY = ("accuracy", "macro_f1", "uar", "calibration_error")


def evaluate(probabilities: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Score predictions against given labels.

    Args:
        probabilities: float [n, labels].
        truth: label index of each example, int [n], n at least 1.
        labels: names, in the order of the columns.

    Returns:
        ``n``; ``accuracy``, ``macro_f1`` and ``uar`` (means over the labels that are given to any example), each with
        its 95 % bootstrap interval ``…_interval``; ``per_class`` (precision, recall, f1 with its interval, n);
        ``confusion_matrix`` (rows: given label); ``calibration_error``; and ``reliability``, its bins.
    """
    counts = confusion_matrix(truth, probabilities.argmax(1), labels=range(len(labels)))
    scores = _scores(counts)
    intervals = {name: _interval(values) for name, values in _scores(_resampled(counts)).items()}
    bins = reliability(probabilities, truth)
    return {
        "n": len(truth),
        **{name: float(scores[name]) for name in ("accuracy", "macro_f1", "uar")},
        **{f"{name}_interval": intervals[name] for name in ("accuracy", "macro_f1", "uar")},
        "per_class": {
            label: {
                **{name: float(scores[name][at]) for name in ("precision", "recall", "f1")},
                "f1_interval": [bound[at] for bound in intervals["f1"]],
                "n": int(counts[at].sum()),
            }
            for at, label in enumerate(labels)
        },
        "confusion_matrix": counts.tolist(),
        "calibration_error": _calibration_error(bins, len(truth)),
        "reliability": bins,
    }


def _scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Every score of confusion matrices [..., given, predicted]; an undefined precision, recall or F1 is 0."""
    given, predicted = counts.sum(-1), counts.sum(-2)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    recall = hits / np.maximum(given, 1)
    f1 = 2 * hits / np.maximum(given + predicted, 1)
    is_given = given > 0
    present = np.maximum(is_given.sum(-1), 1)
    return {
        "accuracy": hits.sum(-1) / counts.sum((-2, -1)),
        "macro_f1": (f1 * is_given).sum(-1) / present,
        "uar": (recall * is_given).sum(-1) / present,
        "precision": hits / np.maximum(predicted, 1),
        "recall": recall,
        "f1": f1,
    }


def _resampled(counts: np.ndarray, seed: int = 1) -> np.ndarray:
    """Confusion matrices [rounds, given, predicted] of bootstrap samples.

    Drawing examples with replacement fills the matrix's cells as one multinomial draw does, whatever their number.
    """
    n = counts.sum()
    drawn = keyed_rng(seed, "bootstrap").multinomial(n, counts.reshape(-1) / n, size=ROUNDS)
    return drawn.reshape(ROUNDS, *counts.shape)


def _interval(values: np.ndarray) -> list[Any]:
    """The 95 % percentile interval over the first axis: two numbers, or two lists of them."""
    return np.percentile(values, [2.5, 97.5], axis=0).tolist()


def bootstrap(hits: np.ndarray, rounds: int = ROUNDS, seed: int = 1) -> list[float]:
    """The 95 % percentile bootstrap interval of a mean over examples, float [n]."""
    rng = keyed_rng(seed, "bootstrap")
    return _interval(np.array([rng.choice(hits, len(hits)).mean() for _ in range(rounds)]))


def reliability(probabilities: np.ndarray, truth: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """Equal-width bins of the top label's probability that hold any example.

    Returns:
        Per bin ``from``, ``to``, ``n``, mean ``confidence`` and ``accuracy``.
    """
    confidence, hits = probabilities.max(1), probabilities.argmax(1) == truth
    at = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "from": float(b / bins),
            "to": float((b + 1) / bins),
            "n": int((at == b).sum()),
            "confidence": float(confidence[at == b].mean()),
            "accuracy": float(hits[at == b].mean()),
        }
        for b in np.unique(at)
    ]


def calibration_error(probabilities: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of the top label over equal-width bins (Guo et al., 2017, arXiv 1706.04599)."""
    return _calibration_error(reliability(probabilities, truth, bins), len(truth))


def _calibration_error(bins: Sequence[dict[str, float]], n: int) -> float:
    return float(sum(abs(b["accuracy"] - b["confidence"]) * b["n"] for b in bins) / max(n, 1))


def summarise(results: dict[str, dict[str, Any]], hits: Sequence[np.ndarray]) -> dict[str, Any]:
    """One result of several classifiers, scored on the same examples.

    Args:
        results: of :func:`evaluate`, by name (``seed-1``, …).
        hits: per classifier, whether each example's prediction is right, bool [n].

    Returns:
        As :func:`evaluate`: scores are means over the classifiers, each with its sample standard deviation
        ``…_deviation`` (0 for a single one); the matrix and the bins are sums; the accuracy's interval is over the
        examples, of the mean classifier. ``seeds`` has the scores of each.
    """
    every = list(results.values())
    found: dict[str, Any] = {"n": every[0]["n"]}
    for name in SUMMARY:
        found[name], found[f"{name}_deviation"] = mean_and_deviation([result[name] for result in every])
    found["accuracy_interval"] = bootstrap(np.mean(np.array(hits, float), axis=0))
    found["per_class"] = {
        label: _class_summary([r["per_class"][label] for r in every]) for label in every[0]["per_class"]
    }
    found["confusion_matrix"] = np.sum([result["confusion_matrix"] for result in every], axis=0).tolist()
    found["reliability"] = _joined([result["reliability"] for result in every])
    found["seeds"] = {name: {key: result[key] for key in SUMMARY} for name, result in results.items()}
    return found


def _class_summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in ("precision", "recall", "f1"):
        found[name], found[f"{name}_deviation"] = mean_and_deviation([row[name] for row in rows])
    return found | {"n": rows[0]["n"]}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the deviation of a single value is 0."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _joined(every: Sequence[list[dict[str, float]]]) -> list[dict[str, float]]:
    joined = []
    rows = [row for bins in every for row in bins]
    for low, high in sorted({(row["from"], row["to"]) for row in rows}):
        same = [row for row in rows if row["from"] == low]
        n = sum(row["n"] for row in same)
        means = {key: sum(row[key] * row["n"] for row in same) / n for key in ("confidence", "accuracy")}
        joined.append({"from": low, "to": high, "n": n, **means})
    return joined


def describe(result: dict[str, Any]) -> str:
    """The main scores in a few words, with their deviation over seeds or else their interval."""
    if "seeds" in result:
        return (
            f"accuracy {result['accuracy']:.3f} ± {result['accuracy_deviation']:.3f}, macro F1 "
            f"{result['macro_f1']:.3f} ± {result['macro_f1_deviation']:.3f} over {len(result['seeds'])} seeds, "
            f"n = {result['n']}"
        )
    accuracy, f1 = (
        f"{result[name]:.3f} (95 % {result[f'{name}_interval'][0]:.3f}–{result[f'{name}_interval'][1]:.3f})"
        for name in ("accuracy", "macro_f1")
    )
    return f"accuracy {accuracy}, macro F1 {f1}, n = {result['n']}"


def draw_confusion(result: dict[str, Any], labels: Sequence[str], path: str | Path) -> None:
    """Draw the confusion matrix of :func:`evaluate` or :func:`summarise` as a PNG.

    Rows are normalised, counts written in; those of several seeds are added up.
    """
    counts = np.array(result["confusion_matrix"])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    drawn = figure(6.4, 5.4)
    axes = drawn.subplots()
    image = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    axes.set(xticks=range(len(labels)), yticks=range(len(labels)), xlabel="predicted", ylabel="given")
    axes.set_title(describe(result), fontsize=9)
    axes.set_xticklabels(labels, rotation=35, ha="right")
    axes.set_yticklabels(labels)
    for row, column in np.ndindex(counts.shape):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    drawn.colorbar(image, label="share of the given label")
    drawn.savefig(path, dpi=120)


def draw_reliability(result: dict[str, Any], path: str | Path) -> None:
    """Draw how often predictions of each confidence are right, and how many there are, as a PNG."""
    bins = result["reliability"]
    left = np.array([b["from"] for b in bins])
    width = np.array([b["to"] for b in bins]) - left
    drawn = figure(5.2, 5.6)
    above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.bar(left, [b["accuracy"] for b in bins], width, align="edge", color="#4c78a8", edgecolor="white")
    above.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="confidence = accuracy")
    above.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o", color="#e45756", label="bin means")
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.05))
    above.set_title(f"calibration error {result['calibration_error']:.3f}, n = {result['n']}", fontsize=9)
    above.legend(loc="lower right", fontsize=8)
    below.bar(left, [b["n"] for b in bins], width, align="edge", color="#9ecae9", edgecolor="white")
    below.set(xlabel="confidence", ylabel="predictions")
    drawn.savefig(path, dpi=120)
