"""Sounds and voices that Debian packages carry: fetched with apt, unpacked into a folder, never installed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.decode import decode

_SUFFIXES = {".ogg", ".oga", ".wav", ".flac", ".mp3", ".opus"}


def unpacked(package: str, folder: Path) -> Path:
    """The files of a Debian package below ``folder``; what an earlier call unpacked is kept.

    Raises:
        RuntimeError: there is no apt, or it has no such package.
    """
    there = folder / package
    if not there.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        archives = list(folder.glob(f"{package}_*.deb"))
        if not archives:
            _run(["apt-get", "download", "-qq", package], folder)
            archives = list(folder.glob(f"{package}_*.deb"))
        # Under another name until it is whole.
        partial = folder / f"{package}.partial"
        _run(["dpkg-deb", "-x", str(archives[0]), str(partial)], folder)
        partial.rename(there)
    return there


def recordings(package: str, folder: Path) -> Iterator[Path]:
    """The sound files of a Debian package, in the order of their names."""
    for path in sorted(unpacked(package, folder).rglob("*")):
        if path.suffix.lower() in _SUFFIXES and path.is_file() and not path.is_symlink():
            yield path


def waveform(path: Path) -> np.ndarray:
    """The sound of a file, float32 [samples] at 16 kHz."""
    return decode(str(path), path.stem)[0].waveform


def middle(samples: np.ndarray, seconds: float) -> np.ndarray:
    """So many seconds out of the middle, or all there is."""
    length = round(seconds * SAMPLE_RATE)
    start = max(0, (len(samples) - length) // 2)
    return samples[start : start + length]


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeError(f"{command[0]} is missing: this benchmark takes its sounds from Debian packages") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(command)}: {error.stderr.strip()}") from error
