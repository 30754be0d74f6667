"""What a model of texts is given: English whole, other languages not at all, of mixed texts the English sentences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.extractors.sentences import SENTENCES
from tests.extractors.tiny_models import ROBERTA_WIDTH, build, roberta_folder
from vemoclap_batch.extractors.language import KnownLanguages
from vemoclap_batch.extractors.sentiment import Sentiment

pytestmark = pytest.mark.numeric

FOREIGN = [language for language in SENTENCES if language != "en"]
#: Things that are written and said so often that losing them would be noticed; most are of no language.
SHORT = [
    "OK", "LOL!", "lol", "Hi!", "No!", "Yes!", "Wow!", "WOW", "Oh my god", "I love you!", "I LOVE YOU", "I’m so sad",
    "Let's go!", "Why?", "Thank you!", "Amazing!", "Super!", "Tom Hanks", "Jules Verne", "Chapter 3", "Merry Christmas",
    "2024", "!!!",
]  # fmt: skip


@pytest.fixture(scope="module")
def english():
    return KnownLanguages()


@pytest.mark.parametrize("text", [*SENTENCES["en"], *SHORT, "a" * 510])
def test_english_and_what_is_of_no_language_is_given_as_it_is(english, text):
    checked = english(text)
    assert (checked.text, checked.note) == (text, None)


@pytest.mark.parametrize("language", FOREIGN)
def test_other_languages_are_left_out(english, language):
    for text in SENTENCES[language]:
        checked = english(text)
        assert checked.text == "", text
        assert checked.note.startswith("left out, as the model knows en: ")
    named = [english(text).guess.language for text in SENTENCES[language]]
    assert named.count(language) >= 10, named


def test_of_a_mixed_text_the_english_sentences_are_kept(english):
    one, two, three = SENTENCES["en"][0], SENTENCES["de"][1], SENTENCES["en"][8]
    checked = english(f"{one} {two}\n{three}")
    assert checked.text == f"{one} {three}"
    assert checked.note == "left out, as the model knows en: de (1 of 3 sentences)"
    japanese = "".join(SENTENCES["ja"][:2])
    assert english(f"{one} {japanese}").text == one


def test_short_sentences_go_by_the_whole_text(english):
    assert english("Super.").text == "Super."
    assert english("Ja. Genau. Ich weiß nicht, was ich sagen soll. Danke.").text == ""
    whole = "What a night. Super. I do not know what to say. Wow."
    assert english(whole).text == whole


def test_a_model_may_know_several_languages_or_all(tmp_path):
    both = KnownLanguages(("en", "de"))
    mixed = f"{SENTENCES['en'][0]} {SENTENCES['de'][0]}"
    assert both(mixed).text == mixed
    assert both(SENTENCES["fr"][0]).note == "left out, as the model knows de, en: fr"
    folder = roberta_folder(tmp_path)
    texts = [SENTENCES["en"][0], SENTENCES["de"][0]]
    lengths = {
        languages: [
            len(result.feature)
            for result in build(Sentiment, folder, width=ROBERTA_WIDTH, languages=languages).extract(texts)
        ]
        for languages in (("en",), ("en", "de"), None)
    }
    assert lengths == {("en",): [1, 0], ("en", "de"): [1, 1], None: [1, 1]}
    prints = {Sentiment.weights(Sentiment.Settings(languages=languages)) for languages in (("en",), None)}
    assert len(prints) == 2
    with pytest.raises(ValueError, match=r"languages\.1"):
        Sentiment.Settings(languages=("en", "German"))


@settings(deadline=None)
@given(
    text=st.text()
    | st.lists(st.sampled_from([*SENTENCES["en"], *SENTENCES["fr"], *SENTENCES["zh"], *SHORT])).map(" ".join)
)
def test_what_is_given_is_the_text_or_some_of_its_sentences(english, text):
    checked = english(text)
    kept, there = ["".join(each.split()) for each in (checked.text, text)]
    assert (kept == there) == (checked.note is None)
    # In its order, a sentence after the other.
    rest = iter(there)
    assert all(character in rest for character in kept)
    assert 0 <= checked.guess.probability <= 1 + 1e-6
    assert 0 <= checked.guess.known <= 1 + 1e-6


def test_minilm_says_what_it_left_out(minilm):
    mixed = f"{SENTENCES['en'][0]} {SENTENCES['fr'][0]}"
    english, both, blank = minilm.extract([SENTENCES["en"][0], mixed, " "])
    assert english.extras["language"] == "en"
    assert english.extras["note"] is None
    np.testing.assert_allclose(both.feature, english.feature, atol=1e-6)
    assert both.extras["note"] == "left out, as the model knows en: fr (1 of 2 sentences)"
    assert blank.extras == {"language": None, "language_probability": None, "note": None}
