"""Fetch what a reference names into the models folder: once, resumably, whole or not at all, under recorded hashes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from vemoclap_batch.config import ConfigError
from vemoclap_batch.models.known import Known, known, wanted
from vemoclap_batch.models.library import split
from vemoclap_batch.models.manifest import (
    FileRecord,
    Manifest,
    ModelRecord,
    absent,
    read_manifest,
    record_file,
    write_manifest,
)
from vemoclap_batch.models.remote import Hub, HubError, RemoteModel, part_of

PARTIAL = ".partial"
Say = Callable[[str], None]


class Refused(RuntimeError):
    """Files are not what was recorded of them; the message names each, what was expected and what was found."""


@dataclass(frozen=True)
class Pulled:
    """How a reference stands after :func:`pull`; ``record`` is None for what was put there by hand."""

    state: Literal["there", "by hand", "fetched", "accepted"]
    record: ModelRecord | None


@contextmanager
def sole(folder: Path, say: Say) -> Iterator[None]:
    """One writer at a time for a models folder; waits for another, which frees it even by dying.

    Raises:
        ConfigError: nothing can be written there.
    """
    lock = FileLock(folder / PARTIAL / ".lock")
    try:
        (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except OSError as error:
        if not isinstance(error, Timeout):
            raise ConfigError([f"the models folder {folder} cannot be written ({error.strerror})"]) from error
        say(f"another pull is at work in {folder}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def pull(reference: str, folder: Path, hub: Hub, accept: bool, say: Say) -> Pulled:
    """See that a hub reference is in the models folder; asks the hub for nothing that is there already.

    Hashes that the project does not ship are recorded, but not accepted unless ``accept`` says so. A revision that was
    recorded once is the one that is fetched again.

    Raises:
        HubError: it could not be fetched; what has arrived is kept for the next time.
        Refused: a file is not what was recorded of it, or what the project knows of it.
    """
    repo, file = split(reference)
    manifest = read_manifest(folder)
    key = manifest.find(reference, repo, file)
    if key is None:
        fetched = any(other.revision for other in manifest.of_repo(repo))
        if (folder / repo / (file or "")).exists() and (file or not fetched):
            return Pulled("by hand", None)
    else:
        record = manifest.models[key]
        if absent(folder / repo, {file: record.files[file]} if file else record.files) is None:
            if record.accepted or not accept:
                return Pulled("there", record)
            check(folder / repo, record.files)
            return Pulled("accepted", _keep(manifest, key, record.accept(), folder))
        if record.revision is None:
            raise Refused(
                f"{reference}: was put there by hand and has changed since; models verify --accept records it"
            )
    return Pulled("fetched", _fetch(reference, manifest, folder, hub, accept, say))


def _fetch(reference: str, manifest: Manifest, folder: Path, hub: Hub, accept: bool, say: Say) -> ModelRecord:
    repo, file = split(reference)
    fact = known(repo)
    earlier = [record for record in manifest.of_repo(repo) if record.revision]
    model = hub.describe(repo, next((record.revision for record in earlier if record.revision), fact.revision))
    names = _names(model, file, fact)
    shipped = fact.sha256 if fact.revision in {"main", model.commit} else {}
    expected = shipped | {name: entry.sha256 for record in earlier for name, entry in record.files.items()}
    # What the hub announces of large files saves fetching the wrong ones.
    _refuse(f"{repo} at {model.commit}", expected, _announced(model, names))
    places = _bring(reference, model, names, folder, hub, say)
    with hub.explained(repo):
        files = {name: record_file(path) for name, path in places.items()}
        _refuse(f"{repo} at {model.commit}", expected, {name: entry.sha256 for name, entry in files.items()})
        agreed = {name: entry for record in earlier if record.accepted for name, entry in record.files.items()}
        record = ModelRecord(
            repo=repo, revision=model.commit, licence=fact.licence or model.licence or "unknown", files=files,
            accepted=None,
        )  # fmt: skip
        if accept or all(name in shipped or agreed.get(name) == entry for name, entry in files.items()):
            record = record.accept()
        # Recorded before it is visible: what the manifest does not know counts as put there by hand.
        _keep(manifest, reference, record, folder)
        _publish(folder / PARTIAL / repo, folder / repo, names)
    return record


def _bring(reference: str, model: RemoteModel, names: list[str], folder: Path, hub: Hub, say: Say) -> dict[str, Path]:
    """Where each file lies after fetching those that are not there in the right content, in part or in full."""
    partial = folder / PARTIAL / model.repo
    places = {}
    for name in names:
        for path in (partial / name, folder / model.repo / name):
            if path.is_file() and model.files[name].matches(path):
                places[name] = path
    missing = [name for name in names if name not in places]
    with hub.explained(model.repo):
        partial.mkdir(parents=True, exist_ok=True)
        _room(model, missing, partial)
    size = size_in_words(sum(model.files[name].size for name in missing))
    say(f"fetching {reference} at {model.commit[:12]}: {len(missing)} files, {size}")
    for name in missing:
        hub.fetch(model, name, partial / name)
        places[name] = partial / name
    return places


def _names(model: RemoteModel, file: str | None, fact: Known) -> list[str]:
    if file is None:
        names = wanted(model.files, fact.files)
        if not names:
            raise HubError(f"{model.repo} at {model.commit[:12]}: holds no weights of a known kind")
        return names
    if file not in model.files:
        raise HubError(f"{model.repo} at {model.commit[:12]}: has no file {file}")
    return [file]


def _announced(model: RemoteModel, names: list[str]) -> dict[str, str]:
    return {name: sha256 for name in names if (sha256 := model.files[name].sha256)}


def check(root: Path, files: Mapping[str, FileRecord]) -> None:
    """Compare files with what was recorded of them; reads all of them.

    Raises:
        Refused: some differ; names all of them.
    """
    _refuse(
        str(root),
        {name: file.sha256 for name, file in files.items()},
        {name: record_file(root / name).sha256 for name in files},
    )


def _refuse(where: str, expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    wrong = [
        f"{where}: {name} is not what was recorded: expected sha256 {expected[name]}, found {found[name]}"
        for name in expected
        if name in found and expected[name] != found[name]
    ]
    if wrong:
        raise Refused("\n".join(wrong))


def _room(model: RemoteModel, names: list[str], target: Path) -> None:
    """Refuse to start what cannot end well.

    Raises:
        HubError: there is not enough room for what is still to come.
    """
    parts = [part_of(target / name, model.files[name]) for name in names]
    to_come = sum(model.files[name].size for name in names) - sum(p.stat().st_size for p in parts if p.is_file())
    free = shutil.disk_usage(target).free
    if to_come > free:
        needs, has = size_in_words(to_come), size_in_words(free)
        raise HubError(f"{model.repo}: not enough room: {needs} to come, {has} free in {target}")


def _keep(manifest: Manifest, reference: str, record: ModelRecord, folder: Path) -> ModelRecord:
    manifest.models[reference] = record
    write_manifest(folder, manifest)
    return record


def _publish(source: Path, target: Path, names: list[str]) -> None:
    """Make complete files visible: a new folder at once, an existing one file by file."""
    if target.exists():
        for name in names:
            if (source / name).exists():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (source / name).replace(target / name)
        shutil.rmtree(source)
        return
    for path in source.rglob("*"):
        if path.is_file() and path.relative_to(source).as_posix() not in names:
            path.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def size_in_words(size: int) -> str:
    """Bytes as a person says them, such as 605 MB."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
