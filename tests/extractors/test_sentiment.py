import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.extractors.tiny_models import (
    ROBERTA_WIDTH,
    build,
    hostile_pickle,
    hostile_weights,
    little_memory,
    roberta_folder,
)
from tests.tolerance import FLOAT32, assert_near
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Result
from vemoclap_batch.extractors.pretrained import CPU_TEXTS
from vemoclap_batch.extractors.sentiment import CLASSES, PUBLISHED, Sentiment

pytestmark = pytest.mark.numeric

TEXTS = [f"{'the man and the other, ' * (number % 5)}number {number}" for number in range(19)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return roberta_folder(tmp_path_factory.mktemp("roberta") / "tiny-roberta")


@pytest.fixture(scope="module")
def plain(folder):
    """The published way: one text at a time, straight through transformers."""
    from transformers import AutoTokenizer, RobertaForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = RobertaForSequenceClassification.from_pretrained(folder).eval()

    @torch.inference_mode()
    def run(text):
        tokens = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
        hidden = network.roberta(**tokens).last_hidden_state
        return hidden[0, 0].numpy(), network.classifier(hidden).softmax(-1)[0].numpy()

    return run


@pytest.fixture
def extractor(folder):
    return build(Sentiment, folder, width=ROBERTA_WIDTH)


def probabilities(result):
    return np.array([result.extras[name] for name in CLASSES], np.float32)


def assert_same(result, other):
    assert np.abs(result.feature - other.feature).max() < 1e-5
    assert np.abs(probabilities(result) - probabilities(other)).max() < 1e-5


def test_vector_and_probabilities_are_those_of_the_published_way(extractor, plain):
    results = extractor.extract(TEXTS)
    for result, text in zip(results, TEXTS, strict=True):
        vector, likely = plain(text)
        assert result.feature.shape == (1, ROBERTA_WIDTH)
        assert result.feature.dtype == np.float32
        assert result.start_s is None
        assert np.abs(result.feature[0] - vector).max() < 1e-5
        assert np.abs(probabilities(result) - likely).max() < 1e-5
    assert np.ptp([result.feature[0] for result in results], axis=0).max() > 0.1  # the model tells texts apart


def test_last_of_the_hidden_states_is_the_last_hidden_state(extractor):
    ids = torch.tensor([[0, 10, 20, 30, 2]])
    with torch.inference_mode():
        states = extractor._classifier.network(ids, output_hidden_states=True).hidden_states
        last = extractor._classifier.network.roberta(ids).last_hidden_state
    assert len(states) == 3
    assert_near(states[-1].numpy(), last.numpy())


def test_probabilities_go_by_the_names_of_the_checkpoint(extractor, tmp_path):
    turned = build(Sentiment, roberta_folder(tmp_path, labels=("Positive", "Negative", "Neutral")), width=ROBERTA_WIDTH)
    (one,), (other,) = extractor.extract(["the man"]), turned.extract(["the man"])
    assert_near(other.feature, one.feature)
    expected = {name: one.extras[was] for name, was in zip(("positive", "negative", "neutral"), CLASSES, strict=True)}
    assert {name: other.extras[name] for name in CLASSES} == pytest.approx(expected, rel=FLOAT32)
    assert sum(expected.values()) == pytest.approx(1)


def test_other_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"label_0, label_1, label_2; expected negative, neutral, positive"):
        build(Sentiment, roberta_folder(tmp_path / "a", labels=("LABEL_0", "LABEL_1", "LABEL_2")), width=ROBERTA_WIDTH)
    with pytest.raises(ValueError, match="expected negative"):
        build(Sentiment, roberta_folder(tmp_path / "b", labels=("negative", "positive")), width=ROBERTA_WIDTH)


def test_blank_texts_are_missing(extractor):
    for result in extractor.extract(["", " \n\t"]):
        assert result.feature.shape == (0, ROBERTA_WIDTH)
        assert result.extras == dict.fromkeys(Sentiment.columns)
    assert extractor.extract([]) == []


def test_long_texts_are_cut_at_512_tokens(extractor, plain):
    shapes = []
    hook = extractor._classifier.network.register_forward_pre_hook(
        lambda _, args, named: shapes.append(named["input_ids"].shape), with_kwargs=True
    )
    cut, longer, shorter = extractor.extract(["a" * 510, "a" * 510 + " and more", "a" * 509])
    hook.remove()
    assert shapes == [(3, 512)]
    assert_same(longer, cut)
    assert np.abs(shorter.feature - cut.feature).max() > 1e-4
    assert np.abs(longer.feature[0] - plain("a" * 510 + " and more")[0]).max() < 1e-5


def test_batching_changes_nothing(extractor):
    texts = [*TEXTS, ""]
    with little_memory(extractor._classifier.network, CPU_TEXTS) as sizes:
        together = extractor.extract(texts)
    assert sizes == [8, 8, 3]
    for result, text in zip(together, texts, strict=True):
        (alone,) = extractor.extract([text])
        assert result.feature.shape == alone.feature.shape
        if text:
            assert_same(result, alone)


def test_batches_hold_texts_of_a_length(extractor):
    widths = []
    hook = extractor._classifier.network.register_forward_pre_hook(
        lambda _, args, named: widths.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    extractor.extract(list(itertools.chain(*[["a" * 9, "a" * 200]] * CPU_TEXTS)))
    hook.remove()
    assert widths == [11, 202]


def test_too_little_memory_halves_the_batch(extractor):
    expected = extractor.extract(TEXTS)
    with little_memory(extractor._classifier.network, 3) as sizes:
        for result, other in zip(extractor.extract(TEXTS), expected, strict=True):
            assert_same(result, other)
        assert sizes == [8, 4, *[2] * 9, 1]
        sizes.clear()
        extractor.extract(TEXTS[:4])
        assert sizes == [2, 2]  # what was learnt holds
    with little_memory(extractor._classifier.network, 0):
        failures = extractor.extract(TEXTS[:2])
    assert [str(failure.error_type) for failure in failures] == ["out_of_memory", "out_of_memory"]


def test_reduced_precision_is_close(extractor, folder):
    rough = build(Sentiment, folder, width=ROBERTA_WIDTH, precision="bfloat16").extract(TEXTS)
    for result, exact in zip(rough, extractor.extract(TEXTS), strict=True):
        assert result.feature.dtype == np.float32
        # Two layers with weights this large multiply bfloat16's steps of 1/256.
        assert 1e-5 < np.abs(result.feature - exact.feature).max() < 0.1 * np.abs(exact.feature).max()
        assert np.abs(probabilities(result) - probabilities(exact)).max() < 0.1


def test_a_broken_text_fails_alone(extractor):
    good, bad, other = extractor.extract(["fine", None, "fine"])
    assert isinstance(bad, Failure)
    assert isinstance(good, Result)
    assert_same(good, other)


def test_half_precision_weights_are_run_in_float32(extractor, tmp_path):
    folder = roberta_folder(tmp_path)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    halved = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    torch.save(halved, folder / "pytorch_model.bin")
    network = build(Sentiment, folder, width=ROBERTA_WIDTH)._classifier.network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_wrong_weights_are_refused(tmp_path, folder):
    with pytest.raises(ValueError, match=r"width = 768: .* makes embeddings of 32; set width=32"):
        build(Sentiment, folder)
    with pytest.raises(NotADirectoryError, match=r"config\.json"):
        build(Sentiment, folder / "config.json", width=ROBERTA_WIDTH)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    lacking = roberta_folder(tmp_path / "lacking")
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier.")}
    torch.save(kept, lacking / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"lacks weights of RobertaForSequenceClassification: classifier\.dense\.bias"):
        build(Sentiment, lacking, width=ROBERTA_WIDTH)
    other = roberta_folder(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(ValueError, match="other"):
        build(Sentiment, other, width=ROBERTA_WIDTH)
    (other / "pytorch_model.bin").unlink()
    with pytest.raises(OSError, match=r"pytorch_model\.bin"):
        build(Sentiment, other, width=ROBERTA_WIDTH)


def test_hostile_weights_are_not_run(tmp_path, folder):
    marker, hostile = tmp_path / "run", roberta_folder(tmp_path / "hostile")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    hostile_weights(hostile / "pytorch_model.bin", marker, weights)
    with pytest.raises(ValueError, match="more than weights"):
        build(Sentiment, hostile, width=ROBERTA_WIDTH)
    # With safetensors beside it, it is not looked at.
    save_file(weights, hostile / "model.safetensors", {"format": "pt"})
    build(Sentiment, hostile, width=ROBERTA_WIDTH)
    (hostile / "model.safetensors").unlink()
    hostile_pickle(hostile / "pytorch_model.bin", marker)
    with pytest.raises(ValueError, match="more than weights"):
        build(Sentiment, hostile, width=ROBERTA_WIDTH)
    assert not marker.exists()


def test_code_beside_the_weights_is_not_run(tmp_path):
    folder, marker = roberta_folder(tmp_path / "coded"), tmp_path / "run"
    config = json.loads((folder / "config.json").read_text())
    coded = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Own"},
    }
    (folder / "config.json").write_text(json.dumps(config | coded))
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        build(Sentiment, folder, width=ROBERTA_WIDTH)
    assert not marker.exists()


def test_safetensors_give_the_same(extractor, tmp_path):
    other = build(Sentiment, roberta_folder(tmp_path, safetensors=True), width=ROBERTA_WIDTH)
    assert_same(other.extract(["the man"])[0], extractor.extract(["the man"])[0])


def test_spaces():
    assert Sentiment.space(Sentiment.Settings()) == "vemoclap/twitter-roberta-base-sentiment-latest"
    assert Sentiment.references(Sentiment.Settings()) == {"model": PUBLISHED}
    assert Sentiment.width(Sentiment.Settings()) == 768
    assert Sentiment.space(Sentiment.Settings(model="hf:lab/other")) == "hub/lab/other"
    assert Sentiment.space(Sentiment.Settings(model="/models/mine", space="lab/mine")) == "lab/mine"
