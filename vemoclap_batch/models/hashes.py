"""``models.json``, the manifest of a models folder: hashes of its files, where they are from, whether accepted.

Who may write to a models folder may write this file too: it finds files that changed, it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vemoclap_batch.errors import ConfigError

NAME = "models.json"


class NotAccepted(PermissionError):
    """A file whose format can run code does not have a hash that was accepted."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(_Strict):
    """A file's ``size`` in bytes and the hexadecimal ``sha256`` of its content."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class ModelRecord(_Strict):
    """The files of one reference.

    Attributes:
        repo: OWNER/NAME on the hub; None for a local path.
        revision: the commit they were downloaded at; None for files that a person put there.
        licence: as far as known.
        files: by their path below :meth:`root`.
        accepted: when a person said that these hashes are the right ones; None before.
    """

    repo: str | None
    revision: str | None
    licence: str
    files: dict[str, FileRecord]
    accepted: str | None

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each file."""
        return {name: file.sha256 for name, file in self.files.items()}

    def root(self, reference: str, folder: Path) -> Path:
        """The folder that the names of the files are relative to."""
        if self.repo:
            return folder / self.repo
        path = Path(reference)
        return path.parent if set(self.files) == {path.name} else path

    def accept(self) -> ModelRecord:
        """The same record, accepted now."""
        return self.model_copy(update={"accepted": datetime.now(UTC).isoformat(timespec="seconds")})


class Manifest(_Strict):
    """The records of one models folder by reference."""

    version: Literal[1] = 1
    models: dict[str, ModelRecord] = {}


def default_folder() -> Path:
    """The models folder without ``--models-dir``: ``$VEMOCLAP_MODELS``, else in the user's cache."""
    if chosen := os.environ.get("VEMOCLAP_MODELS"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vemoclap-batch" / "models"


def manifest_folder(path: Path) -> Path:
    """The folder whose manifest lists a local file: the nearest one above it that has a manifest, else the default."""
    return next((parent for parent in path.absolute().parents if (parent / NAME).is_file()), default_folder())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; an empty one where there is none.

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
        where = ": ".join([*map(str, first["loc"]), first["msg"]])
        raise ConfigError([f"{path} is not a manifest of models ({where})"]) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of a folder as a whole: a reader sees the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{NAME}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)


def record_file(path: Path) -> FileRecord:
    """The hash and size of a file now; reads all of it."""
    with path.open("rb") as file:
        return FileRecord(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)


def require_accepted(path: Path) -> None:
    """Refuse a pickle whose content was not accepted; to be called before each time one is loaded.

    The whole file is read. Its SHA-256 has to be in an accepted record of the manifest that lists it, or of the
    default models folder's.

    Raises:
        NotAccepted: it is in none; the message says why that matters and what to run.
    """
    sha256 = record_file(path).sha256
    folders = dict.fromkeys([manifest_folder(path), default_folder()])
    records = [record for folder in folders for record in read_manifest(folder).models.values() if record.accepted]
    if any(sha256 in record.hashes.values() for record in records):
        return
    places = " or ".join(str(folder / NAME) for folder in folders)
    raise NotAccepted(
        f"{path} is refused: it is a pickle, which can run any code when it is loaded, and its sha256 {sha256} "
        f"is not accepted in {places}. If you trust where it comes from: vemoclap-batch models verify --accept"
    )
