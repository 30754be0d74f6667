"""Scores against those of a library, intervals against theory, and several seeds as one."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, classification_report, f1_score

from vemoclap_batch.fusion.evaluation import (
    describe,
    draw_confusion,
    draw_reliability,
    evaluate,
    summarise,
)

pytestmark = pytest.mark.numeric

LABELS = ("anger", "disgust", "fear", "joy")


def guesses(n, right, seed):
    """Probabilities whose top label is right in a share of the cases."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, n)
    shares = rng.dirichlet(np.ones(4), n)
    for row in np.flatnonzero(rng.random(n) < right):
        best = shares[row].argmax()
        shares[row, [best, truth[row]]] = shares[row, [truth[row], best]]
    return shares, truth


def test_scores_are_those_of_scikit_learn():
    shares, truth = guesses(300, 0.5, 1)
    result, predicted = evaluate(shares, truth, LABELS), shares.argmax(1)
    expected = classification_report(truth, predicted, target_names=LABELS, output_dict=True)
    assert result["accuracy"] == pytest.approx(expected["accuracy"])
    assert result["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert result["uar"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    for label in LABELS:
        row = result["per_class"][label]
        assert (row["precision"], row["recall"], row["f1"], row["n"]) == pytest.approx(
            tuple(expected[label][key] for key in ("precision", "recall", "f1-score", "support"))
        )
        assert row["f1_interval"][0] < row["f1"] < row["f1_interval"][1]


def test_the_interval_is_as_wide_as_theory_says():
    shares, truth = guesses(400, 0.5, 2)
    result = evaluate(shares, truth, LABELS)
    p = result["accuracy"]
    half = 1.96 * np.sqrt(p * (1 - p) / 400)
    assert result["accuracy_interval"] == pytest.approx([p - half, p + half], abs=0.006)
    few = evaluate(shares[:40], truth[:40], LABELS)["accuracy_interval"]
    assert 2.5 < (few[1] - few[0]) / (2 * half) < 4


def test_labels_that_nothing_was_given_do_not_count():
    result = evaluate(np.eye(4)[[0, 1, 1]], np.array([0, 1, 1]), LABELS)
    assert (result["accuracy"], result["macro_f1"], result["uar"]) == (1, 1, 1)
    assert result["per_class"]["joy"] == {"precision": 0, "recall": 0, "f1": 0, "f1_interval": [0, 0], "n": 0}


def test_calibration_finds_the_gap_between_said_and_true():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.55, 0.95, 20_000)
    shares = np.stack([confidence, 1 - confidence], 1)
    honest = (rng.random(20_000) > confidence).astype(int)
    boaster = (rng.random(20_000) > confidence - 0.2).astype(int)
    assert evaluate(shares, honest, LABELS[:2])["calibration_error"] < 0.02
    assert evaluate(shares, boaster, LABELS[:2])["calibration_error"] == pytest.approx(0.2, abs=0.02)
    bins = evaluate(shares, boaster, LABELS[:2])["reliability"]
    assert sum(row["n"] for row in bins) == 20_000
    assert all(row["from"] <= row["confidence"] <= row["to"] for row in bins)


def test_several_seeds_become_mean_and_deviation():
    made = [guesses(200, right, 5)[0] for right in (0.4, 0.5, 0.9)]
    truth = guesses(200, 0.4, 5)[1]
    results = {f"seed-{at}": evaluate(shares, truth, LABELS) for at, shares in enumerate(made)}
    found = summarise(results, [shares.argmax(1) == truth for shares in made])
    values = [result["macro_f1"] for result in results.values()]
    assert found["macro_f1"] == pytest.approx(np.mean(values))
    assert found["macro_f1_deviation"] == pytest.approx(np.std(values, ddof=1))
    assert found["seeds"]["seed-2"]["macro_f1"] == values[2]
    assert np.sum(found["confusion_matrix"]) == 600
    assert sum(row["n"] for row in found["reliability"]) == 600
    assert found["accuracy_interval"][0] < found["accuracy"] < found["accuracy_interval"][1]
    assert f"± {found['accuracy_deviation']:.3f}" in describe(found)
    assert "over 3 seeds, n = 200" in describe(found)
    for picture in (draw_confusion(found, LABELS), draw_reliability(found)):
        assert picture[:4] == b"\x89PNG"
        assert len(picture) > 10_000


def test_one_seed_has_no_deviation():
    shares, truth = guesses(50, 0.5, 1)
    found = summarise({"seed-1": evaluate(shares, truth, LABELS)}, [shares.argmax(1) == truth])
    assert found["accuracy_deviation"] == 0
