"""Tiny extractors for long videos: windows of sound, a transcript, texts, all without a model.

The last part of a video whose name has ``crash`` in it kills the process that transcribes it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tests.tiny import Tiny, TinySettings, _misbehave, _note
from vemoclap_batch.extractors.base import TEXT, WAVEFORM, Result
from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.windows import clip_windows

SEGMENT = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string())])


class WindowSettings(TinySettings):
    max_windows: int = 16


class Windows(Tiny):
    """Mean and largest value of every window of 3 s; column ``loudness``."""

    name = "tiny-windows"
    Settings = WindowSettings
    inputs = (WAVEFORM,)
    sequence = True
    columns = {"loudness": pa.float32()}
    own_space, own_width = "tiny/windows", 2

    def _extract(self, items):
        results = []
        for clip in items:
            starts, sounds = clip_windows(clip, most=self.settings.max_windows)
            feature = np.array([[np.abs(x).mean(), x.max()] for x in sounds], np.float32).reshape(-1, 2)
            ends = starts + np.array([len(sound) for sound in sounds]) / SAMPLE_RATE
            level = float(np.abs(clip.waveform).mean()) if len(clip.waveform) else None
            results.append(Result(feature, starts, ends, {"loudness": level}))
        return results


class Speech(Tiny):
    """A segment for every stretch of sound between pauses; its text is its loudness."""

    name = "tiny-speech"
    inputs = (WAVEFORM,)
    columns = {"text": pa.string(), "language": pa.string(), "segments": pa.list_(SEGMENT)}

    def _extract(self, items):
        return [self._one(clip) for clip in items]

    def _one(self, clip):
        if clip.chunk == clip.chunks - 1:
            _misbehave(clip.video_id)
        seconds = len(clip.waveform) / SAMPLE_RATE
        _note(self.settings, f"speech {clip.video_id} {clip.chunk}/{clip.chunks} {seconds:.0f}")
        step = SAMPLE_RATE // 10
        levels = np.abs(clip.waveform[: len(clip.waveform) // step * step].reshape(-1, step)).mean(1)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], levels > 1e-3, [0]]).astype(int)))
        segments = [
            {
                "start_s": clip.start_s + start / 10,
                "end_s": clip.start_s + end / 10,
                "text": f"{levels[start:end].mean():.2f}",
            }
            for start, end in edges.reshape(-1, 2)
        ]
        text = " ".join(segment["text"] for segment in segments)
        extras = {"text": text, "language": "en" if segments else None, "segments": segments}
        return Result(np.zeros((0, 0), np.float32), extras=extras)


class Words(Tiny):
    """Number of words of a text, and their sum."""

    name = "tiny-words"
    inputs = (TEXT,)
    own_space, own_width = "tiny/words", 2

    def _extract(self, items):
        _note(self.settings, f"words {len(items)}")
        return [
            Result(np.array([[len(t.split()), sum(map(float, t.split()))]] if t else np.zeros((0, 2)), np.float32))
            for t in items
        ]


PROFILE = """
pipeline: {block_videos: 3, commit_s: 0.2}
extractors:
  clip: {class: "tests.tiny:TinyFrames"}
  beats: {class: "tests.pipeline.long_tiny:Windows"}
  asr: {class: "tests.pipeline.long_tiny:Speech"}
  asr_sentiment: {class: "tests.pipeline.long_tiny:Words", input: asr}
"""
