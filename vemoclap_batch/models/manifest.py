"""``models.json``: the files of a models folder by hash, where they are from, and whether somebody accepted them.

Whoever may write to a models folder may write its manifest: it tells one file from another, it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vemoclap_batch.config import ConfigError

NAME = "models.json"


class FileRecord(BaseModel):
    """What a file has to be: ``size`` in bytes and the hexadecimal ``sha256`` of its content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class ModelRecord(BaseModel):
    """What one reference names.

    Attributes:
        repo: OWNER/NAME on the hub; None for a path of the user's own.
        revision: the commit it was fetched at; None for files that were put there by hand.
        licence: as far as known.
        files: by their path below :meth:`root`.
        accepted: when somebody said that these hashes are the right ones; None before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    repo: str | None
    revision: str | None
    licence: str
    files: dict[str, FileRecord]
    accepted: str | None

    def root(self, reference: str, folder: Path) -> Path:
        """The folder that the names of the files are relative to."""
        if self.repo:
            return folder / self.repo
        path = Path(reference)
        return path.parent if set(self.files) == {path.name} else path

    def accept(self) -> ModelRecord:
        """The same, accepted now."""
        return self.model_copy(update={"accepted": datetime.now(UTC).isoformat(timespec="seconds")})


class Manifest(BaseModel):
    """The records of one models folder by reference."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    models: dict[str, ModelRecord] = {}

    def find(self, reference: str, repo: str, file: str | None) -> str | None:
        """Which reference's record speaks for a hub reference: its own, or one of the same repository with its file."""
        if reference in self.models:
            return reference
        return next((key for key, record in self.models.items() if record.repo == repo and file in record.files), None)

    def of_repo(self, repo: str) -> list[ModelRecord]:
        """The records of all references into one repository."""
        return [record for record in self.models.values() if record.repo == repo]

    def accepts(self, sha256: str) -> bool:
        """Whether a file of this content was accepted."""
        return any(
            file.sha256 == sha256
            for record in self.models.values()
            if record.accepted
            for file in record.files.values()
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a models folder; an empty one where there is none.

    Raises:
        ConfigError: the file is not a manifest.
    """
    path = folder / NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Manifest()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        mistake = f"{path} is not a manifest of models ({f'{place}: ' if place else ''}{first['msg']})"
        raise ConfigError([mistake]) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of a folder as a whole: a reader sees the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    temporary = folder / f".{NAME}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)


def record_file(path: Path) -> FileRecord:
    """What a file is now; reads all of it."""
    with path.open("rb") as file:
        return FileRecord(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)


def absent(root: Path, files: Mapping[str, FileRecord]) -> str | None:
    """The first file that is missing or has another size than recorded; reads no file."""
    for name, file in files.items():
        path = root / name
        if not path.is_file() or path.stat().st_size != file.size:
            return name
    return None
