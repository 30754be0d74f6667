"""Decoded audio becomes one mono 16 kHz track, placed on the time line of the video."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from tempfile import SpooledTemporaryFile

import av
import numpy as np
from av.audio.resampler import AudioResampler

from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.sampling import MAX_GAP_S, MAX_RATE, MIN_RATE

#: One int16 step in the float range [-1, 1).
_STEP = 2.0**-15
#: Smaller steps between the time stamps of frames are rounding in the container, not silence.
_TOLERANCE_S = 0.1
#: Where the file says that a packet lasts so many times as long as its audio (or the inverse), its time stamps are
#: extrapolated from a sampling rate that is no longer true.
_WRONG_LENGTH = 1.5
#: Channels cancel each other where their mean has less than this share of their power: a correlation below -0.96.
_CANCELLED = 0.02
#: Quieter audio (-60 dB of full scale) is no voice that could be lost.
_AUDIBLE = 1e-6
#: The level of digital silence; one step of 16 bits is -90 dBFS.
_SILENCE_DB = -100.0
#: One channel has to be so much louder in power to be taken after another one.
_LOUDER = 4.0


class AudioBuffer:
    """int16 samples, mono, 16 kHz, appended at the end and read anywhere; a long track is kept on disk."""

    def __init__(self, in_memory: int) -> None:
        """Start empty; beyond ``in_memory`` samples the track moves to a nameless file."""
        self._file = SpooledTemporaryFile(max(2 * in_memory, 1), prefix="vemoclap-audio-")  # noqa: SIM115
        self._samples = 0

    def __len__(self) -> int:
        return self._samples

    def append(self, pcm: np.ndarray) -> None:
        """Add int16 samples."""
        self._samples += len(pcm)
        self._file.seek(0, os.SEEK_END)
        self._file.write(pcm.tobytes())

    def between(self, start: int, end: int) -> np.ndarray:
        """The samples [start, end): int16, fewer where the track ends before."""
        start, end = max(start, 0), min(end, self._samples)
        self._file.seek(2 * start)
        return np.frombuffer(self._file.read(max(2 * (end - start), 0)), np.int16)

    def close(self) -> None:
        """Free the memory or the disk."""
        self._file.close()


def to_float(pcm: np.ndarray) -> np.ndarray:
    """int16 samples as a Clip's waveform: float32 in [-1, 1)."""
    waveform = pcm.astype(np.float32)
    waveform *= np.float32(_STEP)
    return waveform


def levels(track: AudioBuffer) -> list[float]:
    """The level of every second of a track, the last one begun too: root mean square in dBFS, -100 for silence."""
    found = []
    for start in range(0, len(track), SAMPLE_RATE):
        power = np.square(to_float(track.between(start, start + SAMPLE_RATE)), dtype=np.float64).mean()
        found.append(round(10 * math.log10(power), 1) if power > 0 else _SILENCE_DB)
    return found


class AudioTrack:
    """Collects the frames of one audio stream.

    Channels are averaged before resampling: a float downmix by libswresample would keep the power instead and come
    out up to sqrt(2) louder. Where the channels are in opposite phase, so that their mean is next to nothing, the
    louder one is taken. Silence is put where the time stamps have a gap, so that audio stays in step with the frames.

    Attributes:
        warnings: what a user should know.
        full: whether the track has its greatest length.
        timed: whether the file's time stamps are those of its audio.
    """

    def __init__(self, origin_s: float, max_duration_s: float, in_memory_s: float) -> None:
        """Start an empty track.

        Args:
            origin_s: the container's time at which the track starts; audio before it is cut off.
            max_duration_s: where the track is cut.
            in_memory_s: a longer one is kept on disk.
        """
        self.warnings: list[str] = []
        self.full = False
        self.timed = True
        self._origin_s = origin_s
        self._max_samples = int(max_duration_s * SAMPLE_RATE)
        self._buffer = AudioBuffer(int(min(in_memory_s, max_duration_s) * SAMPLE_RATE))
        self._pending: list[np.ndarray] = []  # [channels, n] each
        self._pending_samples = 0
        self._rate = self._channels = 0
        self._resampler: AudioResampler | None = None
        self._next_s = 0.0
        self._loudest = 0  # the channel that was last taken alone

    def add(self, frames: Sequence[av.AudioFrame], declared_s: float) -> None:
        """Append the frames of one packet; ignored once the track is full.

        Args:
            frames: decoded.
            declared_s: how long the file says that the packet lasts, 0 where it does not say.

        Raises:
            ValueError: a sampling rate that no recording has.
        """
        for frame in frames:
            if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
                raise ValueError(f"a sampling rate of {frame.sample_rate} Hz")
        decoded_s = sum(frame.samples / frame.sample_rate for frame in frames)
        timed = not declared_s or not decoded_s or 1 / _WRONG_LENGTH < decoded_s / declared_s < _WRONG_LENGTH
        # The first packet of many codecs gives less, as decoding has to settle.
        self.timed = self.timed and (timed or self._next_s == 0)
        for frame in frames:
            if not self.full:
                self._add(frame, timed)

    def finish(self) -> AudioBuffer:
        """The track."""
        self._flush()
        return self._buffer

    def _add(self, frame: av.AudioFrame, timed: bool) -> None:
        samples = _channels(frame)
        if (frame.sample_rate, len(samples)) != (self._rate, self._channels):
            self._flush()
            self._rate, self._channels = frame.sample_rate, len(samples)
        if (timed or self._next_s == 0) and frame.time is not None:
            samples = self._place(frame.time, samples)
        self._next_s += samples.shape[1] / self._rate
        self._pending.append(samples)
        self._pending_samples += samples.shape[1]
        if self._pending_samples >= self._rate:  # About a second at a time: per frame, calls would outweigh the work.
            self._resample()

    def _place(self, time_s: float, samples: np.ndarray) -> np.ndarray:
        """Fill a gap before a frame with silence, cut what lies before the origin; returns what is left of it.

        A frame that should have begun before the one before it ended comes after that one. The origin stays where it
        is, so that the next step forward is no gap.
        """
        gap = time_s - self._origin_s - self._next_s
        if abs(gap) > MAX_GAP_S:
            self._warn("the time stamps of the sound jump; it is taken as continuous")
            self._origin_s += gap
        elif gap > _TOLERANCE_S or (gap > 0 and self._next_s == 0):
            self._flush()
            self._next_s += gap
            self._append(np.zeros(max(round(self._next_s * SAMPLE_RATE) - len(self._buffer), 0), np.float32))
        elif gap < 0 and self._next_s == 0:
            samples = samples[:, round(-gap * self._rate) :]
        return samples

    def _resample(self) -> None:
        if not self._pending_samples:
            return
        block = self._mono(np.concatenate(self._pending, axis=1))
        self._pending, self._pending_samples = [], 0
        if self._rate == SAMPLE_RATE:
            self._append(block)
            return
        if self._resampler is None:
            self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        frame = av.AudioFrame.from_ndarray(block[None], format="flt", layout="mono")
        frame.sample_rate = self._rate
        for out in self._resampler.resample(frame):
            self._append(out.to_ndarray()[0])

    def _flush(self) -> None:
        """Bring everything that is pending, in here or in the resampler, into the track."""
        self._resample()
        if self._resampler is not None:
            for out in self._resampler.resample(None):
                self._append(out.to_ndarray()[0])
            self._resampler = None

    def _mono(self, channels: np.ndarray) -> np.ndarray:
        """Mean of the channels [channels, n], or the louder one where they cancel each other: float32 [n]."""
        mean = channels.mean(axis=0, dtype=np.float64).astype(np.float32)
        if len(channels) == 1 or not len(mean):
            return mean
        powers = np.einsum("cn,cn->c", channels, channels) / len(mean)
        power = powers.mean()
        if not power > _AUDIBLE or not np.vdot(mean, mean) / len(mean) < _CANCELLED * power:
            return mean
        self._warn("channels in opposite phase cancel each other: the louder one was taken there")
        loudest = int(powers.argmax())
        if powers[loudest] > _LOUDER * powers[min(self._loudest, len(powers) - 1)]:
            self._loudest = loudest
        return channels[min(self._loudest, len(powers) - 1)].astype(np.float32)

    def _append(self, samples: np.ndarray) -> None:
        room = self._max_samples - len(self._buffer)
        if len(samples) > room:
            self.full = True
            self._warn(f"the sound after {self._max_samples / SAMPLE_RATE:g} s is left out")
        # A float track of a broken file can hold NaN and infinities.
        finite = np.nan_to_num(samples[:room], nan=0.0, posinf=1.0, neginf=-1.0)
        self._buffer.append(np.clip(np.rint(finite / _STEP), -32768, 32767).astype(np.int16))

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)


def _channels(frame: av.AudioFrame) -> np.ndarray:
    """The channels of a frame: float32 or float64 [channels, samples] with full scale 1."""
    samples = frame.to_ndarray()  # [channels, n] planar, [1, n * channels] packed
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype.kind == "f":
        return samples
    size = samples.dtype.itemsize
    scaled: np.ndarray = samples.astype(np.float64 if size > 2 else np.float32)
    middle = 128 if samples.dtype == np.uint8 else 0
    return (scaled - middle) / scaled.dtype.type(2.0 ** (size * 8 - 1))
