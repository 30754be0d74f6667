"""Decoded sound becomes one mono 16 kHz track, placed on the time line of the video."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import IO

import av
import numpy as np
from av.audio.resampler import AudioResampler

from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.decoded import STEP
from vemoclap_batch.media.sampling import MAX_GAP_S, MAX_RATE, MIN_RATE

#: Smaller steps between the time stamps of frames are rounding in the container, not silence.
_TOLERANCE_S = 0.1
#: Where the file says that a packet lasts so many times as long as its sound (or the inverse), its time stamps are
#: extrapolated from a sampling rate that is no longer true.
_WRONG_LENGTH = 1.5
#: Channels cancel each other where their mean has less than this share of their power: a correlation below -0.96.
_CANCELLED = 0.02
#: Quieter sound (-60 dB of full scale) is no voice that could be lost.
_AUDIBLE = 1e-6
#: One channel has to be so much louder in power to be taken after another one.
_LOUDER = 4.0


class Sound:
    """int16 samples, mono, 16 kHz, appended at the end and read anywhere; many of them wait in a nameless file."""

    def __init__(self, in_memory: int) -> None:
        """Start empty; beyond ``in_memory`` samples the sound moves to disk."""
        self._limit = in_memory
        self._memory = bytearray()  # Grows in place, so that a long sound never exists twice.
        self._file: IO[bytes] | None = None
        self._samples = 0

    def __len__(self) -> int:
        return self._samples

    def append(self, pcm: np.ndarray) -> None:
        """Add int16 samples."""
        self._samples += len(pcm)
        if self._file is None and self._samples > self._limit:
            self._file = tempfile.TemporaryFile(prefix="vemoclap-sound-")  # noqa: SIM115 - it lives as long as this.
            self._file.write(self._memory)
            self._memory = bytearray()
        if self._file is None:
            self._memory += pcm.tobytes()
        else:
            self._file.write(pcm.tobytes())

    def between(self, start: int, end: int) -> np.ndarray:
        """The samples [start, end): int16, fewer where the sound ends before."""
        start, end = max(start, 0), min(end, self._samples)
        if start >= end:
            return np.zeros(0, np.int16)
        if self._file is None:
            return np.frombuffer(self._memory, np.int16)[start:end]
        self._file.seek(2 * start)
        return np.frombuffer(self._file.read(2 * (end - start)), np.int16)

    def close(self) -> None:
        """Give the disk back."""
        if self._file is not None:
            self._file.close()


class Track:
    """Collects the frames of one audio stream.

    Channels are averaged before resampling: a float downmix by libswresample would keep the power instead and come
    out up to sqrt(2) louder. Where the channels are in opposite phase, so that their mean is next to nothing, the
    louder one is taken. Silence is put where the time stamps have a gap, so that sound stays beside its picture.

    Attributes:
        warnings: what a user should know.
        full: whether the track has its greatest length.
        timed: whether the file's time stamps are those of its sound.
    """

    def __init__(self, origin_s: float, max_duration_s: float, in_memory_s: float) -> None:
        """Start an empty track.

        Args:
            origin_s: the container's time at which the track starts; sound before it is cut off.
            max_duration_s: where the track is cut.
            in_memory_s: a longer one waits on disk.
        """
        self.warnings: list[str] = []
        self.full = False
        self.timed = True
        self._origin_s = origin_s
        self._max_samples = int(max_duration_s * SAMPLE_RATE)
        self._pcm = Sound(int(min(in_memory_s, max_duration_s) * SAMPLE_RATE))
        self._waiting: list[np.ndarray] = []  # [channels, n] each
        self._waiting_samples = 0
        self._rate = self._channels = 0
        self._resampler: AudioResampler | None = None
        self._next_s = 0.0
        self._loudest = 0  # the channel that was last taken alone

    def add_all(self, frames: Sequence[av.AudioFrame], said_s: float) -> None:
        """Append the frames of one packet; ignored once the track is full.

        Args:
            frames: decoded.
            said_s: how long the file says that the packet lasts, 0 where it does not say.

        Raises:
            ValueError: a sampling rate that no recording has.
        """
        for frame in frames:
            if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
                raise ValueError(f"a sampling rate of {frame.sample_rate} Hz")
        decoded_s = sum(frame.samples / frame.sample_rate for frame in frames)
        timed = not said_s or not decoded_s or 1 / _WRONG_LENGTH < decoded_s / said_s < _WRONG_LENGTH
        # The first packet of many codecs gives less, as decoding has to settle.
        self.timed = self.timed and (timed or self._next_s == 0)
        for frame in frames:
            if not self.full:
                self._add(frame, timed)

    def _add(self, frame: av.AudioFrame, timed: bool) -> None:
        channels = _channels(frame)
        if (frame.sample_rate, len(channels)) != (self._rate, self._channels):
            self._flush()
            self._rate, self._channels = frame.sample_rate, len(channels)
        if timed or self._next_s == 0:
            channels = self._place(frame, channels)
        self._next_s += channels.shape[1] / self._rate
        self._waiting.append(channels)
        self._waiting_samples += channels.shape[1]
        if self._waiting_samples >= self._rate:  # About a second at a time: per frame, calls would outweigh the work.
            self._resample()

    def finish(self) -> Sound:
        """The track."""
        self._flush()
        return self._pcm

    def _place(self, frame: av.AudioFrame, channels: np.ndarray) -> np.ndarray:
        """Fill a gap before a frame with silence, cut what lies before the origin; returns what is left of it.

        A frame that should have begun before the one before it ended comes after that one. The origin stays where it
        is, so that the next step forward is no gap.
        """
        if frame.time is None:
            return channels
        gap = frame.time - self._origin_s - self._next_s
        if abs(gap) > MAX_GAP_S:
            self._warn("the time stamps of the sound jump; it is taken as continuous")
            self._origin_s += gap
        elif gap > _TOLERANCE_S or (gap > 0 and self._next_s == 0):
            self._flush()
            self._next_s += gap
            self._append(np.zeros(max(round(self._next_s * SAMPLE_RATE) - len(self._pcm), 0), np.int16))
        elif gap < 0 and self._next_s == 0:
            channels = channels[:, round(-gap * self._rate) :]
        return channels

    def _resample(self) -> None:
        if not self._waiting_samples:
            return
        block = self._mono(np.concatenate(self._waiting, axis=1))
        self._waiting, self._waiting_samples = [], 0
        if self._rate == SAMPLE_RATE:
            self._append(_quantised(block))
            return
        if self._resampler is None:
            self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        frame = av.AudioFrame.from_ndarray(block[None], format="flt", layout="mono")
        frame.sample_rate = self._rate
        for out in self._resampler.resample(frame):
            self._append(_quantised(out.to_ndarray()[0]))

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

    def _flush(self) -> None:
        """Bring everything that waits, in here or in the resampler, into the track."""
        self._resample()
        if self._resampler is not None:
            for out in self._resampler.resample(None):
                self._append(_quantised(out.to_ndarray()[0]))
            self._resampler = None

    def _append(self, pcm: np.ndarray) -> None:
        room = self._max_samples - len(self._pcm)
        if len(pcm) > room:
            self.full = True
            self._warn(f"the sound after {self._max_samples / SAMPLE_RATE:g} s is left out")
        self._pcm.append(pcm[:room])

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


def _quantised(samples: np.ndarray) -> np.ndarray:
    # A float track of a broken file can hold NaN and infinities.
    finite = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
    return np.clip(np.rint(finite / STEP), -32768, 32767).astype(np.int16)
