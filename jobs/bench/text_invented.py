"""How often speech recognition writes words where nobody speaks: music, effects, noise, animals, silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.report import Report, show
from bench.text_sounds import middle, recordings, waveform
from vemoclap_batch.cli import options as opt
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip

#: Kind of sound → the packages that carry such.
PACKAGES = {
    "music": ("frozen-bubble-data", "asc-music", "fretsonfire-songs-sectoid"),
    "effects": ("sound-theme-freedesktop", "bomberclone-data", "pingus-data", "sonic-pi-samples"),
}
#: Seconds of a clip at most, and what is shorter than that is no clip.
_LONGEST_S, _SHORTEST_S = 30.0, 1.0
#: Clips of each kind, spread evenly over its files.
_OF_A_KIND = 40


@dataclass
class Sound:
    """A clip in which nobody speaks."""

    kind: str
    name: str
    waveform: np.ndarray


def sounds(folder: Path, of_a_kind: int = _OF_A_KIND) -> Iterator[Sound]:
    """Clips of every kind."""
    for kind, packages in PACKAGES.items():
        paths = [path for package in packages for path in recordings(package, folder)]
        found = 0
        for path in paths[:: max(1, len(paths) // of_a_kind)]:
            samples = middle(waveform(path), _LONGEST_S)
            if len(samples) >= _SHORTEST_S * SAMPLE_RATE and found < of_a_kind:
                found += 1
                yield Sound(kind, path.name, samples)
    yield from _generated(of_a_kind // 4)


def _generated(count: int) -> Iterator[Sound]:
    """White, pink and brown noise and digital silence, at several levels."""
    random = np.random.default_rng(0)
    yield Sound("silence", "digital", np.zeros(20 * SAMPLE_RATE, np.float32))
    for number in range(count):
        level = 10 ** random.uniform(-2.5, -0.5)
        white = random.standard_normal(10 * SAMPLE_RATE)
        frequencies = np.fft.rfftfreq(len(white), 1 / SAMPLE_RATE)
        for name, power in (("white", 0.0), ("pink", 0.5), ("brown", 1.0)):
            shaped = np.fft.irfft(np.fft.rfft(white) / np.maximum(frequencies, 20) ** power)
            samples = np.clip(level * shaped / np.abs(shaped).max(), -1, 1).astype(np.float32)
            yield Sound("noise", f"{name} {number}", samples)


def measure(folder: Path, of_a_kind: int = _OF_A_KIND) -> Report:
    """Run the lite profile's speech recognition on sounds without speech."""
    spec = resolve(load_config("lite"))["asr"]
    extractor = spec.cls(spec.settings, Resources(1, "cpu", spec.models))
    clips: dict[str, int] = {}
    invented: dict[str, list[str]] = {}
    for sound in sounds(folder, of_a_kind):
        length = len(sound.waveform) / SAMPLE_RATE
        empty = np.zeros((0, 0, 0, 3), np.uint8)
        [result] = extractor.extract([Clip(sound.name, empty, np.zeros(0), sound.waveform, length)])
        if isinstance(result, Failure):
            raise RuntimeError(f"{sound.name}: {result.message}")
        clips[sound.kind] = clips.get(sound.kind, 0) + 1
        if text := result.extras["text"]:
            invented.setdefault(sound.kind, []).append(f"{sound.name}: {text[:60]}")
    rows: list[dict[str, Any]] = [
        {"kind": kind, "clips": count, "with_words": len(invented.get(kind, []))} for kind, count in clips.items()
    ]
    total, wrong = sum(clips.values()), sum(map(len, invented.values()))
    figures = {"clips": total, "with_words": wrong, "percent": round(100 * wrong / total, 1)}
    notes = [text for texts in invented.values() for text in texts]
    return Report("text invented", {"profile": "lite", "extractor": "asr"}, rows, figures, notes)


def command(
    folder: Annotated[Path, typer.Option(help="Where packages are fetched to, and found the next time.")],
    of_a_kind: Annotated[int, typer.Option(help="Clips of each kind, at most.")] = _OF_A_KIND,
    as_json: opt.Json = False,
) -> None:
    """Words that speech recognition invents where nobody speaks."""
    show(measure(folder, of_a_kind), as_json)
