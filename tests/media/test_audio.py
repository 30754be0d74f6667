"""Audio through real encoders: level, pitch, place in time and bounds."""

import numpy as np
import pytest

from tests.clips import make_clip, sine
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.sampling import Limits


def test_channels_are_averaged(tmp_path):
    left = sine(2, amplitude=0.8)
    stereo = decode(str(make_clip(tmp_path / "s.wav", audio=np.stack([left, 0 * left]), video=False)))[0].waveform
    both = decode(str(make_clip(tmp_path / "b.wav", audio=np.stack([left, left]), video=False)))[0].waveform

    middle = slice(4000, 28_000)
    assert np.sqrt(np.mean(stereo[middle] ** 2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.01)
    assert np.sqrt(np.mean(both[middle] ** 2)) == pytest.approx(0.8 / np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_lossy_stereo_keeps_its_level(tmp_path, name):
    tone = sine(3, amplitude=0.5)
    waveform = decode(str(make_clip(tmp_path / name, seconds=3, audio=np.stack([tone, tone]))))[0].waveform

    assert np.sqrt(np.mean(waveform[8000:40_000] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_pitch_and_place_survive_resampling(tmp_path, rate):
    tone = sine(2, 440, rate=rate)
    path = make_clip(tmp_path / "tone.wav", audio=tone, audio_rate=rate, video=False)

    waveform = decode(str(path))[0].waveform

    expected = sine(2, 440, rate=16_000)
    assert len(waveform) == pytest.approx(len(expected), abs=2)
    inner = slice(1000, 31_000)
    assert np.abs(waveform[inner] - expected[inner]).max() < 2e-3  # a shift by one sample would be 0.08


def test_what_16_khz_cannot_hold_is_filtered_out(tmp_path):
    path = make_clip(tmp_path / "high.wav", audio=sine(1, 11_000), video=False)

    waveform = decode(str(path))[0].waveform

    assert np.abs(waveform[1000:-1000]).max() < 0.005


def test_values_are_int16_steps(tmp_path):
    waveform = decode(str(make_clip(tmp_path / "v.mp4", audio=sine(1, amplitude=1.0))))[0].waveform

    assert waveform.dtype == np.float32
    assert np.array_equal(waveform * 32768, np.rint(waveform * 32768))
    assert waveform.min() >= -1
    assert waveform.max() < 1


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_audio_that_starts_late_stays_in_step_with_the_frames(tmp_path, name):
    path = make_clip(tmp_path / name, seconds=3, audio=sine(2), audio_start=0.7)

    clip, _ = decode(str(path))

    first = np.flatnonzero(np.abs(clip.waveform) > 0.1)[0] / 16_000
    assert first == pytest.approx(0.7, abs=0.03)
    assert clip.frame_times[0] == 0


def test_it_is_cut_at_the_limit(tmp_path):
    path = make_clip(tmp_path / "long.wav", seconds=5, video=False)

    clip, info = decode(str(path), limits=Limits(max_duration_s=2))

    assert len(clip.waveform) == 32_000
    assert info.duration_s == pytest.approx(5, abs=0.1)
    assert info.warnings == ["the sound after 2 s is left out"]
