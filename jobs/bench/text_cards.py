"""Cards with text in many scripts, sizes and directions, and what is written on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.text_sounds import unpacked

#: Script → (Debian package, file of a font) with which the classifier of scripts was not trained, and sentences.
DEJAVU = [("fonts-dejavu-core", "DejaVuSans.ttf"), ("fonts-freefont-ttf", "FreeSerif.ttf")]
SCRIPTS: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "latin": (DEJAVU, ["Good morning, how are you?", "I am so happy today", "Ich möchte nach Hause", "Où est la gare ?",
                       "¿Dónde está mi hermano?", "Dziękuję bardzo", "Güle güle arkadaşım", "THE LAST TRAIN LEFT"]),
    "chinese": ([("fonts-ipafont-gothic", "ipag.ttf"), ("fonts-ipafont-mincho", "ipam.ttf")],
                ["今日はとても楽しい", "駅はどこですか", "ありがとうございます", "怖くて眠れない", "我想回家",
                 "今天天气很好"]),
    "cyrillic": (DEJAVU, ["Доброе утро, как дела?", "Я сегодня очень рад", "Где мой брат?", "Дякую тобі", "Добро јутро",
                          "ПОСЛЕДНИЙ ПОЕЗД УШЁЛ", "РЕСТОРАН МОСКВА", "НЕТ ВЫХОДА"]),
    "greek": (DEJAVU, ["Καλημέρα, τι κάνεις;", "Είμαι πολύ χαρούμενος", "Πού είναι ο σταθμός;", "Ευχαριστώ πολύ",
                       "ΤΟ ΤΕΛΕΥΤΑΙΟ ΤΡΕΝΟ", "Θέλω να πάω σπίτι"]),
    "vietnamese": (DEJAVU, ["Cảm ơn bạn rất nhiều", "Tôi muốn về nhà", "Bạn đang ở đâu?", "Hôm nay tôi rất vui",
                            "Chúc mừng năm mới", "TẠM BIỆT BẠN"]),
    "hangul": ([("fonts-unfonts-core", "UnDotum.ttf"), ("fonts-unfonts-core", "UnBatang.ttf")],
               ["오늘은 정말 행복해요", "역이 어디에 있습니까", "감사합니다", "집에 가고 싶어요"]),
    "arabic": ([("fonts-dejavu-core", "DejaVuSans.ttf"), ("fonts-kacst", "KacstBook.ttf")],
               ["صباح الخير كيف حالك", "أريد أن أذهب إلى البيت", "أنا سعيد جدا اليوم", "شكرا جزيلا"]),
    "hebrew": (DEJAVU, ["בוקר טוב מה שלומך", "אני רוצה ללכת הביתה", "תודה רבה"]),
    "devanagari": ([("fonts-lohit-deva", "Lohit-Devanagari.ttf")], ["आज मैं बहुत खुश हूँ", "स्टेशन कहाँ है", "धन्यवाद दोस्त"]),
    "bengali": ([("fonts-lohit-beng-bengali", "Lohit-Bengali.ttf")], ["আমি আজ খুব খুশি", "স্টেশন কোথায়", "ধন্যবাদ বন্ধু"]),
    "tamil": ([("fonts-lohit-taml", "Lohit-Tamil.ttf")], ["நான் இன்று மிகவும் மகிழ்ச்சி", "நிலையம் எங்கே", "நன்றி நண்பா"]),
    "telugu": ([("fonts-lohit-telu", "Lohit-Telugu.ttf")], ["నేను ఈరోజు చాలా సంతోషం", "స్టేషన్ ఎక్కడ", "ధన్యవాదాలు"]),
    "thai": ([("fonts-tlwg-waree-ttf", "Waree.ttf")], ["วันนี้ฉันมีความสุขมาก", "สถานีอยู่ที่ไหน", "ขอบคุณมาก"]),
    "other": ([("fonts-dejavu-core", "DejaVuSans.ttf")],
              ["დილა მშვიდობისა", "Բարի լույս բարեկամ", "ძალიან ბედნიერი ვარ"]),
}  # fmt: skip
#: Heights of letters in pixels; frames are at most 480 pixels high.
SIZES = (16, 24, 40)
#: Latin and Japanese, turned: how, and the turn.
DIRECTIONS = {"mirrored": np.s_[:, ::-1], "upside down": np.s_[::-1, ::-1]}
_SIZE = (640, 360)
_COLOURS: list[tuple[str | tuple[int, int, int], str | tuple[int, int, int]]] = [
    ((20, 30, 60), "white"),
    ("white", "black"),
    ((200, 180, 40), (60, 0, 90)),
    ("black", (255, 230, 0)),
]


@dataclass
class Card:
    """An image, uint8 [h, w, 3], and the text on it; ``kind`` is a script, ``size`` that of its letters or a turn."""

    kind: str
    size: str
    image: np.ndarray
    text: str


def cards(folder: Path, few: bool = False) -> Iterator[Card]:
    """Every script in every size and font, two lines a card; then turned ones, vertical writing and columns."""
    for kind, (fonts, sentences) in SCRIPTS.items():
        for size in SIZES[1:2] if few else SIZES:
            for number, font in enumerate(fonts[:1] if few else fonts):
                chosen = _font(folder, font, size)
                for at in range(0, len(sentences), 2):
                    lines = sentences[at : at + 2]
                    yield Card(kind, f"{size} px", _drawn(lines, chosen, at + number), " ".join(lines))
    yield from _turned(folder)
    yield from _arranged(folder)


def _turned(folder: Path) -> Iterator[Card]:
    for kind in ("latin", "chinese"):
        fonts, sentences = SCRIPTS[kind]
        for at in range(0, len(sentences) - 1, 2):
            lines = sentences[at : at + 2]
            image = _drawn(lines, _font(folder, fonts[0], 32), at)
            for name, turn in DIRECTIONS.items():
                yield Card(kind, name, np.ascontiguousarray(image[turn]), " ".join(lines))
            for name, quarters in (("90° clockwise", 3), ("90° counter-clockwise", 1)):
                yield Card(kind, name, np.ascontiguousarray(np.rot90(image, quarters)), " ".join(lines))


def _arranged(folder: Path) -> Iterator[Card]:
    """Japanese in columns from right to left, Latin in two columns."""
    fonts, sentences = SCRIPTS["chinese"]
    for at in range(0, 3, 2):
        image = Image.new("RGB", _SIZE, _COLOURS[at][0])
        columns = sentences[at : at + 2]
        for column, line in enumerate(columns):
            for row, character in enumerate(line):
                place = (400 - 70 * column, 40 + 30 * row)
                ImageDraw.Draw(image).text(place, character, font=_font(folder, fonts[0], 28), fill=_COLOURS[at][1])
        yield Card("chinese", "vertical", np.asarray(image), "".join(columns))
    fonts, sentences = SCRIPTS["latin"]
    font = _font(folder, fonts[0], 22)
    for at in (0, 1):
        image = Image.new("RGB", _SIZE, _COLOURS[at][0])
        left, right = [each[:16].strip() for each in sentences[:3]], [each[:16].strip() for each in sentences[3:6]]
        for x, lines in ((30, left), (360, right)):
            for row, line in enumerate(lines):
                ImageDraw.Draw(image).text((x, 60 + 44 * row), line, font=font, fill=_COLOURS[at][1])
        yield Card("latin", "two columns", np.asarray(image), " ".join([*left, *right]))


def _font(folder: Path, font: tuple[str, str], size: int) -> ImageFont.FreeTypeFont:
    package, name = font
    return ImageFont.truetype(str(next(unpacked(package, folder).rglob(name))), size)


def _drawn(lines: list[str], font: ImageFont.FreeTypeFont, number: int) -> np.ndarray:
    ground, ink = _COLOURS[number % len(_COLOURS)]
    image = Image.new("RGB", _SIZE, ground)
    for row, line in enumerate(lines):
        ImageDraw.Draw(image).text((40, 70 + 2 * row * font.size), line, font=font, fill=ink)
    return np.asarray(image)
