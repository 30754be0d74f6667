"""Whether what a recogniser of Latin letters wrote is Latin text, or another script in letters that look alike."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np

#: Scripts whose letters such a recogniser takes for Latin ones.
ALIKE = ("cyrillic", "greek", "vietnamese")
#: a to z, then a boundary of a word, then any other character.
SYMBOLS, _BOUNDARY, _OTHER = 28, 26, 27
#: Odds of more than that, either way, would claim too much for a count of letters.
_MOST = 6.0


class LookAlikes:
    """Logarithms of the chance of three letters in a row, in Latin words and in others as a recogniser writes them."""

    def __init__(self, path: Path) -> None:
        """Load an .npz file of float16 [28, 28, 28] for ``latin`` and each of :data:`ALIKE`."""
        with np.load(path) as file:
            self._latin = file["latin"].astype(np.float32)
            self._alike = np.stack([file[name].astype(np.float32) for name in ALIKE])

    def log_odds(self, text: str) -> float:
        """The logarithm of the odds that a text is another script and not Latin, -6 to 6; 0 without letters."""
        places = symbols(text)
        if (places < _BOUNDARY).sum() < 2:
            return 0.0
        first, second, third = places[:-2], places[1:-1], places[2:]
        latin = self._latin[first, second, third].sum()
        alike = self._alike[:, first, second, third].sum(1).max()
        return float(np.clip(alike - latin, -_MOST, _MOST))


def symbols(text: str) -> np.ndarray:
    """A text as places among the 28 symbols, without case and accents, with a boundary at either end: int64 [n]."""
    plain = "".join(part for part in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(part))
    words = " ".join(plain.replace("đ", "d").replace("ı", "i").split())
    return np.array([_symbol(character) for character in f" {words} "], np.int64)


def _symbol(character: str) -> int:
    if "a" <= character <= "z":
        return ord(character) - ord("a")
    return _BOUNDARY if character == " " else _OTHER
