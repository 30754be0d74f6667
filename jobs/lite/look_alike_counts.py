"""Three letters in a row, counted in Latin words and in words of other scripts as a recogniser writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from lite.script_lines import LANGUAGES, Words
from vemoclap_batch.networks.look_alikes import ALIKE, SYMBOLS, symbols

#: What PP-OCRv6 writes for letters that it does not know, as seen on drawn words: one of these.
_CYRILLIC = dict(zip("абвгдежзийклмнопрстуфхцчшщъыьэюя", (
    "a 6 b rt ad e xk 3 nu nu k na m h o n p c tm y o x u y4 w w b bi b 3 io ra").split(), strict=True)) | {
    "і": "i", "ї": "i", "є": "e", "ё": "e", "ј": "j", "ѕ": "s", "ґ": "r", "љ": "b",
    "њ": "h", "џ": "u", "ќ": "k", "ѓ": "r",
}  # fmt: skip
_GREEK = dict(zip("αβγδεζηθικλμνξοπρσςτυφχψω", (
    "a b ytr da e z nh o i k a mu vn e o n p oe c t uy o x y wo").split(), strict=True))  # fmt: skip
_MARKED = {"ά": "α", "έ": "ε", "ή": "η", "ί": "ι", "ό": "ο", "ύ": "υ", "ώ": "ω", "ϊ": "ι", "ΐ": "ι", "ϋ": "υ", "ΰ": "υ"}


def count(words: Words, characters: set[str], path: Path, seed: int = 0) -> None:
    """Write logarithms of chances for :class:`~vemoclap_batch.networks.look_alikes.LookAlikes`.

    Args:
        words: language → its words, the commonest first.
        characters: of the recogniser: of Vietnamese it leaves out the letters that it lacks.
        path: of the .npz file.
        seed: of which letter is written where there is a choice.
    """
    random = np.random.default_rng(seed)

    def written(letters: dict[str, str]) -> Callable[[str], str]:
        def write(word: str) -> str:
            kinds = [letters.get(_MARKED.get(letter, letter), letter) for letter in word]
            return "".join(kind if kind in {"bi", "io"} else str(random.choice(list(kind))) for kind in kinds)

        return write

    write = {
        "latin": lambda word: word,
        "cyrillic": written(_CYRILLIC),
        "greek": written(_GREEK),
        "vietnamese": lambda word: "".join(letter for letter in word if letter in characters),
    }
    chances = {}
    for script in ("latin", *ALIKE):
        lists = [words(language) for language in dict.fromkeys(LANGUAGES[script])]
        chances[script] = _chances(map(write[script], every) for every in lists).astype(np.float16)
    # The bool is of pickles, which there are none of.
    np.savez_compressed(path, allow_pickle=False, **chances)


def _chances(languages: Iterable[Iterable[str]]) -> np.ndarray:
    """The logarithm of the chance of the third symbol after the first two, smoothed by that of fewer symbols."""
    counts = np.zeros((SYMBOLS,) * 3)
    for words in languages:
        for rank, word in enumerate(words):
            places = symbols(word)
            # By Zipf's law, and no word more often than the hundredth.
            np.add.at(counts, (places[:-2], places[1:-1], places[2:]), 1 / (100 + rank))
    counts *= 1000
    singles = (counts.sum((0, 1)) + 0.1) / (counts.sum() + 0.1 * SYMBOLS)
    pairs = (counts.sum(0) + 5 * singles) / (counts.sum(0).sum(1, keepdims=True) + 5)
    return np.log((counts + 5 * pairs) / (counts.sum(2, keepdims=True) + 5))
