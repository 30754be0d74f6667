"""How good predictions are: scores, their intervals, pictures, and the report of a checkpoint on a store's videos."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.checkpoint import Checkpoint, used_videos
from vemoclap_batch.fusion.data import keyed_rng
from vemoclap_batch.fusion.dataset import find_labelled, open_data
from vemoclap_batch.fusion.description import DESCRIPTION
from vemoclap_batch.fusion.prediction_sets import PredictionSets, score_sets
from vemoclap_batch.fusion.selection import names_of, select
from vemoclap_batch.report.pages import figure, png
from vemoclap_batch.store.folder import Folder
from vemoclap_batch.store.store import Store

METRICS, CONFUSION, RELIABILITY = "metrics.json", "confusion.png", "reliability.png"
_ROUNDS, _BINS = 2000, 15
#: The scores that are compared over seeds; those with an interval first.
_SUMMARY = ("accuracy", "macro_f1", "uar", "calibration_error")


def score(
    store: Store, model: str, labels: str, *, split: str = "test", chosen: Mapping[str, str] | None = None,
    preferred: Mapping[str, str] | None = None, folder: str | None = None, stream: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a checkpoint on the labelled videos of one split (``all`` for every one).

    Several checkpoints, one a seed, are scored as their mean and deviation.

    Args:
        store: the output folder with the features.
        model: folder of a checkpoint, or of ``seed-…`` folders.
        labels: the labels file.
        split: which videos.
        chosen: the user's choice of fingerprints.
        preferred: the profile's.
        folder: where ``metrics.json``, ``confusion.png`` and ``reliability.png`` go, if anywhere.
        stream: read features from disk rather than memory; None decides by their size.

    Returns:
        What :func:`evaluate` or, for several seeds, :func:`summarise` gives, with the labels, the preset, the split,
        where it is from, the blacklist, the fingerprints, ``leaks`` (why the score flatters) and ``model_notes``.

    Raises:
        ConfigError: no checkpoint, features or labels that fit, or nothing to score.
    """
    members = _members(model)
    checkpoints = {name: Checkpoint.load(path) for name, path in members.items()}
    first = _check_alike(model, checkpoints)
    selected = select(store, {name: x.space for name, x in first.spec.features.items()}, chosen, preferred)
    labelled = find_labelled(store, labels, selected, first.spec.labels)
    rows = labelled.rows(split)
    data = open_data(store, selected, labelled.videos.take(rows), labelled.labels[rows], stream)
    probabilities = {name: checkpoint.probabilities(data) for name, checkpoint in checkpoints.items()}
    results = {
        name: evaluate(shares, data.labels, first.spec.labels, checkpoints[name].sets)
        for name, shares in probabilities.items()
    }
    if "" in results:
        result = results[""]
    else:
        result = summarise(results, [shares.argmax(1) == data.labels for shares in probabilities.values()])
    notes = dict.fromkeys(note for checkpoint in checkpoints.values() for note in checkpoint.card.get("notes", []))
    leaks = _leaks(checkpoints, members, data.ids)
    result |= {
        "preset": first.card.get("preset"),
        "split": split,
        "split_source": labelled.source,
        "blacklist": labelled.blacklist,
        "fingerprints": names_of(selected),
        "model_notes": [*(notes | {leaks: None} if leaks else notes)],
        "leaks": leaks,
        "without_video": labelled.without_video,
        "without_features": labelled.without_features,
        "labels": list(first.spec.labels),
    }
    if folder:
        _write(Folder(folder), result)
    return result


def _write(place: Folder, result: Mapping[str, Any]) -> None:
    place.write(METRICS, (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    place.write(CONFUSION, draw_confusion(result, result["labels"]))
    place.write(RELIABILITY, draw_reliability(result))


def _members(model: str) -> dict[str, str]:
    """The checkpoints of a folder: itself, under no name, or one a seed."""
    parent = Folder(model)
    if parent.has(DESCRIPTION):
        return {"": model}
    seeds = [folder for folder in parent.folders() if folder.name.startswith("seed-") and folder.has(DESCRIPTION)]
    seeds.sort(key=lambda folder: (len(folder.name), folder.name))
    return {folder.name: folder.address for folder in seeds} or {"": model}


def _check_alike(model: str, checkpoints: Mapping[str, Checkpoint]) -> Checkpoint:
    """The first of them; ConfigError if others take different features, give other labels or have another preset."""
    (first_name, first), *others = checkpoints.items()

    def shape(checkpoint: Checkpoint) -> tuple[object, ...]:
        features = {name: (feature.space, feature.width) for name, feature in checkpoint.spec.features.items()}
        return features, checkpoint.spec.labels

    mistakes = []
    for name, checkpoint in others:
        if shape(checkpoint) != shape(first):
            mistakes.append(f"{model}/{name}: takes other features, or gives other labels, than {first_name}")
        preset, expected = checkpoint.card.get("preset"), first.card.get("preset")
        if preset != expected:
            mistakes.append(f"{model}/{name}: trained with preset {preset}, {first_name} with {expected}")
    if mistakes:
        raise ConfigError(mistakes)
    return first


def _leaks(checkpoints: Mapping[str, Checkpoint], members: Mapping[str, str], ids: list[str]) -> str | None:
    """Why the score flatters: the checkpoint has seen videos it is scored on. None when nothing says so."""
    for checkpoint in checkpoints.values():
        if reason := checkpoint.card.get("leaks"):
            return str(reason)
    seen: Counter[str] = Counter()
    for folder in members.values():
        used = used_videos(folder)
        seen |= Counter(used[name] for name in ids if name in used)
    if not seen:
        return None
    counts = " and ".join(
        f"{count} of them {'trained the model' if name == 'train' else 'chose its step'}"
        for name, count in sorted(seen.items())
    )
    return f"the score leaks: of the {len(ids)} videos scored, {counts}"


# ---- numbers


def evaluate(
    probabilities: np.ndarray, truth: np.ndarray, labels: Sequence[str], sets: PredictionSets | None = None
) -> dict[str, Any]:
    """Score predictions against given labels.

    Args:
        probabilities: float [n, labels].
        truth: label index of each example, int [n], n at least 1.
        labels: names, in the order of the columns.
        sets: the classifier's prediction sets.

    Returns:
        ``n``; ``accuracy``, ``macro_f1`` and ``uar`` (means over the labels that are given to any example), each with
        its 95 % bootstrap interval ``…_interval``; ``per_class`` (precision, recall, f1 with its interval, n);
        ``confusion_matrix`` (rows: given label); ``reliability``, equal-width bins of the top label's probability that
        hold any example (``from``, ``to``, ``n``, mean ``confidence``, ``accuracy``); and ``calibration_error``, the
        expected one over these bins (Guo et al., 2017, arXiv 1706.04599); with ``sets`` also ``prediction_sets``, what
        :func:`~vemoclap_batch.fusion.prediction_sets.score_sets` says of them.
    """
    counts = confusion_matrix(truth, probabilities.argmax(1), labels=range(len(labels)))
    scores = _scores(counts)
    intervals = {name: _interval(values) for name, values in _scores(_resampled(counts)).items()}
    bins = _reliability(probabilities, truth)
    return {
        "n": len(truth),
        **{name: float(scores[name]) for name in _SUMMARY[:3]},
        **{f"{name}_interval": intervals[name] for name in _SUMMARY[:3]},
        "per_class": {
            label: {
                **{name: float(scores[name][at]) for name in ("precision", "recall", "f1")},
                "f1_interval": [bound[at] for bound in intervals["f1"]],
                "n": int(counts[at].sum()),
            }
            for at, label in enumerate(labels)
        },
        "confusion_matrix": counts.tolist(),
        "calibration_error": sum(abs(b["accuracy"] - b["confidence"]) * b["n"] for b in bins) / max(len(truth), 1),
        "reliability": bins,
        **({"prediction_sets": score_sets(sets, probabilities, truth, labels)} if sets else {}),
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
    drawn = keyed_rng(seed, "bootstrap").multinomial(n, counts.reshape(-1) / n, size=_ROUNDS)
    return drawn.reshape(_ROUNDS, *counts.shape)


def _interval(values: np.ndarray) -> list[Any]:
    """The 95 % percentile interval over the first axis: two numbers, or two lists of them."""
    return np.percentile(values, [2.5, 97.5], axis=0).tolist()


def bootstrap(hits: np.ndarray, seed: int = 1) -> list[float]:
    """The 95 % percentile bootstrap interval of a mean over examples, float [n]."""
    rng = keyed_rng(seed, "bootstrap")
    return _interval(np.array([rng.choice(hits, len(hits)).mean() for _ in range(_ROUNDS)]))


def _reliability(probabilities: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    confidence, hits = probabilities.max(1), probabilities.argmax(1) == truth
    at = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        {
            "from": float(b / _BINS),
            "to": float((b + 1) / _BINS),
            "n": int((at == b).sum()),
            "confidence": float(confidence[at == b].mean()),
            "accuracy": float(hits[at == b].mean()),
        }
        for b in np.unique(at)
    ]


def summarise(results: Mapping[str, dict[str, Any]], hits: Sequence[np.ndarray]) -> dict[str, Any]:
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
    return {
        "n": every[0]["n"],
        **_means(every, _SUMMARY),
        "accuracy_interval": bootstrap(np.mean(np.array(hits, float), axis=0)),
        "per_class": {
            label: {
                **_means([result["per_class"][label] for result in every], ("precision", "recall", "f1")),
                "n": row["n"],
            }
            for label, row in every[0]["per_class"].items()
        },
        "confusion_matrix": np.sum([result["confusion_matrix"] for result in every], axis=0).tolist(),
        "reliability": _joined([row for result in every for row in result["reliability"]]),
        **_summarised_sets(every),
        "seeds": {name: {key: result[key] for key in _SUMMARY} for name, result in results.items()},
    }


def _summarised_sets(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation of what is said of the prediction sets, if every classifier has them."""
    rows = [result["prediction_sets"] for result in results if "prediction_sets" in result]
    if len(rows) < len(results):
        return {}
    return {"prediction_sets": _means(rows, ("wanted_coverage", "coverage", "mean_size", "unsure"))}


def _means(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, float]:
    means: dict[str, float] = {}
    for name in names:
        means[name], means[f"{name}_deviation"] = mean_and_deviation([row[name] for row in rows])
    return means


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the deviation of a single value is 0."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _joined(bins: list[dict[str, float]]) -> list[dict[str, float]]:
    joined = []
    for low, high in sorted({(row["from"], row["to"]) for row in bins}):
        same = [row for row in bins if row["from"] == low]
        n = sum(row["n"] for row in same)
        means = {key: sum(row[key] * row["n"] for row in same) / n for key in ("confidence", "accuracy")}
        joined.append({"from": low, "to": high, "n": n, **means})
    return joined


# ---- words and pictures


def describe(result: Mapping[str, Any]) -> str:
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


def draw_confusion(result: Mapping[str, Any], labels: Sequence[str]) -> bytes:
    """The confusion matrix of :func:`evaluate` or :func:`summarise` as a PNG: rows normalised, counts written in."""
    counts = np.array(result["confusion_matrix"])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    drawn = figure(6.4, 5.4)
    display = ConfusionMatrixDisplay(share, display_labels=labels)
    display.plot(ax=drawn.subplots(), cmap="Blues", xticks_rotation=35, im_kw={"vmin": 0, "vmax": 1})
    display.ax_.set(xlabel="predicted", ylabel="given")
    display.ax_.set_title(describe(result), fontsize=9)
    for at in np.ndindex(counts.shape):
        display.text_[at].set_text(str(counts[at]))
    return png(drawn)


def draw_reliability(result: Mapping[str, Any]) -> bytes:
    """How often predictions of each confidence are right, and how many there are, as a PNG."""
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
    return png(drawn)
