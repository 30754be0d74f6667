"""Where each model stands, from the disk alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vemoclap_batch.models.known import known
from vemoclap_batch.models.library import HUB, MissingWeights, locate, split
from vemoclap_batch.models.manifest import ModelRecord, read_manifest
from vemoclap_batch.models.pinned import manifest_folder

State = Literal["missing", "incomplete", "not accepted", "pinned", "by hand"]


@dataclass(frozen=True)
class Standing:
    """How a reference stands.

    Attributes:
        state: ``pinned`` is recorded and accepted; ``by hand`` is there and not recorded.
        path: where it is; None when it is not there.
        revision: the recorded commit, else the one that a pull would ask for; None for what was put there by hand.
        size: bytes on the disk, or of what a pull would fetch as far as known.
        licence, role: as far as known.
    """

    state: State
    path: Path | None
    revision: str | None
    size: int | None
    licence: str
    role: str


def standing(reference: str, folder: Path) -> Standing:
    """How a reference stands in a models folder; reads no weights.

    Raises:
        ValueError: a malformed hub reference, or an unreadable manifest (a ConfigError).
    """
    if not reference.startswith(HUB):
        path = Path(reference).expanduser().absolute()
        record = read_manifest(manifest_folder(path)).models.get(str(path))
        state = _state(record, path.exists(), True)
        licence = record.licence if record else "unknown"
        return Standing(state, path if path.exists() else None, None, _size(path), licence, "")
    repo, file = split(reference)
    fact, manifest, path = known(repo), read_manifest(folder), folder / repo / (file or "")
    key = manifest.find(reference, repo, file)
    record = manifest.models[key] if key else None
    state = _state(record, path.exists(), _usable(reference, folder))
    return Standing(
        state=state,
        path=path if path.exists() else None,
        revision=record.revision if record else None if state == "by hand" else fact.revision,
        size=_size(path) if path.exists() else fact.bytes,
        licence=(record.licence if record else fact.licence) or "unknown",
        role=fact.role,
    )


def _usable(reference: str, folder: Path) -> bool:
    try:
        locate(reference, folder)
    except MissingWeights:
        return False
    return True


def _state(record: ModelRecord | None, exists: bool, usable: bool) -> State:
    if not exists:
        return "missing"
    if record and not record.accepted:
        return "not accepted"
    if not usable:
        return "incomplete"
    return "pinned" if record else "by hand"


def _size(path: Path) -> int | None:
    if not path.exists():
        return None
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
