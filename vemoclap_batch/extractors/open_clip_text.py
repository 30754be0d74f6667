"""The text tower of an open_clip model: texts in the space of its image embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vemoclap_batch.extractors.open_clip import OpenClipSettings, load_open_clip


def embed_texts(path: Path, settings: OpenClipSettings, texts: Sequence[str]) -> np.ndarray:
    """The embedding of each text, of length 1: float32 [n, width]. What is longer than the model reads is cut.

    Args:
        path: of the model: the folder or weights file that the image embeddings are from.
        settings: of the extractor that made these.
        texts: in English, for models such as OpenAI's.

    Raises:
        FileNotFoundError, ValueError: as :func:`~vemoclap_batch.extractors.open_clip.load_open_clip`.
    """
    import open_clip
    import torch

    model = load_open_clip(path, settings)
    name = f"local-dir:{path}" if path.is_dir() else settings.architecture
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer(name)(list(texts))
        try:
            return model.encode_text(tokens, normalize=True).float().numpy()
        except IndexError as error:
            raise ValueError(f"{path}: its text tower does not know open_clip's tokens") from error
