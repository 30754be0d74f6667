"""Language and translation of recognised text, on tiny random models in the true formats."""

import json
import shutil

import pytest

from tests.extractors.conftest import frames_clip, written
from tests.extractors.tiny_models import little_memory
from tests.extractors.tiny_text import language_folder, nllb_folder
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.translated_ocr import TranslatedOcr, TranslatedOcrSettings
from vemoclap_batch.extractors.translation import NLLB_CODES, Translator

SURE = 0.9
WORDS = [
    "red hat",
    "go home!",
    "exit 7",
    "mind the gap",
    "who is there",
    "no",
    "the end.",
    "sale 50",
    "blue",
    "a b c d",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("models")
    return {
        "language": language_folder(top / "language", sharpness=6.0),
        "translation": nllb_folder(top / "translation"),
    }


@pytest.fixture
def translator(folders):
    return Translator(folders["language"], folders["translation"], SURE, "cpu", "float32")


def plainly(folders, text):
    """Language, probability and English of one text, step by step, with nothing of the package."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

    classifier = AutoModelForSequenceClassification.from_pretrained(folders["language"]).eval()
    tokens = AutoTokenizer.from_pretrained(folders["language"])(text, return_tensors="pt")
    with torch.no_grad():
        shares = classifier(**tokens).logits.softmax(-1)[0]
    language, share = classifier.config.id2label[int(shares.argmax())], float(shares.max())
    if share <= SURE:
        return None, share, text
    if language == "en":
        return language, share, text
    tokenizer = AutoTokenizer.from_pretrained(folders["translation"], src_lang=NLLB_CODES[language])
    network = AutoModelForSeq2SeqLM.from_pretrained(folders["translation"]).eval()
    tokens = tokenizer(text, return_tensors="pt")
    found = network.generate(
        **tokens, forced_bos_token_id=tokenizer.convert_tokens_to_ids("eng_Latn"), num_beams=1, do_sample=False,
        max_new_tokens=200,
    )  # fmt: skip
    return language, share, tokenizer.batch_decode(found, skip_special_tokens=True)[0].strip()


def test_batched_equals_one_by_one_and_plain_transformers(translator, folders):
    readings = translator(WORDS)
    for text, reading in zip(WORDS, readings, strict=True):
        language, share, english = plainly(folders, text)
        assert reading.language == language
        assert reading.probability == pytest.approx(share, abs=1e-5)
        assert reading.english == english
        assert translator([text])[0].english == english
    # All three cases did occur.
    assert any(reading.language is None for reading in readings)
    foreign = [text for text, reading in zip(WORDS, readings, strict=True) if reading.language not in {None, "en"}]
    assert any(reading.english != text for text, reading in zip(WORDS, readings, strict=True))
    assert len({reading.language for reading in readings if reading.language}) > 1
    assert foreign


def test_the_translation_model_is_loaded_only_when_a_text_needs_it(folders):
    never_sure = Translator(folders["language"], folders["translation"], 1.0, "cpu", "float32")
    assert [reading.english for reading in never_sure(WORDS)] == WORDS
    assert "nllb" not in vars(never_sure)
    sure = Translator(folders["language"], folders["translation"], 0.0, "cpu", "float32")
    sure(WORDS)
    assert "nllb" in vars(sure)


def test_too_little_memory_halves_the_batches(translator):
    whole = translator(WORDS)
    with little_memory(translator._classifier.network, 2) as seen:
        assert [reading.english for reading in translator(WORDS)] == [reading.english for reading in whole]
    assert max(seen) > 2
    assert seen[-1] <= 2


def test_a_classifier_of_other_classes_is_refused(tmp_path, folders):
    shutil.copytree(folders["language"], tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["id2label"]["0"] = "tlh"
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="tlh"):
        Translator(tmp_path / "other", folders["translation"], SURE, "cpu", "float32")


def test_the_text_of_pictures_in_english(folders):
    settings = TranslatedOcrSettings(min_language_score=0.5)
    extractor = TranslatedOcr(settings, Resources(models=folders))
    clips = [
        frames_clip(
            written("Mind the gap"), written("Mind the gap"), written("Exit 7", "Go home!"), written("MIND THE GAP")
        ),
        frames_clip(written()),
        frames_clip(written("Who is there")),
    ]
    results = extractor.extract(clips)
    assert all(isinstance(result, Result) for result in results)
    first, empty, third = (result.extras for result in results)
    assert [(row["frame"], row["text"]) for row in first["texts"]] == [(0, "mind the gap"), (2, "exit 7 go home!")]
    for row in [*first["texts"], *third["texts"]]:
        (reading,) = Translator(folders["language"], folders["translation"], 0.5, "cpu", "float32")([row["text"]])
        assert (row["language"], row["english"]) == (reading.language, reading.english)
    assert first["text"] == ". ".join(dict.fromkeys(row["english"] for row in first["texts"]))
    assert (empty["text"], empty["texts"], empty["language"]) == ("", [], None)
    # One after another says the same.
    for clip, result in zip(clips, results, strict=True):
        (alone,) = extractor.extract([clip])
        assert alone.extras["text"] == result.extras["text"]
