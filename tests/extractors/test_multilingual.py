"""Texts in other languages, embedded by a multilingual model and a fitted map to MiniLM's vectors."""

import os

import numpy as np
import pytest

from lite.multilingual_training import fit, save_map
from tests.extractors.sentences import EMOTIONS, SENTENCES
from vemoclap_batch.config import load_config, own_checkpoint
from vemoclap_batch.extractors import multilingual
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.minilm import MiniLM, MiniLMSettings
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.dataset import Examples

pytestmark = pytest.mark.numeric

FOREIGN = [language for language in SENTENCES if language != "en"]


@pytest.fixture(scope="module")
def results(minilm):
    return {language: minilm.extract(texts) for language, texts in SENTENCES.items()}


def test_texts_of_one_meaning_are_near(results):
    english = np.concatenate([result.feature for result in results["en"]])
    for language in FOREIGN:
        vectors = np.concatenate([result.feature for result in results[language]])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
        likeness = vectors @ english.T
        own = np.diag(likeness).mean()
        assert own > likeness[~np.eye(12, dtype=bool)].mean() + 0.15, language
        assert results[language][0].extras["note"] == f"embedded by multilingual-e5-small: {language}"


def test_emotions_are_told_far_above_chance(results):
    checkpoint = Checkpoint.load(own_checkpoint(load_config("lite")))
    names = list(checkpoint.spec.labels)
    gold = np.array([names.index(emotion) for emotion in EMOTIONS])
    right = []
    for language in FOREIGN:
        features = {
            name: [np.zeros((0, feature.width), np.float32)] * len(gold)
            for name, feature in checkpoint.spec.features.items()
        }
        features["asr_sentiment"] = [result.feature for result in results[language]]
        examples = Examples([str(at) for at in range(len(gold))], features, np.full(len(gold), -1))
        right += (checkpoint.probabilities(examples).argmax(1) == gold).tolist()
    # Chance is 1 in 6. MiniLM itself, given these texts, is right in 1 of 5.
    assert np.mean(right) > 0.4


def test_batching_changes_nothing_and_the_environment_stays(minilm, results):
    before = dict(os.environ)
    fresh = MiniLM(MiniLMSettings(), Resources())
    for at, text in enumerate(SENTENCES["de"]):
        (alone,) = fresh.extract([text])
        np.testing.assert_allclose(alone.feature, results["de"][at].feature, atol=1e-6)
    assert dict(os.environ) == before


def test_it_can_be_left_out(minilm):
    strict = MiniLM(MiniLMSettings(multilingual=False), Resources())
    (result,) = strict.extract([SENTENCES["de"][0]])
    assert len(result.feature) == 0
    assert result.extras["note"] == "left out, as the model knows en: de"
    assert MiniLM.weights(MiniLMSettings()) != MiniLM.weights(MiniLMSettings(multilingual=False))


def test_a_language_that_it_was_not_trained_on_is_left_out(minilm):
    # Waray, of the Philippines.
    (result,) = minilm.extract(["An kagi nga ini nahitabo ha Samar ngan Leyte hadton panahon han mga Katsila"])
    assert result.extras["language"] not in multilingual.LANGUAGES
    assert len(result.feature) == 0
    assert result.extras["note"].startswith("left out")


def test_the_map_is_a_ridge_regression(tmp_path):
    random = np.random.default_rng(0)
    given, true = random.standard_normal((4000, 20)), random.standard_normal((21, 20))
    fitted = fit(given, given @ true[:-1] + true[-1])
    np.testing.assert_allclose(fitted, true, atol=0.01)
    save_map(fitted, tmp_path / "map.safetensors")
    from safetensors.numpy import load_file

    np.testing.assert_allclose(load_file(tmp_path / "map.safetensors")["map"], true, atol=0.02)
