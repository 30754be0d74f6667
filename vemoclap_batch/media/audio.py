"""Decoded sound becomes one mono 16 kHz track, placed on the time line of the video."""

from __future__ import annotations

import tempfile
from typing import IO

import av
import numpy as np
from av.audio.resampler import AudioResampler

from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.decoded import STEP
from vemoclap_batch.media.sampling import MAX_GAP_S, MAX_RATE, MIN_RATE

#: Smaller steps between the time stamps of frames are rounding in the container, not silence.
_TOLERANCE_S = 0.1


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
    out up to sqrt(2) louder. Silence is put where the time stamps have a gap, so that sound stays beside its picture.
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
        self._origin_s = origin_s
        self._max_samples = int(max_duration_s * SAMPLE_RATE)
        self._pcm = Sound(int(min(in_memory_s, max_duration_s) * SAMPLE_RATE))
        self._waiting: list[np.ndarray] = []
        self._waiting_samples = 0
        self._rate = 0
        self._resampler: AudioResampler | None = None
        self._next_s = 0.0

    def add(self, frame: av.AudioFrame) -> None:
        """Append one decoded frame; ignored once the track is full."""
        if self.full:
            return
        if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
            raise ValueError(f"a sampling rate of {frame.sample_rate} Hz")
        mono = _mono(frame)
        if frame.sample_rate != self._rate:
            self._flush()
            self._rate = frame.sample_rate
        mono = self._place(frame, mono)
        self._next_s += len(mono) / self._rate
        self._waiting.append(mono)
        self._waiting_samples += len(mono)
        if self._waiting_samples >= self._rate:  # About a second at a time: per frame, calls would outweigh the work.
            self._resample()

    def finish(self) -> Sound:
        """The track."""
        self._flush()
        return self._pcm

    def _place(self, frame: av.AudioFrame, mono: np.ndarray) -> np.ndarray:
        """Fill a gap before a frame with silence, cut what lies before the origin; returns what is left of it."""
        if frame.time is None:
            return mono
        gap = frame.time - self._origin_s - self._next_s
        if abs(gap) > MAX_GAP_S:
            self._warn("the time stamps of the sound jump; it is taken as continuous")
            self._origin_s += gap
        elif gap > _TOLERANCE_S or (gap > 0 and self._next_s == 0):
            self._flush()
            self._next_s += gap
            self._append(np.zeros(max(round(self._next_s * SAMPLE_RATE) - len(self._pcm), 0), np.int16))
        elif gap < 0 and self._next_s == 0:
            mono = mono[round(-gap * self._rate) :]
        elif gap < -_TOLERANCE_S:
            self._origin_s += gap
        return mono

    def _resample(self) -> None:
        if not self._waiting_samples:
            return
        block = np.concatenate(self._waiting)
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


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """Mean of the channels: float32 [samples] with full scale 1."""
    samples = frame.to_ndarray()  # [channels, n] planar, [1, n * channels] packed
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    mono = samples.mean(axis=0, dtype=np.float64 if samples.dtype.itemsize > 2 else np.float32)
    if samples.dtype == np.uint8:
        mono -= 128
    if samples.dtype.kind in "iu":
        mono /= 2.0 ** (samples.dtype.itemsize * 8 - 1)
    return mono.astype(np.float32, copy=False)


def _quantised(samples: np.ndarray) -> np.ndarray:
    # A float track of a broken file can hold NaN and infinities.
    finite = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
    return np.clip(np.rint(finite / STEP), -32768, 32767).astype(np.int16)
