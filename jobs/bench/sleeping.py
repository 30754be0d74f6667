"""Extractors and a decoder that sleep as long as the paper profile's take, and say when: for simulated clusters."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vemoclap_batch.config import Config, GpuCost, load_config
from vemoclap_batch.extractors.base import FRAMES, TEXT, WAVEFORM, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip, MediaInfo
from vemoclap_batch.media.sampling import Limits, Sampling

#: Seconds of audio of the videos whose time is slept, and of those that travel in their place.
AUDIO_S, SENT_AUDIO_S = 24.0, 2.0
#: Frames that travel are so small that blocks of a large cluster fit one machine's object store.
SIDE = 36
#: With OCR nine cores would have to feed each GPU; captions need it.
LEFT_OUT = ("ocr", "ocr_sentiment", "caption")


class SleepingSettings(ExtractorSettings):
    """Settings of :class:`Sleeping`."""

    seconds: float


class Sleeping(Extractor):
    """Sleeps for every video; columns ``node``, ``worker``, ``began`` and ``ended`` (of the batch, seconds)."""

    Settings = SleepingSettings
    columns = {
        "node": pa.string(),
        "worker": pa.int64(),
        "began": pa.float64(),
        "ended": pa.float64(),
        "text": pa.string(),
    }
    settings: SleepingSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Ask Ray where it runs."""
        super().__init__(settings, resources)
        import ray

        self._node = ray.get_runtime_context().get_node_id()

    def _extract(self, items: Sequence[Any]) -> list[Result]:
        began = time.time()
        time.sleep(self.settings.seconds * len(items))
        said = {"node": self._node, "worker": os.getpid(), "began": began, "ended": time.time(), "text": "it was"}
        return [Result(extras=said)] * len(items)


class SleepingFrames(Sleeping):
    """Reads frames."""

    name = "sleeping-frames"
    inputs = (FRAMES,)


class SleepingSound(Sleeping):
    """Reads audio."""

    name = "sleeping-sound"
    inputs = (WAVEFORM,)


class SleepingText(Sleeping):
    """Reads text."""

    name = "sleeping-text"
    inputs = (TEXT,)


def decode_s() -> float:
    """Seconds that decoding a video takes."""
    return load_config("paper").decode.cost.of(AUDIO_S)


def sent_bytes(sampling: Any) -> int:
    """Bytes of the frames and the audio (int16) that travel for a video."""
    return sampling.frames * 3 * SIDE * (SIDE * 16 // 9) + 2 * int(SENT_AUDIO_S * SAMPLE_RATE)


class SleepingDecoder:
    """In place of a :class:`~vemoclap_batch.media.worker.DecodeWorker`: black frames and silence.

    ``slower`` is that of :func:`sleeping_config`.
    """

    def __init__(self, sampling: Sampling, limits: Limits, slower: float) -> None:
        self._frames = np.zeros((sampling.frames, SIDE, SIDE * 16 // 9, 3), np.uint8)
        self._waveform = np.zeros(int(SENT_AUDIO_S * SAMPLE_RATE), np.float32)
        self._seconds = decode_s() * slower

    def chunks(self, video_id: str, uri: str, **_: bool) -> Iterator[tuple[Clip, MediaInfo]]:
        """Decode a video in one chunk."""
        time.sleep(self._seconds)
        times = np.arange(len(self._frames), dtype=float)
        yield Clip(video_id, self._frames, times, self._waveform, SENT_AUDIO_S), MediaInfo(SENT_AUDIO_S)


def sleeping_config(chains_per_gpu: int, slower: float = 1.0, block_videos: int | None = None) -> Config:
    """The paper profile without OCR and captions, every extractor asleep for as long as it takes on a GPU.

    Chains that share a GPU compute in turns: then a video takes as long as the GPU needs for one of each chain.

    Args:
        chains_per_gpu: so many share a GPU.
        slower: multiplies all times, so that a busy machine keeps up.
        block_videos: of a block, at most; without it the plan decides.
    """
    entries = {name: entry for name, entry in load_config("paper").extractors.items() if name not in LEFT_OUT}
    costs = {name: _gpu_cost(name, entry.resources.gpu_cost) for name, entry in entries.items()}
    alone_s = sum(cost.of(AUDIO_S) for cost in costs.values())
    busy_s = sum(cost.of(AUDIO_S) * cost.busy for cost in costs.values())
    shared = slower * max(1.0, chains_per_gpu * busy_s / alone_s)
    sleeping: dict[str, dict[str, Any]] = {}
    for name, entry in entries.items():
        seconds, busy = costs[name].of(AUDIO_S), costs[name].busy
        kind = "Text" if entry.input else "Sound" if name in {"asr", "beats"} else "Frames"
        sleeping[name] = {
            "class": f"bench.sleeping:Sleeping{kind}",
            "seconds": seconds * shared,
            "input": entry.input,
            "resources": {"gpu": True, "gpu_cost": {"per_video_s": seconds * slower, "busy": busy}},
        }
    return Config.model_validate(
        {
            "profile": "sleeping", "extractors": sleeping, "accelerator": "gpu", "sampling": {"short_side": SIDE},
            "pipeline": {
                "chains_per_gpu": chains_per_gpu, "block_videos": block_videos,
                "gpu_device": "cpu", "gpu_memory_gb": 80,
            },
            "decode": {"cost": {"per_video_s": decode_s() * slower}},
        }
    )  # fmt: skip


def _gpu_cost(name: str, cost: GpuCost | None) -> GpuCost:
    if cost is None:
        raise ValueError(f"the paper profile does not say what {name} takes of a GPU")
    return cost
