"""The ffmpeg program as a second decoder: every frame of a file, and its audio."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from vemoclap_batch.media.clip import SAMPLE_RATE

#: Seconds that decoding one file may take.
TIMEOUT_S = 120.0
#: What showinfo says of each frame: time, shape of a pixel, width and height.
_SHOWN = re.compile(r"showinfo.* pts_time: *(\S+) .* sar: *(\d+)/(\d+) s:(\d+)x(\d+) ")
#: What the program says of a frame that its decoder marked as damaged.
_CORRUPT = "corrupt decoded frame"


@dataclass
class Decoded:
    """All that the program gave.

    Attributes:
        frames: RGB uint8 [height, width, 3] each, turned upright, in the order they came.
        times: when each frame is shown, in seconds from the start of the file.
        corrupt: how many frames the decoder marked as damaged.
        aspect: width by height of the first frame as it is to be shown; None without a frame.
        audio: float32 [samples], mono, 16 kHz, one after the other without regard to time stamps.
    """

    frames: list[np.ndarray] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    corrupt: int = 0
    aspect: float | None = None
    audio: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


def find_program(given: Path | None = None) -> str | None:
    """The ffmpeg program: the one given, else imageio-ffmpeg's, else the one on the search path; None without any."""
    if given is not None:
        return shutil.which(given)
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return shutil.which("ffmpeg")


def encoders(program: str) -> list[str]:
    """The names of the encoders that a program has; none where it is no ffmpeg program."""
    try:
        command = [program, "-hide_banner", "-encoders"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return []
    return re.findall(r"^ [VA]\S{5} (\w\S*)", done.stdout, re.MULTILINE)


def decode(program: str, path: Path, scratch: Path) -> Decoded:
    """Decode a whole file; what it refuses is absent from the result.

    Args:
        program: the ffmpeg program.
        path: of the file.
        scratch: folder for the frames and the audio.

    Raises:
        subprocess.TimeoutExpired: it did not end within two minutes.
    """
    frames, audio = scratch / "frames.rgb", scratch / "audio.s16"
    as_decoded = ("-fps_mode", "passthrough", "-vf", "format=rgb24,showinfo=checksum=0", "-f", "rawvideo")
    said = _run(program, path, "0:v:0", *as_decoded, str(frames))
    _run(program, path, "0:a:0", "-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "s16le", str(audio))
    found = Decoded(corrupt=said.count(_CORRUPT))
    content = np.fromfile(frames, np.uint8) if frames.exists() else np.zeros(0, np.uint8)
    at = 0
    for shown in _SHOWN.finditer(said):
        up, down, width, height = map(int, shown.groups()[1:])
        frame = content[at : at + width * height * 3]
        if len(frame) < width * height * 3:
            break
        at += len(frame)
        found.frames.append(frame.reshape(height, width, 3))
        found.times.append(_seconds(shown[1]))
        if found.aspect is None:
            found.aspect = float(Fraction(width, height) * (Fraction(up, down) if up and down else 1))
    if audio.exists():
        found.audio = np.fromfile(audio, "<i2").astype(np.float32) / 32768
    for made in (frames, audio):
        made.unlink(missing_ok=True)
    return found


def _run(program: str, path: Path, stream: str, *output: str) -> str:
    """Decode one stream; returns what the program said."""
    # Threads would share out what is left in memory, of which broken frames are made.
    command = [program, "-hide_banner", "-nostdin", "-y", "-threads", "1", "-i", str(path), "-map", stream, *output]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    return done.stderr.decode("utf-8", "replace")


def _seconds(said: str) -> float:
    """A time as the program writes it; NOPTS becomes NaN."""
    try:
        return float(said)
    except ValueError:
        return float("nan")
