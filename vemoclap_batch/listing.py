"""What lies in a folder or under a prefix, and what its content is called."""

from __future__ import annotations

import os
import posixpath
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec

from vemoclap_batch.config import ConfigError
from vemoclap_batch.failure import Failure, RunBroken
from vemoclap_batch.store.filesystem import is_remote

#: What a folder or a prefix is searched for.
MEDIA_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .flv .wmv .mpg .mpeg .ts .mts .m2ts .3gp .ogv .gif "
    ".wav .mp3 .m4a .aac .flac .ogg .opus".split()
)
#: Content key of an address whose store tells nothing about its content without a request per object.
UNKNOWN_CONTENT = "unknown"
#: Content key of a local file that is not there.
ABSENT = "absent"


def normalise(address: str, base: str = "") -> str:
    """The absolute, normalised form of an address; a relative path is relative to ``base``."""
    if not is_remote(address):
        path = os.path.expanduser(address.removeprefix("file://"))
        if is_remote(base) and not os.path.isabs(path):
            return normalise(f"{base.rstrip('/')}/{path}")
        return os.path.abspath(os.path.join(base, path))
    scheme, _, rest = address.partition("://")
    return f"{scheme.lower()}://{posixpath.normpath(rest)}"


def local_content_key(path: str) -> str:
    """Size and modification time of a local file, or :data:`ABSENT`."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    except OSError as error:
        return f"unreadable-{error.errno}"
    return f"{found.st_size}-{found.st_mtime_ns}"


def walk(top: str, ignored: Counter[str]) -> Iterator[tuple[str, str]]:
    """Media files below a folder, links followed, each real directory visited once (so link loops end)."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(top, followlinks=True):
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            if is_media(path, ignored) and _is_regular(path):
                yield path, local_content_key(path)


def _is_regular(path: str) -> bool:
    """Whether a path leads to a plain file: a pipe or a device would hang, a broken link is nothing to decode."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def is_media(path: str, ignored: Counter[str]) -> bool:
    """Whether a name is that of a video or a sound; one that is not is counted in ``ignored``."""
    suffix = posixpath.splitext(path)[1].lower()
    hidden = posixpath.basename(path).startswith(".")
    if not path.isprintable():
        # Not UTF-8 (which Linux allows) or with control characters: such an address cannot travel as text.
        ignored["(unprintable name)"] += 1
        return False
    if suffix in MEDIA_SUFFIXES and not hidden:
        return True
    ignored[suffix or posixpath.basename(path)] += 1
    return False


def remote_content_key(info: dict[str, Any]) -> str:
    """The content key in one entry of a listing: its ETag or hash, else size and time."""
    for name in ("ETag", "etag", "md5Hash", "content_md5"):
        if info.get(name):
            return str(info[name]).strip('"')
    when = info.get("LastModified") or info.get("last_modified") or info.get("mtime") or info.get("created")
    return f"{info.get('size')}-{when}" if when else UNKNOWN_CONTENT


def content_keys(uris: Sequence[str]) -> list[str]:
    """Content keys of addresses from anywhere, with one listing per remote folder and none per object."""
    listed: dict[str, dict[str, str]] = {}
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for uri in uris:
        if is_remote(uri) and not uri.startswith(("http://", "https://")):
            folders[posixpath.dirname(uri)].append(uri)
    for folder in folders:
        listed[folder] = _list_remote(folder)
    return [
        listed.get(posixpath.dirname(uri), {}).get(posixpath.basename(uri), UNKNOWN_CONTENT)
        if is_remote(uri)
        else local_content_key(uri)
        for uri in uris
    ]


@contextmanager
def asking(address: str) -> Iterator[None]:
    """What a remote filesystem raises becomes an error that names the address.

    Raises:
        ConfigError: no installed package knows the scheme, or the address is none.
        RunBroken: the store does not answer, or refuses; the same command may do better later.
    """
    try:
        yield
    except ConfigError:
        raise
    except (ImportError, ValueError) as error:
        raise ConfigError([f"{address!r}: {error}"]) from error
    except Exception as error:  # Each of fsspec's filesystems lets errors of a library of its own through.
        raise RunBroken(f"cannot list {address!r}: {Failure.of(error).message}") from error


def _list_remote(folder: str) -> dict[str, str]:
    with asking(folder):
        filesystem, path = fsspec.core.url_to_fs(folder)
        try:
            entries = filesystem.ls(path, detail=True)
        except FileNotFoundError:
            return {}
    return {posixpath.basename(entry["name"]): remote_content_key(entry) for entry in entries}
