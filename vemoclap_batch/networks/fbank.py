"""The front end of BEATs: Kaldi's log-mel filter bank."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vemoclap_batch.media.clip import SAMPLE_RATE

#: 25 ms of audio every 10 ms, 128 mel bands from 20 Hz up.
FRAME, HOP, FFT, BANDS, LOWEST_HZ = 400, 160, 512, 128, 20.0
PREEMPHASIS = 0.97
#: Of the log-mel energies of AudioSet; energies are divided by twice the deviation.
MEAN, DEVIATION = 15.41663, 6.55582


class Fbank(nn.Module):
    """Kaldi's log-mel filter bank as BEATs was trained with: Povey window, no dither, whole frames only.

    In float32 throughout, with the very roundings of the published front end: where a band has little power, another
    order of computing gives errors of 1e-5.
    """

    def __init__(self) -> None:
        super().__init__()
        self.window = nn.Buffer(torch.hann_window(FRAME, periodic=False) ** 0.85, persistent=False)
        self.filters = nn.Buffer(mel_filters(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveforms [B, samples] in [-1, 1) to normalised log energies [B, frames, 128]."""
        with torch.autocast(waveform.device.type, enabled=False):
            frames = (waveform.float() * 2**15).unfold(1, FRAME, HOP)  # [B, frames, 400]
            frames = frames - frames.mean(-1, keepdim=True)
            previous = torch.cat([frames[..., :1], frames[..., :-1]], -1)
            spectrum = torch.fft.rfft((frames - PREEMPHASIS * previous) * self.window, FFT)
            # The band at half the sample rate is in no filter.
            power = spectrum[..., : FFT // 2].abs() ** 2
            energies = (power @ self.filters).clamp(min=torch.finfo(torch.float32).eps)
            return (energies.log() - MEAN) / (2 * DEVIATION)


def mel_filters() -> Tensor:
    """Kaldi's triangles, evenly spaced and of one height on the mel scale 1127 ln(1 + f / 700): [256, 128].

    The lowest are narrower than the spectrum's steps: some hold none and stay silent.
    """
    lowest, highest = (1127 * math.log(1 + hertz / 700) for hertz in (LOWEST_HZ, SAMPLE_RATE / 2))
    step = (highest - lowest) / (BANDS + 1)
    band = torch.arange(BANDS)
    left, centre, right = (lowest + (band + corner) * step for corner in range(3))
    hertz = torch.arange(FFT // 2)[:, None] * (SAMPLE_RATE / FFT)
    mel = 1127 * torch.log(1 + hertz / 700)
    return torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clamp(min=0)
