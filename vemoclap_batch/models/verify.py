"""Compare the files of models folders with their recorded hashes, and record what a person put there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vemoclap_batch.models.hashes import ModelRecord, read_manifest, record_file
from vemoclap_batch.models.known import WEIGHTS, known
from vemoclap_batch.models.references import Weights, files_below, look_up


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file or, where ``path`` is a folder, with a model; hashes as far as they matter."""

    kind: Literal["differs", "missing", "extra", "not accepted", "not recorded"]
    path: Path
    expected: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        what = {
            "differs": f"differs: expected sha256 {self.expected}, found {self.found}",
            "missing": f"is missing: expected sha256 {self.expected}",
            "extra": f"is extra: no manifest lists it (sha256 {self.found})",
        }
        return f"{self.path} {what.get(self.kind, f'is {self.kind}; models verify --accept does it')}"


def verify(folder: Path, references: Iterable[str]) -> tuple[int, list[Problem]]:
    """Read every file that the manifests list: that of the models folder, and those of the local references.

    Returns:
        How many files are listed, and everything that is wrong.
    """
    local = [weights for reference in references if not (weights := look_up(reference, folder)).repo]
    manifests = {folder: read_manifest(folder)} | {weights.folder: weights.manifest for weights in local}
    problems: list[Problem] = []
    listed: list[Path] = []
    for place, manifest in manifests.items():
        for reference, record in manifest.models.items():
            root = record.root(reference, place)
            listed += [root / name for name in record.files]
            wrong = _compare(root, record)
            problems += wrong or ([] if record.accepted else [Problem("not accepted", root)])
    problems += [Problem("not recorded", weights.path) for weights in local if weights.state == "by hand"]
    extra = [folder / name for name in files_below(folder) if name.suffix in WEIGHTS]
    problems += [Problem("extra", path, found=record_file(path).sha256) for path in extra if path not in listed]
    return len(listed), problems


def _compare(root: Path, record: ModelRecord) -> list[Problem]:
    problems = []
    for name, file in record.files.items():
        path = root / name
        if not path.is_file():
            problems.append(Problem("missing", path, file.sha256))
        elif (found := record_file(path).sha256) != file.sha256:
            problems.append(Problem("differs", path, file.sha256, found))
    return problems


def accept(folder: Path, references: Iterable[str]) -> list[tuple[str, ModelRecord]]:
    """Accept the files that the references name.

    Downloaded files have to be as they were recorded; what a person put there is recorded as it is now.

    Returns:
        The references that are accepted now and were not before, with their records.
    """
    changed = []
    for weights in (look_up(reference, folder) for reference in references):
        recorded, key = weights.record, weights.reference
        if recorded and recorded.revision:
            key = weights.key
            is_right = not recorded.accepted and not _compare(recorded.root(key, weights.folder), recorded)
            record = recorded.accept() if is_right else None
        else:
            record = _record(weights)
            if record and recorded and record.files == recorded.files:
                record = None
        if record:
            weights.save(key, record)
            changed.append((key, record))
    return changed


def _record(weights: Weights) -> ModelRecord | None:
    """A record of what a person put there, accepted; None where there is nothing, or only part of a repository."""
    if weights.path.is_file():
        files = {weights.file or weights.path.name: record_file(weights.path)}
    else:
        # The folder of single files that were downloaded is no copy of the repository.
        names = [] if weights.repo and weights.downloaded else files_below(weights.path)
        files = {name.as_posix(): record_file(weights.path / name) for name in names}
    licence = known(weights.repo or "").licence or "unknown"
    record = ModelRecord(repo=weights.repo, revision=None, licence=licence, files=files, accepted=None)
    return record.accept() if files else None
