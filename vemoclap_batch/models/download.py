"""Download weights from the Hugging Face hub into the models folder: resumable, and complete or not at all.

``HF_ENDPOINT`` names another hub, ``HF_TOKEN`` opens repositories that need one (a token saved on disk is not used),
``HF_HUB_OFFLINE`` forbids every request. Files come by huggingface_hub's ``http_get``, which continues a partial file;
its ``hf_hub_download`` starts from nothing when the process before was killed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from rich.filesize import decimal

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.models.hashes import ModelRecord, record_file
from vemoclap_batch.models.known import known, wanted
from vemoclap_batch.models.references import Weights, look_up

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

#: Where files lie until a model is complete; hidden, so that nothing else takes them for weights.
PARTIAL = ".partial"
Say = Callable[[str], None]
Pulled = Literal["there", "by hand", "fetched", "accepted"]


class HubError(RuntimeError):
    """A model could not be downloaded; the message is one line that names it. What has arrived is kept."""


class HashMismatch(RuntimeError):
    """Files do not have the expected hashes; the message names each of them, the expected and the found hash."""


@contextmanager
def locked(folder: Path, say: Say) -> Iterator[None]:
    """One writer at a time for a models folder; waits for another, whose lock ends with its process.

    Raises:
        ConfigError: nothing can be written there.
    """
    lock = FileLock(folder / PARTIAL / ".lock")
    try:
        (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another pull is at work in {folder}; waiting for it")
        lock.acquire()
    except OSError as error:
        raise ConfigError([f"the models folder {folder} cannot be written ({error.strerror})"]) from error
    try:
        yield
    finally:
        lock.release()


def connect() -> HfApi:
    """A client of the hub that the environment names.

    Raises:
        ConfigError: ``HF_ENDPOINT`` is not a safe address.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if not _is_safe(endpoint):
        raise ConfigError([f"HF_ENDPOINT = {endpoint!r}: expected https://…"])
    # Else the client asks the hub, once a day, what to report of this machine.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # It warns of every retry; the last error is reported in one line.
    # False, unlike None, keeps it from reading a token saved on disk.
    return HfApi(endpoint=endpoint, token=os.environ.get("HF_TOKEN") or False)


def pull(reference: str, folder: Path, hub: HfApi, accept: bool, say: Say) -> tuple[Pulled, ModelRecord | None]:
    """Make sure that a hub reference is in the models folder; asks the hub for nothing that is there already.

    Hashes that the project does not ship are recorded, and accepted only with ``accept``. A revision that was recorded
    once is the one that is downloaded again.

    Returns:
        What was done, and the record; None for files that a person put there.

    Raises:
        HubError: it could not be downloaded.
        HashMismatch: a file does not have the hash that was recorded or that the project ships.
    """
    weights = look_up(reference, folder)
    record = weights.record
    if record is None:
        if weights.state == "by hand":
            return "by hand", None
    elif not weights.incomplete:
        if record.accepted or not accept:
            return "there", record
        root = record.root(weights.key, folder)
        _compare(str(root), record.hashes, {name: record_file(root / name).sha256 for name in record.files})
        weights.save(weights.key, record := record.accept())
        return "accepted", record
    elif record.revision is None:
        raise HashMismatch(
            f"{reference}: was put there by hand and has changed since; models verify --accept records it"
        )
    return "fetched", _fetch(weights, hub, accept, say)


def _fetch(weights: Weights, hub: HfApi, accept: bool, say: Say) -> ModelRecord:
    repo, earlier = weights.repo or "", weights.downloaded
    fact = known(repo)
    revision = next((record.revision for record in earlier if record.revision), fact.revision)
    info, files = _list_files(hub, repo, revision, weights.file)
    expected = dict(fact.sha256) if fact.revision in {"main", info.sha} else {}
    accepted = dict(expected)
    for record in earlier:
        expected |= record.hashes
        accepted |= record.hashes if record.accepted else {}
    where = f"{repo} at {info.sha}"
    # The hub announces the hashes of large files: a wrong one need not be downloaded.
    _compare(where, expected, {name: file.lfs.sha256 for name, file in files.items() if file.lfs})
    partial, target = weights.folder / PARTIAL / repo, weights.folder / repo
    with _one_line_errors(hub, repo):
        partial.mkdir(parents=True, exist_ok=True)
        places = {name: place for name, file in files.items() if (place := _find(file, partial, target))}
        missing = [file for name, file in files.items() if name not in places]
        size = sum(file.size or 0 for file in missing)
        to_come = size - sum(part.stat().st_size for file in missing if (part := _part(file, partial)).is_file())
        if to_come > (free := shutil.disk_usage(partial).free):
            raise HubError(f"{repo}: not enough room: {decimal(to_come)} to come, {decimal(free)} free in {partial}")
        say(f"fetching {weights.reference} at {str(info.sha)[:12]}: {len(missing)} files, {decimal(size)}")
        for file in missing:
            places[file.rfilename] = _download(hub, repo, str(info.sha), file, partial)
        found = {name: record_file(place) for name, place in places.items()}
        licence = fact.licence or next((tag[8:] for tag in info.tags or [] if tag.startswith("license:")), "unknown")
        record = ModelRecord(repo=repo, revision=info.sha, licence=licence, files=found, accepted=None)
        _compare(where, expected, record.hashes)
        if accept or record.hashes.items() <= accepted.items():
            record = record.accept()
        # Recorded before the files are moved: what the manifest does not list counts as put there by a person.
        weights.save(weights.reference, record)
        for name, place in places.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            place.replace(target / name)
        shutil.rmtree(partial)
    return record


def _list_files(hub: HfApi, repo: str, revision: str, file: str | None) -> tuple[ModelInfo, dict[str, RepoSibling]]:
    """A repository at a branch, tag or commit, and by name the files that are wanted of it: one, or all of a model.

    Raises:
        HubError: the hub does not say, lacks the files, or names one that lies outside the repository.
    """
    with _one_line_errors(hub, f"{repo} at {revision}"):
        info = hub.model_info(repo, revision=revision, files_metadata=True, timeout=30)
    files = {sibling.rfilename: sibling for sibling in info.siblings or []}
    for name in files:
        if {"", ".", ".."} & set(name.split("/")) or set("\\:") & set(name):
            raise HubError(f"{repo}: refused, {name!r} in its list of files lies outside the repository")
    names = [file] if file else wanted(files, known(repo).files)
    if not info.sha:
        raise HubError(f"{repo} at {revision}: {hub.endpoint} names no commit")
    if not names or names[0] not in files:
        lack = f"has no file {file}" if file else "holds no weights of a known kind"
        raise HubError(f"{repo} at {info.sha[:12]}: {lack}")
    return info, {name: files[name] for name in names}


def _find(file: RepoSibling, *folders: Path) -> Path | None:
    """Where a file lies with the content that the hub announces; reads all of it."""
    from huggingface_hub.utils.sha import git_hash

    for path in (folder / file.rfilename for folder in folders):
        if path.is_file():
            hashes = {record_file(path).sha256} if file.lfs else {git_hash(path.read_bytes())}
            if (file.lfs.sha256 if file.lfs else file.blob_id) in hashes:
                return path
    return None


def _part(file: RepoSibling, folder: Path) -> Path:
    """Where what has arrived of a file lies, under the beginning of its hash."""
    key = file.lfs.sha256 if file.lfs else file.blob_id or ""
    return folder / f"{file.rfilename}.{key[:12]}.part"


def _download(hub: HfApi, repo: str, revision: str, file: RepoSibling, folder: Path) -> Path:
    """Bring one file into a folder, where it appears when it is complete; continues what arrived before."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    name, part, target = file.rfilename, _part(file, folder), folder / file.rfilename
    with _one_line_errors(hub, f"{repo}: {name}"):
        url = hf_hub_url(repo, name, revision=revision, endpoint=hub.endpoint)
        place = hub.get_hf_file_metadata(url=url, timeout=30).location
        if not _is_safe(place):
            raise HubError(f"{repo}: {name}: refused, the hub points to an address without https")
        # A store behind the hub has its own key in the address; the token is for the hub alone.
        is_hub = urlsplit(place).netloc == urlsplit(hub.endpoint).netloc
        headers = build_hf_headers(token=hub.token if is_hub else False)
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as stream:
            if (done := stream.tell()) > (file.size or 0):
                done = stream.truncate(stream.seek(0))
            http_get(place, stream, resume_size=done, expected_size=file.size, displayed_filename=name, headers=headers)
        part.replace(target)
        if _find(file, folder) is None:
            target.unlink()
            raise HubError(f"{repo}: {name} arrived damaged: not the content that the hub announced")
    return target


def _compare(where: str, expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise :class:`HashMismatch` where the SHA-256 of a file is not the expected one."""
    wrong = [
        f"{where}: {name} is not what was recorded: expected sha256 {expected[name]}, found {sha256}"
        for name, sha256 in found.items()
        if sha256 != expected.get(name, sha256)
    ]
    if wrong:
        raise HashMismatch("\n".join(wrong))


@contextmanager
def _one_line_errors(hub: HfApi, what: str) -> Iterator[None]:
    """Turn errors of the network, the hub and the disk into a :class:`HubError` of one line about ``what``."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.HTTPError, OSError, ValueError) as error:
        first_line = str(error).strip().split("\n")[0] or type(error).__name__
        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
        reasons = {
            errors.GatedRepoError: f"its owner has to grant access: ask for it at {hub.endpoint}, then set HF_TOKEN",
            errors.RepositoryNotFoundError: f"{hub.endpoint} has no such repository, or it needs HF_TOKEN",
            errors.RevisionNotFoundError: "no such revision",
            errors.HfHubHTTPError: f"{hub.endpoint} answered {status}",
            errors.HTTPError: f"cannot reach {hub.endpoint} ({first_line})",
            errors.OfflineModeIsEnabled: "not fetched, HF_HUB_OFFLINE is set",
            Exception: first_line,
        }
        reason = next(text for kind, text in reasons.items() if isinstance(error, kind))
        raise HubError(f"{what}: {reason}") from error


def _is_safe(address: str) -> bool:
    """Whether an address is encrypted, or of this very machine."""
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1", "::1"})
