import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import find_peaks

from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.networks.prosody import (
    HOP,
    SILENCE_DB,
    count_peaks,
    loudness,
    pitch,
    spectral_centroid,
    syllable_rate,
)

pytestmark = pytest.mark.numeric


def tone(frequency, seconds=2.0, amplitude=0.1, harmonics=1):
    """Harmonics that fall by 6 dB an octave, as a voice's do."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    parts = [np.sin(2 * np.pi * frequency * part * time) / part for part in range(1, harmonics + 1)]
    return (amplitude * sum(parts)).astype(np.float32)


def noise(seconds=2.0, amplitude=0.1):
    samples = np.random.default_rng(1).normal(size=int(seconds * SAMPLE_RATE))
    return (amplitude * samples).astype(np.float32)


@pytest.mark.parametrize("frequency", [70, 98, 131, 220, 311, 440, 587])
@pytest.mark.parametrize("harmonics", [1, 12])
def test_pitch_of_a_tone(frequency, harmonics):
    found = pitch(tone(frequency, harmonics=harmonics))
    # The first and last frames run over the ends.
    assert found[2:-2] == pytest.approx(frequency, rel=0.005)


def test_pitch_does_not_depend_on_the_level():
    voice = tone(150, harmonics=12)
    assert pitch(voice * 0.01) == pytest.approx(pitch(voice), rel=1e-3)


def test_pitch_survives_noise_and_a_missing_fundamental():
    voice = tone(180, harmonics=12) + noise(amplitude=0.02)
    assert np.median(pitch(voice)) == pytest.approx(180, rel=0.01)
    assert np.median(pitch(tone(180, harmonics=12) - tone(180))) == pytest.approx(180, rel=0.01)


def test_pitch_follows_a_glide():
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    glide = 0.1 * np.sin(2 * np.pi * (100 * time + 25 * time**2))  # 100 Hz rising by 50 Hz a second
    middles = (np.arange(100) + 0.5) * HOP / SAMPLE_RATE
    assert pitch(glide)[2:-2] == pytest.approx((100 + 50 * middles)[2:-2], rel=0.02)


def test_noise_and_silence_have_no_pitch():
    assert np.mean(pitch(noise()) > 0) < 0.02
    assert not pitch(np.zeros(SAMPLE_RATE, np.float32)).any()
    pauses = np.concatenate([tone(200), noise(amplitude=0.001), tone(200)])
    assert not pitch(pauses)[105:195].any()


@pytest.mark.parametrize("samples", [0, 1, 160, 319, 320, 321])
def test_the_shortest_waveforms_have_one_finite_value(samples):
    audio = noise()[:samples]
    for values in (loudness(audio), pitch(audio)):
        assert values.shape == (1,)
        assert np.isfinite(values).all()


def test_long_tracks_are_worked_on_in_pieces_that_do_not_show():
    voice = np.tile(tone(200, seconds=1.0, harmonics=5), 60)
    found = pitch(voice)
    assert len(found) == 3000
    assert found[2:-2] == pytest.approx(200, rel=0.005)


def test_loudness_of_known_levels():
    assert loudness(tone(1000, amplitude=1.0)) == pytest.approx(-3.01, abs=0.01)
    assert loudness(tone(1000, amplitude=0.1)) == pytest.approx(-23.01, abs=0.01)
    assert loudness(np.zeros(SAMPLE_RATE, np.float32)) == pytest.approx(SILENCE_DB)


def test_spectral_centroid():
    assert spectral_centroid(tone(1000)) == pytest.approx(1000, rel=0.01)
    both = tone(500) + tone(3000)
    assert spectral_centroid(both) == pytest.approx(1750, rel=0.02)
    assert spectral_centroid(noise()) == pytest.approx(4000, rel=0.03)
    assert np.isnan(spectral_centroid(np.zeros(SAMPLE_RATE, np.float32)))


@pytest.mark.parametrize("rate", [2, 4, 6])
def test_syllable_rate_counts_bursts(rate):
    time = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    bursts = tone(200, seconds=4.0, harmonics=5) * np.sin(np.pi * rate * time) ** 2
    assert syllable_rate(loudness(bursts.astype(np.float32))) == pytest.approx(rate, abs=0.3)


def test_steady_waveforms_have_no_syllables():
    assert syllable_rate(loudness(tone(200))) == 0
    assert syllable_rate(loudness(np.zeros(SAMPLE_RATE, np.float32))) == 0


@given(
    # Few different values, so that there are flat stretches and equal peaks.
    values=st.lists(st.integers(-6, 6).map(float) | st.floats(-6, 6), min_size=1, max_size=60).map(np.array),
    height=st.integers(-6, 6),
    prominence=st.integers(1, 6),
)
def test_peaks_are_those_of_scipy(values, height, prominence):
    assert count_peaks(values, height, prominence) == len(find_peaks(values, height=height, prominence=prominence)[0])
