"""Text in frames, in English: PaddleOCR, language identification and translation, as published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from vemoclap_batch.extractors.base import ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.ocr import OcrSettings, PaddleOcr, ocr_result, unique_texts
from vemoclap_batch.extractors.paddle_models import (
    ONNX,
    PADDLE,
    Engine,
    bundled_detector,
    bundled_recogniser,
    device_of,
    engine_of,
    installed_engine,
)
from vemoclap_batch.extractors.pretrained import (
    LONGEST,
    PrecisionSettings,
    TextClassifier,
    autocast,
    computed_precision,
    load_strictly,
    load_tokenizer,
    pad,
    prepare_torch,
)
from vemoclap_batch.extractors.text_lines import LineReader, Recogniser, own_hashes
from vemoclap_batch.media.clip import Clip
from vemoclap_batch.networks.script import SCRIPTS

#: In place of a reference: the models that the rapidocr package carries.
BUNDLED = "bundled"
#: The names of further recognisers among the models, before the script.
_RECOGNISERS = "recognisers."
LANGUAGE = "hf:papluca/xlm-roberta-base-language-detection"
TRANSLATION = "hf:facebook/nllb-200-distilled-600M"
TEXT = pa.struct(
    {
        "frame": pa.int32(),
        "text": pa.string(),
        "language": pa.string(),
        "language_probability": pa.float32(),
        "english": pa.string(),
    }
)
ENGLISH = "en"
#: The languages that the published classifier knows → what NLLB calls them (FLORES-200 codes).
NLLB_CODES = {
    "ar": "arb_Arab", "bg": "bul_Cyrl", "de": "deu_Latn", "el": "ell_Grek", "en": "eng_Latn", "es": "spa_Latn",
    "fr": "fra_Latn", "hi": "hin_Deva", "it": "ita_Latn", "ja": "jpn_Jpan", "nl": "nld_Latn", "pl": "pol_Latn",
    "pt": "por_Latn", "ru": "rus_Cyrl", "sw": "swh_Latn", "th": "tha_Thai", "tr": "tur_Latn", "ur": "urd_Arab",
    "vi": "vie_Latn", "zh": "zho_Hans",
}  # fmt: skip
#: Longest translation in tokens, as in NLLB's own configuration. It must not depend on a text's neighbours.
MOST_TOKENS = 200
#: Texts in one pass of NLLB.
CPU_BATCH, GPU_BATCH = 8, 64


class TranslatedOcrSettings(OcrSettings, PrecisionSettings):
    """Settings of :class:`TranslatedOcr`; the precision is that of language and translation."""

    detector: str = Field(BUNDLED, description=f"{BUNDLED!r}, or a folder with a PaddleOCR model that finds lines")
    recogniser: str = Field(BUNDLED, description=f"{BUNDLED!r}, or a folder with a PaddleOCR model that reads lines")
    # What they read with is in the fingerprint by its content, as the models above.
    recognisers: dict[str, str] = Field(
        {},
        exclude=True,
        description="script → a folder with a PaddleOCR model that reads lines in it, where the recogniser cannot",
    )
    # The engine that is used is in the fingerprint with the weights.
    engine: Literal["auto", "onnxruntime", "paddle_static"] = Field(
        "auto", exclude=True, description="onnxruntime for the bundled models, else Paddle's own where it is installed"
    )
    language: str = Field(LANGUAGE, description="a folder with a transformers classifier of languages")
    translation: str = Field(TRANSLATION, description="a folder with an NLLB model of transformers")
    min_language_score: float = Field(0.9, ge=0, le=1, description="a language with a lower probability is unknown")

    @model_validator(mode="after")
    def _is_consistent(self) -> TranslatedOcrSettings:
        if self.engine == PADDLE and self.bundled:
            raise ValueError("engine 'paddle_static' cannot run the bundled models; set detector and recogniser too")
        if unknown := sorted(set(self.recognisers) - set(SCRIPTS)):
            raise ValueError(f"recognisers for {', '.join(unknown)}: expected scripts out of {', '.join(SCRIPTS)}")
        return self

    @property
    def bundled(self) -> bool:
        """Whether a bundled model is used."""
        return BUNDLED in {self.detector, self.recogniser}

    @property
    def chosen_engine(self) -> str:
        """The engine that ``auto`` means on this machine."""
        if self.engine != "auto":
            return self.engine
        return ONNX if self.bundled else installed_engine()


class TranslatedOcr(PaddleOcr):
    """As :class:`PaddleOcr`, in more scripts and with the text in English; ``texts``: that of each frame, each once.

    Column ``text``: the different English texts, joined. ``language``: of most of the texts (by characters) whose
    language is known, None when it is known of none. A text in an unknown language stays as it is.
    """

    name = "translated-ocr"
    version = 2
    Settings = TranslatedOcrSettings
    columns = {**PaddleOcr.columns, "language": pa.string(), "texts": pa.list_(TEXT)}
    settings: TranslatedOcrSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Load the reader and the language classifier; the translation model waits until a text needs it."""
        super().__init__(settings, resources)
        prepare_torch(resources.threads)
        self.translator = Translator(resources, self.settings.min_language_score, computed_precision(settings))

    @classmethod
    def references(cls, settings: Any) -> dict[str, str]:
        """The two language models, and those of PaddleOCR that are not bundled."""
        references = {name: getattr(settings, name) for name in ("language", "translation", "detector", "recogniser")}
        references |= {f"{_RECOGNISERS}{script}": folder for script, folder in settings.recognisers.items()}
        return {name: reference for name, reference in references.items() if reference != BUNDLED}

    @classmethod
    def weights(cls, settings: Any) -> str:
        """The engine, the version of the package whose models are used, and hashes of what tells scripts."""
        bundled = super().weights(settings) if settings.bundled else own_hashes()
        return f"{settings.chosen_engine} {bundled}"

    def _reader(self, scratch: Path) -> LineReader:
        chosen, models = self.settings.chosen_engine, self.resources.models
        folders = {
            name.removeprefix(_RECOGNISERS): folder for name, folder in models.items() if name.startswith(_RECOGNISERS)
        }
        runs = {script: engine_of(folder, chosen) for script, folder in folders.items()}
        engines = {
            name: Engine(name, device_of(name, self.resources.device), self.resources.threads)
            for name in {chosen, *runs.values()}
        }
        others = {script: Recogniser(folder, engines[runs[script]]) for script, folder in folders.items()}
        engine = engines[chosen]
        recogniser = Recogniser(models.get("recogniser") or bundled_recogniser(scratch), engine)
        recogniser.load()
        detector = engine.detector(models.get("detector") or bundled_detector(scratch))
        return LineReader(detector, recogniser, others, self.settings.keep_lines)

    def _extract(self, clips: Sequence[Clip]) -> list[Result]:
        frames = self._lines(clips)
        texts = [unique_texts(of_clip) for of_clip in frames]
        # The texts of all clips together.
        readings = self.translator([text for of_clip in texts for text in of_clip])
        return [
            ocr_result(clip, of_clip, **_columns(of_texts, readings))
            for clip, of_clip, of_texts in zip(clips, frames, texts, strict=True)
        ]


@dataclass(frozen=True)
class Reading:
    """What is known of a text.

    Attributes:
        language: two letters; None when the classifier is not sure enough.
        probability: of the likeliest language.
        english: the text itself where it is English or its language is not known.
    """

    language: str | None
    probability: float
    english: str


def _columns(texts: Mapping[str, int], readings: Mapping[str, Reading]) -> dict[str, Any]:
    """The columns that follow from a clip's texts, each with its first frame."""
    characters: dict[str, int] = {}
    for text in texts:
        if language := readings[text].language:
            characters[language] = characters.get(language, 0) + len(text)
    rows: list[dict[str, Any]] = [
        {
            "frame": frame,
            "text": text,
            "language": readings[text].language,
            "language_probability": float(np.float32(readings[text].probability)),
            "english": readings[text].english,
        }
        for text, frame in texts.items()
    ]
    return {
        "text": ". ".join(dict.fromkeys(row["english"] for row in rows if row["english"])),
        "language": max(characters, key=lambda name: (characters[name], name)) if characters else None,
        "texts": rows,
    }


class Translator:
    """Language and English of texts. The translation model is loaded when a text first needs it."""

    def __init__(self, resources: Resources, min_score: float, precision: str) -> None:
        """Load the classifier.

        Args:
            resources: with the models ``language`` and ``translation``.
            min_score: the probability above which a language counts as known.
            precision: float32, float16 or bfloat16.

        Raises:
            ValueError: its classes are not languages that NLLB can translate, or weights are missing.
        """
        self._resources, self._min_score, self._precision = resources, min_score, precision
        folder = resources.models["language"]
        self.classifier = TextClassifier(folder, resources.device, precision)
        if unknown := sorted(set(self.classifier.labels) - NLLB_CODES.keys()):
            raise ValueError(f"{folder} has the classes {', '.join(unknown[:5])}; expected languages such as de")

    @cached_property
    def nllb(self) -> Nllb:
        """The translation model."""
        return Nllb(self._resources.models["translation"], self._resources.device, self._precision)

    def __call__(self, texts: Sequence[str]) -> dict[str, Reading]:
        """What is known of each different text."""
        different = list(dict.fromkeys(texts))
        readings, foreign = {}, {}
        for text, (_, probabilities) in zip(different, self.classifier(different), strict=True):
            best = int(probabilities.argmax())
            probability = float(probabilities[best])
            language = self.classifier.labels[best] if probability > self._min_score else None
            readings[text] = Reading(language, probability, text)
            if language not in {None, ENGLISH}:
                foreign[text] = language
        if foreign:
            for text, english in zip(foreign, self.nllb(list(foreign.items())), strict=True):
                readings[text] = replace(readings[text], english=english)
        return readings


class Nllb:
    """An NLLB model of transformers that translates into English, greedily: the same text has one translation."""

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        """Load it.

        Raises:
            ValueError: its tokenizer lacks a language, or weights are missing.
        """
        from transformers import AutoModelForSeq2SeqLM

        self._device, self._precision = device, precision
        self.network = load_strictly(AutoModelForSeq2SeqLM, folder).to(device)
        self._tokenizer = load_tokenizer(folder)
        codes = {code: self._tokenizer.convert_tokens_to_ids(code) for code in NLLB_CODES.values()}
        if lacking := sorted(code for code, number in codes.items() if number == self._tokenizer.unk_token_id):
            raise ValueError(f"{folder}: its tokenizer lacks {', '.join(lacking[:5])}")
        self._english = codes[NLLB_CODES[ENGLISH]]
        self._batches = Batches.for_device(device, CPU_BATCH, GPU_BATCH)

    def __call__(self, texts: Sequence[tuple[str, str]]) -> list[str]:
        """The English of texts, each given with its language (two letters)."""
        return self._batches.run_by_length(self._run, [self._tokens(*text) for text in texts])

    def _tokens(self, text: str, language: str) -> list[int]:
        """Token ids of a text; the first of them names its language."""
        self._tokenizer.src_lang = NLLB_CODES[language]
        return self._tokenizer(text, truncation=True, max_length=LONGEST)["input_ids"]

    def _run(self, texts: Sequence[list[int]]) -> list[str]:
        import torch

        ids, mask = pad(texts, self._tokenizer.pad_token_id, self._device)
        with torch.inference_mode(), autocast(self._device, self._precision):
            tokens = self.network.generate(
                ids,
                attention_mask=mask,
                forced_bos_token_id=self._english,
                max_new_tokens=MOST_TOKENS,
                num_beams=1,
                do_sample=False,
            )
        return [text.strip() for text in self._tokenizer.batch_decode(tokens, skip_special_tokens=True)]
