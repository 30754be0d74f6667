"""Sentiment of a text: a RoBERTa classifier of transformers, its class probabilities and its sentence vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from vemoclap_batch.extractors.base import TEXT, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.language import ENGLISH, LANGUAGE_COLUMNS, Checked, KnownLanguages, known_texts
from vemoclap_batch.extractors.pretrained import FeatureSettings, Pretrained, TextClassifier

PUBLISHED = "hf:cardiffnlp/twitter-roberta-base-sentiment-latest"
CLASSES = ("negative", "neutral", "positive")


class SentimentSettings(FeatureSettings):
    """Settings of :class:`Sentiment`."""

    model: str = Field(PUBLISHED, description="a folder with a transformers classifier of the three sentiments")
    languages: tuple[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], ...] | None = Field(
        ENGLISH, min_length=1, description="that the model knows, such as en; texts in others are left out; null: all"
    )


class Sentiment(Pretrained):
    """The first token's vector of the last hidden state; columns ``negative``, ``neutral``, ``positive``.

    Texts are cut at 512 tokens, as published. Sentences in languages that the model does not know are left out
    (:mod:`vemoclap_batch.extractors.language`), and column ``note`` says so. A text of which nothing is left, like a
    blank one, has a feature of length 0 and no probabilities.
    """

    name = "sentiment"
    version = 2
    Settings = SentimentSettings
    inputs = (TEXT,)
    columns = {**dict.fromkeys(CLASSES, pa.float32()), **LANGUAGE_COLUMNS}
    spaces = {PUBLISHED: "vemoclap/twitter-roberta-base-sentiment-latest"}
    settings: SentimentSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        self._classifier = TextClassifier(resources.models["model"], resources.device, self._precision)
        labels = self._classifier.labels
        if sorted(labels) != sorted(CLASSES):
            raise ValueError(
                f"{self.settings.model} has the classes {', '.join(labels)}; expected {', '.join(CLASSES)}"
            )
        self._check_width(self._classifier.width)
        languages = self.settings.languages
        self._languages = None if languages is None else KnownLanguages(languages)

    @classmethod
    def weights(cls, settings: Any) -> str:
        """The version of the identifier of languages, where it is used."""
        return "" if settings.languages is None else KnownLanguages.weights()

    def _extract(self, texts: Sequence[str]) -> list[Result]:
        checked = known_texts(self._languages, texts)
        found = iter(self._classifier([item.text for item in checked if item.text.strip()]))
        return [self._result(item, *next(found)) if item.text.strip() else self._blank(item) for item in checked]

    def _result(self, text: Checked, vector: np.ndarray, probabilities: np.ndarray) -> Result:
        likely = dict(zip(self._classifier.labels, probabilities.tolist(), strict=True))
        return Result(vector[None], extras={**likely, **text.columns})

    def _blank(self, text: Checked) -> Result:
        feature = np.empty((0, self.settings.width), np.float32)
        return Result(feature, extras={**dict.fromkeys(CLASSES), **text.columns})
