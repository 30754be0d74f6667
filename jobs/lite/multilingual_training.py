"""Fits the map from multilingual-e5-small to all-MiniLM-L6-v2: both embed the same English comments."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.minilm import MiniLM
from vemoclap_batch.extractors.multilingual import encode

#: Comments to fit to: four minutes on a core.
COMMENTS = 11_500
#: Weight of the ridge, chosen by the mean cosine on comments kept apart.
RIDGE = 0.3


def train_multilingual_map(tsv: Path, path: Path, threads: int = 1) -> None:
    """Fit the map to English comments and write it.

    Args:
        tsv: a file of comments (text, tab, anything).
        path: of the weights file.
        threads: of the CPU.
    """
    texts = [line.partition("\t")[0] for line in tsv.read_text("utf-8").splitlines() if line.strip()]
    random.Random(1).shuffle(texts)
    chosen = texts[:COMMENTS]
    # Without the map, which may not be there yet.
    english = MiniLM(MiniLM.Settings(multilingual=False), Resources(threads))
    given = np.array([encode(text, threads) for text in chosen])
    save_map(fit(given, np.array(english.embed(chosen))), path)


def fit(given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The ridge regression [width + 1, width] from vectors [n, width] to others; its last row is added to all."""
    extended = np.column_stack([given, np.ones(len(given))])
    ridge = RIDGE * np.eye(extended.shape[1])
    return np.linalg.solve(extended.T @ extended + ridge, extended.T @ wanted)


def save_map(fitted: np.ndarray, path: Path) -> None:
    """Write a map in half precision."""
    save_file({"map": fitted.astype(np.float16)}, path)
