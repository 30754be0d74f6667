"""The voice in a video's audio, window by window, and how loud, high and bright the audio is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

import vemoclap_batch
from vemoclap_batch.extractors.base import WAVEFORM, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.pretrained import own_weights_hash, own_weights_width, prepare_torch
from vemoclap_batch.extractors.whisper_weights import BUNDLED_SHA256, bundled_folder
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip
from vemoclap_batch.media.windows import clip_windows

WEIGHTS = Path(vemoclap_batch.__file__).parent / "weights" / "voice.safetensors"
#: Samples in a window, as the published system cuts audio for BEATs.
WINDOW = 3 * SAMPLE_RATE
#: What is so much quieter than the loudest part is a pause, which the loudness range leaves out.
PAUSE_DB = 40.0


class VoiceSettings(ExtractorSettings):
    """Settings of :class:`Voice`."""

    max_windows: int = Field(16, ge=1, description="longer audio keeps this many windows, evenly spaced")


class Voice(Extractor):
    """Per window of 3 s a description of the voice, from the lower layers of the bundled Whisper's encoder.

    The columns describe the whole audio; each is null where there is nothing to measure.

    ``loudness_db``: root mean square, dBFS. ``loudness_range_db``: between the 10th and the 95th percentile of what is
    no pause. ``pitch_hz``: median where there is a pitch. ``pitch_range_st``: semitones from its 10th to its 90th
    percentile. ``voiced_fraction``: share of the time with a pitch. ``syllable_rate``: peaks of loudness per second.
    ``spectral_centroid_hz``: mean frequency weighted by power. Pitch and syllables are those of speech; music gives
    numbers too, which mean less.
    """

    name = "voice"
    Settings = VoiceSettings
    inputs = (WAVEFORM,)
    sequence = True
    columns = dict.fromkeys(
        (
            "loudness_db",
            "loudness_range_db",
            "pitch_hz",
            "pitch_range_st",
            "voiced_fraction",
            "syllable_rate",
            "spectral_centroid_hz",
        ),
        pa.float32(),
    )
    feature_space = "lite/voice-1"
    settings: VoiceSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        prepare_torch(resources.threads)
        from vemoclap_batch.networks.voice import load_voice_net

        self._network = load_voice_net(bundled_folder() / "model.bin", WEIGHTS).to(resources.device)

    @classmethod
    def width(cls, settings: Any) -> int:
        """How many descriptors the weights file makes."""
        return own_weights_width(WEIGHTS, "projection")

    @classmethod
    def weights(cls, settings: Any) -> str:
        """Short hashes of the encoder's file and of the projection's."""
        return f"{BUNDLED_SHA256[:12]} {own_weights_hash(WEIGHTS)}"

    def _extract(self, clips: Sequence[Clip]) -> list[Result]:
        # Each clip by itself, so that its feature does not depend on the others of the batch.
        return [self._describe(clip) for clip in clips]

    def _describe(self, clip: Clip) -> Result:
        start_s, windows = clip_windows(clip, WINDOW, WINDOW // 2, self.settings.max_windows)
        feature = np.zeros((len(windows), self.width(self.settings)), np.float32)
        for row, window in enumerate(windows):
            feature[row] = self._network.describe(window)
        end_s = start_s + np.array([len(window) for window in windows], np.float64) / SAMPLE_RATE
        return Result(feature, start_s, end_s, prosody_columns(np.asarray(clip.waveform, np.float32)))


def prosody_columns(waveform: np.ndarray) -> dict[str, Any]:
    """The columns of :class:`Voice` for audio [samples], None where there is nothing to measure."""
    from vemoclap_batch.networks import prosody

    if not np.any(waveform):
        return dict.fromkeys(Voice.columns)
    levels = prosody.loudness(waveform)
    pitch = prosody.pitch(waveform)
    voiced = pitch[pitch > 0]
    quiet, loud = np.percentile(levels[levels >= levels.max() - PAUSE_DB], [10, 95])
    values = {
        "loudness_db": 10 * math.log10((10 ** (levels / 10)).mean()),
        "loudness_range_db": loud - quiet,
        "pitch_hz": np.median(voiced) if len(voiced) else None,
        "pitch_range_st": 12 * math.log2(np.divide(*np.percentile(voiced, [90, 10]))) if len(voiced) else None,
        "voiced_fraction": len(voiced) / len(pitch),
        "syllable_rate": prosody.syllable_rate(levels),
        "spectral_centroid_hz": prosody.spectral_centroid(waveform),
    }
    return {name: None if value is None else float(value) for name, value in values.items()}
