"""The languages of Whisper: their names, what a model knows of them, and which are spoken in a window."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Code → English name, in the order of the model's tokens, as OpenAI's tokenizer has them. Only version 3 has yue.
NAMES = {
    "en": "english", "zh": "chinese", "de": "german", "es": "spanish", "ru": "russian", "ko": "korean",
    "fr": "french", "ja": "japanese", "pt": "portuguese", "tr": "turkish", "pl": "polish", "ca": "catalan",
    "nl": "dutch", "ar": "arabic", "sv": "swedish", "it": "italian", "id": "indonesian", "hi": "hindi",
    "fi": "finnish", "vi": "vietnamese", "he": "hebrew", "uk": "ukrainian", "el": "greek", "ms": "malay",
    "cs": "czech", "ro": "romanian", "da": "danish", "hu": "hungarian", "ta": "tamil", "no": "norwegian",
    "th": "thai", "ur": "urdu", "hr": "croatian", "bg": "bulgarian", "lt": "lithuanian", "la": "latin",
    "mi": "maori", "ml": "malayalam", "cy": "welsh", "sk": "slovak", "te": "telugu", "fa": "persian",
    "lv": "latvian", "bn": "bengali", "sr": "serbian", "az": "azerbaijani", "sl": "slovenian", "kn": "kannada",
    "et": "estonian", "mk": "macedonian", "br": "breton", "eu": "basque", "is": "icelandic", "hy": "armenian",
    "ne": "nepali", "mn": "mongolian", "bs": "bosnian", "kk": "kazakh", "sq": "albanian", "sw": "swahili",
    "gl": "galician", "mr": "marathi", "pa": "punjabi", "si": "sinhala", "km": "khmer", "sn": "shona",
    "yo": "yoruba", "so": "somali", "af": "afrikaans", "oc": "occitan", "ka": "georgian", "be": "belarusian",
    "tg": "tajik", "sd": "sindhi", "gu": "gujarati", "am": "amharic", "yi": "yiddish", "lo": "lao", "uz": "uzbek",
    "fo": "faroese", "ht": "haitian creole", "ps": "pashto", "tk": "turkmen", "nn": "nynorsk", "mt": "maltese",
    "sa": "sanskrit", "lb": "luxembourgish", "my": "myanmar", "bo": "tibetan", "tl": "tagalog", "mg": "malagasy",
    "as": "assamese", "tt": "tatar", "haw": "hawaiian", "ln": "lingala", "ha": "hausa", "ba": "bashkir",
    "jw": "javanese", "su": "sundanese", "yue": "cantonese",
}  # fmt: skip
#: Further names.
_ALIASES = {
    "burmese": "my", "valencian": "ca", "flemish": "nl", "haitian": "ht", "letzeburgesch": "lb", "pushto": "ps",
    "panjabi": "pa", "moldavian": "ro", "moldovan": "ro", "sinhalese": "si", "castilian": "es", "mandarin": "zh",
}  # fmt: skip
_CODES = {name: code for code, name in NAMES.items()} | _ALIASES
#: What the models before version 3 lack, the bundled one among them.
VERSION_3_ONLY = frozenset({"yue"})
ENGLISH = "en"
#: The number of <|endoftext|> in models of English alone; in the others it is the next one.
_END_OF_ENGLISH = 50256
#: Below this probability a language is uncertain.
CERTAIN = 0.5
#: A stretch of speech has a language of its own where that is at least so likely and its neighbour's at most so.
_OWN, _OTHER = 0.7, 0.1
#: With a language of this probability a window is taken to be in that one alone, unless a stretch says otherwise.
_SURE = 0.8


def code_of(language: str) -> str:
    """The code of a language given by its code or English name, in any case.

    Raises:
        ValueError: Whisper has no such language.
    """
    name = language.strip().lower()
    if name in NAMES:
        return name
    if name in _CODES:
        return _CODES[name]
    close = difflib.get_close_matches(name, [*NAMES, *_CODES], 3)
    raise ValueError(
        "Whisper knows no such language; expected a code or an English name, "
        + (f"perhaps {' or '.join(close)}" if close else "such as de or German")
    )


def known_languages(folder: Path) -> set[str]:
    """The languages that a CTranslate2 Whisper model knows.

    Raises:
        OSError: the folder has no tokenizer.json.
        ValueError: that is no tokenizer of Whisper.
    """
    try:
        added = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
        numbers = {token["content"]: token["id"] for token in added}
        # A model of English alone has the tokens of all languages too, but lacks the empty one before the first.
        is_multilingual = numbers["<|endoftext|>"] != _END_OF_ENGLISH
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'tokenizer.json'} is no tokenizer of Whisper: {error}") from error
    return {code for code in NAMES if f"<|{code}|>" in numbers} if is_multilingual else {ENGLISH}


@dataclass(frozen=True)
class Spoken:
    """The language of a window, and its probability: 1 where a setting says it."""

    code: str
    probability: float


@dataclass(frozen=True)
class Turn:
    """The language of a window up to a sample of it, where another one begins."""

    spoken: Spoken
    end: int


@dataclass(frozen=True)
class Stretch:
    """Speech between two pauses: where it ends in its window, its length, both in samples, and language → share."""

    end: int
    length: int
    shares: Mapping[str, float]


def spoken_in(
    whole: Mapping[str, float], seconds: float, stretches: Sequence[Stretch], before: Mapping[str, float]
) -> Spoken | Turn:
    """The language of a window, or of its beginning where the language changes.

    Args:
        whole: language → probability in the window as a whole.
        seconds: of the window.
        stretches: of the window, in order.
        before: what the clip's earlier windows add up to, language → seconds times probability.
    """
    count = _same_language(stretches)
    if count < len(stretches):
        shares = mean_shares(stretches[:count])
        code = max(shares, key=lambda name: shares[name])
        return Turn(Spoken(code, shares[code]), stretches[count - 1].end)
    code = max(whole, key=lambda name: whole[name])
    if whole[code] < CERTAIN and before:
        # What was spoken so far says more than one unclear window.
        both = {name: before.get(name, 0.0) + seconds * whole.get(name, 0.0) for name in {*before, *whole}}
        code = max(both, key=lambda name: (both[name], name))
    return Spoken(code, whole.get(code, 0.0))


def is_unclear(whole: Mapping[str, float], stretches: Sequence[Stretch]) -> bool:
    """Whether a window may be in two languages: it is surely in none, and its stretches differ."""
    likeliest = {max(stretch.shares, key=lambda name: stretch.shares[name]) for stretch in stretches}
    return max(whole.values()) < _SURE and len(likeliest) > 1


def _same_language(stretches: Sequence[Stretch]) -> int:
    """How many stretches from the first one on are in the same language."""
    for count in range(1, len(stretches)):
        earlier, later = mean_shares(stretches[:count]), stretches[count].shares
        first = max(earlier, key=lambda name: earlier[name])
        second = max(later, key=lambda name: later[name])
        # Languages that are taken for one another (Croatian, Serbian) have a share in each other's speech.
        apart = later.get(first, 0.0) <= _OTHER and earlier.get(second, 0.0) <= _OTHER
        if first != second and apart and min(earlier[first], later[second]) >= _OWN:
            return count
    return len(stretches)


def mean_shares(stretches: Sequence[Stretch]) -> dict[str, float]:
    """The mean of the stretches' shares, by length."""
    total = sum(stretch.length for stretch in stretches) or 1
    sums: dict[str, float] = {}
    for stretch in stretches:
        for code, share in stretch.shares.items():
            sums[code] = sums.get(code, 0.0) + share * stretch.length / total
    return sums
