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

from vemoclap_batch.errors import Failure
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

#: Samples that Whisper hears at once: 30 s.
WINDOW = 30 * SAMPLE_RATE
#: Windows in one pass. A CPU gains nothing from more than two; a GPU does.
CPU_BATCH, GPU_BATCH = 2, 16
#: Tokens of a window unless the settings say otherwise; Whisper's own limit is :data:`MOST_TOKENS`. A window that
#: needs more is taken up where its last whole segment ended.
TOKENS, MOST_TOKENS = 112, 224
#: Whisper's own thresholds: more compressible is a loop; silent *and* unsure is no speech.
LOOP_COMPRESSION, NO_SPEECH, UNSURE = 2.4, 0.6, -1.0
#: Less sure than this, a window's words are invented. Whisper would sample other words instead, differing each time.
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

    model: str = Field(BUNDLED, description=f"{BUNDLED!r}, or where a CTranslate2 Whisper model lies")
    compute_type: str = Field("int8", description="CTranslate2's arithmetic, such as int8, float16, float32")
    # Left out of fingerprints where they are as ever, so that they change none.
    precision: Literal["auto", "float32", "float16"] | None = Field(
        None, exclude_if=lambda value: value is None,
        description="of what compute_type int8 leaves in floating point: float16 on a GPU, else float32",
    )  # fmt: skip
    max_tokens: int = Field(
        TOKENS, ge=1, le=MOST_TOKENS, exclude_if=lambda value: value == TOKENS,
        description="tokens of a window of 30 s at most",
    )  # fmt: skip
    task: Literal["translate", "transcribe"] = Field("translate", description="translate makes English of any language")
    beam_size: int = Field(5, ge=1, le=20)
    vad_filter: bool = Field(True, description="hear only what Silero takes for speech")
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
    """The speech of one clip: samples [start, end) of its waveform, one after another; ``done`` of them were heard."""

    pieces: list[tuple[int, int]]
    done: int = 0

    @property
    def left(self) -> int:
        """Samples that are still to be heard."""
        return sum(end - start for start, end in self.pieces) - self.done

    def window(self, waveform: np.ndarray) -> np.ndarray:
        """The next 30 s, float32; what is missing at the end is silence, as in Whisper's training."""
        window = np.zeros(WINDOW, np.float32)
        place = -self.done  # of the piece's first sample, in the window
        for start, end in self.pieces:
            first, last = max(place, 0), min(place + end - start, WINDOW)
            if first < last:
                window[first:last] = waveform[start + first - place : start + last - place]
            place += end - start
        return window

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
    """What Whisper made of one window."""

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
        """Whether the words are to be kept rather than taken for invented ones."""
        silent = self.no_speech_probability > NO_SPEECH and self.average_log_probability < UNSURE
        return not silent and not self.loops and self.average_log_probability >= INVENTED


class Whisper(Extractor):
    """Columns ``text`` (English with ``task: translate``), ``language``, ``language_probability``, ``segments``.

    At temperature 0, without fallback and without conditioning on previous text, so that the same sound gives the same
    words whatever came before it. A window that loops is decoded once more without repetitions; one that still
    loops, is taken for silence or is very unsure gives no text.
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
            ValueError: the device cannot compute as the settings say, or the model hears other spectra than its
                folder describes.
            RuntimeError: on a GPU, cuBLAS 12 is not installed.
        """
        super().__init__(settings, resources)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from faster_whisper import WhisperModel

        device, _, index = resources.device.partition(":")
        if device == "cuda":
            load_cublas()
        self._batches = Batches(CPU_BATCH if device == "cpu" else GPU_BATCH)
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
        heard, given = self._model.model.n_mels, len(self._model.feature_extractor.mel_filters)
        if heard != given:
            raise ValueError(
                f"{folder} hears {heard} mel bands, and its preprocessor_config.json describes {given}; "
                "without that file, 80 are taken"
            )
        self._tokenizers: dict[str, Tokenizer] = {}

    @classmethod
    def weights(cls, settings: ExtractorSettings) -> str:
        """The hash of the bundled model."""
        assert isinstance(settings, WhisperSettings)
        return BUNDLED_SHA256[:12] if settings.model == BUNDLED else ""

    @classmethod
    def references(cls, settings: ExtractorSettings) -> dict[str, str]:
        """The model, unless it is the bundled one."""
        assert isinstance(settings, WhisperSettings)
        return {} if settings.model == BUNDLED else {"model": settings.model}

    def _extract(self, clips: Sequence[Clip]) -> list[Result | Failure]:
        """Find the speech of all clips and transcribe it, several clips at a time."""
        speeches = [Speech(self._pieces(np.asarray(clip.waveform))) for clip in clips]
        languages: dict[int, tuple[str, float]] = {}
        segments: list[list[dict[str, Any]]] = [[] for _ in clips]
        # Where a clip's next window starts depends on its last, so each round hears one window of every clip.
        while waiting := [index for index, speech in enumerate(speeches) if speech.left > 0]:

            def hear(batch: Sequence[int]) -> list[Decoded]:
                sounds = [speeches[index].window(clips[index].waveform) for index in batch]
                return self._hear(sounds, batch, languages)

            for index, words in zip(waiting, self._batches.run(hear, waiting), strict=True):
                segments[index] += self._take(words, speeches[index], clips[index].start_s)
        return [_result(found, languages.get(index)) for index, found in enumerate(segments)]

    def _pieces(self, waveform: np.ndarray) -> list[tuple[int, int]]:
        """Where there is speech: ranges of samples."""
        if not len(waveform):
            return []
        if not self.settings.vad_filter:
            return [(0, len(waveform))]
        from faster_whisper.vad import get_speech_timestamps

        return [(chunk["start"], chunk["end"]) for chunk in get_speech_timestamps(waveform)]

    def _hear(
        self, sounds: Sequence[np.ndarray], clips: Sequence[int], languages: dict[int, tuple[str, float]]
    ) -> list[Decoded]:
        """Decode one window of each clip, and note in ``languages`` that of a clip's first window."""
        spectra = [self._model.feature_extractor(sound, padding=0) for sound in sounds]  # each [mel bins, 3000]
        encoded = self._model.encode(np.stack(spectra))  # [b, 1500, width]
        if any(clip not in languages for clip in clips):
            for clip, found in zip(clips, self._languages(encoded, len(clips)), strict=True):
                languages.setdefault(clip, found)
        spoken = [languages[clip][0] for clip in clips]
        decoded = self._generate(encoded, spoken)
        if any(words.loops for words in decoded):
            again = self._generate(encoded, spoken, no_repeat_ngram_size=LOOP_NGRAM)
            decoded = [second if first.loops else first for first, second in zip(decoded, again, strict=True)]
        return decoded

    def _languages(self, encoded: Any, count: int) -> list[tuple[str, float]]:
        """The language of each window and its probability."""
        fixed = self.settings.language if self._model.model.is_multilingual else "en"
        if fixed is not None:
            return [(fixed, 1.0)] * count
        # The likeliest comes first, written <|en|>.
        return [(found[0][0][2:-2], float(found[0][1])) for found in self._model.model.detect_language(encoded)]

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
        return [
            Decoded(
                tokens=output.sequences_ids[0],
                text=tokenizer.decode(output.sequences_ids[0]),
                no_speech_probability=float(output.no_speech_prob),
                # The score is a mean over the tokens; Whisper's own figure counts the closing one too.
                average_log_probability=float(output.scores[0])
                * len(output.sequences_ids[0])
                / (len(output.sequences_ids[0]) + 1),
            )
            for tokenizer, output in zip(tokenizers, outputs, strict=True)
        ]

    def _tokenizer(self, language: str) -> Tokenizer:
        from faster_whisper.tokenizer import Tokenizer

        if language not in self._tokenizers:
            self._tokenizers[language] = Tokenizer(
                self._model.hf_tokenizer,
                self._model.model.is_multilingual,
                task=self.settings.task,
                language=language,
            )
        return self._tokenizers[language]

    def _take(self, words: Decoded, speech: Speech, offset_s: float) -> list[dict[str, Any]]:
        """The segments of a window in seconds of the video; moves ``speech`` on to the next window."""
        heard = min(WINDOW, speech.left)
        tokenizer = next(iter(self._tokenizers.values()))
        timed = _timed(words.tokens, tokenizer.timestamp_begin, heard / SAMPLE_RATE)
        start, end, last = timed[-1] if timed else (0.0, 0.0, [])
        # A step of at least a second, so that a window which opens segments and never fills them cannot go on for ever.
        if words.is_speech and start >= 1 and (not last or (end is None and heard < speech.left)):
            # Whisper broke off, or the window's end cut a sentence: the next window starts where that begins.
            timed.pop()
            heard = round(start * SAMPLE_RATE)
        rows = [
            {
                "start_s": offset_s + speech.time(start),
                "end_s": offset_s + speech.time(heard / SAMPLE_RATE if end is None else end, is_end=True),
                "text": tokenizer.decode(tokens).strip(),
                "no_speech_probability": words.no_speech_probability,
                "average_log_probability": words.average_log_probability,
            }
            for start, end, tokens in timed
        ]
        speech.done += heard
        return [row for row in rows if row["text"]] if words.is_speech else []


def _timed(
    tokens: Sequence[int], timestamp_begin: int, duration_s: float
) -> list[tuple[float, float | None, list[int]]]:
    """Cut a window's tokens at its time stamps: start and end in seconds of the window, and the tokens between.

    The last segment has no end when the window stopped in the middle of it, and no tokens when Whisper opened it (by
    two time stamps in a row) and left it at that.
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
    return Result(np.zeros((0, 0), np.float32), extras=extras)
