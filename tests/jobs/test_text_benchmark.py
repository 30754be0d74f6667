"""The benchmark of texts: its arithmetic, and that its parts are there. What it measures needs packages of Debian."""

import subprocess
import sys

import numpy as np
import pytest

from bench.text_sounds import excerpts
from bench.text_speech import errors, words_of
from bench.text_voices import joined, with_noise
from tests.conftest import ROOT


def test_words_are_compared_without_case_accents_and_signs():
    assert words_of("Élle n'a jamais, «voulu»!") == ["elle", "n", "a", "jamais", "voulu"]
    assert words_of("Всё ещё") == words_of("все еще")


@pytest.mark.parametrize(
    ("expected", "found", "count"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a c", 1),
        ("a b c", "x a b c y", 2),
        ("a b", "", 2),
        ("", "a", 1),
        ("a b", "b a", 2),
    ],
)
def test_words_to_change(expected, found, count):
    assert errors(expected.split(), found.split()) == count


def test_noise_is_as_loud_as_it_is_said_to_be():
    speech = 0.1 * np.sin(np.arange(16_000) / 10).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(100)
    beneath = with_noise(speech, noise, 10.0) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(beneath**2)) == pytest.approx(10, abs=0.1)


def test_sounds_are_cut_and_put_together():
    sound = np.arange(100 * 16_000, dtype=np.float32)
    parts = list(excerpts(sound, 10, 3))
    assert [len(part) for part in parts] == [160_000] * 3
    assert [part[0] for part in parts] == sorted(part[0] for part in parts)
    assert [len(part) for part in excerpts(sound[:1000], 10, 3)] == [1000]
    assert len(joined([sound[:1000]] * 3, 0.5)) == 3000 + 2 * 8000


def test_its_parts_are_commands():
    help_ = subprocess.run(
        [sys.executable, str(ROOT / "jobs/bench/text.py"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(part in help_ for part in ("invented", "speech"))
