"""Compare models folders with their manifests, file by file, and record what was put there by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vemoclap_batch.models.known import WEIGHTS, known
from vemoclap_batch.models.library import HUB, split
from vemoclap_batch.models.manifest import ModelRecord, read_manifest, record_file, write_manifest
from vemoclap_batch.models.pinned import manifest_folder

Kind = Literal["differs", "missing", "extra", "not accepted", "not recorded"]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file or, where ``path`` is a folder, with a model."""

    kind: Kind
    path: Path
    expected: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        if self.kind == "differs":
            return f"{self.path} differs: expected sha256 {self.expected}, found {self.found}"
        if self.kind == "missing":
            return f"{self.path} is missing: expected sha256 {self.expected}"
        if self.kind == "extra":
            return f"{self.path} is extra: no manifest lists it (sha256 {self.found})"
        return f"{self.path} is {self.kind}; models verify --accept does it"


def folders(folder: Path, references: Iterable[str]) -> list[Path]:
    """The folders whose manifests speak for a models folder and for the local paths among the references."""
    local = [manifest_folder(Path(reference)) for reference in references if not reference.startswith(HUB)]
    return list(dict.fromkeys([folder, *local]))


def verify(folder: Path, references: Iterable[str]) -> tuple[int, list[Problem]]:
    """Read every recorded file again.

    Args:
        folder: the models folder.
        references: of the profile; local paths as absolute ones.

    Returns:
        How many files are recorded, and everything that is wrong.
    """
    references = list(references)
    count, problems = 0, []
    for place in folders(folder, references):
        for reference, record in read_manifest(place).models.items():
            count += len(record.files)
            found = _compare(record.root(reference, place), record)
            problems += found
            if not record.accepted and not found:
                problems.append(Problem("not accepted", record.root(reference, place)))
    problems += [Problem("not recorded", Path(path)) for path in _unrecorded(folder, references)]
    return count, problems + _extra(folder)


def _compare(root: Path, record: ModelRecord) -> list[Problem]:
    problems = []
    for name, file in record.files.items():
        path = root / name
        if not path.is_file():
            problems.append(Problem("missing", path, file.sha256))
        elif (found := record_file(path).sha256) != file.sha256:
            problems.append(Problem("differs", path, file.sha256, found))
    return problems


def _unrecorded(folder: Path, references: Iterable[str]) -> list[str]:
    """The local paths of a profile that are there and that no manifest lists."""
    return [
        reference
        for reference in references
        if not reference.startswith(HUB)
        and Path(reference).exists()
        and reference not in read_manifest(manifest_folder(Path(reference))).models
    ]


def _extra(folder: Path) -> list[Problem]:
    """Weight files of a models folder that its manifest does not list."""
    listed = {
        record.root(reference, folder) / name
        for reference, record in read_manifest(folder).models.items()
        for name in record.files
    }
    return [
        Problem("extra", path, found=record_file(path).sha256)
        for path in sorted(folder.rglob("*"))
        if path.suffix in WEIGHTS and path.is_file() and path not in listed and not _hidden(path, folder)
    ]


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def accept(folder: Path, references: Iterable[str]) -> list[tuple[str, ModelRecord]]:
    """Record, as accepted, what was put by hand where the references point to, and accept what was fetched.

    What was fetched has to be what was recorded when it was; what was put there by hand is recorded as it is now.

    Returns:
        The references that are accepted now and were not before, with their records.
    """
    changed = []
    for reference in references:
        place = folder if reference.startswith(HUB) else manifest_folder(Path(reference))
        manifest = read_manifest(place)
        repo, file = split(reference) if reference.startswith(HUB) else (None, None)
        key = manifest.find(reference, repo, file) if repo else reference
        record = manifest.models.get(key or reference)
        if record and record.revision:
            if record.accepted or _compare(record.root(reference, place), record):
                continue
            record, key = record.accept(), key or reference
        else:
            if repo and not file and any(other.revision for other in manifest.of_repo(repo)):
                continue  # A few fetched files are no copy of the repository.
            by_hand = _as_it_is(reference, place)
            if by_hand is None or (record and record.files == by_hand.files):
                continue
            record, key = by_hand, reference
        manifest.models[key] = record
        write_manifest(place, manifest)
        changed.append((key, record))
    return changed


def _as_it_is(reference: str, folder: Path) -> ModelRecord | None:
    """A record of what a reference points to; None where there is nothing."""
    repo, file = split(reference) if reference.startswith(HUB) else (None, None)
    path = folder / repo / (file or "") if repo else Path(reference)
    if path.is_file():
        files = {file or path.name: record_file(path)}
    else:
        found = [item for item in sorted(path.rglob("*")) if item.is_file() and not _hidden(item, path)]
        files = {item.relative_to(path).as_posix(): record_file(item) for item in found}
    if not files:
        return None
    licence = known(repo).licence if repo else None
    return ModelRecord(repo=repo, revision=None, licence=licence or "unknown", files=files, accepted=None).accept()
