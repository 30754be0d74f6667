"""Text in the picture, in English: PaddleOCR, language identification and translation, as published."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.ocr import OcrSettings, PaddleOcr, bundled_detector, bundled_recogniser
from vemoclap_batch.extractors.paddle_reader import ONNX, PADDLE, device_of, installed_engine, paddle_reader
from vemoclap_batch.extractors.translation import Reading, Translator
from vemoclap_batch.media.clip import Clip

#: In place of a reference: the models that the rapidocr package carries.
BUNDLED = "bundled"
LANGUAGE = "hf:papluca/xlm-roberta-base-language-detection"
TRANSLATION = "hf:facebook/nllb-200-distilled-600M"
TEXT = pa.struct(
    [
        ("frame", pa.int32()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("language_probability", pa.float32()),
        ("english", pa.string()),
    ]
)


class TranslatedOcrSettings(OcrSettings):
    """Settings of :class:`TranslatedOcr`."""

    detector: str = Field(BUNDLED, description=f"{BUNDLED!r}, or a folder with a PaddleOCR model that finds lines")
    recogniser: str = Field(BUNDLED, description=f"{BUNDLED!r}, or a folder with a PaddleOCR model that reads lines")
    # Which one it comes to is in the fingerprint with the weights.
    engine: Literal["auto", "onnxruntime", "paddle_static"] = Field(
        "auto", exclude=True, description="onnxruntime for the bundled models, else Paddle's own where it is installed"
    )
    language: str = Field(LANGUAGE, description="a folder with a transformers classifier of languages")
    translation: str = Field(TRANSLATION, description="a folder with an NLLB model of transformers")
    min_language_score: float = Field(0.9, ge=0, le=1, description="a language told less surely is unknown")
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="of language and translation: float16 on a GPU, else float32"
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> TranslatedOcrSettings:
        if self.engine == PADDLE and BUNDLED in {self.detector, self.recogniser}:
            raise ValueError("engine 'paddle_static' cannot run the bundled models; set detector and recogniser too")
        return self

    @property
    def chosen_engine(self) -> str:
        """The engine that ``auto`` comes to on this machine."""
        if self.engine != "auto":
            return self.engine
        return ONNX if BUNDLED in {self.detector, self.recogniser} else installed_engine()


class TranslatedOcr(PaddleOcr):
    """As :class:`PaddleOcr`, with the text in English; column ``texts``: the text of each frame, each text once.

    Column ``text``: the different English texts, joined. ``language``: of most of the texts (by characters) whose
    language is known, None when it is known of none. A text in an unknown language stays as it is.
    """

    name = "translated-ocr"
    Settings = TranslatedOcrSettings
    columns = {**PaddleOcr.columns, "language": pa.string(), "texts": pa.list_(TEXT)}
    settings: TranslatedOcrSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Load the reader and the language classifier; the translation model waits until a text needs it."""
        super().__init__(settings, resources)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch

        torch.set_num_threads(resources.threads)
        precision = "float32" if self.settings.precision == "auto" else self.settings.precision
        models = resources.models
        self.translator = Translator(
            models["language"], models["translation"], self.settings.min_language_score, resources.device, precision
        )

    @classmethod
    def references(cls, settings: ExtractorSettings) -> dict[str, str]:
        """The two language models, and those of PaddleOCR that are not bundled."""
        assert isinstance(settings, TranslatedOcrSettings)
        readers = {"detector": settings.detector, "recogniser": settings.recogniser}
        own = {name: reference for name, reference in readers.items() if reference != BUNDLED}
        return {"language": settings.language, "translation": settings.translation, **own}

    @classmethod
    def weights(cls, settings: ExtractorSettings) -> str:
        """The engine, and the version of the package whose models are used."""
        assert isinstance(settings, TranslatedOcrSettings)
        bundled = BUNDLED in {settings.detector, settings.recogniser}
        return settings.chosen_engine + (f" {super().weights(settings)}" if bundled else "")

    def _reader(self, scratch: Path) -> Any:
        engine, models = self.settings.chosen_engine, self.resources.models
        return paddle_reader(
            models["detector"] if "detector" in models else bundled_detector(scratch),
            models["recogniser"] if "recogniser" in models else bundled_recogniser(scratch),
            engine,
            device_of(engine, self.resources.device),
            self.resources.threads,
        )

    def _extract(self, clips: Sequence[Clip]) -> list[Result | Failure]:
        """Read all clips, then tell and translate the texts of all of them together."""
        results = super()._extract(clips)
        texts = [_frame_texts(result) if isinstance(result, Result) else [] for result in results]
        readings = iter(self.translator([text for found in texts for _, text in found]))
        for result, found in zip(results, texts, strict=True):
            if isinstance(result, Result):
                result.extras |= _translated(found, [next(readings) for _ in found])
        return results


def _frame_texts(result: Result) -> list[tuple[int, str]]:
    """The different texts of a clip's frames, lower-cased, each with the first frame that shows it."""
    lines: dict[int, list[str]] = {}
    for line in result.extras["lines"]:
        lines.setdefault(line["frame"], []).append(line["text"])
    first: dict[str, int] = {}
    for frame, found in lines.items():
        first.setdefault(" ".join(found).lower(), frame)
    return [(frame, text) for text, frame in first.items()]


def _translated(texts: Sequence[tuple[int, str]], readings: Sequence[Reading]) -> dict[str, Any]:
    """The columns that follow from the texts of a clip."""
    weights: dict[str, int] = {}
    for (_, text), reading in zip(texts, readings, strict=True):
        if reading.language is not None:
            weights[reading.language] = weights.get(reading.language, 0) + len(text)
    return {
        "text": ". ".join(dict.fromkeys(reading.english for reading in readings if reading.english)),
        "language": max(weights, key=lambda name: (weights[name], name)) if weights else None,
        "texts": [
            {
                "frame": frame,
                "text": text,
                "language": reading.language,
                "language_probability": float(np.float32(reading.probability)),
                "english": reading.english,
            }
            for (frame, text), reading in zip(texts, readings, strict=True)
        ],
    }
