"""Makes the video and sound files that tests need: real containers, real encoders."""

from __future__ import annotations

import wave
from collections.abc import Iterable
from fractions import Fraction
from importlib import resources
from pathlib import Path

import av
import numpy as np

#: What ``make_clip`` encodes sound with, by the suffix of the file.
_AUDIO_CODECS = {".webm": "libopus", ".avi": "pcm_s16le", ".wav": "pcm_s16le", ".mp3": "mp3", ".flac": "flac"}
_VIDEO_CODECS = {".webm": "libvpx-vp9", ".avi": "mpeg4", ".gif": "gif"}


def pattern(count: int, size: tuple[int, int] = (64, 48), seed: int = 0) -> Iterable[np.ndarray]:
    """Moving coloured blocks, every picture different: RGB uint8 [height, width, 3], size = (width, height)."""
    width, height = size
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8 + 9, width // 8 + 9, 3), np.uint8)
    canvas = np.kron(blocks, np.ones((8, 8, 1), np.uint8))
    for number in range(count):
        x, y = number * 3 % 64, number * 5 % 64
        yield np.ascontiguousarray(canvas[y : y + height, x : x + width])


def sine(seconds: float, hertz: float = 440.0, amplitude: float = 0.5, rate: int = 44_100) -> np.ndarray:
    """float32 [samples], mono."""
    times = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def face(size: tuple[int, int] = (480, 360)) -> np.ndarray:
    """A picture with one large face (scikit-image's astronaut): RGB uint8, size = (width, height)."""
    import cv2
    from skimage.data import astronaut

    width, height = size
    picture = astronaut()[0:300, 60:460]  # [300, 400, 3]: head and shoulders
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def text(lines: str, size: tuple[int, int] = (640, 360), font_size: int = 40) -> np.ndarray:
    """Black text on white: RGB uint8, size = (width, height)."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).multiline_text((20, 20), lines, fill="black", font=ImageFont.load_default(font_size))
    return np.asarray(picture)


def speech(name: str = "two_cities") -> tuple[np.ndarray, int]:
    """Spoken English of the moonshine-voice package (``two_cities`` or ``beckett``): float32 [samples] and its rate."""
    path = resources.files("moonshine_voice") / "assets" / f"{name}.wav"
    with path.open("rb") as stream, wave.open(stream) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
        return samples.astype(np.float32).reshape(-1, sound.getnchannels()).mean(axis=1) / 32768, sound.getframerate()


def make_clip(
    path: Path | str,
    *,
    seconds: float = 2.0,
    fps: float = 10,
    size: tuple[int, int] = (64, 48),
    audio: bool | np.ndarray = True,
    audio_rate: int = 44_100,
    audio_start: float = 0.0,
    rotation: int = 0,
    frames: Iterable[np.ndarray] | None = None,
    times: Iterable[float] | None = None,
    video: bool = True,
    codec: str | None = None,
    audio_codec: str | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode a clip; the suffix of the path says in what container.

    Args:
        size: (width, height) of the stored picture.
        audio: True for a sine, False for none, or float [samples] or [channels, samples] at ``audio_rate``.
        audio_start: seconds by which the sound starts after the video.
        rotation: clockwise degrees that a player has to turn the picture by.
        frames: RGB uint8 pictures instead of the pattern; they set the size and, with ``fps``, the length.
        times: when each frame is shown, in seconds (a variable frame rate).
        options: of the video encoder (``{"bf": "0", "g": "10"}``).
        container_options: of the container (``{"movflags": "faststart"}``).
    """
    path = Path(path)
    pictures = list(pattern(round(seconds * fps), size) if frames is None else frames) if video else []
    if audio is True:
        length = len(pictures) / fps if pictures else seconds
        audio = sine(length, rate=audio_rate)
    with av.open(str(path), "w", options=container_options or {}) as container:
        picture_stream = _video_stream(container, path, pictures, fps, codec, pix_fmt, rotation, options)
        sound_stream = _audio_stream(container, path, audio, audio_rate, audio_codec)
        # Interleaved by time, as cameras write them: a cut file then loses the ends of both.
        packets = _video_packets(picture_stream, pictures, fps, times)
        packets += _audio_packets(sound_stream, audio, audio_rate, audio_start)
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            container.mux(packet)
    return path


def truncate(path: Path | str, fraction: float) -> Path:
    """Cut a file in place, keeping this fraction of its bytes."""
    path = Path(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


def mutate(path: Path | str, seed: int, changes: int = 50, start: float = 0.0) -> Path:
    """Overwrite random bytes of a file in place, none before the fraction ``start``."""
    path = Path(path)
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    random = np.random.default_rng(seed)
    places = random.integers(int(len(content) * start), len(content), changes)
    content[places] = random.integers(0, 256, changes, np.uint8)
    path.write_bytes(content.tobytes())
    return path


def _video_stream(container, path, pictures, fps, codec, pix_fmt, rotation, options):
    if not pictures:
        return None
    codec = codec or _VIDEO_CODECS.get(path.suffix, "libx264")
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options or {})
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt = "rgb8" if codec == "gif" else pix_fmt
    stream.codec_context.thread_count = 1
    if rotation:
        stream.set_display_rotation(-rotation)
    return stream


def _audio_stream(container, path, audio, rate, codec):
    if audio is False:
        return None
    codec = codec or _AUDIO_CODECS.get(path.suffix, "aac")
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(np.atleast_2d(audio))]
    # Opus knows a few rates only.
    return container.add_stream(codec, rate=48_000 if codec == "libopus" else rate, layout=layout)


def _video_packets(stream, pictures, fps, times):
    if stream is None:
        return []
    moments = list(times) if times is not None else [number / fps for number in range(len(pictures))]
    tick = Fraction(1, 1000) if times is not None else 1 / Fraction(fps).limit_denominator(1001)
    if times is not None:
        stream.codec_context.time_base = tick
    packets = []
    for picture, moment in zip(pictures, moments, strict=True):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = round(moment / float(tick)), tick
        packets += stream.encode(frame)
    return packets + stream.encode()


def _audio_packets(stream, audio, rate, start):
    if stream is None:
        return []
    samples = np.atleast_2d(np.asarray(audio, np.float32))
    packets = []
    resampler = av.AudioResampler(format=stream.format, layout=stream.layout, rate=stream.rate)
    for first in range(0, samples.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples[:, first : first + 1024]), format="fltp", layout=stream.layout.name
        )
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = round(start * rate) + first
        for converted in resampler.resample(frame):
            packets += stream.encode(converted)
    return packets + stream.encode()
