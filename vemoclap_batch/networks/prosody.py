"""Pitch, loudness and colour of audio: plain signal processing, one value every 20 ms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy import fft

from vemoclap_batch.media.clip import SAMPLE_RATE

#: Samples between frames (20 ms) and in one (46 ms: three periods of the lowest pitch).
HOP, FRAME = 320, 736
#: The pitches that are looked for, in Hz.
LOWEST, HIGHEST = 65.0, 600.0
#: What silence is said to have, in dBFS: less than one step of 16 bits.
SILENCE_DB = -100.0
# Linear, not circular, correlation up to the longest period needs FRAME + SAMPLE_RATE / LOWEST samples.
_FFT = 1024
_SHORTEST, _LONGEST = int(SAMPLE_RATE / HIGHEST), int(np.ceil(SAMPLE_RATE / LOWEST))
# Frames at a time: long tracks do not fit into memory at once.
_CHUNK = 256
# Boersma (1993), "Accurate short-term analysis of the fundamental frequency", with the costs given there per 10 ms
# halved where they are per change, since our frames are 20 ms apart.
_CANDIDATES = 6
_VOICING, _SILENCE, _OCTAVE = 0.45, 0.03, 0.01
_OCTAVE_JUMP, _VOICE_CHANGE = 0.18, 0.07
_HANN = np.hanning(FRAME + 1)[:-1].astype(np.float32)
_HANN_CORRELATION = fft.irfft(np.abs(fft.rfft(_HANN, 2 * FRAME)) ** 2)[: _LONGEST + 2]
_HANN_CORRELATION = (_HANN_CORRELATION / _HANN_CORRELATION[0]).astype(np.float32)


def loudness(waveform: np.ndarray) -> np.ndarray:
    """Level of every 20 ms in dBFS (a full-scale sine is at -3), at least :data:`SILENCE_DB`; float32 [n], n >= 1."""
    whole = len(waveform) // HOP * HOP
    pieces = waveform[:whole].reshape(-1, HOP) if whole else waveform.reshape(1, -1)
    # Unlike np.square, without a copy of the whole track.
    power = np.einsum("ij,ij->i", pieces, pieces) / max(1, pieces.shape[1])
    return np.maximum(10 * np.log10(np.maximum(power, 1e-20)), SILENCE_DB).astype(np.float32)


def pitch(waveform: np.ndarray) -> np.ndarray:
    """Pitch of every 20 ms in Hz, 0 where there is none; float32 [n], n >= 1.

    The autocorrelation method of Boersma (1993): peaks of the autocorrelation, over that of the window, are
    candidates; the best path through them pays for jumps.
    """
    count = max(1, len(waveform) // HOP)
    loudest = max(float(np.abs(waveform).max(initial=0.0)), 1e-9)
    found = [_candidates(frames, loudest) for frames in _frames(waveform, count)]
    strengths = np.concatenate([strength for strength, _ in found])
    frequencies = np.concatenate([frequency for _, frequency in found])
    return frequencies[np.arange(count), _best_path(strengths, frequencies)]


def _frames(waveform: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Frames [n, FRAME] around the middles of the pieces of :func:`loudness`, the ends padded with silence."""
    before = (FRAME - HOP) // 2
    padded = np.pad(np.asarray(waveform, np.float32), (before, FRAME))
    windows = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    for start in range(0, count, _CHUNK):
        yield windows[start : min(count, start + _CHUNK)]


def _candidates(frames: np.ndarray, loudest: float) -> tuple[np.ndarray, np.ndarray]:
    """Strengths and frequencies [n, 6] of what each frame may be: first unvoiced (frequency 0), then pitches."""
    centred = frames - frames.mean(1, keepdims=True)
    power = np.abs(fft.rfft(centred * _HANN, _FFT)) ** 2
    correlation = fft.irfft(power)[:, : _LONGEST + 2]
    correlation = correlation / np.maximum(correlation[:, :1], 1e-9) / _HANN_CORRELATION
    strength, period = _peaks(correlation)
    top = np.argpartition(-strength, _CANDIDATES - 2, axis=1)[:, : _CANDIDATES - 1]
    strength, period = np.take_along_axis(strength, top, 1), np.take_along_axis(period, top, 1)
    # A quiet frame is rather unvoiced, whatever it repeats.
    relative = np.abs(centred).max(1, keepdims=True) / loudest
    unvoiced = _VOICING + np.maximum(0, 2 - relative * (1 + _VOICING) / _SILENCE)
    frequency = SAMPLE_RATE / period
    return np.hstack([unvoiced, strength]), np.hstack([np.zeros_like(unvoiced), frequency]).astype(np.float32)


def _peaks(correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength and interpolated period [n, lags] at every lag; a lag that is no peak has a strength of -9."""
    before, here, after = (correlation[:, _SHORTEST + shift : _LONGEST + 1 + shift] for shift in (-1, 0, 1))
    peak = (here > before) & (here >= after) & (here > _VOICING / 2)
    curve = np.where(peak, before - 2 * here + after, -1)
    shift = np.where(peak, 0.5 * (before - after) / curve, 0)
    period = np.arange(_SHORTEST, _LONGEST + 1) + shift
    height = here - 0.25 * (before - after) * shift
    # Noise can correlate above 1 after the division by the window's; reflecting it keeps its order below 1.
    height = np.where(height > 1, 1 / np.maximum(height, 1), height)
    return np.where(peak, height - _OCTAVE * np.log2(LOWEST * period / SAMPLE_RATE), -9), period


def _best_path(strengths: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """The candidate of each frame on the path of the highest strength less the cost of its jumps (Viterbi)."""
    voiced = frequencies > 0
    octaves = np.log2(np.where(voiced, frequencies, 1))
    choice = np.arange(strengths.shape[1])
    came_from = np.zeros(strengths.shape, int)
    total = strengths[0]
    for now in range(1, len(strengths)):
        jump = _OCTAVE_JUMP * np.abs(octaves[now][:, None] - octaves[now - 1])
        both, either = voiced[now][:, None] & voiced[now - 1], voiced[now][:, None] ^ voiced[now - 1]
        paths = total - np.where(both, jump, _VOICE_CHANGE * either)  # [to, from]
        came_from[now] = paths.argmax(1)
        total = paths[choice, came_from[now]] + strengths[now]
    path = np.empty(len(strengths), int)
    path[-1] = total.argmax()
    for now in range(len(path) - 1, 0, -1):
        path[now - 1] = came_from[now, path[now]]
    return path


def spectral_centroid(waveform: np.ndarray) -> float:
    """The power-weighted mean frequency in Hz; nan for silence."""
    power, frequency = np.zeros(_FFT // 2 + 1), np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    for frames in _frames(waveform, max(1, len(waveform) // HOP)):
        power += (np.abs(fft.rfft(frames * _HANN, _FFT)) ** 2).sum(0)
    return float(power @ frequency / power.sum()) if power.sum() > 0 else float("nan")


def syllable_rate(levels: np.ndarray) -> float:
    """Peaks of :func:`loudness` per second, 2 dB out of the dips around them, at most 20 dB under the loudest.

    Close to the syllables per second in clear speech (after de Jong and Wempe, 2009); in music, to the notes.
    """
    smooth = np.convolve(np.pad(levels, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    peaks = count_peaks(smooth, max(smooth.max() - 20, SILENCE_DB + 1), 2)
    return peaks * SAMPLE_RATE / (HOP * len(levels))


def count_peaks(values: np.ndarray, height: float, prominence: float) -> int:
    """How many peaks of at least this height and prominence scipy.signal.find_peaks finds in values [n].

    Importing scipy.signal takes half a second, most of it for its statistics.
    """
    # A flat stretch counts as one value.
    values = values[np.concatenate([[True], values[1:] != values[:-1]])]
    is_peak = (values[1:-1] > values[:-2]) & (values[1:-1] > values[2:]) & (values[1:-1] >= height)
    return sum(_prominence(values, at) >= prominence for at in np.flatnonzero(is_peak) + 1)


def _prominence(values: np.ndarray, peak: int) -> float:
    """How far a peak stands out of the higher of the lowest values on its two sides, up to where one is above it."""
    lowest = []
    for side in (values[:peak][::-1], values[peak + 1 :]):
        higher = np.flatnonzero(side > values[peak])
        lowest.append(side[: higher[0] if len(higher) else None].min())
    return values[peak] - max(lowest)
