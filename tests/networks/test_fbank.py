import numpy as np
import pytest
import torch

from tests.networks.random_beats import audio
from vemoclap_batch.networks.fbank import Fbank, mel_filters

pytestmark = pytest.mark.numeric


def kaldi(waveform):
    """Normalised log-mel energies [frames, 128] by Kaldi's definition, frame by frame in float64."""
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 130)
    place = 1127 * np.log(1 + np.arange(257) * 31.25 / 700)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    rows = []
    for start in range(0, len(waveform) - 399, 160):
        frame = waveform[start : start + 400].astype(np.float64) * 32768
        frame -= frame.mean()
        frame = np.concatenate([[0.03 * frame[0]], frame[1:] - 0.97 * frame[:-1]]) * window
        power = np.abs(np.fft.fft(np.pad(frame, (0, 112)))[:257]) ** 2
        row = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            triangle = np.interp(place, [low, middle, high], [0, 1, 0])
            row.append(np.log(max((power * triangle)[:256].sum(), np.finfo(np.float32).eps)))
        rows.append(row)
    return (np.array(rows) - 15.41663) / (2 * 6.55582)


def test_fbank_is_kaldis():
    waveform = audio(6000)
    [found] = Fbank()(waveform[None]).numpy()
    expected = kaldi(waveform.numpy())
    assert found.shape == expected.shape == (36, 128)
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (559, 1), (560, 2), (48_000, 298)])
def test_fbank_counts_whole_frames(samples, frames):
    assert Fbank()(audio(samples)[None]).shape == (1, frames, 128)


def test_fbank_of_silence_and_of_a_constant():
    floor = (np.log(np.finfo(np.float32).eps) - 15.41663) / (2 * 6.55582)
    for level in (0.0, 0.5):
        assert Fbank()(torch.full((1, 800), level)).numpy() == pytest.approx(floor, abs=1e-6)


def test_fbank_hears_a_tone_where_it_is():
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / 16_000)[None]
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 130)
    expected = np.abs(edges[1:-1] - 1127 * np.log(1 + 1000 / 700)).argmin()
    assert set(Fbank()(tone)[0].argmax(1).tolist()) == {int(expected)}


def test_fbank_stays_in_float32_where_the_rest_is_reduced():
    waveform = audio(6000)[None]
    with torch.autocast("cpu", torch.bfloat16):
        reduced = Fbank()(waveform)
    assert torch.equal(reduced, Fbank()(waveform))
    assert mel_filters().dtype == torch.float32
