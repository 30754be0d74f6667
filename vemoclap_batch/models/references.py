"""Model references: what a setting calls weights, and where they lie on this machine. Never downloads anything.

A reference is ``hf:OWNER/NAME`` (a repository of the Hugging Face hub), ``hf:OWNER/NAME/FILE`` (one file of it) or a
local path. Repositories lie in the models folder under their own names, ``OWNER/NAME/…``: ``vemoclap-batch models
pull`` puts them there, and so can a person.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vemoclap_batch.models import hashes
from vemoclap_batch.models.hashes import Manifest, ModelRecord
from vemoclap_batch.models.known import SUFFIXES

HUB = "hf:"
State = Literal["missing", "incomplete", "not accepted", "pinned", "by hand"]


class MissingWeights(FileNotFoundError):
    """The weights that a reference names are not on this machine, incomplete, or not accepted yet."""


def split(reference: str) -> tuple[str, str | None]:
    """The repository OWNER/NAME of a hub reference, and the file in it if it names one.

    Raises:
        ValueError: it is neither OWNER/NAME nor OWNER/NAME/FILE.
    """
    parts = reference.removeprefix(HUB).split("/")
    if len(parts) < 2 or any(part in {"", ".", ".."} for part in parts) or any(part[0] == "." for part in parts[:2]):
        raise ValueError(f"{reference!r}: expected {HUB}OWNER/NAME or {HUB}OWNER/NAME/FILE")
    return "/".join(parts[:2]), "/".join(parts[2:]) or None


@dataclass(frozen=True)
class Weights:
    """A reference with what the disk and the manifest say of it.

    Attributes:
        reference: a local path as an absolute one.
        key: the reference under which the manifest lists the files: this one, or another of the same repository.
        repo, file: of a hub reference; None for a local path.
        folder: of the manifest, and of the hub's repositories.
        path: the file or folder that the reference names.
        record: None where the manifest does not list it: a person put it there, or it is missing.
    """

    reference: str
    key: str
    repo: str | None
    file: str | None
    folder: Path
    path: Path
    manifest: Manifest
    record: ModelRecord | None

    @property
    def downloaded(self) -> list[ModelRecord]:
        """The records of what was downloaded of the same repository."""
        return [other for other in self.manifest.models.values() if other.repo == self.repo and other.revision]

    @property
    def incomplete(self) -> str | None:
        """What is missing, by the manifest; None where nothing is. Local paths are taken as they are."""
        if self.record is None or self.repo is None:
            # The folder of single files that were downloaded is no copy of the repository.
            partial = self.repo and self.file is None and self.downloaded
            return "only some of its files were fetched" if partial else None
        for name in [self.file] if self.file else self.record.files:
            path = self.folder / self.repo / name
            if not path.is_file() or path.stat().st_size != self.record.files[name].size:
                return f"{name} is missing or has another size than recorded"
        return None

    @property
    def state(self) -> State:
        """``pinned`` is recorded and accepted; ``by hand`` is there and not recorded."""
        if not self.path.exists():
            return "missing"
        if self.record and not self.record.accepted:
            return "not accepted"
        if self.incomplete:
            return "incomplete"
        return "pinned" if self.record else "by hand"

    def save(self, key: str, record: ModelRecord) -> None:
        """Write a record to the manifest under a reference."""
        self.manifest.models[key] = record
        hashes.write_manifest(self.folder, self.manifest)


def look_up(reference: str, folder: Path) -> Weights:
    """What the disk and the manifest say of a reference; reads no weights.

    Raises:
        ValueError: a hub reference that is not OWNER/NAME or OWNER/NAME/FILE, or (a ConfigError) a manifest that
            cannot be read.
    """
    if not reference.startswith(HUB):
        path = Path(reference).expanduser().absolute()
        folder = hashes.manifest_folder(path)
        manifest = hashes.read_manifest(folder)
        record = manifest.models.get(str(path))
        return Weights(str(path), str(path), None, None, folder, path, manifest, record)
    repo, file = split(reference)
    manifest = hashes.read_manifest(folder)
    listing = (key for key, record in manifest.models.items() if record.repo == repo and file in record.files)
    key = reference if reference in manifest.models else next(listing, reference)
    path = folder / repo / (file or "")
    return Weights(reference, key, repo, file, folder, path, manifest, manifest.models.get(key))


def locate(reference: str, folder: str | Path | None = None) -> Path:
    """The file or folder that a reference names, in a models folder or the default one.

    What the manifest lists has to be there in the recorded sizes, and accepted; what it does not list was put there by
    a person and is taken as it is.

    Raises:
        MissingWeights: it is not there, incomplete, or its hashes were not accepted.
        ValueError: as :func:`look_up`.
    """
    if not reference.startswith(HUB):
        path = Path(reference).expanduser().absolute()
        if not path.exists():
            raise MissingWeights(f"{reference!r}: no such file or folder")
        return path
    weights = look_up(reference, (Path(folder).expanduser() if folder else hashes.default_folder()).absolute())
    if weights.state == "missing":
        raise MissingWeights(f"{reference!r} is not in {weights.folder}")
    if weights.state in {"incomplete", "not accepted"}:
        why = weights.incomplete or "its hashes are not accepted yet; run vemoclap-batch models pull --accept"
        raise MissingWeights(f"{reference!r} in {weights.folder}: {why}")
    return weights.path


def content_hash(path: Path) -> str:
    """Tells weights apart by their content, wherever they lie, without reading gigabytes.

    Two files of one size that differ in none of the sampled blocks count as equal; other weights differ in every block.
    """
    if path.is_file():
        return _sampled_hash(path)
    files = sorted(file for file in files_below(path) if file.suffix in SUFFIXES)
    lines = "".join(f"{name.as_posix()} {_sampled_hash(path / name)}\n" for name in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def files_below(folder: Path) -> list[Path]:
    """The files of a folder, relative to it and sorted; hidden ones and those of hidden folders are left out."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [file for file in files if not any(part.startswith(".") for part in file.parts)]


def _sampled_hash(path: Path) -> str:
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
    if reference.startswith(HUB):
        return published.get(reference, f"hub/{reference.removeprefix(HUB)}")
    return published.get(reference, f"local/{Path(reference).name}")
