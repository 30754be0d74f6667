"""The media files of a folder or a prefix, and their content keys."""

from __future__ import annotations

import datetime
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from vemoclap_batch.errors import ConfigError, Failure, RunBroken, RunEnded
from vemoclap_batch.store.filesystem import by_fsspec, is_remote, without_file_scheme
from vemoclap_batch.store.retry import Unreachable, retry

T = TypeVar("T")

#: What a folder or a prefix is searched for: what FFmpeg reads and people have. Still images, and suffixes that files
#: of other kinds have as well (``.dat``, ``.bin``), have to be named one by one.
MEDIA_SUFFIXES = frozenset(
    (
        # video
        ".mp4 .m4v .mov .qt .mj2 .ismv .mkv .mk3d .webm .avi .divx .amv .flv .f4v .kux .wmv .asf .wtv .dvr-ms "
        ".mpg .mpeg .mpe .m1v .m2v .mpv .vob .evo .vro .mod .tod .ts .mts .m2ts .m2t .trp .tp .ty "
        ".3gp .3gpp .3g2 .3gp2 .ogv .ogm .ogx .rm .rmvb .mxf .gxf .dv .dif .dav .nut .nsv .y4m .ivf .gif "
        ".mjpg .mjpeg .h261 .h264 .264 .h265 .265 .hevc .avc .vc1 .obu .bik .smk .fli .flc "
        # audio
        ".wav .w64 .rf64 .mp3 .mp2 .mpa .m2a .m4a .m4b .isma .3ga .aac .ac3 .eac3 .ec3 .dts .mlp .thd .flac .ogg .oga "
        ".opus .spx .mka .weba .wma .amr .awb .aif .aiff .aifc .au .snd .caf .ape .wv .tta .mpc .ra .voc .dss"
    ).split()
)
#: Content key of an address whose store tells nothing about its content without a request per object.
UNKNOWN_CONTENT = "unknown"
#: Content key of a local file that is not there.
ABSENT = "absent"
#: Schemes of object stores: an object is there once it is whole, and a folder is nothing but the beginning of names.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
_WEB = frozenset({"http", "https"})
#: What :func:`content_keys` gives for a local file and for an object on S3.
_READ_OFF = re.compile(rf"\d+-\d+|{ABSENT}|unreadable-\d+|[0-9a-f]{{32}}(-\d+)?")


def normalise(address: str, base: str = "") -> str:
    """The absolute, normalised form of an address; a relative path is relative to ``base``."""
    if not is_remote(address):
        path = os.path.expanduser(without_file_scheme(address))
        if is_remote(base) and not os.path.isabs(path):
            return normalise(f"{base.rstrip('/')}/{path}")
        return os.path.abspath(os.path.join(base, path))
    scheme, _, rest = address.partition("://")
    path, mark, query = rest.partition("?") if scheme.lower() in {"http", "https"} else (rest, "", "")
    return f"{scheme.lower()}://{posixpath.normpath(path)}{mark}{query}"


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
        for path in (os.path.join(folder, name) for name in sorted(files)):
            # Not a pipe or a device, which would hang, nor a broken link.
            if is_media(path, ignored) and os.path.isfile(path):
                yield path, local_content_key(path)


def is_media(path: str, ignored: Counter[str]) -> bool:
    """Whether a name is that of a video or an audio file; one that is not is counted in ``ignored``."""
    suffix = posixpath.splitext(path)[1].lower()
    hidden = posixpath.basename(path).startswith(".")
    if not path.isprintable():
        # Not UTF-8 (which Linux allows) or with control characters: such an address cannot travel as text.
        ignored["(unprintable name)"] += 1
        return False
    if suffix in MEDIA_SUFFIXES and not hidden:
        return True
    ignored["(hidden)" if hidden else suffix or posixpath.basename(path)] += 1
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
    listed = _list_folders([uri for uri in uris if is_remote(uri) and _scheme(uri) not in _WEB])
    return [
        remote_content_key(listed.get(uri, {})) if is_remote(uri) else local_content_key(uri)  # {} is unknown
        for uri in uris
    ]


def current_content_keys(uris: Sequence[str], before: Sequence[str]) -> list[str]:
    """Content keys of now; that of a file that is gone stays, and so does a key that a manifest gave itself."""
    now = content_keys(uris)
    gone = {ABSENT, UNKNOWN_CONTENT}
    return [new if new not in gone and _READ_OFF.fullmatch(old) else old for new, old in zip(now, before, strict=True)]


def changed_at(uris: Iterable[str]) -> dict[str, float | None]:
    """When files were changed that a filesystem shows while they are being written, in seconds since 1970.

    Returns:
        By address: None for a file that is not there, 0 where nobody tells the time. Object stores, which show what is
        whole, and the web, which has no listing, are left out.
    """
    of = [uri for uri in uris if is_remote(uri) and _scheme(uri) not in OBJECT_STORES | _WEB]
    listed = _list_folders(of)
    return {uri: _modified(listed[uri]) if uri in listed else None for uri in of}


def _modified(info: dict[str, Any]) -> float:
    when = info.get("mtime") or info.get("last_modified")
    if isinstance(when, datetime.datetime):
        return when.timestamp()
    return float(when) if isinstance(when, int | float) else 0.0


def _scheme(address: str) -> str:
    return address.partition("://")[0]


def is_object_store(address: str) -> bool:
    """Whether a remote address is on an object store."""
    return _scheme(address) in OBJECT_STORES


def ask_store(address: str, what: str, action: Callable[[], T]) -> T:
    """Have a remote filesystem do something, and again while it is out of reach; ``what`` it does is for messages.

    Raises:
        ConfigError: no installed package knows the scheme, or the address is none.
        FileNotFoundError: as the action raised it.
        RunBroken: the store refuses, or was out of reach for too long; the same command may do better later.
    """
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import HTTPClientError

    what = f"cannot {what} {address!r}"

    def attempt() -> T:
        try:
            return action()
        except (NoConnection, HTTPClientError) as error:
            # What S3's own library says of a connection is an OSError elsewhere.
            raise Unreachable(str(error)) from error

    try:
        return retry(is_remote(address), what, attempt)
    except (FileNotFoundError, ConfigError, RunEnded):
        raise
    except (ImportError, ValueError) as error:
        raise ConfigError([f"{address!r}: {error}"]) from error
    except Exception as error:  # Each of fsspec's filesystems lets errors of a library of its own through.
        raise RunBroken(f"{what}: {Failure.of(error).message}") from error


def remote_files(address: str) -> dict[str, dict[str, Any]]:
    """The files at a remote address, below it or matched by it: by address, their entries in a listing.

    Raises:
        FileNotFoundError: nothing is there; see :func:`is_bucket_missing`.
        Exception: what the filesystem raises.
    """
    filesystem, path = by_fsspec(address)
    is_pattern = any(char in path for char in "*?[")
    found: dict[str, dict[str, Any]] = {}
    if is_pattern:
        found = filesystem.glob(path, detail=True)
    elif filesystem.isdir(path):
        found = filesystem.find(path, detail=True)
    elif filesystem.exists(path):
        return {address: filesystem.info(path)}
    if not found and (is_object_store(address) or not is_pattern):
        filesystem.ls(path)  # Unlike those calls it tells what is not there.
    return {str(filesystem.unstrip_protocol(name)): info for name, info in found.items() if info.get("type") == "file"}


def is_bucket_missing(error: FileNotFoundError) -> bool:
    """Whether S3 said that there is no such bucket: no prefix that is empty for now, but a wrong address."""
    answer = getattr(error.__cause__, "response", None) or {}
    return answer.get("Error", {}).get("Code") == "NoSuchBucket"


def _list_folders(uris: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The listing's entry of each remote address that is there, with one listing per folder."""
    entries: dict[str, dict[str, Any]] = {}
    for folder in dict.fromkeys(map(posixpath.dirname, uris)):
        with suppress(FileNotFoundError):
            listed = ask_store(folder, "list", partial(_list_folder, folder))
            entries |= {f"{folder}/{posixpath.basename(entry['name'])}": entry for entry in listed}
    return {uri: entries[uri] for uri in uris if uri in entries}


def _list_folder(folder: str) -> list[dict[str, Any]]:
    filesystem, path = by_fsspec(folder)
    return list(filesystem.ls(path, detail=True))
