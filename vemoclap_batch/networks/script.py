"""Script and orientation of a line of text: a small convolutional network over the line's image."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: What a line is written in. Vietnamese has a class of its own, as recognisers of Latin lack its letters. ``other`` are
#: further alphabets, ``digits`` is a line without letters, ``nothing`` is no text.
SCRIPTS = (
    "latin", "vietnamese", "chinese", "hangul", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "bengali",
    "tamil", "telugu", "thai", "other", "digits", "nothing",
)  # fmt: skip
#: How a line is turned: by 180°, as in a mirror beside it, as in water below it.
ORIENTATIONS = ("upright", "upside down", "mirrored", "flipped")
#: Height of a line in pixels, and its smallest and largest width.
HEIGHT, NARROWEST, WIDEST = 32, 32, 352
#: Below this spread (of 0..255) a line is flat; dividing by less would turn its noise into letters.
_MIN_SPREAD = 8.0
#: Letters without which a script cannot be read; a recogniser knows a script if its characters have all of them.
#: Without ό and ก, which PP-OCRv5's lists of Greek and Thai lack by a slip.
LETTERS = {
    "latin": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "vietnamese": "ăâđêôơưảạằắặầấậẻẹềếệỉịỏọồốộờớợủụừứựỳỷỹ",
    "chinese": "的一是不了人我在有他",
    "hangul": "가나다는이의고하에사",
    "cyrillic": "абвгдежзиклмнопрстуфхцчшыьюяАБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЮЯ",
    "greek": "αβγδεζηθικλμνξοπρσςτυφχψωάέήίύώ",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "hebrew": "אבגדהוזחטיכלמנסעפצקרשת",
    "devanagari": "अआइईउएकखगघचजटडतथदधनपबभमयरलवशसह",
    "bengali": "অআইএকখগচজটডতথদধনপবভমযরলশসহ",
    "tamil": "அஆஇஉஎகசடதநபமயரலவழளறன",
    "telugu": "అఆఇఉఎకగచజటడతదనపబమయరలవసహ",
    "thai": "ขคงจชดตทนบปผพฟมยรลวสหอ",
}


def known_scripts(characters: Collection[str]) -> frozenset[str]:
    """The scripts that a recogniser with these characters can read; lines without letters, any can."""
    there = set(characters)
    return frozenset({"digits", "nothing", *(name for name, letters in LETTERS.items() if there.issuperset(letters))})


@dataclass(frozen=True)
class Line:
    """What the network says of a line.

    Attributes:
        scripts: probabilities, float32 [16], in the order of :data:`SCRIPTS`.
        orientations: probabilities, float32 [4], in the order of :data:`ORIENTATIONS`.
    """

    scripts: np.ndarray
    orientations: np.ndarray

    @property
    def script(self) -> str:
        """The likeliest script."""
        return SCRIPTS[int(self.scripts.argmax())]

    @property
    def turn(self) -> tuple[str, float]:
        """The likeliest orientation other than upright, and its probability."""
        at = 1 + int(self.orientations[1:].argmax())
        return ORIENTATIONS[at], float(self.orientations[at])

    def weighed(self, scripts: Collection[str], log_odds: float) -> Line:
        """The same when something else speaks for these scripts (or against them, below 0) with such odds."""
        weights = np.ones_like(self.scripts)
        weights[[SCRIPTS.index(name) for name in scripts]] = np.exp(log_odds)
        product = self.scripts * weights
        return Line(product / product.sum(), self.orientations)

    def probability(self, scripts: Collection[str]) -> float:
        """The probability that the line is in one of these scripts."""
        return float(sum(self.scripts[SCRIPTS.index(name)] for name in scripts))


class ScriptClassifier:
    """The network of an ONNX file, on one thread: a line takes it about a millisecond."""

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises:
            ValueError: the file's classes are not :data:`SCRIPTS` and :data:`ORIENTATIONS`.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        metadata = self._session.get_modelmeta().custom_metadata_map
        classes = {"scripts": ",".join(SCRIPTS), "orientations": ",".join(ORIENTATIONS)}
        if metadata != classes:
            raise ValueError(f"{path} has the classes {metadata}; expected {classes}")

    def __call__(self, image: np.ndarray) -> Line:
        """Classify one line, uint8 [h, w, 3] (BGR)."""
        scripts, orientations = self._session.run(None, {"line": prepare(image)})
        return Line(scripts[0], orientations[0])


def prepare(image: np.ndarray) -> np.ndarray:
    """A line as the network's input.

    Args:
        image: uint8 [h, w, 3] (BGR), or [h, w], of any size.

    Returns:
        float32 [1, 1, 32, width] of zero mean and unit spread, which takes out the colours; the width follows from the
        aspect ratio. A line that is wider than 352 pixels is cut to the middle.
    """
    import cv2  # The fingerprint of what uses this names its classes, without loading a library of images.

    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image
    width = max(NARROWEST, round(HEIGHT * grey.shape[1] / grey.shape[0]))
    if width > WIDEST:
        kept = round(grey.shape[1] * WIDEST / width)
        start = (grey.shape[1] - kept) // 2
        grey, width = grey[:, start : start + kept], WIDEST
    method = cv2.INTER_AREA if grey.shape[0] > HEIGHT else cv2.INTER_LINEAR
    small = cv2.resize(grey, (width, HEIGHT), interpolation=method).astype(np.float32)
    centred = small - small.mean()
    return (centred / max(float(small.std()), _MIN_SPREAD))[None, None]
