"""Where pretrained weights lie: one folder for all of them, or a path of the user's own. Never fetches anything.

A setting names weights by a *reference*: ``hf:OWNER/NAME`` for a repository of the Hugging Face hub,
``hf:OWNER/NAME/FILE`` for one file of it, or a local path. Hub repositories lie below the models folder under their
own names (``OWNER/NAME/…``): so ``vemoclap-batch models pull`` puts them, and so should a copy made by hand.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

HUB = "hf:"
#: What decides an output: weights, and the settings and vocabularies beside them.
_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".onnx", ".json", ".txt", ".model", ".yml", ".yaml", ".csv"}


class MissingWeights(FileNotFoundError):
    """The weights that a reference names are not on this machine."""


def default_folder() -> Path:
    """The models folder without ``--models-dir``: ``$VEMOCLAP_MODELS``, else in the user's cache."""
    if chosen := os.environ.get("VEMOCLAP_MODELS"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vemoclap-batch" / "models"


def locate(reference: str, folder: str | Path | None = None) -> Path:
    """The file or folder that a reference names.

    Args:
        reference: see the module's documentation.
        folder: the models folder; without it, :func:`default_folder`.

    Raises:
        MissingWeights: it is not there.
        ValueError: a hub reference that is not OWNER/NAME or OWNER/NAME/FILE.
    """
    if not reference.startswith(HUB):
        path = Path(reference).expanduser()
        if not path.exists():
            raise MissingWeights(f"{reference!r}: no such file or folder")
        return path.absolute()
    parts = reference.removeprefix(HUB).split("/")
    if len(parts) < 2 or any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"{reference!r}: expected {HUB}OWNER/NAME or {HUB}OWNER/NAME/FILE")
    path = (Path(folder).expanduser() if folder else default_folder()).joinpath(*parts)
    if not path.exists():
        raise MissingWeights(f"{reference!r} is not in {path.parents[len(parts) - 1]}")
    return path.absolute()


def content_hash(path: Path) -> str:
    """Tells weights apart by their content, wherever they lie, without reading gigabytes.

    Two files of one size that differ in none of the sampled blocks count as equal; other weights differ in every block.
    """
    if path.is_file():
        return sampled_hash(path)
    files = sorted(
        found.relative_to(path)
        for found in path.rglob("*")
        if found.suffix in _SUFFIXES and not any(part.startswith(".") for part in found.relative_to(path).parts)
    )
    lines = "".join(f"{name.as_posix()} {sampled_hash(path / name)}\n" for name in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def sampled_hash(path: Path) -> str:
    """Hash of a file's size and of 64 blocks spread over it."""
    size, block = path.stat().st_size, 1 << 16
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for part in range(64):
            file.seek(max(0, size - block) * part // 63)
            digest.update(file.read(block))
    return digest.hexdigest()[:12]


def space_of(reference: str, published: Mapping[str, str]) -> str:
    """The feature space of a model: its published name, else one made of the reference.

    Args:
        reference: of the weights.
        published: reference → name of the space, for those that have a name of their own.
    """
    if reference in published:
        return published[reference]
    if reference.startswith(HUB):
        return f"hub/{reference.removeprefix(HUB)}"
    return f"local/{Path(reference).name}"
