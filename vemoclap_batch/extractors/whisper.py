"""Speech to (English) text: faster-whisper, several clips at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, Field, model_validator

from vemoclap_batch.extractors.base import WAVEFORM, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.speech import FRAME, WINDOW, Speech, utterances
from vemoclap_batch.extractors.transcript import (
    DROPPED,
    NO_SPEECH,
    NO_SPEECH_SHORT,
    ORIGINAL,
    SEGMENT,
    WORD,
    Aligned,
    Decoded,
    Transcript,
    Window,
    aligned_words,
    timed,
    whole_segments,
    within,
    without_loop,
)
from vemoclap_batch.extractors.whisper_detection import LanguageDetector, rows
from vemoclap_batch.extractors.whisper_languages import (
    ENGLISH,
    NAMES,
    VERSION_3_ONLY,
    Spoken,
    Turn,
    code_of,
    known_languages,
)
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

#: Windows in one pass. A CPU gains nothing from more than two; a GPU does.
CPU_BATCH, GPU_BATCH = 2, 16
#: Tokens of a window by default, and Whisper's own limit. A window that needs more is taken up again where its last
#: whole segment ended.
TOKENS, MOST_TOKENS = 112, 224
#: Samples of one frame of the spectrum.
MEL = 160
#: Signs that belong to the word after and before them, as faster-whisper has it.
PUNCTUATION = ("\"'“¿([{-", "\"'.。,，!！?？:：”)]}、")


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
    language: Annotated[str, AfterValidator(code_of)] | None = Field(
        None, description="a code such as de, or an English name; without it, detected in each stretch of speech"
    )
    silence_s: float | None = Field(
        None, ge=1, le=30, exclude_if=lambda value: value is None,
        description="of silence at least after a window's speech; without it, up to 30 s as in Whisper's training",
    )  # fmt: skip

    @model_validator(mode="after")
    def _is_consistent(self) -> WhisperSettings:
        if self.precision is not None and self.compute_type != "int8":
            raise ValueError(f"compute_type {self.compute_type!r} leaves no precision open; set one of the two")
        if self.model == BUNDLED and self.language in VERSION_3_ONLY:
            raise ValueError(f"language {self.language!r}: the bundled model does not know {NAMES[self.language]}")
        return self

    @property
    def arithmetic(self) -> str:
        """CTranslate2's name for ``compute_type`` with ``precision``."""
        if self.precision is None:
            return self.compute_type
        return f"{self.compute_type}_{'float32' if self.precision == 'auto' else self.precision}"


class Whisper(Extractor):
    """Columns ``text`` (English with ``task: translate``) and ``text_original``, their words and segments, languages.

    Decodes at temperature 0, without fallback and without conditioning on previous text, so that the same audio gives
    the same words whatever came before it. A loop is cut where it first repeats itself. What is taken for words that
    nobody said is in column ``dropped``, each with its reason.

    Languages are told for each stretch of speech, by slices of the same encoder output that is decoded; a window ends
    where the language changes. In a language other than English, ``task: translate`` decodes a window twice.

    Words have the times of the decoder's cross-attention, within what the voice activity detector takes for speech. A
    segment ends where the speech pauses.
    """

    name = "whisper"
    version = 3
    Settings = WhisperSettings
    inputs = (WAVEFORM,)
    columns = {
        "text": pa.string(),
        "text_original": pa.string(),
        "language": pa.string(),
        "language_probability": pa.float32(),
        "language_uncertain": pa.bool_(),
        "segments": pa.list_(SEGMENT),
        "words": pa.list_(WORD),
        "segments_original": pa.list_(ORIGINAL),
        "dropped": pa.list_(DROPPED),
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
        self._tokenizers: dict[tuple[str, str], Tokenizer] = {}
        silence_s = self.settings.silence_s
        self._silence = None if silence_s is None else round(silence_s * SAMPLE_RATE)
        self._detector = LanguageDetector(self._model, self.settings.language, self._silence)

    @classmethod
    def weights(cls, settings: Any) -> str:
        """The hash of the bundled model."""
        return BUNDLED_SHA256[:12] if settings.model == BUNDLED else ""

    @classmethod
    def references(cls, settings: Any) -> dict[str, str]:
        """The model, unless it is the bundled one."""
        return {} if settings.model == BUNDLED else {"model": settings.model}

    @classmethod
    def mistakes(cls, settings: Any, models: Mapping[str, Path]) -> list[str]:
        """A language that the model does not know."""
        if "model" not in models or settings.language is None:
            return []
        known = known_languages(models["model"])
        if settings.language in known:
            return []
        expected = "English only" if known == {ENGLISH} else f"{len(known)} languages, not this one"
        return [f"language = {settings.language!r}: the model knows {expected}"]

    def _extract(self, clips: Sequence[Clip]) -> list[Result]:
        waveforms = [np.asarray(clip.waveform) for clip in clips]
        speeches = [Speech.of(waveform, self._utterances(waveform), self._silence) for waveform in waveforms]
        transcripts = [Transcript() for _ in clips]

        def hear(batch: Sequence[int]) -> list[Window | Turn]:
            return self._hear([speeches[index] for index in batch])

        # Where a clip's next window starts depends on its last, so each round takes one window of every clip.
        while waiting := [index for index, speech in enumerate(speeches) if speech.left > 0]:
            # Those of one size together: filled up further, a window would be heard otherwise than alone.
            for index, found in self._by_size(hear, waiting, speeches):
                if isinstance(found, Turn):
                    speeches[index].turn(found)
                elif found.decoded.doubt is not None and speeches[index].filled < WINDOW:
                    # Filled up as in its training, Whisper tells weak speech from noise better.
                    speeches[index].whole = True
                else:
                    transcripts[index].add(found, speeches[index], clips[index].start_s)
                    speeches[index].advance(found.step, found.spoken, looped=bool(found.loop))
        return [Result(extras=transcript.columns()) for transcript in transcripts]

    def _by_size(
        self, hear: Callable[[Sequence[int]], list[Window | Turn]], waiting: Sequence[int], speeches: Sequence[Speech]
    ) -> Iterator[tuple[int, Window | Turn]]:
        sizes: dict[int, list[int]] = {}
        for index in waiting:
            sizes.setdefault(speeches[index].filled, []).append(index)
        for indices in sizes.values():
            yield from zip(indices, self._batches.run(hear, indices), strict=True)

    def _utterances(self, waveform: np.ndarray) -> list[tuple[int, int]]:
        """Where there is speech: ranges of samples."""
        if not len(waveform):
            return []
        return utterances(waveform) if self.settings.vad_filter else [(0, len(waveform))]

    def _hear(self, speeches: Sequence[Speech]) -> list[Window | Turn]:
        """The next window of each clip, or where in it the language changes."""
        spectra = [self._model.feature_extractor(speech.window(), padding=0) for speech in speeches]
        encoded = self._model.encode(np.stack(spectra))  # [n, frames, width]
        languages = self._detector.detect(encoded, speeches)
        spoken = {at: language for at, language in enumerate(languages) if isinstance(language, Spoken)}
        windows = iter(self._windows(rows(encoded, list(spoken)), [speeches[at] for at in spoken], [*spoken.values()]))
        return [language if isinstance(language, Turn) else next(windows) for language in languages]

    def _windows(self, encoded: Any, speeches: Sequence[Speech], spoken: Sequence[Spoken]) -> list[Window]:
        """Decode a window of each clip, in its language."""
        if not spoken:
            return []
        task = self.settings.task
        codes = [language.code for language in spoken]
        decoded = self._generate(encoded, codes, task)
        begin = self._tokenizer(codes[0], task).timestamp_begin
        whole = [
            whole_segments(window, begin, speech.size, speech.left)
            for window, speech in zip(decoded, speeches, strict=True)
        ]
        frames = [speech.size // MEL for speech in speeches]
        words = self._aligned(encoded, codes, task, [segments for segments, _ in whole], frames)
        foreign = [
            at for at, code in enumerate(codes) if task == "translate" and code != ENGLISH and decoded[at].doubt is None
        ]
        originals = self._originals(
            rows(encoded, foreign), [codes[at] for at in foreign], [speeches[at] for at in foreign]
        )
        original = dict(zip(foreign, originals, strict=True))
        return [
            _window(language, step, window, words[at], original.get(at), speech.looped)
            for at, (language, (_, step), window, speech) in enumerate(
                zip(spoken, whole, decoded, speeches, strict=True)
            )
        ]

    def _originals(self, encoded: Any, codes: Sequence[str], speeches: Sequence[Speech]) -> list[list[Aligned]]:
        """The words of windows in the language that is spoken."""
        if not codes:
            return []
        # Without a beam search, which takes five times as long: the translation is what the sentiment reads.
        decoded = self._generate(encoded, codes, "transcribe", beam_size=1)
        begin = self._tokenizer(codes[0], "transcribe").timestamp_begin
        segments = [
            [tokens for _, _, tokens in timed(window.tokens, begin, speech.size / SAMPLE_RATE)]
            for window, speech in zip(decoded, speeches, strict=True)
        ]
        words = self._aligned(encoded, codes, "transcribe", segments, [speech.size // MEL for speech in speeches])
        return [without_loop(window, of_window) for window, of_window in zip(decoded, words, strict=True)]

    def _generate(
        self, encoded: Any, languages: Sequence[str], task: str, beam_size: int | None = None
    ) -> list[Decoded]:
        from faster_whisper.transcribe import get_suppressed_tokens

        tokenizers = [self._tokenizer(language, task) for language in languages]
        outputs = self._model.model.generate(
            encoded,
            [tokenizer.sot_sequence for tokenizer in tokenizers],
            beam_size=beam_size or self.settings.beam_size,
            # CTranslate2 writes half as many.
            max_length=2 * self.settings.max_tokens,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_blank=True,
            suppress_tokens=get_suppressed_tokens(tokenizers[0], [-1]),
            sampling_temperature=0,
        )
        limit = NO_SPEECH if encoded.shape[1] * FRAME >= WINDOW else NO_SPEECH_SHORT
        return [_decoded(output, tokenizer, limit) for tokenizer, output in zip(tokenizers, outputs, strict=True)]

    def _aligned(
        self, encoded: Any, languages: Sequence[str], task: str, segments: Sequence[Sequence[list[int]]],
        frames: Sequence[int],
    ) -> list[list[Aligned]]:  # fmt: skip
        """The words of each window, by the decoder's cross-attention; ``frames`` of each spectrum hold sound."""
        from faster_whisper.transcribe import merge_punctuations

        found: list[list[Aligned]] = [[] for _ in languages]
        texts = [[token for tokens in of_window for token in tokens] for of_window in segments]
        for language in dict.fromkeys(languages):
            tokenizer = self._tokenizer(language, task)
            ours = [at for at, text in enumerate(texts) if text and languages[at] == language]
            alignments = self._model.find_alignment(
                tokenizer, [texts[at] for at in ours], rows(encoded, ours), [frames[at] for at in ours]
            )
            for at, alignment in zip(ours, alignments, strict=True):
                merge_punctuations(alignment, *PUNCTUATION)
                found[at] = aligned_words(alignment, segments[at])
        return found

    def _tokenizer(self, language: str, task: str) -> Tokenizer:
        from faster_whisper.tokenizer import Tokenizer

        if (language, task) not in self._tokenizers:
            multilingual = self._model.model.is_multilingual
            self._tokenizers[language, task] = Tokenizer(
                self._model.hf_tokenizer, multilingual, task=task, language=language
            )
        return self._tokenizers[language, task]


def _window(
    spoken: Spoken, step: int, decoded: Decoded, words: list[Aligned], original: list[Aligned] | None, looped: bool
) -> Window:
    """A window without its loop, of which the first repetition is heard again unless the last one ``looped`` too."""
    kept = without_loop(decoded, words)
    loop = words[len(kept) :]
    if loop and loop[0].start_s >= 1 and not looped and decoded.doubt is None:
        # To who hears it from its beginning it may be no loop.
        step = round(loop[0].start_s * SAMPLE_RATE)
    original = None if original is None else within(original, step)
    return Window(spoken, step, decoded, within(kept, step), original, loop)


def _decoded(output: Any, tokenizer: Tokenizer, no_speech_limit: float) -> Decoded:
    tokens = output.sequences_ids[0]
    # The score is a mean over the tokens; Whisper's own figure counts the closing one too.
    log_probability = float(output.scores[0]) * len(tokens) / (len(tokens) + 1)
    return Decoded(tokens, tokenizer.decode(tokens), float(output.no_speech_prob), log_probability, no_speech_limit)
