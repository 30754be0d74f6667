"""Sentiment of a text: a RoBERTa classifier of transformers, its class probabilities and its sentence vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pydantic import Field

from vemoclap_batch.extractors.base import TEXT, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.pretrained import FeatureSettings, Pretrained, TextClassifier

PUBLISHED = "hf:cardiffnlp/twitter-roberta-base-sentiment-latest"
CLASSES = ("negative", "neutral", "positive")


class SentimentSettings(FeatureSettings):
    """Settings of :class:`Sentiment`."""

    model: str = Field(PUBLISHED, description="a folder with a transformers classifier of the three sentiments")


class Sentiment(Pretrained):
    """The first token's vector of the last hidden state; columns ``negative``, ``neutral``, ``positive``.

    Texts are cut at 512 tokens, as published. A blank text has a feature of length 0 and no probabilities.
    """

    name = "sentiment"
    Settings = SentimentSettings
    inputs = (TEXT,)
    columns = dict.fromkeys(CLASSES, pa.float32())
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

    def _extract(self, texts: Sequence[str]) -> list[Result]:
        found = iter(self._classifier([text for text in texts if text.strip()]))
        return [self._result(*next(found)) if text.strip() else self._blank() for text in texts]

    def _result(self, vector: np.ndarray, probabilities: np.ndarray) -> Result:
        return Result(vector[None], extras=dict(zip(self._classifier.labels, probabilities.tolist(), strict=True)))

    def _blank(self) -> Result:
        return Result(np.empty((0, self.settings.width), np.float32), extras=dict.fromkeys(CLASSES))
