"""Lines of text for the training of the script classifier: words of many languages, drawn in many fonts."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from vemoclap_batch.networks.script import HEIGHT, ORIENTATIONS, SCRIPTS, WIDEST

#: Script → languages of wordfreq in it.
LANGUAGES = {
    "latin": "en en en de fr es it pt nl pl cs tr sv fi hu ro hr id da nb lt lv sl sk ca".split(),
    "vietnamese": ["vi"],
    "chinese": ["zh", "ja", "ja"],
    "hangul": ["ko"],
    "cyrillic": ["ru", "ru", "uk", "bg", "mk"],
    "greek": ["el"],
    "arabic": ["ar", "fa", "ur"],
    "hebrew": ["he"],
    "devanagari": ["hi"],
    "bengali": ["bn"],
    "tamil": ["ta"],
}
#: Script → (consonants and vowels, signs that follow them): without a list of words, syllables are drawn.
LETTERS = {
    "telugu": [("\u0c05-\u0c39", "\u0c3e-\u0c4d")],
    "thai": [("\u0e01-\u0e2e", "\u0e30-\u0e3a\u0e47-\u0e4d"), ("\u0e40-\u0e44", "")],
    "other": [
        ("\u0a85-\u0ab9", "\u0abe-\u0acd"),  # Gujarati
        ("\u0a05-\u0a39", "\u0a3e-\u0a4d"),  # Gurmukhi
        ("\u0c85-\u0cb9", "\u0cbe-\u0ccd"),  # Kannada
        ("\u0d05-\u0d39", "\u0d3e-\u0d4d"),  # Malayalam
        ("\u0d85-\u0dc6", "\u0dcf-\u0ddf"),  # Sinhala
        ("\u10d0-\u10f0", ""),  # Georgian
        ("\u0561-\u0586", ""),  # Armenian
        ("\u0531-\u0556", ""),
        ("\u1780-\u17a2", "\u17b6-\u17c8"),  # Khmer
        ("\u0e81-\u0eae", "\u0eb0-\u0ebd"),  # Lao
        ("\u1000-\u1021", "\u102b-\u103a"),  # Burmese
        ("\u1200-\u1357", ""),  # Ethiopic
        ("\u0f40-\u0f6c", "\u0f71-\u0f7d"),  # Tibetan
    ],
}
#: What the Unicode names of a script's letters begin with, where that is not the script's name.
_NAMES = {"vietnamese": ("LATIN",), "chinese": ("CJK", "HIRAGANA", "KATAKANA")}
#: Chance of each script among the lines.
SHARES = {
    "latin": 0.24, "cyrillic": 0.13, "greek": 0.08, "vietnamese": 0.1, "chinese": 0.12, "other": 0.1, "nothing": 0.03,
}  # fmt: skip
_FONT_SIZE = 40
#: Language → words.
Words = Callable[[str], Sequence[str]]
_CASES: tuple[Callable[[str], str], ...] = (str, str, str, str.title, str.upper, str.upper)


@dataclass
class DrawnLine:
    """A line as uint8 [32, width], and the places of its classes; the orientation is -1 where there is no text."""

    image: np.ndarray
    script: int
    orientation: int


class LineMaker:
    """Draws random lines; the same seed draws the same ones."""

    def __init__(self, fonts: Sequence[Path], words: Words, characters: set[str], seed: int) -> None:
        """Read what the fonts can draw.

        Args:
            fonts: .ttf, .otf and .ttc files.
            words: of a language of :data:`LANGUAGES`, the commonest first.
            characters: of the recogniser: a Latin line with a letter that it lacks is ``vietnamese``, one of Vietnamese
                without such a letter is ``latin``.
            seed: of everything random.
        """
        self._random, self._words = np.random.default_rng(seed), words
        self._lists: dict[tuple[str, str], Sequence[str]] = {}
        self._characters = characters
        self._fonts = {path: _covered(path) for path in fonts}
        others = [name for name in SCRIPTS if name not in SHARES]
        rest = (1 - sum(SHARES.values())) / len(others)
        self._shares = np.array([SHARES.get(name, rest) for name in SCRIPTS])
        self._photographs = [
            cv2.cvtColor(picture(), cv2.COLOR_RGB2GRAY)
            for picture in (skimage.data.astronaut, skimage.data.coffee, skimage.data.chelsea, skimage.data.rocket)
        ]

    def __iter__(self) -> Iterator[DrawnLine]:
        """Endlessly, lines."""
        while True:
            script = str(self._random.choice(SCRIPTS, p=self._shares))
            line = self._no_text() if script == "nothing" else self._line(script)
            if line is not None:
                yield line

    def _line(self, script: str) -> DrawnLine | None:
        text = self._text(script)
        able = [path for path, covered in self._fonts.items() if covered.issuperset(text.replace(" ", ""))]
        # Without words of its script, a line would be of digits.
        if not able or (script != "digits" and not any(map(str.isalpha, text))):
            return None
        if script in {"latin", "vietnamese"}:
            lacks = any(character.isalpha() and character not in self._characters for character in text)
            script = "vietnamese" if lacks else "latin"
        font = _font(self._pick(able))
        vertical = script == "chinese" and self._random.random() < 0.2
        mask = _drawn_down(text, font) if vertical else _drawn(text, font)
        if mask is None:
            return None
        grey = self._degraded(self._painted(self._warped(mask)))
        orientation = int(self._random.choice(4, p=[0.55, 0.2, 0.2, 0.05]))
        return DrawnLine(_turned(grey, orientation), SCRIPTS.index(script), orientation)

    def _no_text(self) -> DrawnLine:
        """A piece of a photograph, of the shape of a line."""
        photograph = self._pick(self._photographs)
        height = int(self._random.integers(12, 80))
        width = int(height * self._random.uniform(1, 8))
        patch = self._patch(photograph, min(height, photograph.shape[0]), min(width, photograph.shape[1]))
        return DrawnLine(_fitted(self._degraded(patch)), SCRIPTS.index("nothing"), -1)

    def _pick(self, items: Sequence[Any]) -> Any:
        return items[int(self._random.integers(len(items)))]

    def _patch(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        top = int(self._random.integers(image.shape[0] - height + 1))
        left = int(self._random.integers(image.shape[1] - width + 1))
        return image[top : top + height, left : left + width].copy()

    def _text(self, script: str) -> str:
        """Words, in one case, sometimes with digits or with Latin words between."""
        if script == "digits":
            return "".join(self._random.choice(list("0123456789:.,/-+%€$ "), int(self._random.integers(2, 12)))).strip()
        language = str(self._pick(LANGUAGES.get(script, [script])))
        count = int(self._random.choice([1, 1, 2, 3, 4, 6]))
        words = [self._word(script, language) for _ in range(count)]
        case = self._pick(_CASES)
        words = [case(word) for word in words]
        if script == "greek" and case is str.upper and self._random.random() < 0.7:
            words = [_without_marks(word) for word in words]
        if script not in {"latin", "vietnamese"} and count > 1 and self._random.random() < 0.1:
            words[int(self._random.integers(count))] = self._word("latin", "en")
        if self._random.random() < 0.15:
            words.insert(int(self._random.integers(count + 1)), str(self._random.integers(0, 3000)))
        text = ("" if script == "chinese" and language in {"zh", "ja"} else " ").join(words)
        return (text + str(self._random.choice(["", "", "", ".", "!", "?", ",", ":"])))[:36]

    def _word(self, script: str, language: str) -> str:
        if script in LETTERS:
            return _syllables(self._random, *self._pick(LETTERS[script]))
        words = self._words_in(script, language)
        # Zipf's law would draw a few words only; a power of the rank draws rare ones too.
        return words[int(len(words) * self._random.random() ** 2)] if words else ""

    def _words_in(self, script: str, language: str) -> Sequence[str]:
        """Those words of a language that are in the script: lists have foreign ones."""
        if (script, language) not in self._lists:
            names = _NAMES.get(script, (script.upper(),))
            chosen = [
                word
                for word in self._words(language)
                if all(unicodedata.name(letter, "").startswith(names) for letter in word if letter.isalpha())
            ]
            self._lists[script, language] = chosen
        return self._lists[script, language]

    def _warped(self, mask: np.ndarray) -> np.ndarray:
        """A margin as detectors leave it, a slant, a turn of a few degrees and another aspect."""
        height, random = mask.shape[0], self._random
        above, below, left, right = (round(share * height) for share in random.uniform(0.02, 0.35, 4))
        canvas = cv2.copyMakeBorder(mask, above, below, left, right, cv2.BORDER_CONSTANT)
        high, wide = canvas.shape
        slant = random.normal(0, 0.08)
        turn = np.deg2rad(random.normal(0, 0.8))
        turning = [np.tan(turn), 1, -np.tan(turn) * wide / 2]
        matrix = np.array([[1, -slant, slant * high / 2], turning], np.float32)
        canvas = cv2.warpAffine(canvas, matrix, (wide, high))
        size = int(np.exp(random.uniform(np.log(14), np.log(64))))
        wide = max(8, round(wide * size / high * np.exp(random.normal(0, 0.1))))
        return cv2.resize(canvas, (wide, size), interpolation=cv2.INTER_AREA)

    def _painted(self, mask: np.ndarray) -> np.ndarray:
        """Letters over a plain, sloping or photographed ground, some with an outline or a shadow."""
        random = self._random
        height, width = mask.shape
        ground = np.full((height, width), random.uniform(0, 255), np.float32)
        if (kind := random.random()) < 0.35:
            photograph = self._pick(self._photographs)
            patch = self._patch(photograph, min(height * 2, 300), min(width * 2, 400))
            ground = cv2.resize(patch, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        elif kind < 0.55:
            ground += np.linspace(-1, 1, width, dtype=np.float32) * random.uniform(0, 60)
        ink = self._ink(float(ground.mean()))
        share = mask.astype(np.float32) / 255
        if random.random() < 0.35:
            reach = 1 + 2 * max(1, round(height * random.uniform(0.02, 0.07)))
            around = cv2.dilate(share, np.ones((reach, reach)))
            if random.random() < 0.4:
                around = np.roll(share, (reach // 2, reach // 2), (0, 1))
            ground += around * ((0 if ink > 127 else 255) - ground)
        return np.clip(ground + share * (ink - ground), 0, 255)

    def _ink(self, ground: float) -> float:
        """A brightness that differs from the ground's."""
        while abs((ink := self._random.uniform(0, 255)) - ground) < 50:
            pass
        return float(ink)

    def _degraded(self, grey: np.ndarray) -> np.ndarray:
        """Blur, noise and compression."""
        random = self._random
        if random.random() < 0.4:
            grey = cv2.GaussianBlur(grey, (0, 0), random.uniform(0.3, 0.045 * grey.shape[0] + 0.3))
        grey = np.clip(grey + random.normal(0, random.uniform(0, 9), grey.shape), 0, 255).astype(np.uint8)
        if random.random() < 0.5:
            _, packed = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(15, 90))])
            grey = cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE)
        return grey


@lru_cache(128)
def _font(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), _FONT_SIZE)


def _covered(path: Path) -> set[str]:
    """The characters that a font has."""
    return {chr(code) for code in TTFont(path, fontNumber=0, lazy=True).getBestCmap()}


def _syllables(random: np.random.Generator, letters: str, signs: str) -> str:
    """A word of letters, about half of them with a sign; both are given as ranges such as ``a-z``."""
    starts, follows = _expanded(letters), _expanded(signs)
    word = ""
    for _ in range(int(random.integers(2, 8))):
        word += str(random.choice(starts))
        if follows and random.random() < 0.5:
            word += str(random.choice(follows))
    return word


@cache
def _expanded(ranges: str) -> list[str]:
    """The assigned characters of ranges."""
    pieces = [ranges[at : at + 3] for at in range(0, len(ranges), 3)]
    every = [chr(code) for piece in pieces for code in range(ord(piece[0]), ord(piece[2]) + 1)]
    return [character for character in every if unicodedata.category(character) != "Cn"]


def _without_marks(word: str) -> str:
    return "".join(part for part in unicodedata.normalize("NFD", word) if not unicodedata.combining(part))


def _drawn(text: str, font: ImageFont.FreeTypeFont) -> np.ndarray | None:
    """The shares of ink of a line of text, cut to where there is some: uint8 [h, w]; None where there is none."""
    left, top, right, bottom = font.getbbox(text)
    if right - left < 4 or bottom - top < 4 or right - left > 4_000:
        return None
    image = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(image).text((2 - left, 2 - top), text, font=font, fill=255)
    return np.asarray(image)


def _drawn_down(text: str, font: ImageFont.FreeTypeFont) -> np.ndarray | None:
    """The same of characters one below the other, turned as PaddleOCR turns what is higher than wide."""
    cells = [np.asarray(_cell(character, font)) for character in text[:12]]
    return np.rot90(np.concatenate(cells)).copy() if len(cells) > 1 else None


def _cell(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    image = Image.new("L", (_FONT_SIZE + 4, _FONT_SIZE + 6))
    ImageDraw.Draw(image).text((_FONT_SIZE / 2 + 2, _FONT_SIZE / 2 + 3), character, font=font, fill=255, anchor="mm")
    return image


def _turned(grey: np.ndarray, orientation: int) -> np.ndarray:
    grey = _fitted(grey)
    turns: dict[str, Any] = {"upside down": np.s_[::-1, ::-1], "mirrored": np.s_[:, ::-1], "flipped": np.s_[::-1]}
    return np.ascontiguousarray(grey[turns.get(ORIENTATIONS[orientation], np.s_[:])])


def _fitted(grey: np.ndarray) -> np.ndarray:
    """At the network's height, at most 352 pixels wide."""
    width = max(HEIGHT, round(HEIGHT * grey.shape[1] / grey.shape[0]))
    method = cv2.INTER_AREA if grey.shape[0] > HEIGHT else cv2.INTER_LINEAR
    return cv2.resize(grey, (width, HEIGHT), interpolation=method)[:, :WIDEST]
