"""Decoding 16 frames and the sound of a video, against decoding all of its frames."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from bench.published import full_decode
from bench.report import Report, in_turn
from bench.videos import write_video
from vemoclap_batch.media.clip import MediaInfo
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.sampling import Limits, Sampling

#: Seconds between keyframes: a video for seeking, and one as web sites send them.
KEYFRAMES_S = (1, 10)
_Decoder = Literal["decord", "pyav"]
_DECODERS: tuple[_Decoder, ...] = ("decord", "pyav")


def measure(seconds: int = 60, size: tuple[int, int] = (1280, 720), repeats: int = 5, threads: int = 1) -> Report:
    """Time each of our decoders and a full decode by PyAV, in turn, on videos made on the spot.

    Args:
        seconds: length of the videos.
        size: width and height in pixels.
        repeats: how often each is timed; the median counts.
        threads: of every decoder.
    """
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    notes: list[str] = []
    for key_every_s in KEYFRAMES_S:
        with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
            path = write_video(Path(folder) / "video.mp4", seconds, size=size, key_every_s=key_every_s)
            ways: dict[str, Callable[[], object]] = {
                "decord": partial(_ours, path, "decord", threads),
                "pyav": partial(_ours, path, "pyav", threads),
                "all frames": partial(full_decode, path, threads=threads),
            }
            # This is also what makes the first of them no slower for a file that was not read yet.
            used = {name: _ours(path, name, threads).decoder for name in _DECODERS}
            taken = in_turn(ways, repeats)
        if used["decord"] != "decord+pyav":
            notes.append(f"decord was not used: {used['decord']} was")
        for name, took in taken.items():
            faster = round(taken["all frames"] / took, 2)
            rows.append(
                {"keyframes_every_s": key_every_s, "decoder": name, "seconds": round(took, 3), "times_as_fast": faster}
            )
            if name in used:
                figures[f"{name}_keyframes_{key_every_s}_s"] = faster
    settings = {"seconds": seconds, "size": list(size), "frames": 16, "repeats": repeats, "threads": threads}
    return Report("decode", settings, rows, figures, notes)


def _ours(path: Path, decoder: _Decoder, threads: int) -> MediaInfo:
    """Decode as a worker of the pipeline does, in this process."""
    return decode(str(path), sampling=Sampling(), limits=Limits(decoder=decoder, threads=threads))[1]
