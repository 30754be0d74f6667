"""Formats that can run code when they are read (pickles) are read only under a hash that somebody accepted."""

from __future__ import annotations

import os
from pathlib import Path

from vemoclap_batch.models.library import default_folder
from vemoclap_batch.models.manifest import NAME, read_manifest, record_file


class NotPinned(PermissionError):
    """A file whose format can run code is not one that was accepted."""


def manifest_folder(path: Path) -> Path:
    """The folder whose manifest speaks for a file: the nearest one above it that has a manifest, else the default."""
    return next((parent for parent in path.absolute().parents if (parent / NAME).is_file()), default_folder())


def verify_pinned(path: Path) -> None:
    """Say that a file may be unpickled; to be called before it is, each time.

    The file's whole content is read and compared by sha256 with the accepted ones in the manifest of the models folder
    that holds it, or in that of the default models folder.

    Raises:
        NotPinned: it is none of them; the message says why that matters and what to run.
        FileNotFoundError: there is no such file.
        ConfigError: a manifest cannot be read.
    """
    found = record_file(path)
    folders = dict.fromkeys([manifest_folder(path), default_folder()])
    if any(read_manifest(folder).accepts(found.sha256) for folder in folders):
        return
    places = " or ".join(os.fspath(folder / NAME) for folder in folders)
    raise NotPinned(
        f"{path} is refused: it is a pickle, which can run any code when it is loaded, and its sha256 {found.sha256} "
        f"is not accepted in {places}. If you trust where it comes from: vemoclap-batch models verify --accept"
    )
