"""Which language a window of speech is in, by the encoder output that is decoded as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from vemoclap_batch.extractors.speech import FRAME, SLICE, Speech, filled_up
from vemoclap_batch.extractors.whisper_languages import (
    ENGLISH,
    Spoken,
    Stretch,
    Turn,
    is_unclear,
    mean_shares,
    spoken_in,
)
from vemoclap_batch.media.clip import SAMPLE_RATE

#: Frames of the encoder's output that are the silence after a slice of speech.
SILENCE = 100


class LanguageDetector:
    """Tells the languages of windows."""

    def __init__(self, model: Any, language: str | None, silence: int | None) -> None:
        """Make one for a model.

        Args:
            model: a ``faster_whisper.WhisperModel``.
            language: that of every window, if it is set.
            silence: samples of it after speech, as in :func:`filled_up`.
        """
        self._model, self._fixed, self._silence_after = model, language, silence

    def detect(self, encoded: Any, speeches: Sequence[Speech]) -> list[Spoken | Turn]:
        """The language of each window, or of its beginning.

        Args:
            encoded: the encoder's output for the next window of each clip, [n, frames, width].
            speeches: of these clips.
        """
        if not self._model.model.is_multilingual or self._fixed is not None:
            return [Spoken(self._fixed or ENGLISH, 1.0)] * len(speeches)
        unknown = [at for at, speech in enumerate(speeches) if speech.known is None]
        wholes = dict(zip(unknown, self._shares(rows(encoded, unknown)), strict=True)) if unknown else {}
        return [
            speech.known[0] if speech.known else self._language(speech, wholes[at], encoded, at)
            for at, speech in enumerate(speeches)
        ]

    def _language(self, speech: Speech, whole: Mapping[str, float], encoded: Any, at: int) -> Spoken | Turn:
        """The language of a window, of which the encoder's output is at a place in that of a batch."""
        places = speech.stretches()
        seconds = speech.size / SAMPLE_RATE
        if len(places) == 1:
            return spoken_in(whole, seconds, [], speech.heard)
        audio = _host(encoded)[at]
        stretches = []
        for start, end in places:
            slices = [audio[frame : frame + SLICE // FRAME] for frame in speech.slices(start, end)]
            shares = self._shares(_storage(np.stack([np.concatenate([part, self._silence]) for part in slices])))
            stretches.append(Stretch(end, end - start, mean_shares([Stretch(end, 1, share) for share in shares])))
        if is_unclear(whole, stretches):
            # Beside another language the encoder hears some of that in each of them.
            stretches = [Stretch(end, end - start, self._alone(speech.window()[start:end])) for start, end in places]
        return spoken_in(whole, seconds, stretches, speech.heard)

    def _alone(self, audio: np.ndarray) -> dict[str, float]:
        """The probability of each language in up to 30 s of audio, encoded by themselves."""
        return self._shares(self._encoded(audio))[0]

    def _encoded(self, audio: np.ndarray) -> Any:
        spectrum = self._model.feature_extractor(filled_up(audio, self._silence_after), padding=0)
        return self._model.encode(spectrum[None])

    def _shares(self, encoded: Any) -> list[dict[str, float]]:
        """The probability of each language in each piece of the encoder's output."""
        # They are written <|en|>.
        return [{code[2:-2]: share for code, share in found} for found in self._model.model.detect_language(encoded)]

    @cached_property
    def _silence(self) -> np.ndarray:
        """What the encoder makes of 2 s of silence, float [100, width].

        Languages are told right of speech that ends, as in Whisper's training, and wrong of slices without an end.
        """
        return _host(self._encoded(np.zeros(SILENCE * FRAME, np.float32)))[0, :SILENCE]


def rows(encoded: Any, at: Sequence[int]) -> Any:
    """Some windows of the encoder's output."""
    return encoded if len(at) == encoded.shape[0] else _storage(_host(encoded)[list(at)])


def _host(encoded: Any) -> np.ndarray:
    """The encoder's output, float [n, frames, width]; on the CPU without a copy."""
    from ctranslate2 import Device

    return np.asarray(encoded if encoded.device == "cpu" else encoded.to_device(Device.cpu))


def _storage(array: np.ndarray) -> Any:
    from ctranslate2 import StorageView

    return StorageView.from_array(np.ascontiguousarray(array))
