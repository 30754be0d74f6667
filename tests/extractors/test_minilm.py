import numpy as np
import pytest

from tests.tolerance import assert_near
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Result

pytestmark = pytest.mark.numeric


def vectors(results):
    return np.concatenate([result.feature for result in results])


def test_shape_and_length(minilm):
    (result,) = minilm.extract(["A man is eating food."])
    assert result.feature.shape == (1, minilm.width(minilm.settings))
    assert result.feature.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(result.feature), 1, rtol=1e-5)
    assert result.start_s is None


def test_alike_texts_are_near(minilm):
    one, two, three = vectors(
        minilm.extract(["A man is eating food.", "Somebody has a meal.", "The stock market fell sharply."])
    )
    assert one @ two > 0.5
    assert one @ three < 0.2


def test_the_authors_own_numbers(minilm):
    # The model card's example pair: cosine similarity 0.6660 between these sentences in sentence-transformers' docs.
    one, two = vectors(minilm.extract(["The weather is lovely today.", "It's so sunny outside!"]))
    assert abs(one @ two - 0.6660) < 1e-3


def test_blank_texts_are_missing(minilm):
    for result in minilm.extract(["", " \n\t"]):
        assert result.feature.shape == (0, 384)
    assert minilm.extract([]) == []


def test_long_texts_are_cut(minilm):
    cut, longer = vectors(minilm.extract(["word " * 254, "word " * 254 + "and then something else entirely"]))
    np.testing.assert_allclose(longer, cut, rtol=1e-4, atol=1e-6)


def test_batching_changes_nothing(minilm):
    texts = [f"{'a rather long sentence about ' * (number % 7)}number {number}" for number in range(70)]
    texts[5] = ""
    for result, text in zip(minilm.extract(texts), texts, strict=True):
        (alone,) = minilm.extract([text])
        assert result.feature.shape == alone.feature.shape
        assert np.abs(result.feature - alone.feature).max(initial=0) < 1e-5


def test_a_broken_text_fails_alone(minilm):
    good, bad, other = minilm.extract(["fine", None, "fine"])
    assert isinstance(bad, Failure)
    assert isinstance(good, Result)
    assert_near(good.feature, other.feature)
