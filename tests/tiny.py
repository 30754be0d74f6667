"""Two tiny extractors without torch, for tests of the pipeline: real frames and waveforms, trivial models.

A video whose name says so misbehaves: ``crash`` kills the process, ``endless`` never ends, ``raise`` raises.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from vemoclap_batch.extractors.base import FRAMES, TEXT, WAVEFORM, Extractor, ExtractorSettings, Result


class TinySettings(ExtractorSettings):
    scale: float = 1.0
    calls: str | None = None
    delay_s: float = 0.0


def _note(settings: TinySettings, what: str) -> None:
    if settings.calls:
        with Path(settings.calls).open("a") as file:
            file.write(f"{what}\n")


class Tiny(Extractor):
    """What tiny extractors have in common: settings, a space and width of their own, a note when they load."""

    Settings = TinySettings
    own_space: str | None = None
    own_width = 0

    def __init__(self, settings, resources):
        super().__init__(settings, resources)
        _note(settings, f"load {self.name.removeprefix('tiny-')}")

    @classmethod
    def space(cls, settings):
        return cls.own_space

    @classmethod
    def width(cls, settings):
        return cls.own_width


class TinyFrames(Tiny):
    """Mean colour of every frame."""

    name = "tiny-frames"
    inputs = (FRAMES,)
    sequence = True
    columns = {"brightness": pa.float32()}
    own_space, own_width = "tiny/colour", 3

    def _extract(self, items):
        return [self._one(clip) for clip in items]

    def _one(self, clip):
        _misbehave(clip.video_id)
        time.sleep(self.settings.delay_s)
        _note(self.settings, f"frames {clip.video_id}")
        colours = clip.frames.reshape(len(clip.frames), -1, 3).mean(1).astype(np.float32) if len(clip.frames) else None
        if colours is None:
            return Result(np.zeros((0, 3), np.float32), np.zeros(0), np.zeros(0), {"brightness": None})
        times = clip.frame_times
        return Result(colours * self.settings.scale, times, times, {"brightness": float(colours.mean())})


class TinySound(Tiny):
    """Loudness of the audio, in words."""

    name = "tiny-sound"
    inputs = (WAVEFORM,)
    columns = {"text": pa.string()}

    def __init__(self, settings, resources):
        super().__init__(settings, resources)
        if settings.scale == -2:
            os.kill(os.getpid(), signal.SIGKILL)
        if settings.scale < 0:
            raise ValueError("this model does not load")

    def _extract(self, items):
        results = []
        for clip in items:
            if "wave" in clip.video_id:
                _misbehave(clip.video_id)
            _note(self.settings, f"sound {clip.video_id}")
            level = float(np.sqrt((clip.waveform**2).mean())) if len(clip.waveform) else 0.0
            text = f"level {level * self.settings.scale:.4f}" if level else ""
            results.append(Result(np.zeros((0, 0), np.float32), extras={"text": text}))
        return results


class TinyText(Tiny):
    """Length of a text."""

    name = "tiny-text"
    inputs = (TEXT,)
    own_space, own_width = "tiny/length", 2

    def _extract(self, items):
        _note(self.settings, f"text {len(items)}")
        empty = np.zeros((0, 2), np.float32)
        return [Result(np.array([[len(text), self.settings.scale]], np.float32) if text else empty) for text in items]


def _misbehave(video_id: str) -> None:
    if "crash" in video_id:
        os.kill(os.getpid(), signal.SIGKILL)
    if "endless" in video_id:
        time.sleep(3600)
    if "raise" in video_id:
        raise ValueError(f"cannot bear {video_id}")


PROFILE = """
pipeline: {block_videos: 3, commit_s: 0.2}
extractors:
  clip: {class: "tests.tiny:TinyFrames"}
  asr: {class: "tests.tiny:TinySound"}
  asr_sentiment: {class: "tests.tiny:TinyText", input: asr}
"""


def on_gpus(profile: str, *names: str) -> str:
    """A profile in which these extractors have a share of a GPU that is there by name alone."""
    content = yaml.safe_load(profile)
    content["accelerator"] = "gpu"
    content.setdefault("pipeline", {})["gpu_device"] = "cpu"
    for name in names:
        content["extractors"][name]["resources"] = {"gpu": True}
    return yaml.safe_dump(content)


#: Of frames alone: every extractor is one more process to start, so tests of other things than texts use this.
FRAMES_PROFILE = """
pipeline: {block_videos: 3, commit_s: 0.2}
extractors:
  clip: {class: "tests.tiny:TinyFrames"}
"""


def tiny_checkpoint(folder, names=("clip", "asr_sentiment")):
    """A fusion checkpoint with random weights for these extractors; returns its folder."""
    import torch

    from vemoclap_batch.config import LABELS
    from vemoclap_batch.fusion.checkpoint import Checkpoint
    from vemoclap_batch.fusion.model import AttentionClassifier
    from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec

    features = {
        "clip": FeatureSpec(width=3, length=16, sequence=True, space="tiny/colour"),
        "asr_sentiment": FeatureSpec(width=2, length=1, sequence=False, space="tiny/length"),
    }
    torch.manual_seed(0)
    features = {name: features[name] for name in names}
    model = AttentionClassifier(FusionSpec(features=features, labels=LABELS, d_model=8, heads=2, dropout=0.0))
    Checkpoint(model.eval()).save(folder)
    return str(folder)


def where() -> str:
    """Node, GPU and process of an actor, as it sees them."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    return f"{node} {os.environ.get('CUDA_VISIBLE_DEVICES', '')} {os.getpid()}"


class PlacedFrames(TinyFrames):
    """Notes where it runs."""

    name = "placed-frames"

    def __init__(self, settings, resources):
        super(Tiny, self).__init__(settings, resources)
        _note(settings, f"load-clip - {where()}")

    def _one(self, clip):
        _note(self.settings, f"clip {clip.video_id} {where()}")
        return super()._one(clip)


class PlacedSound(TinySound):
    """Notes where it runs."""

    name = "placed-sound"

    def __init__(self, settings, resources):
        super().__init__(settings.model_copy(update={"calls": None}), resources)
        self._calls = settings
        _note(settings, f"load-asr - {where()}")

    def _extract(self, items):
        for clip in items:
            time.sleep(self.settings.delay_s)
            _note(self._calls, f"asr {clip.video_id} {where()}")
        return super()._extract(items)


NODES_PROFILE = """
accelerator: gpu
pipeline: {block_videos: 2, gpu_device: cpu}
extractors:
  clip: {class: "tests.tiny:PlacedFrames", calls: CALLS}
  asr: {class: "tests.tiny:PlacedSound", calls: CALLS, resources: {gpu: true}}
  asr_sentiment: {class: "tests.tiny:TinyText", input: asr}
"""
