"""Speech to (English) text: faster-whisper, several clips at a time."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from vemoclap_batch.extractors.base import WAVEFORM, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.whisper_weights import (
    BUNDLED,
    BUNDLED_SHA256,
    bundled_folder,
    check_folder,
    load_cublas,
)
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip

if TYPE_CHECKING:
    from faster_whisper.tokenizer import Tokenizer

#: Samples of a window: Whisper takes 30 s at once.
WINDOW = 30 * SAMPLE_RATE
#: Windows in one pass. A CPU gains nothing from more than two; a GPU does.
CPU_BATCH, GPU_BATCH = 2, 16
#: Tokens of a window by default, and Whisper's own limit. A window that needs more is taken up again where its last
#: whole segment ended.
TOKENS, MOST_TOKENS = 112, 224
#: Whisper's own thresholds: more compressible is a loop; silent *and* unsure is no speech.
LOOP_COMPRESSION, NO_SPEECH, UNSURE = 2.4, 0.6, -1.0
#: Below this log probability, a window's words are invented. Whisper would sample other words, different each time.
INVENTED = -1.25
#: A looping window is decoded again with no sequence of this many tokens twice.
LOOP_NGRAM = 3

SEGMENT = pa.struct(
    [
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("text", pa.string()),
        ("no_speech_probability", pa.float32()),
        ("average_log_probability", pa.float32()),
    ]
)


class WhisperSettings(ExtractorSettings):
    """Settings of :class:`Whisper`."""

    model: str = Field(BUNDLED, description=f"{BUNDLED!r}, or the folder of a CTranslate2 Whisper model")
    compute_type: str = Field("int8", description="CTranslate2's arithmetic, such as int8, float16, float32")
    # These two came later: their defaults are left out of fingerprints, so that they change none.
    precision: Literal["auto", "float32", "float16"] | None = Field(
        None, exclude_if=lambda value: value is None, description="of what compute_type int8 leaves in floating point"
    )
    max_tokens: int = Field(
        TOKENS, ge=1, le=MOST_TOKENS, exclude_if=lambda value: value == TOKENS, description="of a window of 30 s"
    )
    task: Literal["translate", "transcribe"] = Field("translate", description="translate makes English of any language")
    beam_size: int = Field(5, ge=1, le=20)
    vad_filter: bool = Field(True, description="transcribe only what Silero's model takes for speech")
    language: str | None = Field(None, description="a code such as en; without it, detected in each clip")

    @model_validator(mode="after")
    def _is_consistent(self) -> WhisperSettings:
        if self.precision is not None and self.compute_type != "int8":
            raise ValueError(f"compute_type {self.compute_type!r} leaves no precision open; set one of the two")
        return self

    @property
    def arithmetic(self) -> str:
        """CTranslate2's name for ``compute_type`` with ``precision``."""
        if self.precision is None:
            return self.compute_type
        return f"{self.compute_type}_{'float32' if self.precision == 'auto' else self.precision}"


@dataclass
class Speech:
    """The speech of one clip.

    Attributes:
        pieces: samples [start, end) of the clip's waveform.
        audio: float32 [samples], the pieces one after another.
        done: samples of ``audio`` that were transcribed.
    """

    pieces: list[tuple[int, int]]
    audio: np.ndarray
    done: int = 0

    @classmethod
    def of(cls, waveform: np.ndarray, pieces: list[tuple[int, int]]) -> Speech:
        """These pieces of a waveform."""
        parts = [waveform[start:end] for start, end in pieces]
        return cls(pieces, np.concatenate([np.zeros(0, np.float32), *parts]))

    @property
    def left(self) -> int:
        """Samples that are still to be transcribed."""
        return len(self.audio) - self.done

    def window(self) -> np.ndarray:
        """The next 30 s, float32, with silence at the end where there is less, as in Whisper's training."""
        audio = self.audio[self.done : self.done + WINDOW]
        return np.pad(audio, (0, WINDOW - len(audio)))

    def time(self, seconds: float, is_end: bool = False) -> float:
        """Seconds from the start of the next window as seconds from the start of the waveform."""
        sample = self.done + round(seconds * SAMPLE_RATE)
        for start, end in self.pieces:
            # What starts where two pieces meet starts in the second; what ends there ends in the first.
            if sample < end - start or (is_end and sample == end - start):
                return (start + sample) / SAMPLE_RATE
            sample -= end - start
        return self.pieces[-1][1] / SAMPLE_RATE


@dataclass(frozen=True)
class Decoded:
    """Whisper's output for one window."""

    tokens: list[int]
    text: str
    no_speech_probability: float
    average_log_probability: float

    @property
    def loops(self) -> bool:
        """Whether it repeats itself; real speech compresses less."""
        raw = self.text.encode()
        return len(raw) > LOOP_COMPRESSION * len(zlib.compress(raw))

    @property
    def is_speech(self) -> bool:
        """Whether the words are kept rather than taken for invented ones."""
        silent = self.no_speech_probability > NO_SPEECH and self.average_log_probability < UNSURE
        return not silent and not self.loops and self.average_log_probability >= INVENTED


class Whisper(Extractor):
    """Columns ``text`` (English with ``task: translate``), ``language``, ``language_probability``, ``segments``.

    Decodes at temperature 0, without fallback and without conditioning on previous text, so that the same audio gives
    the same words whatever came before it. A window that loops is decoded once more without repetitions; one that
    still loops, is taken for silence or is very unsure gives no text.
    """

    name = "whisper"
    Settings = WhisperSettings
    inputs = (WAVEFORM,)
    columns = {
        "text": pa.string(),
        "language": pa.string(),
        "language_probability": pa.float32(),
        "segments": pa.list_(SEGMENT),
    }
    settings: WhisperSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Load the model.

        Raises:
            FileNotFoundError: the folder lacks a file.
            ValueError: the device cannot compute as the settings say, or the model expects another spectrogram than
                its folder describes.
            RuntimeError: on a GPU, cuBLAS 12 is not installed.
        """
        super().__init__(settings, resources)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from faster_whisper import WhisperModel

        device, _, index = resources.device.partition(":")
        if device == "cuda":
            load_cublas()
        self._batches = Batches.for_device(device, CPU_BATCH, GPU_BATCH)
        folder = resources.models["model"] if self.references(settings) else bundled_folder()
        check_folder(folder)
        self._model = WhisperModel(
            str(folder),
            device=device,
            device_index=int(index or 0),
            compute_type=self.settings.arithmetic,
            cpu_threads=resources.threads,
            local_files_only=True,
        )
        expected, described = self._model.model.n_mels, len(self._model.feature_extractor.mel_filters)
        if expected != described:
            raise ValueError(
                f"{folder}: the model takes {expected} mel bands, its preprocessor_config.json describes {described}; "
                "without that file, 80 are assumed"
            )
        self._tokenizers: dict[str, Tokenizer] = {}

    @classmethod
    def weights(cls, settings: Any) -> str:
        """The hash of the bundled model."""
        return BUNDLED_SHA256[:12] if settings.model == BUNDLED else ""

    @classmethod
    def references(cls, settings: Any) -> dict[str, str]:
        """The model, unless it is the bundled one."""
        return {} if settings.model == BUNDLED else {"model": settings.model}

    def _extract(self, clips: Sequence[Clip]) -> list[Result]:
        waveforms = [np.asarray(clip.waveform) for clip in clips]
        speeches = [Speech.of(waveform, self._pieces(waveform)) for waveform in waveforms]
        languages: dict[int, tuple[str, float]] = {}
        segments: list[list[dict[str, Any]]] = [[] for _ in clips]

        def transcribe(batch: Sequence[int]) -> list[Decoded]:
            return self._transcribe([speeches[index].window() for index in batch], batch, languages)

        # Where a clip's next window starts depends on its last, so each round takes one window of every clip.
        while waiting := [index for index, speech in enumerate(speeches) if speech.left > 0]:
            for index, decoded in zip(waiting, self._batches.run(transcribe, waiting), strict=True):
                segments[index] += self._segments(decoded, speeches[index], clips[index].start_s)
        return [_result(of_clip, languages.get(index)) for index, of_clip in enumerate(segments)]

    def _pieces(self, waveform: np.ndarray) -> list[tuple[int, int]]:
        """Where there is speech: ranges of samples."""
        if not len(waveform):
            return []
        if not self.settings.vad_filter:
            return [(0, len(waveform))]
        from faster_whisper.vad import get_speech_timestamps

        return [(chunk["start"], chunk["end"]) for chunk in get_speech_timestamps(waveform)]

    def _transcribe(
        self, windows: Sequence[np.ndarray], clips: Sequence[int], languages: dict[int, tuple[str, float]]
    ) -> list[Decoded]:
        """Decode one window of each clip, and note in ``languages`` that of a clip's first window."""
        spectra = [self._model.feature_extractor(window, padding=0) for window in windows]  # each [mel bands, 3000]
        encoded = self._model.encode(np.stack(spectra))  # [n, 1500, width]
        if any(clip not in languages for clip in clips):
            for clip, detected in zip(clips, self._languages(encoded, len(clips)), strict=True):
                languages.setdefault(clip, detected)
        spoken = [languages[clip][0] for clip in clips]
        decoded = self._generate(encoded, spoken)
        if any(window.loops for window in decoded):
            again = self._generate(encoded, spoken, no_repeat_ngram_size=LOOP_NGRAM)
            decoded = [second if first.loops else first for first, second in zip(decoded, again, strict=True)]
        return decoded

    def _languages(self, encoded: Any, count: int) -> list[tuple[str, float]]:
        """The language of each window and its probability."""
        fixed = self.settings.language if self._model.model.is_multilingual else "en"
        if fixed is not None:
            return [(fixed, 1.0)] * count
        # The likeliest comes first, written <|en|>.
        return [(likely[0][0][2:-2], float(likely[0][1])) for likely in self._model.model.detect_language(encoded)]

    def _generate(self, encoded: Any, languages: Sequence[str], no_repeat_ngram_size: int = 0) -> list[Decoded]:
        from faster_whisper.transcribe import get_suppressed_tokens

        tokenizers = [self._tokenizer(language) for language in languages]
        outputs = self._model.model.generate(
            encoded,
            [tokenizer.sot_sequence for tokenizer in tokenizers],
            beam_size=self.settings.beam_size,
            # CTranslate2 writes half as many.
            max_length=2 * self.settings.max_tokens,
            no_repeat_ngram_size=no_repeat_ngram_size,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_blank=True,
            suppress_tokens=get_suppressed_tokens(tokenizers[0], [-1]),
            sampling_temperature=0,
        )
        return [_decoded(output, tokenizer) for tokenizer, output in zip(tokenizers, outputs, strict=True)]

    def _tokenizer(self, language: str) -> Tokenizer:
        from faster_whisper.tokenizer import Tokenizer

        if language not in self._tokenizers:
            multilingual = self._model.model.is_multilingual
            self._tokenizers[language] = Tokenizer(
                self._model.hf_tokenizer, multilingual, task=self.settings.task, language=language
            )
        return self._tokenizers[language]

    def _segments(self, decoded: Decoded, speech: Speech, offset_s: float) -> list[dict[str, Any]]:
        """The segments of a window in seconds of the video; moves ``speech`` on to the next window."""
        step = min(WINDOW, speech.left)
        tokenizer = next(iter(self._tokenizers.values()))
        timed = _timed(decoded.tokens, tokenizer.timestamp_begin, step / SAMPLE_RATE)
        start, end, last = timed[-1] if timed else (0.0, 0.0, [])
        # A step of at least a second, so that a window which opens segments and never fills them ends.
        if decoded.is_speech and start >= 1 and (not last or (end is None and step < speech.left)):
            # Whisper broke off, or the window's end cut a sentence: the next window starts where that begins.
            timed.pop()
            step = round(start * SAMPLE_RATE)
        rows = [
            {
                "start_s": offset_s + speech.time(start),
                "end_s": offset_s + speech.time(step / SAMPLE_RATE if end is None else end, is_end=True),
                "text": tokenizer.decode(tokens).strip(),
                "no_speech_probability": decoded.no_speech_probability,
                "average_log_probability": decoded.average_log_probability,
            }
            for start, end, tokens in timed
        ]
        speech.done += step
        return [row for row in rows if row["text"]] if decoded.is_speech else []


def _decoded(output: Any, tokenizer: Tokenizer) -> Decoded:
    tokens = output.sequences_ids[0]
    # The score is a mean over the tokens; Whisper's own figure counts the closing one too.
    log_probability = float(output.scores[0]) * len(tokens) / (len(tokens) + 1)
    return Decoded(tokens, tokenizer.decode(tokens), float(output.no_speech_prob), log_probability)


def _timed(
    tokens: Sequence[int], timestamp_begin: int, duration_s: float
) -> list[tuple[float, float | None, list[int]]]:
    """Cut a window's tokens at its time stamps: start and end in seconds of the window, and the tokens between.

    The last segment has no end when the window stopped in the middle of it, and no tokens when Whisper opened it (by
    two time stamps in a row) and stopped.
    """
    segments: list[tuple[float, float | None, list[int]]] = []
    start, words, opened = 0.0, [], False
    for token in tokens:
        if token < timestamp_begin:
            words.append(token)
            continue
        # A time stamp is a multiple of 20 ms.
        time = min((token - timestamp_begin) * 0.02, duration_s)
        opened = not words
        if words:
            segments.append((start, max(start, time), words))
        start, words = time, []
    if words or (opened and segments):
        segments.append((start, None, words))
    return segments


def _result(segments: list[dict[str, Any]], language: tuple[str, float] | None) -> Result:
    """The result of a clip; without any segment its language was a guess about a noise."""
    name, probability = language if segments and language else (None, None)
    extras = {
        "text": " ".join(segment["text"] for segment in segments),
        "language": name,
        "language_probability": probability,
        "segments": segments,
    }
    return Result(extras=extras)
