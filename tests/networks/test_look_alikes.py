"""Whether letters follow each other as in Latin words, or as other scripts look to a recogniser of Latin letters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.extractors.text_lines import COUNTS
from vemoclap_batch.networks.look_alikes import SYMBOLS, LookAlikes, symbols

COUNTED = LookAlikes(COUNTS)


@pytest.mark.parametrize(
    "text",
    ["DRAMA EMOTION ROMANTIC", "Ich möchte nach Hause", "Dziękuję bardzo", "THE LAST TRAIN LEFT"],
)
def test_latin_words_are_latin(text):
    assert COUNTED.log_odds(text) < -1


@pytest.mark.parametrize("text", ["PECTOPAH", "MOCKBA", "NPNBET BCEM", "TO TEΛEYTAIO TPENO", "Cm ơn bn rt nhiu"])
def test_what_other_scripts_are_read_as_is_not(text):
    assert COUNTED.log_odds(text) > 1


@given(st.text(max_size=40))
def test_any_text_has_odds(text):
    places = symbols(text)
    assert places.min() >= 0
    assert places.max() < SYMBOLS
    assert -6 <= COUNTED.log_odds(text) <= 6


@pytest.mark.parametrize("text", ["", " ", "2024", "今日は", "a", "!?"])
def test_a_text_without_letters_says_nothing(text):
    assert COUNTED.log_odds(text) == 0


def test_case_and_accents_do_not_count():
    assert np.array_equal(symbols("ÉCOLE  Đà"), symbols("ecole da"))
