"""Sentiment of a text: a RoBERTa classifier of transformers, its class probabilities and its sentence vector."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import TEXT, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches, autocast
from vemoclap_batch.extractors.pretrained import load_strictly
from vemoclap_batch.models.references import space_of

PUBLISHED = "hf:cardiffnlp/twitter-roberta-base-sentiment-latest"
SPACES = {PUBLISHED: "vemoclap/twitter-roberta-base-sentiment-latest"}
CLASSES = ("negative", "neutral", "positive")
#: Tokens of a text, the two that enclose it counted; the rest is cut off, as published.
LONGEST = 512
#: Texts in one pass of the network.
CPU_BATCH, GPU_BATCH = 8, 32


class SentimentSettings(ExtractorSettings):
    """Settings of :class:`Sentiment`."""

    model: str = Field(PUBLISHED, description="a folder with a transformers classifier of the three sentiments")
    width: int = Field(768, ge=1, description="of the hidden states; checked when the model is loaded")
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="float16 on a GPU, else float32"
    )
    space: str | None = Field(None, description="feature space; without it, named after the model")


class Sentiment(Extractor):
    """The first token's vector of the last hidden state; columns ``negative``, ``neutral``, ``positive``.

    A blank text has a feature of length 0 and no probabilities.
    """

    name = "sentiment"
    Settings = SentimentSettings
    inputs = (TEXT,)
    columns = dict.fromkeys(CLASSES, pa.float32())
    settings: SentimentSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Load the model.

        Raises:
            NotADirectoryError: the reference names a file.
            ValueError: weights are missing, or the classes or the width are others than expected.
        """
        super().__init__(settings, resources)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        torch.set_num_threads(resources.threads)
        folder = resources.models["model"]
        self._precision = "float32" if self.settings.precision == "auto" else self.settings.precision
        self._network = load_strictly(AutoModelForSequenceClassification, folder).to(resources.device)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._batches = Batches(CPU_BATCH if resources.device == "cpu" else GPU_BATCH)
        config = self._network.config
        self._labels = [config.id2label[index].lower() for index in range(config.num_labels)]
        if sorted(self._labels) != sorted(CLASSES):
            raise ValueError(f"{self.settings.model} tells {', '.join(self._labels)}; expected {', '.join(CLASSES)}")
        if config.hidden_size != self.settings.width:
            raise ValueError(
                f"width = {self.settings.width}: {self.settings.model} has hidden states of {config.hidden_size}"
            )

    @classmethod
    def space(cls, settings: ExtractorSettings) -> str:
        """Named after the model, unless the settings name it."""
        assert isinstance(settings, SentimentSettings)
        return settings.space or space_of(settings.model, SPACES)

    @classmethod
    def width(cls, settings: ExtractorSettings) -> int:
        """As the settings say."""
        assert isinstance(settings, SentimentSettings)
        return settings.width

    @classmethod
    def references(cls, settings: ExtractorSettings) -> dict[str, str]:
        """The model."""
        assert isinstance(settings, SentimentSettings)
        return {"model": settings.model}

    def _extract(self, texts: Sequence[str]) -> list[Result | Failure]:
        """Embed and classify all texts, those of a length together, so that little of a batch is padding."""
        rows = [row for row, text in enumerate(texts) if text.strip()]
        tokens = dict(zip(rows, self._tokens([texts[row] for row in rows]), strict=True))
        rows.sort(key=lambda row: len(tokens[row]))
        results: list[Result | Failure] = [
            Result(np.empty((0, self.settings.width), np.float32), extras=dict.fromkeys(CLASSES)) for _ in texts
        ]
        found = self._batches.run(self._run, [tokens[row] for row in rows])
        for row, (vector, probabilities) in zip(rows, found, strict=True):
            likely = dict(zip(self._labels, probabilities.tolist(), strict=True))
            results[row] = Result(vector[None], extras=likely)
        return results

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        """The token ids of each text."""
        if not texts:
            return []
        return self._tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]

    def _run(self, texts: Sequence[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Vector [width] and class probabilities [3] of each text, float32."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        ids = [torch.tensor(tokens) for tokens in texts]
        padded = pad_sequence(ids, batch_first=True, padding_value=self._tokenizer.pad_token_id)  # [n, tokens]
        mask = pad_sequence([torch.ones_like(tokens) for tokens in ids], batch_first=True)
        device = self.resources.device
        with torch.inference_mode(), autocast(device, self._precision):
            output = self._network(padded.to(device), attention_mask=mask.to(device), output_hidden_states=True)
        vectors = output.hidden_states[-1][:, 0].float().cpu().numpy()  # [n, width]
        return list(zip(vectors, output.logits.float().softmax(1).cpu().numpy(), strict=True))
