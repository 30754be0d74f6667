"""Clips with text as videos have it: subtitles, signs, text that scrolls, pages full of it; and what stands in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont

from bench.text_cards import SCRIPTS as WRITTEN
from bench.text_sounds import unpacked
from vemoclap_batch.media.clip import Clip
from vemoclap_batch.media.decode import decode

FRAMES = 16
_SIZES = ((640, 360), (480, 360), (360, 640), (320, 240))
_SENTENCES = [
    "I never said that he took it", "Where were you last night?", "Please, don't leave me here",
    "It's too late for that",
    "Wir müssen sofort gehen", "Tu ne comprends rien", "Nothing will ever be the same", "Look at me. Look at me!",
    "That was the best day of my life", "Call me when you get home", "Who is there?", "We have 24 hours left",
]  # fmt: skip
_SIGNS = [
    "EXIT",
    "HOTEL ROMA",
    "Platform 9",
    "OPEN 24 H",
    "No parking",
    "Bakery",
    "Main Street",
    "SALE -50%",
    "Welcome",
]
_CREDITS = [
    "Directed by", "Anna Lindqvist", "Written by", "Peter Holloway", "Music", "The Northern Quartet", "Camera",
    "J. Moreau", "Editing", "Sofia Marino", "Sound", "Kim & Daughters", "Costumes", "Helena Brandt", "With thanks to",
    "The city of Turin",
]  # fmt: skip

_Colour = tuple[int, int, int]
_BOARDS: list[tuple[_Colour, _Colour]] = [
    ((20, 80, 40), (255, 255, 255)),
    ((255, 255, 255), (20, 20, 90)),
    ((200, 170, 30), (0, 0, 0)),
]


@dataclass
class TextClip:
    """A clip, its kind, and for each frame the lines on it from top to bottom."""

    kind: str
    clip: Clip
    lines: list[list[str]]


def text_clips(folder: Path, count: int) -> Iterator[TextClip]:
    """``count`` clips of each kind, as H.264 and decoded as the pipeline does; fonts are unpacked into the folder."""
    fonts = [next(unpacked(package, folder).rglob(name)) for package, name in WRITTEN["latin"][0]]
    japanese = next(unpacked("fonts-ipafont-gothic", folder).rglob("ipag.ttf"))
    makers: dict[str, Callable[[_Maker], Iterator[tuple[np.ndarray, list[str]]]]] = {
        "subtitles": _Maker.subtitles, "signs": _Maker.signs, "credits": _Maker.credits, "ticker": _Maker.ticker,
        "pages": _Maker.pages, "no text": _Maker.nothing,
    }  # fmt: skip
    for place, (kind, make) in enumerate(makers.items()):
        for number in range(count):
            maker = _Maker([*fonts, japanese], 100 * place + number)
            frames, lines = zip(*make(maker), strict=True)
            yield TextClip(kind, _through_h264(frames, folder / f".{kind}.mp4"), list(lines))


class _Maker:
    """Draws the frames of one clip."""

    def __init__(self, fonts: Sequence[Path], seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.fonts = fonts
        self.size = _SIZES[seed % len(_SIZES)]
        # Those with which the network that tells whether there is text was not trained.
        pictures = (skimage.data.astronaut, skimage.data.coffee, skimage.data.chelsea, skimage.data.rocket)
        self.picture = pictures[seed % len(pictures)]()

    def subtitles(self) -> Iterator[tuple[np.ndarray, list[str]]]:
        """One or two lines at the bottom of a moving picture, another text every four frames."""
        font, stroke = self._font(int(self.random.integers(15, 30))), int(self.random.integers(1, 3))
        ink = [(255, 255, 255), (255, 240, 60)][int(self.random.integers(2))]
        sentences = list(self.random.permutation(_SENTENCES))
        for at, background in enumerate(self._moving()):
            lines = sentences[2 * (at // 4) : 2 * (at // 4) + 1 + at // 4 % 2]
            image, written = Image.fromarray(background), []
            for row, line in enumerate(self._fitting(lines, font)):
                place = (self.size[0] / 2, self.size[1] - 1.35 * font.size * (len(lines) - row) - 6)
                ImageDraw.Draw(image).text(
                    place, line, font=font, fill=ink, anchor="ma", stroke_width=stroke, stroke_fill="black"
                )
                written.append(line)
            yield np.asarray(image), written

    def signs(self) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Boards that are seen from the side, in a picture that moves."""
        texts = list(self.random.choice(_SIGNS, 2, replace=False))
        boards = [self._board(text) for text in texts]
        corners = [self.random.uniform(-0.15, 0.15, (4, 2)) for _ in boards]
        for at, background in enumerate(self._moving()):
            frame = background.copy()
            for number, (board, moved) in enumerate(zip(boards, corners, strict=True)):
                offset = (20 + 3 * at, 20 + 2 * at + number * self.size[1] // 2)
                frame = _pasted(frame, board, moved, offset)
            yield frame, texts

    def credits(self) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Lines on black that move up."""
        font, step = self._font(int(self.random.integers(16, 26))), float(self.random.uniform(15, 60))
        height = 1.7 * font.size
        for at in range(FRAMES):
            image, there = Image.new("RGB", self.size, (4, 4, 6)), []
            for row, line in enumerate(_CREDITS):
                top = self.size[1] * 0.8 + row * height - at * step
                ImageDraw.Draw(image).text((self.size[0] / 2, top), line, font=font, fill=(230, 230, 230), anchor="ma")
                if 0 <= top <= self.size[1] - height:
                    there.append(line)
            yield np.asarray(image), there

    def ticker(self) -> Iterator[tuple[np.ndarray, list[str]]]:
        """A line that moves to the left under a moving picture; what is cut at either side is not counted."""
        font = self._font(20)
        words = " ".join(map(str, self.random.permutation(_SENTENCES))).split()
        for at, background in enumerate(self._moving()):
            image = Image.fromarray(background)
            draw = ImageDraw.Draw(image)
            draw.rectangle((0, self.size[1] - 34, *self.size), fill=(160, 10, 20))
            left, inside = 10.0 - 47 * at, []
            for word in words:
                draw.text((left, self.size[1] - 30), word, font=font, fill="white")
                right = left + draw.textlength(word, font)
                if left >= 0 and right <= self.size[0]:
                    inside.append(word)
                left = right + draw.textlength(" ", font)
            yield np.asarray(image), [" ".join(inside)]

    def pages(self) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Slides of ten lines, each for four frames, with a small moving picture in a corner."""
        font = self._font(self.size[1] // 22)
        japanese = ImageFont.truetype(str(self.fonts[-1]), int(font.size))
        moving = list(self._moving())
        for at in range(FRAMES):
            random = np.random.default_rng(at // 4)
            image = Image.new("RGB", self.size, (245, 245, 240) if at // 4 % 2 else (20, 30, 60))
            ink = (20, 20, 20) if at // 4 % 2 else (240, 240, 240)
            lines = self._fitting(list(random.permutation(_SENTENCES))[:8], font)
            lines += list(random.permutation(WRITTEN["chinese"][1])[:2])
            for row, line in enumerate(lines):
                chosen = japanese if row >= 8 else font
                ImageDraw.Draw(image).text((24, 16 + row * 1.6 * font.size), line, font=chosen, fill=ink)
            corner = Image.fromarray(moving[at]).resize((self.size[0] // 5, self.size[1] // 5))
            image.paste(corner, (self.size[0] - corner.width, self.size[1] - corner.height))
            yield np.asarray(image), lines

    def nothing(self) -> Iterator[tuple[np.ndarray, list[str]]]:
        """A moving picture."""
        yield from ((frame, []) for frame in self._moving())

    def _moving(self) -> Iterator[np.ndarray]:
        """A window that moves over the picture and zooms in."""
        wide, high = self.size
        for at in range(FRAMES):
            share = 0.9 - 0.02 * at
            height = share * min(self.picture.shape[0], self.picture.shape[1] * high / wide)
            width = height * wide / high
            left = (self.picture.shape[1] - width) * at / FRAMES
            top = (self.picture.shape[0] - height) / 2
            box = (left, top, left + width, top + height)
            yield np.asarray(Image.fromarray(self.picture).resize(self.size, Image.Resampling.BICUBIC, box=box))

    def _font(self, size: int) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(str(self.fonts[int(self.random.integers(len(self.fonts) - 1))]), size)

    def _fitting(self, lines: Sequence[str], font: ImageFont.FreeTypeFont) -> list[str]:
        """The lines, without the last words of those that are too wide."""
        fitting = []
        for line in map(str, lines):
            words = line.split()
            while len(words) > 1 and font.getlength(" ".join(words)) > self.size[0] - 40:
                words.pop()
            fitting.append(" ".join(words))
        return fitting

    def _board(self, text: str) -> np.ndarray:
        font = self._font(int(self.random.integers(18, 44)))
        ground, ink = _BOARDS[int(self.random.integers(len(_BOARDS)))]
        wide = min(int(font.getlength(text)) + 24, self.size[0] - 80)
        image = Image.new("RGB", (wide, int(1.6 * font.size)), ground)
        ImageDraw.Draw(image).text((12, 0.15 * font.size), text, font=font, fill=ink)
        return np.asarray(image)


def _pasted(frame: np.ndarray, board: np.ndarray, moved: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    high, wide = board.shape[:2]
    corners = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32)
    target = corners + moved.astype(np.float32) * high + np.array(offset, np.float32)
    matrix = cv2.getPerspectiveTransform(corners, target)
    size = (frame.shape[1], frame.shape[0])
    share = cv2.warpPerspective(np.ones((high, wide), np.float32), matrix, size)[:, :, None]
    drawn = cv2.warpPerspective(board, matrix, size, flags=cv2.INTER_AREA)
    return (frame * (1 - share) + drawn * share).astype(np.uint8)


def _through_h264(frames: Sequence[np.ndarray], path: Path) -> Clip:
    """The frames as they come out of a file with one of them a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": "27"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    clip = decode(str(path), path.stem)[0]
    path.unlink()
    assert len(clip.frames) == len(frames)
    return clip
