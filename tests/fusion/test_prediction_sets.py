"""Prediction sets: the coverage that is promised, and what of it a checkpoint, a table and a digest keep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.data import Examples
from vemoclap_batch.fusion.description import digest
from vemoclap_batch.fusion.model import build
from vemoclap_batch.fusion.prediction_sets import PredictionSets, score_sets
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec

pytestmark = pytest.mark.numeric

LABELS = ("anger", "fear", "joy")


def classified(n, seed, sharpness=2.0):
    """Probabilities of examples, the rarest label given to one in ten, and what is given."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=[0.1, 0.3, 0.6])
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), truth] += sharpness * rng.random(n)
    shares = np.exp(logits)
    return shares / shares.sum(1, keepdims=True), truth


def test_as_many_sets_as_promised_hold_the_right_label_in_each_class():
    sets = PredictionSets.fit(*classified(6000, 1), LABELS)
    scores = score_sets(sets, *classified(20000, 2), LABELS)
    assert scores["wanted_coverage"] == 0.9
    assert scores["coverage"] == pytest.approx(0.9, abs=0.015)
    for share in scores["coverage_per_class"].values():
        assert share == pytest.approx(0.9, abs=0.04)  # three deviations, of the rarest
    sharper = PredictionSets.fit(*classified(6000, 1, 9.0), LABELS)
    easier = score_sets(sharper, *classified(20000, 2, 9.0), LABELS)
    assert 1 <= easier["mean_size"] < scores["mean_size"] < 3
    assert easier["unsure"] < scores["unsure"] < 1


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 40), seed=st.integers(0, 1000), coverage=st.floats(0.5, 0.99))
def test_of_the_examples_themselves_no_more_than_the_rest_is_outside(n, seed, coverage):
    shares, truth = classified(n, seed)
    sets = PredictionSets.fit(shares, truth, LABELS, coverage)
    inside = sets.contains(shares, LABELS)
    for at, label in enumerate(LABELS):
        own = truth == at
        assert sets.examples[label] == own.sum()
        assert (~inside[own, at]).sum() <= (1 - coverage) * (own.sum() + 1)
    found = sets.sets(shares, LABELS)
    for chosen, row in zip(found, shares, strict=True):
        ranked = [row[LABELS.index(label)] for label in chosen]
        assert chosen
        assert ranked == sorted(ranked, reverse=True)
        assert chosen[0] == LABELS[row.argmax()]


def test_a_class_of_too_few_examples_is_in_every_set():
    shares, truth = classified(200, 3)
    kept = truth != 1
    sets = PredictionSets.fit(shares[kept], truth[kept], LABELS)
    assert sets.thresholds["fear"] == 0
    assert sets.contains(shares, LABELS)[:, 1].all()


def test_a_checkpoint_keeps_its_sets_and_another_choice_makes_another_model(tmp_path):
    spec = FusionSpec(features={"a": FeatureSpec(width=4, length=3, sequence=True)}, labels=LABELS, d_model=8, heads=2)
    made = Checkpoint(build(spec).eval())
    made.save(tmp_path / "without")
    rng = np.random.default_rng(4)
    examples = Examples([str(at) for at in range(60)], {"a": list(rng.random((60, 3, 4)))}, rng.integers(0, 3, 60))
    made.fit_sets(examples)
    made.save(tmp_path / "with")
    assert Checkpoint.load(tmp_path / "without").sets is None
    assert Checkpoint.load(tmp_path / "with").sets == made.sets
    assert digest(tmp_path / "without") != digest(tmp_path / "with")
