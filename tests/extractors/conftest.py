"""Real inputs and one loaded model of each lite extractor, for all tests of this folder."""

from __future__ import annotations

import wave
from pathlib import Path

import moonshine_voice
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFont

from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip

NO_FRAMES = np.zeros((0, 0, 0, 3), np.uint8)
NO_AUDIO = np.zeros(0, np.float32)


def frames_clip(*frames: np.ndarray, name: str = "clip") -> Clip:
    """A clip of frames, one every half second, without audio."""
    stacked = np.stack(frames) if frames else NO_FRAMES
    return Clip(name, stacked, 0.25 + 0.5 * np.arange(len(stacked)), NO_AUDIO, max(0.5, 0.5 * len(stacked)))


def audio_clip(waveform: np.ndarray, start_s: float = 0.0) -> Clip:
    """A clip of audio without frames."""
    return Clip("clip", NO_FRAMES, np.zeros(0), waveform, len(waveform) / SAMPLE_RATE, start_s)


def broken_clip() -> Clip:
    """A clip whose frames and audio no extractor can read."""
    nonsense = np.array([["not", "an", "image"]])
    return Clip("broken", nonsense, np.zeros(1), nonsense, 1.0)


def written(*lines: str, size: tuple[int, int] = (640, 360), font: int = 32) -> np.ndarray:
    """A plain image with lines of text on it."""
    image = Image.new("RGB", size, (30, 60, 90))
    for row, line in enumerate(lines):
        place = (40, 60 + 2 * row * font)
        ImageDraw.Draw(image).text(place, line, font=ImageFont.load_default(size=font), fill="white")
    return np.asarray(image)


def spoken(name: str, seconds: float | None = None) -> np.ndarray:
    """The start of a recording inside the moonshine-voice package, 16 kHz."""
    path = Path(moonshine_voice.__file__).parent / "assets" / name
    with wave.open(str(path)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 2**15
    wanted = min(len(samples) / rate, seconds or np.inf)
    times = np.arange(int(wanted * SAMPLE_RATE)) / SAMPLE_RATE
    return np.interp(times, np.arange(len(samples)) / rate, samples).astype(np.float32)


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """An image [512, 512, 3] with one face, of about 90 x 110 pixels."""
    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def efficientnet():
    from vemoclap_batch.extractors.efficientnet import EfficientNetLite

    return EfficientNetLite(EfficientNetLite.Settings(), Resources())


@pytest.fixture(scope="session")
def face_expression():
    from vemoclap_batch.extractors.face_expression import FaceExpression

    return FaceExpression(FaceExpression.Settings(), Resources())


@pytest.fixture(scope="session")
def ocr():
    from vemoclap_batch.extractors.ocr import PaddleOcr

    return PaddleOcr(PaddleOcr.Settings(), Resources())


@pytest.fixture(scope="session")
def whisper():
    from vemoclap_batch.extractors.whisper import Whisper

    return Whisper(Whisper.Settings(), Resources())


@pytest.fixture(scope="session")
def minilm():
    from vemoclap_batch.extractors.minilm import MiniLM

    return MiniLM(MiniLM.Settings(), Resources())
