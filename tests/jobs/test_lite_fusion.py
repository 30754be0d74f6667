"""How the lite sets are put together, and that the checkpoint in the package is whole and honest."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from lite.fusion_training import (
    FEATURES,
    LENGTH,
    Sets,
    alone,
    compose,
    fit_temperature,
    shape,
    standardised,
)
from lite.sets import SOUND, Items, cached
from tests.commands import here
from vemoclap_batch.config import LABELS, load_config, own_checkpoint
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.data import Examples
from vemoclap_batch.fusion.description import check_spaces

pytestmark = pytest.mark.numeric

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made():
    """Sets in which the label is the mean of the first dimension."""
    rng = np.random.default_rng(0)
    widths = {name: feature.width for name, feature in shape().features.items()}

    def items(name, lengths):
        labels = np.repeat(np.arange(6), 5)
        features = [rng.normal(size=(rng.choice(lengths), widths[name])).astype(np.float32) + label for label in labels]
        return Items(features, labels)

    return Sets(items("face_emotion", [1]), items("beats", [1, 2, 3]), items("asr_sentiment", [1]))


def test_composed_examples_have_some_modality_of_their_own_label(made):
    examples = compose(made, epoch=3, size=300)
    for row, label in enumerate(examples.labels):
        present = [examples.features[name][row] for name in FEATURES if len(examples.features[name][row])]
        assert present
        assert all(len(array) <= LENGTH and abs(array.mean() - label) < 1 for array in present)
    again = compose(made, epoch=3, size=300)
    assert all(np.array_equal(a, b) for a, b in zip(examples.features["beats"], again.features["beats"], strict=True))
    assert not np.array_equal(compose(made, epoch=4, size=300).labels, examples.labels)


def test_standardised_features_have_mean_0_and_spread_1(made):
    feature = standardised(shape(), made).features["beats"]
    rows = (np.concatenate(made.sound.features) - feature.minimum) / (feature.maximum - feature.minimum)
    assert abs(rows.mean()) < 1e-4
    assert rows.std() == pytest.approx(1, abs=1e-4)


def test_the_temperature_undoes_overconfidence():
    class Overconfident(Checkpoint):
        def __init__(self):
            self.temperature = 1.0

        def probabilities(self, examples, batch=256):
            # Says 99 % and is right in 70 % of cases.
            shares = np.full((1000, 6), 0.002)
            shares[:, 0] = 0.99
            return shares

    labels = np.where(np.arange(1000) < 700, 0, 1)
    temperature = fit_temperature(Overconfident(), Examples([], {}, labels))
    scaled = np.array([0.99, *[0.002] * 5]) ** (1 / temperature)
    assert scaled[0] / scaled.sum() == pytest.approx(0.7, abs=0.02)


def test_a_set_is_read_once(made, tmp_path):
    calls = []

    def read():
        calls.append(1)
        return made.sound

    first, second = (cached(tmp_path, "sound", SOUND, read) for _ in range(2))
    assert len(calls) == 1
    assert all(np.array_equal(a, b) for a, b in zip(first.features, second.features, strict=True))
    assert np.array_equal(first.labels, second.labels)


def test_the_packaged_checkpoint_fits_the_lite_profile_and_has_a_card():
    checkpoint = Checkpoint.load(own_checkpoint(load_config("lite")))
    specs = resolve(load_config("lite"))
    check_spaces(checkpoint.spec, {name: spec.space for name, spec in specs.items()})
    assert set(checkpoint.spec.features) == set(FEATURES)
    assert all(specs[name].width == feature.width for name, feature in checkpoint.spec.features.items())
    assert all(specs[name].fingerprint in found for name, found in checkpoint.fingerprints.items())
    assert set(checkpoint.card) >= {"data", "must_not_be_used_for", "scores"}
    for scores in checkpoint.card["scores"].values():
        assert 1 / 6 < scores["accuracy_interval"][0] < scores["accuracy"] < scores["accuracy_interval"][1]


def test_any_subset_of_modalities_gives_a_distribution(made):
    checkpoint = Checkpoint.load(own_checkpoint(load_config("lite")))
    widths = {name: feature.width for name, feature in checkpoint.spec.features.items()}
    nothing = Examples(
        ["x"], {name: [np.zeros((0, width), np.float32)] for name, width in widths.items()}, np.array([-1])
    )
    some = [alone(made.of(name), name, widths) for name in FEATURES]
    for examples in [nothing, *some, compose(made, 0, 20)]:
        shares = checkpoint.probabilities(examples)
        assert np.isfinite(shares).all()
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-9)
    # With nothing to go by it must not be sure of anything.
    assert checkpoint.probabilities(nothing).max() < 0.6
    assert len(LABELS) == checkpoint.probabilities(nothing).shape[1]


def test_texts_without_their_labels_are_wrong_usage(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "jobs")
    job = importlib.import_module("evaluate_lite")
    done = here(job.main, "--text", tmp_path / "set.tsv")
    assert (done.returncode, done.stderr) == (2, "error: --text: needs --text-labels\n")
    assert json.loads(here(job.main, "--json").stdout) == {}
