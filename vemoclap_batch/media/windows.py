"""Which items of a sequence are kept, and where windows start."""

from __future__ import annotations

import numpy as np

from vemoclap_batch.media.clip import SAMPLE_RATE, Clip


def evenly_spaced(length: int, n: int) -> np.ndarray:
    """Positions of ``n`` evenly spaced items: ``round(linspace(0, length - 1, n))``; all when there are no more.

    Args:
        length: how many items there are.
        n: how many are wanted, at least 1.

    Returns:
        int64 [min(length, n)], strictly increasing.
    """
    if length <= n:
        return np.arange(length)
    return np.round(np.linspace(0, length - 1, n)).astype(np.int64)


def window_starts(samples: int, size: int = 48_000, hop: int = 24_000) -> list[int]:
    """First sample of every window of ``size`` that fits, one that fits exactly counting; [0] for a shorter sound.

    No sound at all (0 samples) has no window.
    """
    if samples <= 0:
        return []
    return list(range(0, max(samples - size, 0) + 1, hop))


def clip_windows(
    clip: Clip, size: int = 48_000, hop: int = 24_000, most: int | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The windows of a video's sound that start in this part of it.

    They are those of the whole video's sound, evenly reduced to ``most``: all parts together give what the video in
    one piece gives.

    Args:
        clip: the part.
        size: samples in a window.
        hop: samples from one window's start to the next one's.
        most: how many windows the whole video keeps; None for all.

    Returns:
        Seconds of the video where each window starts, float64 [n], and their sounds, float32 [samples] each: ``size``
        samples, fewer only in a sound that is shorter.
    """
    own = len(clip.waveform)
    first = 0 if clip.sound_samples is None else round(clip.start_s * SAMPLE_RATE)
    total = own if clip.sound_samples is None else clip.sound_samples
    every = np.array(window_starts(total, size, hop), np.int64)
    starts = every if most is None else every[evenly_spaced(len(every), most)]
    places = starts[(starts >= first) & (starts < first + own)] - first
    sound = np.concatenate([clip.waveform, clip.following]) if len(clip.following) else clip.waveform
    return clip.start_s + places / SAMPLE_RATE, [sound[place : place + size] for place in places]
