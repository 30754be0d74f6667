import json

import pytest

from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.extractors.whisper import WhisperSettings
from vemoclap_batch.extractors.whisper_languages import (
    NAMES,
    VERSION_3_ONLY,
    Spoken,
    Stretch,
    Turn,
    code_of,
    is_unclear,
    known_languages,
    spoken_in,
)
from vemoclap_batch.extractors.whisper_weights import bundled_folder


def test_the_names_are_those_of_whisper():
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    assert NAMES == LANGUAGES
    assert all(code_of(name) == code for name, code in TO_LANGUAGE_CODE.items())


@pytest.mark.parametrize("written", ["de", "DE", "German", " german ", "GERMAN"])
def test_a_language_by_code_or_name(written):
    assert WhisperSettings(language=written).language == "de"
    assert WhisperSettings(language=written) == WhisperSettings(language="de")


def test_a_language_that_is_none_is_refused_with_all_other_mistakes():
    config = load_config("lite", ["extractors.asr.language=Germna", "extractors.asr.beam_size=0", "extractors.ocr.x=1"])
    with pytest.raises(ConfigError) as caught:
        resolve(config)
    mistakes = " ".join(caught.value.mistakes)
    assert "extractors.asr.language = 'Germna': Whisper knows no such language" in mistakes
    assert "perhaps german" in mistakes
    assert "extractors.asr.beam_size = 0" in mistakes
    assert "extractors.ocr.x" in mistakes


def test_what_the_bundled_model_lacks():
    assert known_languages(bundled_folder()) == set(NAMES) - VERSION_3_ONLY
    with pytest.raises(ConfigError, match="the bundled model does not know cantonese"):
        resolve(load_config("lite", ["extractors.asr.language=Cantonese"]))


@pytest.mark.parametrize(("multilingual", "language"), [(True, "yue"), (False, "de")])
def test_what_a_model_of_ones_own_lacks(tmp_path, multilingual, language):
    names = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in NAMES if code not in VERSION_3_ONLY)]
    first = 50257 if multilingual else 50256
    tokens = [{"content": name, "id": first + at} for at, name in enumerate(names)]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    own = [f"extractors.asr.model={tmp_path}"]
    with pytest.raises(ConfigError, match=rf"extractors\.asr\.language = '{language}': the model knows"):
        resolve(load_config("lite", [*own, f"extractors.asr.language={language}"]))
    resolve(load_config("lite", [*own, "extractors.asr.language=English"]))


def test_a_tokenizer_of_another_kind(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer of Whisper"):
        known_languages(tmp_path)


def stretches(*shares):
    return [Stretch(10 * (at + 1), 5, share) for at, share in enumerate(shares)]


def test_a_window_in_one_language_has_the_probability_of_the_whole():
    assert spoken_in({"de": 0.7, "nl": 0.2}, 30.0, stretches({"de": 0.9}, {"nl": 0.5, "de": 0.4}), {}) == Spoken(
        "de", 0.7
    )


def test_languages_that_are_taken_for_one_another_do_not_part_a_window():
    assert spoken_in({"hr": 0.6}, 30.0, stretches({"hr": 0.8, "sr": 0.2}, {"sr": 0.8, "hr": 0.2}), {}).code == "hr"


def test_two_languages_part_a_window():
    mixed = stretches({"de": 0.9}, {"de": 0.8, "la": 0.2}, {"en": 0.95}, {"de": 0.9})
    assert spoken_in({"en": 0.9}, 30.0, mixed, {"en": 100.0}) == Turn(Spoken("de", pytest.approx(0.85)), 20)


def test_what_was_spoken_before_decides_where_a_window_is_unclear():
    unclear = {"cy": 0.4, "de": 0.3}
    assert spoken_in(unclear, 30.0, [], {}) == Spoken("cy", 0.4)
    assert spoken_in(unclear, 30.0, [], {"de": 24.0}) == Spoken("de", 0.3)
    assert spoken_in({"en": 0.9}, 30.0, [], {"de": 24.0}) == Spoken("en", 0.9)


def test_a_window_that_is_surely_in_one_language_is_not_looked_at_again():
    mixed = stretches({"de": 0.4, "cy": 0.3}, {"en": 0.8})
    assert is_unclear({"en": 0.6, "de": 0.2}, mixed)
    assert not is_unclear({"en": 0.9}, mixed)
    assert not is_unclear({"en": 0.6}, stretches({"en": 0.4, "cy": 0.3}, {"en": 0.8}))
