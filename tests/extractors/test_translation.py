"""Language and translation of recognised text, on tiny random models in the true formats."""

import json
import shutil

import pyarrow as pa
import pytest
from pydantic import ValidationError

from tests.extractors.conftest import broken_clip, frames_clip, written
from tests.extractors.tiny_models import little_memory
from tests.extractors.tiny_text import language_folder, nllb_folder
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.ocr import OcrSettings, PaddleOcr
from vemoclap_batch.extractors.paddle_models import (
    bundled_detector,
    bundled_recogniser,
    device_of,
    installed_engine,
)
from vemoclap_batch.extractors.text_lines import own_hashes
from vemoclap_batch.extractors.translated_ocr import (
    NLLB_CODES,
    Reading,
    TranslatedOcr,
    TranslatedOcrSettings,
    Translator,
    _columns,
)

pytestmark = pytest.mark.numeric

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
    return Translator(Resources(models=folders), SURE, "float32")


def plainly(folders, text, sure=SURE):
    """Language, probability and English of one text, step by step, with nothing of the package."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

    classifier = AutoModelForSequenceClassification.from_pretrained(folders["language"]).eval()
    tokens = AutoTokenizer.from_pretrained(folders["language"])(text, return_tensors="pt")
    with torch.no_grad():
        shares = classifier(**tokens).logits.softmax(-1)[0]
    language, share = classifier.config.id2label[int(shares.argmax())], float(shares.max())
    if share <= sure:
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
    assert list(readings) == WORDS
    for text, reading in readings.items():
        language, share, english = plainly(folders, text)
        assert reading.language == language
        assert reading.probability == pytest.approx(share, abs=1e-5)
        assert reading.english == english
        assert translator([text])[text].english == english
    # English, foreign and unknown did occur, and each foreign text has a translation of its own.
    told = {reading.language for reading in readings.values()}
    assert {None, "en"} < told
    foreign = [reading for reading in readings.values() if reading.language not in {None, "en"}]
    assert len(foreign) > 2
    assert all(reading.english for reading in foreign)
    assert len({reading.english for reading in foreign}) == len(foreign)
    assert not {reading.english for reading in foreign} & set(WORDS)


def test_texts_of_all_languages_go_together(translator):
    nllb = translator.nllb
    texts, languages = ["red hat", "exit 7", "red hat", "go home!"], ["fr", "de", "zh", "sw"]
    with little_memory(nllb.network.model.encoder, 100) as seen:
        english = nllb(list(zip(texts, languages, strict=True)))
    assert seen == [4]
    # The language that a text is said to be in matters.
    assert english[0] != english[2]
    for text, language, found in zip(texts, languages, english, strict=True):
        assert nllb([(text, language)]) == [found]


def test_the_tokens_of_languages_keep_their_numbers(translator, folders):
    published = json.loads((folders["translation"] / "tokenizer.json").read_text())["added_tokens"]
    numbers = {token["content"]: token["id"] for token in published}
    assert len(NLLB_CODES) == 20
    for language, code in NLLB_CODES.items():
        tokens = translator.nllb._tokens("red", language)
        assert (tokens[0], tokens[-1]) == (numbers[code], numbers["</s>"])


def test_the_translation_model_is_loaded_only_when_a_text_needs_it(folders, tmp_path):
    never_sure = Translator(Resources(models=folders), 1.0, "float32")
    assert [reading.english for reading in never_sure(WORDS).values()] == WORDS
    assert "nllb" not in vars(never_sure)
    english = language_folder(tmp_path / "english", likely="en")
    sure_of_english = Translator(Resources(models={**folders, "language": english}), SURE, "float32")
    assert sure_of_english(WORDS) == {word: Reading("en", 1.0, word) for word in WORDS}
    assert "nllb" not in vars(sure_of_english)
    sure = Translator(Resources(models=folders), 0.0, "float32")
    sure(WORDS)
    assert "nllb" in vars(sure)


def translations(readings):
    return {text: reading.english for text, reading in readings.items()}


def test_too_little_memory_halves_the_batches(translator):
    whole = translator(WORDS)
    with little_memory(translator.classifier.network, 2) as seen:
        assert translations(translator(WORDS)) == translations(whole)
    assert max(seen) > 2
    assert seen[-1] <= 2
    with little_memory(translator.nllb.network.model.encoder, 2) as seen:
        assert translations(translator(WORDS)) == translations(whole)
    assert max(seen) > 2
    assert seen[-1] <= 2


def test_a_classifier_of_other_classes_is_refused(tmp_path, folders):
    shutil.copytree(folders["language"], tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["id2label"]["0"] = "tlh"
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="tlh"):
        Translator(Resources(models={**folders, "language": tmp_path / "other"}), SURE, "float32")


@pytest.fixture(scope="module")
def extractor(folders):
    return TranslatedOcr(TranslatedOcrSettings(min_language_score=0.5), Resources(models=folders))


def test_the_text_of_images_in_english(extractor, folders):
    clips = [
        frames_clip(
            written("Mind the gap"), written("Mind the gap"), written("Exit 7", "Go home!"), written("MIND THE GAP")
        ),
        frames_clip(written()),
        frames_clip(written("Who is there"), written("Exit 7")),
    ]
    results = extractor.extract(clips)
    assert all(isinstance(result, Result) for result in results)
    first, empty, third = (result.extras for result in results)
    assert [(row["frame"], row["text"]) for row in first["texts"]] == [(0, "mind the gap"), (2, "exit 7 go home!")]
    for row in [*first["texts"], *third["texts"]]:
        language, share, english = plainly(folders, row["text"], 0.5)
        assert (row["language"], row["english"]) == (language, english)
        assert row["language_probability"] == pytest.approx(share, abs=1e-5)
    # A foreign language and a translation did occur.
    assert first["language"] not in {None, "en"}
    assert any(row["english"] not in {"", row["text"]} for row in first["texts"])
    assert first["text"] == ". ".join(dict.fromkeys(row["english"] for row in first["texts"] if row["english"]))
    assert empty == {"text": "", "texts": [], "language": None, "lines": []}
    table = {name: [result.extras[name] for result in results] for name in TranslatedOcr.columns}
    pa.table(table, pa.schema(list(TranslatedOcr.columns.items())))
    # One after another says the same.
    for clip, result in zip(clips, results, strict=True):
        (alone,) = extractor.extract([clip])
        assert alone.extras["text"] == result.extras["text"]


def test_the_language_is_that_of_most_letters():
    readings = {
        "aaa": Reading("fr", 1.0, "a"),
        "bbbb": Reading("de", 1.0, "a"),
        "xxxxxxxx": Reading(None, 0.5, "xxxxxxxx"),
        "cc": Reading("fr", 1.0, ""),
    }
    columns = _columns({"aaa": 0, "bbbb": 1, "xxxxxxxx": 2, "cc": 5}, readings)
    assert (columns["language"], columns["text"]) == ("fr", "a. xxxxxxxx")
    assert [row["english"] for row in columns["texts"]] == ["a", "a", "xxxxxxxx", ""]


def test_a_broken_clip_fails_alone(extractor):
    good, bad = extractor.extract([frames_clip(written("Mind the gap")), broken_clip()])
    assert isinstance(bad, Failure)
    assert good.extras["texts"][0]["text"] == "mind the gap"


def test_readers_of_ones_own(extractor, folders, tmp_path):
    models = {**folders, "detector": bundled_detector(tmp_path), "recogniser": bundled_recogniser(tmp_path)}
    readers = {name: str(models[name]) for name in ("detector", "recogniser")}
    settings = TranslatedOcrSettings(**readers, engine="onnxruntime", min_language_score=0.5)
    assert set(TranslatedOcr.references(settings)) == set(models)
    assert set(TranslatedOcr.references(TranslatedOcrSettings())) == set(folders)
    clip = frames_clip(written("Mind the gap"))
    (result,) = TranslatedOcr(settings, Resources(models=models)).extract([clip])
    assert result.extras == extractor.extract([clip])[0].extras
    with pytest.raises(ValueError, match=r"paddle_static needs inference\.json \+ inference\.pdiparams or"):
        TranslatedOcr(TranslatedOcrSettings(**readers, engine="paddle_static"), Resources(models=models))
    with pytest.raises(ValueError, match=r"no inference\.yml"):
        TranslatedOcr(settings, Resources(models={**models, "detector": folders["language"]}))


def test_the_engine_is_in_the_fingerprint_as_it_was_chosen(tmp_path):
    bundled = TranslatedOcr.weights(TranslatedOcrSettings())
    assert bundled == f"onnxruntime {PaddleOcr.weights(OcrSettings())}"
    readers = {"detector": "a", "recogniser": "b"}
    for engine in ("onnxruntime", "paddle_static"):
        assert TranslatedOcr.weights(TranslatedOcrSettings(**readers, engine=engine)) == f"{engine} {own_hashes()}"
    assert TranslatedOcr.weights(TranslatedOcrSettings(**readers)) == f"{installed_engine()} {own_hashes()}"
    assert "engine" not in TranslatedOcrSettings(engine="onnxruntime").model_dump()
    with pytest.raises(ValidationError, match="cannot run the bundled models"):
        TranslatedOcrSettings(engine="paddle_static", detector="a")


def test_a_reader_without_gpus_says_so(caplog):
    import onnxruntime

    assert device_of("onnxruntime", "cpu") == "cpu"
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        assert device_of("onnxruntime", "cuda:1") == "gpu:1"
    else:
        assert device_of("onnxruntime", "cuda:1") == "cpu"
        assert "text is read on the CPU: onnxruntime is installed without GPUs" in caplog.text
