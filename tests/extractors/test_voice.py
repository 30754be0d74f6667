import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tests.extractors.conftest import NO_AUDIO, audio_clip, broken_clip, spoken
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.voice import Voice, VoiceSettings, prosody_columns
from vemoclap_batch.media.clip import SAMPLE_RATE

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def voice():
    return Voice(VoiceSettings(), Resources())


@pytest.fixture(scope="module")
def beckett():
    """A man's voice, 10 s."""
    return spoken("beckett.wav")


def tone(frequency=220, seconds=2.0, amplitude=0.1):
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def test_windows_of_three_seconds_in_seconds_of_the_video(voice, beckett):
    [result] = voice.extract([audio_clip(beckett[: int(7.6 * SAMPLE_RATE)], start_s=100)])
    assert result.start_s.tolist() == [100, 101.5, 103, 104.5]
    assert result.end_s.tolist() == [103, 104.5, 106, 107.5]
    assert result.feature.shape == (4, Voice.width(VoiceSettings()))
    assert result.feature.dtype == np.float32


def test_a_window_is_described_by_itself(voice, beckett):
    [whole] = voice.extract([audio_clip(beckett)])
    [part] = voice.extract([audio_clip(beckett[24_000:72_000])])
    assert np.array_equal(part.feature[0], whole.feature[1])


def test_long_audio_keeps_evenly_spaced_windows(beckett):
    few = Voice(VoiceSettings(max_windows=2), Resources())
    [result] = few.extract([audio_clip(beckett)])
    assert result.start_s.tolist() == [0, 6]
    [all_of_it] = few.extract([audio_clip(beckett[:72_000])])
    assert all_of_it.start_s.tolist() == [0, 1.5]


def test_a_batch_gives_what_each_clip_gives_alone(voice, beckett):
    clips = [audio_clip(beckett), audio_clip(NO_AUDIO), audio_clip(tone()), audio_clip(beckett[:1000])]
    for together, clip in zip(voice.extract(clips), clips, strict=True):
        [alone] = voice.extract([clip])
        assert np.array_equal(together.feature, alone.feature)
        assert together.extras == alone.extras


def test_the_declared_columns_are_the_ones_given(voice, beckett):
    for waveform in (beckett, NO_AUDIO, np.zeros(48_000, np.float32)):
        [result] = voice.extract([audio_clip(waveform)])
        assert list(result.extras) == list(Voice.columns)
        assert pa.Table.from_pylist([result.extras], pa.schema(list(Voice.columns.items()))).num_rows == 1


def test_without_audio_there_is_nothing(voice):
    [result] = voice.extract([audio_clip(NO_AUDIO, start_s=5)])
    assert result.feature.shape == (0, Voice.width(VoiceSettings()))
    assert len(result.start_s) == len(result.end_s) == 0
    assert set(result.extras.values()) == {None}


def test_silence_is_a_window_that_says_nothing(voice):
    [result] = voice.extract([audio_clip(np.zeros(48_000, np.float32))])
    assert result.feature.shape[0] == 1
    assert not result.feature.any()
    assert set(result.extras.values()) == {None}


@pytest.mark.parametrize("samples", [1, 160, 1_000])
def test_the_shortest_clips_are_one_finite_window(voice, samples):
    [result] = voice.extract([audio_clip(tone()[1 : samples + 1])])
    assert result.feature.shape[0] == 1
    assert np.isfinite(result.feature).all()
    assert result.end_s[0] == pytest.approx(samples / SAMPLE_RATE)
    assert all(value is None or np.isfinite(value) for value in result.extras.values())


def test_a_broken_clip_fails_alone(voice, beckett):
    first, broken, last = voice.extract([audio_clip(beckett), broken_clip(), audio_clip(beckett)])
    assert isinstance(broken, Failure)
    assert isinstance(first, Result)
    assert np.array_equal(first.feature, last.feature)


def test_speech_and_a_tone_are_told_apart(voice, beckett):
    [speech] = voice.extract([audio_clip(beckett)])
    [music] = voice.extract([audio_clip(tone(seconds=9.0))])
    within = np.linalg.norm(speech.feature - speech.feature.mean(0), axis=1).mean()
    assert np.linalg.norm(speech.feature.mean(0) - music.feature.mean(0)) > within


def test_no_window_outweighs_the_others(voice, beckett):
    noise = (0.1 * np.random.default_rng(0).normal(size=len(beckett))).astype(np.float32)
    speech, strange = voice.extract([audio_clip(beckett), audio_clip(noise)])
    most = Voice.width(VoiceSettings()) ** 0.5 + 1e-4
    assert np.linalg.norm(speech.feature, axis=1).min() > 0.5 * most
    assert np.linalg.norm(strange.feature, axis=1).max() <= most


def test_columns_of_a_tone():
    found = prosody_columns(tone(220, amplitude=0.1))
    assert found["loudness_db"] == pytest.approx(-23.0, abs=0.1)
    assert found["loudness_range_db"] == pytest.approx(0, abs=0.3)
    assert found["pitch_hz"] == pytest.approx(220, rel=0.005)
    assert found["pitch_range_st"] == pytest.approx(0, abs=0.1)
    assert found["voiced_fraction"] > 0.97
    assert found["syllable_rate"] == 0
    assert found["spectral_centroid_hz"] == pytest.approx(220, rel=0.02)


def test_columns_of_two_tones_in_turn():
    found = prosody_columns(np.concatenate([tone(200, amplitude=0.1), tone(400, amplitude=0.01)]))
    assert found["loudness_range_db"] == pytest.approx(20, abs=0.5)
    assert found["pitch_range_st"] == pytest.approx(12, abs=0.1)


def test_noise_has_no_pitch():
    found = prosody_columns((0.1 * np.random.default_rng(0).normal(size=48_000)).astype(np.float32))
    assert found["voiced_fraction"] < 0.02
    assert found["spectral_centroid_hz"] == pytest.approx(4000, rel=0.05)


@pytest.mark.parametrize("name", ["beckett.wav", "two_cities.wav"])
def test_columns_of_speech(name):
    found = prosody_columns(spoken(name))
    assert 80 < found["pitch_hz"] < 180  # men
    assert 2 < found["pitch_range_st"] < 24
    assert 0.25 < found["voiced_fraction"] < 0.75
    assert 1.5 < found["syllable_rate"] < 7
    assert 200 < found["spectral_centroid_hz"] < 2500
    assert -45 < found["loudness_db"] < -10


def test_settings_are_checked():
    with pytest.raises(ValidationError, match="max_windows"):
        VoiceSettings(max_windows=0)


def test_identity():
    settings = VoiceSettings()
    assert Voice.space(settings) == "lite/voice-1"
    assert len(Voice.weights(settings)) == 25


def test_importing_the_module_and_asking_its_width_loads_no_torch():
    code = (
        "import sys; from vemoclap_batch.extractors.voice import Voice, VoiceSettings as S;"
        "Voice.width(S()), Voice.weights(S()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
