"""Cross-validation that never judges a video by its own label, and confident learning on cases of known answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vemoclap_batch.fusion.confident import fold_numbers, judge, out_of_fold
from vemoclap_batch.fusion.data import Examples
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec
from vemoclap_batch.fusion.training import TrainSettings

pytestmark = pytest.mark.numeric

SHAPE = FusionSpec(
    features={
        "face": FeatureSpec(width=3, length=2, sequence=True),
        "text": FeatureSpec(width=3, length=1, sequence=False),
    },
    labels=("anger", "disgust", "fear"), d_model=8, heads=2, dropout=0.1,
)  # fmt: skip
SHORT = TrainSettings(lr=1e-2, max_steps=12, evaluate_every=6, patience=12)


def made(n, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    points = np.eye(3)[labels][:, None] + 0.4 * rng.normal(size=(n, 1, 3))
    features = {name: [point.astype(np.float32) for point in points] for name in SHAPE.features}
    return Examples([f"v{row}" for row in range(n)], features, labels.astype(np.int64))


# ---- folds


@given(st.lists(st.integers(0, 5), min_size=2, max_size=80), st.integers(2, 7), st.integers(0, 3))
@settings(max_examples=60)
def test_folds_share_out_every_label_evenly(labels, folds, seed):
    labels = np.array(labels)
    numbers = fold_numbers([f"v{row}" for row in range(len(labels))], labels, folds, seed)
    assert np.ptp(np.bincount(numbers, minlength=folds)) <= 1
    for label in np.unique(labels):
        counts = np.bincount(numbers[labels == label], minlength=folds)
        assert np.ptp(counts) <= 1
        # No fold tests all videos of a label that there are two of.
        assert (labels == label).sum() < 2 or counts.max() < (labels == label).sum()


def test_folds_depend_on_the_ids_and_the_seed_and_not_on_the_order():
    ids, labels = [f"v{row}" for row in range(90)], np.arange(90) % 6
    numbers = fold_numbers(ids, labels, 5, seed=1)
    order = np.random.default_rng(0).permutation(90)
    assert (fold_numbers([ids[row] for row in order], labels[order], 5, seed=1) == numbers[order]).all()
    assert (fold_numbers(ids, labels, 5, seed=2) != numbers).any()


def test_a_video_is_not_judged_by_its_own_label():
    data = made(30)
    numbers = fold_numbers(data.ids, data.labels, 3, seed=1)
    told = []
    before = out_of_fold(SHAPE, data, numbers, SHORT, report=lambda number, history: told.append((number, history)))
    assert [number for number, _ in told] == [0, 1, 2]
    assert all(history.steps[-1] == 12 for _, history in told)
    np.testing.assert_allclose(before.sum(1), 1.0)
    changed = data.labels.copy()
    changed[4] = (changed[4] + 1) % 3
    after = out_of_fold(SHAPE, Examples(data.ids, data.features, changed), numbers, SHORT)
    same_fold = numbers == numbers[4]
    assert (after[same_fold] == before[same_fold]).all()
    assert (after[~same_fold] != before[~same_fold]).any()


# ---- confident learning


def sure(truth, labels=6, confidence=0.9):
    probabilities = np.full((len(truth), labels), (1 - confidence) / (labels - 1))
    probabilities[np.arange(len(truth)), truth] = confidence
    return probabilities


def test_flipped_labels_are_found_by_a_classifier_that_knows():
    rng = np.random.default_rng(0)
    truth = np.arange(300) % 6
    noisy = sure(truth) + 0.02 * rng.random((300, 6))
    noisy /= noisy.sum(1, keepdims=True)
    flipped = rng.choice(300, 30, replace=False)
    labels = truth.copy()
    labels[flipped] = (truth[flipped] + rng.integers(1, 6, 30)) % 6
    found = judge(noisy, labels)
    hits = np.isin(found.suspects, flipped)
    assert hits.mean() >= 0.95
    assert hits.sum() >= 27
    assert (found.likelier[found.suspects] == truth[found.suspects]).all()
    assert (np.diff(found.scores[found.suspects]) >= 0).all()
    assert found.scores[found.suspects].max() < 0.5


def test_scores_are_margins():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.05, 0.85]])
    found = judge(np.repeat(probabilities, 2, axis=0), np.array([0, 0, 1, 1, 2, 2]))
    assert found.scores == pytest.approx([0.75, 0.75, 0.25, 0.25, 0.875, 0.875])
    assert found.likelier.tolist() == [1, 1, 0, 0, 0, 0]


def test_labels_that_the_classifier_agrees_with_are_no_suspects():
    truth = np.arange(60) % 6
    assert len(judge(sure(truth, confidence=0.3), truth).suspects) == 0


def test_a_label_that_the_classifier_is_shy_of_is_not_blamed():
    """All of fear look a little more like surprise; the likeliest label alone would call every one of them wrong."""
    truth = np.repeat([0, 1, 2], 20)
    probabilities = sure(truth, labels=3)
    probabilities[truth == 0] = [0.42, 0.48, 0.1]
    labels = truth.copy()
    labels[[25, 45]] = 0
    found = judge(probabilities, labels)
    assert set(found.suspects.tolist()) == {25, 45}


def test_labels_that_are_not_given_change_nothing():
    truth = np.repeat([1, 4], 20)
    labels = truth.copy()
    labels[[3, 30]] = labels[[30, 3]]
    probabilities = sure(truth)
    alone = judge(probabilities[:, [1, 4]] / probabilities[:, [1, 4]].sum(1, keepdims=True), (labels == 4).astype(int))
    found = judge(probabilities, labels)
    assert found.suspects.tolist() == alone.suspects.tolist()
    assert sorted(found.suspects.tolist()) == [3, 30]
    assert set(found.likelier.tolist()) == {1, 4}
    np.testing.assert_allclose(found.scores, alone.scores)


def test_a_video_that_is_all_of_a_label_not_given_is_judged_too():
    probabilities = sure(np.repeat([0, 1], 10), labels=3)
    probabilities[0] = [0, 0, 1]
    found = judge(probabilities, np.repeat([0, 1], 10))
    assert np.isfinite(found.scores).all()


@given(st.integers(0, 1000))
@settings(max_examples=25)
def test_the_order_of_the_videos_makes_no_difference(seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(4), rng.integers(0, 4, 60)])
    probabilities = rng.dirichlet(np.ones(4) * 0.5, 64) + 0.3 * np.eye(4)[labels]
    probabilities /= probabilities.sum(1, keepdims=True)
    order = rng.permutation(64)
    found, again = judge(probabilities, labels), judge(probabilities[order], labels[order])
    assert order[again.suspects].tolist() == found.suspects.tolist()
    np.testing.assert_allclose(again.scores, found.scores[order])
    # One is never suspected whose label is the likeliest.
    assert (probabilities.argmax(1)[found.suspects] != labels[found.suspects]).all()


def test_one_label_alone_cannot_be_judged():
    with pytest.raises(ValueError, match="two different labels"):
        judge(np.full((5, 6), 1 / 6), np.zeros(5, int))
