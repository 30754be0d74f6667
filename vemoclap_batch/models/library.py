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

from vemoclap_batch.models.manifest import absent, read_manifest

HUB = "hf:"
#: What decides an output: weights, and the settings and vocabularies beside them.
_SUFFIXES = {
    *(".safetensors", ".bin", ".pt", ".pth", ".onnx", ".pdiparams", ".pdmodel"),
    *(".json", ".txt", ".model", ".yml", ".yaml", ".csv"),
}


class MissingWeights(FileNotFoundError):
    """The weights that a reference names are not on this machine, not whole, or not accepted yet."""


def default_folder() -> Path:
    """The models folder without ``--models-dir``: ``$VEMOCLAP_MODELS``, else in the user's cache."""
    if chosen := os.environ.get("VEMOCLAP_MODELS"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vemoclap-batch" / "models"


def split(reference: str) -> tuple[str, str | None]:
    """The repository OWNER/NAME of a hub reference, and the file in it if it names one.

    Raises:
        ValueError: it is neither OWNER/NAME nor OWNER/NAME/FILE.
    """
    parts = reference.removeprefix(HUB).split("/")
    if len(parts) < 2 or any(part in {"", ".", ".."} for part in parts) or any(part[0] == "." for part in parts[:2]):
        raise ValueError(f"{reference!r}: expected {HUB}OWNER/NAME or {HUB}OWNER/NAME/FILE")
    return "/".join(parts[:2]), "/".join(parts[2:]) or None


def locate(reference: str, folder: str | Path | None = None) -> Path:
    """The file or folder that a reference names.

    What the folder's manifest (``models.json``) lists has to be there in the recorded sizes, and accepted; what it
    does not know was put there by hand and is taken as it is.

    Args:
        reference: see the module's documentation.
        folder: the models folder; without it, :func:`default_folder`.

    Raises:
        MissingWeights: it is not there, not whole, or its hashes were not accepted.
        ValueError: a hub reference that is not OWNER/NAME or OWNER/NAME/FILE, or (a ConfigError) a manifest that
            cannot be read.
    """
    if not reference.startswith(HUB):
        path = Path(reference).expanduser()
        if not path.exists():
            raise MissingWeights(f"{reference!r}: no such file or folder")
        return path.absolute()
    repo, file = split(reference)
    root = (Path(folder).expanduser() if folder else default_folder()).absolute()
    path = root / repo / (file or "")
    if not path.exists():
        raise MissingWeights(f"{reference!r} is not in {root}")
    if reason := _unfit(reference, repo, file, root):
        raise MissingWeights(f"{reference!r} in {root}: {reason}")
    return path


def _unfit(reference: str, repo: str, file: str | None, root: Path) -> str | None:
    """Why the manifest forbids to use what is there."""
    manifest = read_manifest(root)
    key = manifest.find(reference, repo, file)
    if key is None:
        # The folder of a single file that was fetched is no copy of the repository.
        fetched = any(other.revision for other in manifest.of_repo(repo))
        return "only some of its files were fetched" if fetched and file is None else None
    record = manifest.models[key]
    if lost := absent(root / repo, {file: record.files[file]} if file else record.files):
        return f"{lost} is missing or has another size than recorded"
    if not record.accepted:
        return "its hashes are not accepted yet; run vemoclap-batch models pull --accept"
    return None


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
