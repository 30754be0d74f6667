"""Videos to measure with, made on the spot: any length, keyframes where they are wanted, and changed copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

#: How far the picture pans before it starts again, in pixels, and how many fields of grain take turns.
_PAN, _GRAINS = 256, 4


def write_video(
    path: Path, seconds: int, *, size: tuple[int, int] = (1280, 720), fps: int = 25, key_every_s: int = 2,
    rate: int = 44_100, preset: str = "veryfast", seed: int = 0,
) -> Path:  # fmt: skip
    """Write H.264 of a picture that pans under grain, and AAC of a tone with pauses.

    Written as it is made: memory does not grow with the length.

    Args:
        path: of the file; its suffix says in what container.
        seconds: how long it is.
        size: width, and height (a multiple of 4), in pixels.
        fps: frames per second.
        key_every_s: seconds from keyframe to keyframe; there are no others.
        rate: of the sound, in Hz.
        preset: of x264.
        seed: of the picture and the tone.
    """
    distance = str(fps * key_every_s)
    options = {"preset": preset, "g": distance, "keyint_min": distance, "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options=options)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=rate, layout="mono")
        pictures = _pictures(size, seed)
        for second in range(seconds):
            for number in range(second * fps, (second + 1) * fps):
                picture = av.VideoFrame.from_ndarray(next(pictures), format="yuv420p")
                picture.pts, picture.time_base = number, Fraction(1, fps)
                container.mux(video.encode(picture))
            container.mux(audio.encode(_sound(second, rate, seed)))
        container.mux(video.encode())
        container.mux(audio.encode())
    return path


def _pictures(size: tuple[int, int], seed: int) -> Iterator[np.ndarray]:
    """Endlessly, pictures as uint8 [height * 3 / 2, width]: the brightness, then the two colours of a quarter size."""
    width, height = size
    random = np.random.default_rng(seed)
    light = _blotches(random, (height, width + _PAN))
    colours = [_blotches(random, (height // 2, (width + _PAN) // 2)) for _ in range(2)]
    # Blotches end at 220, so the sum stays within 8 bits.
    grain = random.integers(0, 8, (_GRAINS, height, width), np.uint8)
    number = 0
    while True:
        at = number * 4 % _PAN
        parts = [light[:, at : at + width] + grain[number % _GRAINS]]
        parts += [colour[:, at // 2 : (at + width) // 2].reshape(height // 4, width) for colour in colours]
        yield np.concatenate(parts)
        number += 1


def _blotches(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A smooth random picture with detail of several sizes, uint8 in 30..220."""
    import cv2

    total = np.zeros(shape, np.float32)
    for detail in (8, 32, 128):
        coarse = random.random((shape[0] // detail + 2, shape[1] // detail + 2), np.float32)
        total += cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC) * detail
    total -= total.min()
    return (30 + 190 * total / total.max()).astype(np.uint8)


def _sound(second: int, rate: int, seed: int) -> av.AudioFrame:
    """One second of a tone, silent in every fifth."""
    times = np.arange(rate) / rate
    tone = 0.3 * np.sin(2 * np.pi * (220 + 20 * (seed % 10)) * times) * (second % 5 > 0)
    frame = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, second * rate, Fraction(1, rate)
    return frame


def write_variants(clips: Sequence[Path], count: int, folder: Path) -> list[Path]:
    """So many videos out of a few: round after round of copies, each round's cut a little shorter at the end.

    Nothing is encoded anew. The frames that are taken of a shorter video lie elsewhere, so no two copies give the same
    pictures; a copy keeps at least half of the clip.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rounds = -(-count // len(clips))
    written = []
    for number in range(count):
        turn, which = divmod(number, len(clips))
        source = clips[which]
        path = folder / f"{source.stem} {turn:04d}{source.suffix}"
        _copy(source, path, 1 - turn / rounds / 2)
        written.append(path)
    return written


def _copy(source: Path, target: Path, share: float) -> None:
    """Copy the beginning of each stream, packet by packet."""
    with av.open(str(source)) as original, av.open(str(target), "w") as container:
        streams = {
            stream.index: container.add_stream_from_template(stream)
            for stream in (*original.streams.video[:1], *original.streams.audio[:1])
        }
        end = float(original.duration or 0) / av.time_base * share
        for packet in original.demux([original.streams[index] for index in streams]):
            if packet.dts is not None and packet.time_base and float(packet.dts * packet.time_base) < end:
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
