"""A tiny extractor whose trouble comes and goes: a file in a folder says which there is, for as long as it lies there.

``hold``: after two videos, or as many as it says, a process waits. ``cuda``: batches of more than three frames run out
of memory, as torch says it. ``host``: its process may not grow, and every frame takes memory; a long video's frames
take more than there is.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from tests.tiny import TinyFrames, TinySettings, _note
from vemoclap_batch.extractors.batching import Batches

MIB = 2**20
FRAMES_AT_A_TIME = 8


class OutOfMemoryError(RuntimeError):
    """Named and worded as torch's own."""


class FaultySettings(TinySettings):
    trouble: str | None = None


class FaultyFrames(TinyFrames):
    """Mean colour of every frame, a batch of frames at a time; notes which process begins which video."""

    name = "faulty-frames"
    Settings = FaultySettings

    def __init__(self, settings, resources):
        super().__init__(settings, resources)
        self._batches = Batches(FRAMES_AT_A_TIME)
        self._begun = 0

    def _one(self, clip):
        _note(self.settings, f"begin {clip.video_id} {os.getpid()}")
        self._begun += 1
        while self._has("hold") and self._begun > self._before_hold():
            time.sleep(0.02)
        self._batches.run(self._network, [(clip, at) for at in range(len(clip.frames))])
        return super()._one(clip)

    def _network(self, frames: Sequence[tuple]) -> list[None]:
        _note(self.settings, f"batch {len(frames)}")
        if self._has("cuda") and len(frames) > 3:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self._has("host"):
            with _no_more_than(250 * MIB):
                held = [np.empty((300 if len(clip.frames) > 12 else 100) * MIB, np.uint8) for clip, _ in frames]
                del held
        return [None] * len(frames)

    def _before_hold(self) -> int:
        with suppress(FileNotFoundError):
            return int(Path(self.settings.trouble, "hold").read_text() or 2)
        return self._begun

    def _has(self, trouble: str) -> bool:
        return self.settings.trouble is not None and Path(self.settings.trouble, trouble).exists()


@contextmanager
def _no_more_than(size: int) -> Iterator[None]:
    """Bound what this process may add to its address space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


PROFILE = """
pipeline: {block_videos: 3, cpu_chains: 1, commit_s: 0.2}
extractors:
  clip: {class: "tests.pipeline.faulty:FaultyFrames"}
  asr: {class: "tests.tiny:TinySound"}
"""
_HELD = """
pipeline: {{block_videos: 1, cpu_chains: 1}}
extractors:
  clip:
    class: "tests.pipeline.faulty:FaultyFrames"
    calls: {folder}/calls.txt
    trouble: {folder}
"""
LITE = """
pipeline: {block_videos: 1, commit_s: 0.2}
extractors:
  clip: {class: "vemoclap_batch.extractors.efficientnet:EfficientNetLite"}
  asr: {class: "vemoclap_batch.extractors.whisper:Whisper"}
"""


def held_profile(folder: Path) -> Path:
    """A profile of one extractor in one process, video by video; its trouble and ``calls.txt`` are in the folder."""
    path = folder / "held.yaml"
    path.write_text(_HELD.format(folder=folder))
    return path


def held(calls: Path, before: int = 2) -> bool:
    """Whether an extractor has begun the video after so many, at which it is held."""
    lines = calls.read_text().splitlines() if calls.exists() else []
    return sum(line.startswith("begin") for line in lines) > before
