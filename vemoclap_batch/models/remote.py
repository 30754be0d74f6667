"""The only module that talks to a model hub: what a repository holds, and one file of it, resumed where it broke off.

``HF_ENDPOINT`` names another hub, ``HF_TOKEN`` opens repositories that need one; a token saved on disk is not used.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vemoclap_batch.config import ConfigError

PUBLIC_HUB = "https://huggingface.co"
_FULL = {errno.ENOSPC, errno.EDQUOT}


class HubError(RuntimeError):
    """A model could not be fetched; the message is one line that names the model. What was fetched is kept."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub announces it: ``size`` in bytes, ``sha256`` of a large file, ``blob`` (git) of any."""

    size: int
    sha256: str | None
    blob: str | None

    @property
    def key(self) -> str:
        """What tells its content from another's."""
        return self.sha256 or self.blob or str(self.size)

    def matches(self, path: Path) -> bool:
        """Whether a local file is this one; reads all of it."""
        if path.stat().st_size != self.size:
            return False
        if self.sha256:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        # Git's name of a file: the hash of its kind, size and content.
        found = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        found.update(path.read_bytes())
        return found.hexdigest() == self.blob


@dataclass(frozen=True)
class RemoteModel:
    """A repository at one commit."""

    repo: str
    commit: str
    licence: str | None
    files: dict[str, RemoteFile]


class Hub:
    """A connection to the hub."""

    def __init__(self) -> None:
        """Read the environment.

        Raises:
            ConfigError: ``HF_ENDPOINT`` is not a safe address.
        """
        self._endpoint = os.environ.get("HF_ENDPOINT", PUBLIC_HUB).rstrip("/")
        if not _safe(self._endpoint):
            raise ConfigError([f"HF_ENDPOINT = {self._endpoint!r}: expected https://…"])
        # False, unlike None, keeps the library from reading a saved token.
        self._token: str | bool = os.environ.get("HF_TOKEN") or False
        # Else the library asks the hub, once a day, what to report of its surroundings.
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        from huggingface_hub.utils import logging

        # It warns of every retry; what fails in the end is said in one line.
        logging.set_verbosity_error()

    def describe(self, repo: str, revision: str) -> RemoteModel:
        """What a repository holds at a branch, tag or commit.

        Raises:
            HubError: the hub does not say, or names a file that lies outside the repository.
        """
        from huggingface_hub import HfApi

        with self.explained(f"{repo} at {revision}"):
            info = HfApi(endpoint=self._endpoint, token=self._token).model_info(
                repo, revision=revision, files_metadata=True, timeout=30
            )
        if not info.sha:
            raise HubError(f"{repo}: {self._endpoint} names no commit for {revision}")
        files = {}
        for item in info.siblings or []:
            if not _inside(item.rfilename):
                raise HubError(f"{repo}: refused, {item.rfilename!r} in its list of files lies outside the repository")
            size = item.lfs.size if item.lfs else item.size
            if size is None:
                raise HubError(f"{repo}: {self._endpoint} does not say how large {item.rfilename} is")
            files[item.rfilename] = RemoteFile(size, item.lfs.sha256 if item.lfs else None, item.blob_id)
        licence = next((tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")), None)
        return RemoteModel(repo, info.sha, licence, files)

    def fetch(self, model: RemoteModel, name: str, target: Path) -> None:
        """Bring one file to ``target``, which appears when it is whole and what the hub announced.

        What broke off earlier lies beside it, named after its content, and is gone on with.

        Raises:
            HubError: it did not arrive.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        remote = model.files[name]
        part = part_of(target, remote)
        if part.exists() and part.stat().st_size > remote.size:
            part.unlink()
        with self.explained(f"{model.repo}: {name}"):
            part.parent.mkdir(parents=True, exist_ok=True)
            url = hf_hub_url(model.repo, name, revision=model.commit, endpoint=self._endpoint)
            place = get_hf_file_metadata(url, token=self._token, timeout=30, endpoint=self._endpoint).location
            if not _safe(place):
                raise HubError(f"{model.repo}: {name}: refused, the hub points to an address without https")
            # A store behind the hub has its own key in the address; the token is for the hub alone.
            same = urlsplit(place).netloc == urlsplit(self._endpoint).netloc
            with part.open("ab") as file:
                http_get(
                    place, file, resume_size=file.tell(), expected_size=remote.size, displayed_filename=name,
                    headers=build_hf_headers(token=self._token if same else False),
                )  # fmt: skip
            if not remote.matches(part):
                part.unlink()
                raise HubError(f"{model.repo}: {name} arrived damaged: not the content that the hub announced")
            part.replace(target)

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turns what goes wrong with the network or the disk into a :class:`HubError` of one line about ``what``."""
        from huggingface_hub import errors

        try:
            yield
        except errors.GatedRepoError as error:
            raise HubError(f"{what}: needs its owner's leave: ask at {self._endpoint}, then set HF_TOKEN") from error
        except errors.RepositoryNotFoundError as error:
            raise HubError(f"{what}: {self._endpoint} has no such repository, or it needs HF_TOKEN") from error
        except errors.RevisionNotFoundError as error:
            raise HubError(f"{what}: no such revision") from error
        except errors.HfHubHTTPError as error:
            raise HubError(f"{what}: {self._endpoint} answered {error.response.status_code}") from error
        except errors.HTTPError as error:
            raise HubError(f"{what}: cannot reach {self._endpoint} ({_first_line(error)})") from error
        except errors.OfflineModeIsEnabled as error:
            raise HubError(f"{what}: not fetched, HF_HUB_OFFLINE is set") from error
        except ValueError as error:
            # A name that no repository can have, or an answer that is no hub's.
            raise HubError(f"{what}: {_first_line(error)}") from error
        except OSError as error:
            if error.errno in _FULL:
                raise HubError(f"{what}: the disk is full") from error
            raise HubError(f"{what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def part_of(target: Path, remote: RemoteFile) -> Path:
    """Where the part of a file that has arrived lies until it is whole."""
    return target.with_name(f"{target.name}.{remote.key[:12]}.part")


def _safe(address: str) -> bool:
    """Encrypted, or to this very machine."""
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1", "::1"})


def _inside(name: str) -> bool:
    """Whether a name stays inside its folder, on any system."""
    return not any(part in {"", ".", ".."} for part in name.split("/")) and "\\" not in name and ":" not in name
