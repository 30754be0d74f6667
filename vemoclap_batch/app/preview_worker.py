"""The process that makes a preview of a video and pictures of some moments: small, and what every browser plays.

It reads one JSON object from standard input: ``path``, ``preview``, ``folder``, ``times``, ``seconds``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from vemoclap_batch.media.container import open_media

_SHORT_SIDE, _FPS, _RATE = 360, 15, 44_100
_MEMORY = 3 * 2**30


def make_preview(path: str, preview: Path, seconds: float) -> None:
    """Write a video as H.264 and AAC, at most 360 pixels high or wide and 15 frames a second.

    What is damaged is left out.
    """
    part = preview.with_suffix(".part")
    with open_media(path) as source, av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as target:
        picture = source.streams.video[0] if source.streams.video else None
        sound = source.streams.audio[0] if source.streams.audio else None
        shown: Any = None
        heard: Any = target.add_stream("aac", rate=_RATE, layout="stereo") if sound else None
        resampler = av.AudioResampler("fltp", "stereo", _RATE)
        first, next_at = None, 0.0
        streams = [stream for stream in (picture, sound) if stream is not None]
        for frame in _decoded(source, streams):
            if frame.time is None:
                continue
            first = frame.time if first is None else first
            time = max(0.0, frame.time - first)
            if time > seconds:
                break
            if isinstance(frame, av.AudioFrame):
                for each in _resampled(resampler, frame):
                    target.mux(heard.encode(each))
            elif time >= next_at:
                image = upright(frame)
                if shown is None:
                    shown = target.add_stream("libx264", rate=_FPS, options={"preset": "veryfast", "crf": "27"})
                    shown.width, shown.height, shown.pix_fmt = image.width, image.height, "yuv420p"
                    shown.codec_context.time_base = Fraction(1, 1000)
                    shown.codec_context.thread_count = 1
                if (image.width, image.height) != (shown.width, shown.height):
                    image = image.resize((shown.width, shown.height))
                small = av.VideoFrame.from_image(image)
                small.pts, small.time_base = round(time * 1000), Fraction(1, 1000)
                target.mux(shown.encode(small))
                next_at = time + 1 / _FPS - 1e-3
        for stream in (shown, heard):
            if stream is not None:
                target.mux(stream.encode(None))
    part.replace(preview)


def _decoded(source: Any, streams: list[Any]) -> Iterator[Any]:
    for packet in source.demux(streams):
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            continue


def _resampled(resampler: Any, frame: Any) -> list[Any]:
    frame.pts = None
    try:
        return resampler.resample(frame)
    except (av.error.FFmpegError, ValueError):  # The format changed midway.
        return []


def upright(frame: Any) -> Image.Image:
    """Return a frame as it is to be looked at, small, with even sides."""
    scale = min(1.0, _SHORT_SIDE / min(frame.width, frame.height))
    width, height = (max(2, round(side * scale)) for side in (frame.width, frame.height))
    pixels = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    turns = round((frame.rotation or 0) / 90) % 4
    image = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)))
    return image.crop((0, 0, max(2, image.width // 2 * 2), max(2, image.height // 2 * 2)))


def take_pictures(preview: Path, folder: Path, times: list[float]) -> None:
    """Write the frames of a preview at some times as ``<stem>-<number>.jpg``, in ascending order of time."""
    wanted = sorted(range(len(times)), key=lambda number: times[number])
    with av.open(str(preview)) as source:
        if not source.streams.video:
            return
        last = None
        for frame in source.decode(video=0):
            while wanted and last is not None and frame.time is not None and frame.time > times[wanted[0]] + 1e-3:
                last.to_image().save(folder / f"{preview.stem}-{wanted.pop(0)}.jpg", quality=80)
            last = frame
            if not wanted:
                return
        while wanted and last is not None:
            last.to_image().save(folder / f"{preview.stem}-{wanted.pop(0)}.jpg", quality=80)


def main() -> None:
    """Answer one request."""
    os.nice(10)
    request = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    preview = Path(request["preview"])
    make_preview(request["path"], preview, request["seconds"])
    take_pictures(preview, Path(request["folder"]), request["times"])


if __name__ == "__main__":
    main()
