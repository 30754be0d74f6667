"""How the published program goes about a video: every frame decoded to keep a few, then one item at a time."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

from vemoclap_batch.extractors.beats import HOP, WINDOW, Beats
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip
from vemoclap_batch.media.windows import clip_windows, evenly_spaced


def full_decode(path: Path, frames: int = 16, short_side: int = 360, threads: int = 1) -> Clip:
    """Decode every frame and the whole sound of a video, and keep evenly spaced frames.

    Args:
        path: of a file that says how many frames it has.
        frames: how many are kept.
        short_side: in pixels; larger frames are scaled down to it.
        threads: of each decoder.
    """
    kept, times, sound = [], [], [np.zeros(0, np.int16)]
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(path)) as container:
        streams = [*container.streams.video[:1], *container.streams.audio[:1]]
        for stream in streams:
            stream.codec_context.thread_count = threads
        total = container.streams.video[0].frames
        wanted = set(evenly_spaced(total, min(frames, total)).tolist())
        number = 0
        for frame in container.decode(streams):
            if isinstance(frame, av.AudioFrame):
                sound += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            elif isinstance(frame, av.VideoFrame):
                if number in wanted:
                    kept.append(_scaled(frame, short_side))
                    times.append(frame.time or 0.0)
                number += 1
        duration_s = float(container.duration or 0) / av.time_base
    waveform = np.concatenate(sound).astype(np.float32) / 32768
    return Clip(path.stem, np.stack(kept), np.array(times), waveform, duration_s)


def _scaled(frame: av.VideoFrame, short_side: int) -> np.ndarray:
    scale = min(1.0, short_side / min(frame.width, frame.height))
    width, height = round(frame.width * scale), round(frame.height * scale)
    return frame.reformat(width, height, "rgb24", interpolation=Interpolation.BICUBIC).to_ndarray()


def one_by_one(spec: Spec, clip: Clip) -> list[Clip]:
    """A clip as the single items that an extractor would be given one after another.

    Its frames; its windows of sound for BEATs. What hears a sound as a whole gets it as a whole.
    """
    if spec.reads_frames:
        return [
            Clip(clip.video_id, clip.frames[at : at + 1], clip.frame_times[at : at + 1], clip.waveform[:0], 0.0)
            for at in range(len(clip.frames))
        ]
    if issubclass(spec.cls, Beats):
        starts, sounds = clip_windows(clip, WINDOW, HOP, 16)
        return [
            Clip(clip.video_id, clip.frames[:0], clip.frame_times[:0], sound, clip.duration_s, start_s=float(start))
            for start, sound in zip(starts, sounds, strict=True)
        ]
    return [clip]
