"""Makes the file of a recipe with the ffmpeg program."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from fuzz.media_kinds import AUDIO_CODECS, MATRICES
from fuzz.numbered import PART, numbered_frame, tones
from fuzz.random_media import Recipe

#: Seconds that one call of the ffmpeg program may take.
TIMEOUT_S = 120.0
#: Seconds after which the 33-bit time stamps of a transport stream start again at zero.
_WRAP_S = 2**33 / 90_000
_JUMP_S = 5000.0
#: Palettes are made for the file at hand; nothing is dithered, so that blocks stay black and white.
_TO_PALETTE = "split[a][b];[a]palettegen=reserve_transparent=0[p];[b][p]paletteuse=dither=none"
_QUIET = ("-hide_banner", "-nostdin", "-y", "-v", "error")


class NotMade(Exception):
    """The ffmpeg program does not write this combination; what it said."""


def make(recipe: Recipe, path: Path, program: str, scratch: Path) -> None:
    """Write the file of a recipe.

    Args:
        recipe: what to make.
        path: where; its suffix is the recipe's.
        program: the ffmpeg program.
        scratch: folder for what is needed on the way.

    Raises:
        NotMade: the program refused, or took longer than two minutes.
    """
    parts = [scratch / f"part {part}{recipe.suffix}" for part in range(len(recipe.frames))]
    starts = [0.0, *accumulate(recipe.length_s(part) for part in range(len(parts)))]
    for part, whole in enumerate(parts):
        _encode(recipe, part, whole, program, scratch, _shift_s(recipe.join, part, starts))
        if recipe.matrix != "none":
            _turn(recipe, whole, program, scratch)
    content = b"".join(part.read_bytes() for part in parts)
    if recipe.cut == "end":
        content = content[: int(len(content) * (1 - recipe.cut_share))]
    elif recipe.cut == "start":
        content = content[int(len(content) * recipe.cut_share) :]
    path.write_bytes(content)
    if recipe.cut.startswith("copy"):
        _copy_from(recipe, path, program, scratch, recipe.cut_share * starts[-1])


def run(program: str, arguments: Sequence[str | Path], given: bytes | None = None) -> None:
    """Run the ffmpeg program to its end.

    Raises:
        NotMade: it failed or took too long.
    """
    command = [program, *_QUIET, *map(str, arguments)]
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotMade(f"no end after {TIMEOUT_S:g} s") from error
    if done.returncode:
        raise NotMade(done.stderr.decode("utf-8", "replace").strip()[:300] or f"exit status {done.returncode}")


def _encode(recipe: Recipe, part: int, path: Path, program: str, scratch: Path, shift_s: float) -> None:
    width, height = _stored_size(recipe)
    frames = b"".join(_stored(recipe, part))
    source: list[str | Path] = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}"]
    source += ["-framerate", recipe.rate, "-i", "pipe:0"]
    encoding = ["-vf", _filters(recipe), *_video_options(recipe), "-fps_mode", "passthrough", "-threads", "1"]
    if recipe.video == "mpeg4 packed" and recipe.suffix != ".avi":
        # Xvid packs for AVI only; such files were copied from there.
        packed = scratch / "packed.avi"
        run(program, [*source, *encoding, "-f", "avi", packed], frames)
        source, encoding, frames = ["-fflags", "+genpts", "-i", packed], ["-c:v", "copy"], b""
    audio: list[str | Path] = []
    if recipe.audio != "none":
        source += _audio_input(recipe, part, scratch)
        audio = ["-map", "0:v", "-map", "1:a", *_audio_options(recipe, part)]
    # Equal serial numbers would make one stream of the parts of an Ogg file.
    muxer = ["-serial_offset", str(part)] if recipe.container.muxer == "ogg" else ["-fflags", "+bitexact"]
    muxer += ["-output_ts_offset", f"{shift_s:.6f}"] if shift_s else []
    run(program, [*source, *audio, *encoding, *muxer, *recipe.variant, "-f", recipe.container.muxer, path], frames)


def _audio_input(recipe: Recipe, part: int, scratch: Path) -> list[str | Path]:
    rate = recipe.audio_rates[part]
    samples = tones(part, recipe.length_s(part) - recipe.late_s, rate)
    path = scratch / "audio.f32"
    path.write_bytes(samples.astype("<f4").tobytes())
    return ["-f", "f32le", "-ar", str(rate), "-ac", "1", "-i", path]


def _audio_options(recipe: Recipe, part: int) -> list[str]:
    encoder, _, _, options = AUDIO_CODECS[recipe.audio]
    # Every channel is the source: a surround mixer would put mono into the middle one.
    same = f"pan={ {1: 'mono', 2: 'stereo', 6: '5.1'}[recipe.channels] }|" + "|".join(
        f"c{channel}=c0" for channel in range(recipe.channels)
    )
    late = f",asetpts=PTS+{recipe.late_s}/TB" if recipe.late_s else ""
    return ["-af", same + late, "-c:a", encoder, *options, "-ar", str(recipe.audio_rates[part])]


def _video_options(recipe: Recipe) -> list[str]:
    codec = recipe.codec
    options = ["-c:v", codec.encoder, *codec.options]
    if recipe.pixels != "pal8":
        options += ["-pix_fmt", recipe.pixels]
    if codec.groups != (1,):
        options += ["-g", str(recipe.group)]
    if max(codec.b_frames):
        options += ["-bf", str(recipe.b_frames)]
    return options


def _filters(recipe: Recipe) -> str:
    filters = []
    if recipe.slow != "none":
        ticks = recipe.ticks(0)
        turn = int(np.flatnonzero(np.diff(ticks, 2))[0]) + 1  # The frame from which the steps are others.
        first, last = ticks[1] - ticks[0], ticks[-1] - ticks[-2]
        filters.append(f"setpts='if(lt(N,{turn}),N*{first},{ticks[turn]}+(N-{turn})*{last})'")
    if recipe.shape != "1/1":
        filters.append(f"setsar={recipe.shape}")
    if recipe.pixels == "pal8":
        filters.append(_TO_PALETTE)
    return ",".join(filters) or "null"


def _stored(recipe: Recipe, part: int) -> Iterator[bytes]:
    """The frames of a part as they are stored: turned back, so that a player shows them upright."""
    degrees, mirrored = MATRICES.get(recipe.matrix, (0, False))
    for number in range(recipe.frames[part]):
        shown = numbered_frame(part * PART + number, recipe.size)
        stored = np.rot90(shown[:, ::-1] if mirrored else shown, degrees // 90)
        yield np.ascontiguousarray(stored).tobytes()


def _stored_size(recipe: Recipe) -> tuple[int, int]:
    width, height = recipe.size
    return (height, width) if MATRICES.get(recipe.matrix, (0, False))[0] % 180 else (width, height)


def _turn(recipe: Recipe, path: Path, program: str, scratch: Path) -> None:
    """Write the display matrix into a file."""
    degrees, mirrored = MATRICES[recipe.matrix]
    turned = scratch / f"turned{recipe.suffix}"
    # FFmpeg turns counter-clockwise, and mirrors afterwards.
    matrix = ["-display_rotation:v:0", str(-degrees), *(["-display_hflip:v:0"] if mirrored else [])]
    run(program, [*matrix, "-i", path, "-c", "copy", *recipe.variant, "-f", recipe.container.muxer, turned])
    turned.replace(path)


def _copy_from(recipe: Recipe, path: Path, program: str, scratch: Path, start_s: float) -> None:
    """What editors make that do not encode anew: the rest from a moment on, from the key frame before or without."""
    rest = scratch / f"rest{recipe.suffix}"
    where: list[str | Path] = ["-ss", f"{start_s:.3f}"]
    source: list[str | Path] = ["-i", path]
    command = [*source, *where, "-copyinkf"] if recipe.cut == "copy mid-group" else [*where, *source]
    run(program, [*command, "-c", "copy", *recipe.variant, "-f", recipe.container.muxer, rest])
    rest.replace(path)


def _shift_s(join: str, part: int, starts: Sequence[float]) -> float:
    """By how much the time stamps of a part are moved, in seconds."""
    if join == "onward":
        return starts[part]
    if join == "jump":
        return starts[part] + part * _JUMP_S
    if join == "wrap":
        return _WRAP_S - starts[-1] / 2 + starts[part]
    return 0.0
