"""Lists of videos to leave out: how they are read and written, and which videos their names mean."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from vemoclap_batch.config import LABELS
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.sources.listing import MEDIA_SUFFIXES
from vemoclap_batch.store.filesystem import resolve


def read_blacklist(address: str) -> list[str]:
    """The names in a list: one video a line; ``#`` at the beginning of a word begins a comment.

    Raises:
        ConfigError: the file is not there or is no text.
    """
    return _names(read_text(address))


def read_text(address: str) -> str:
    """The content of a text file in UTF-8.

    Raises:
        ConfigError: the file is not there or is no text.
    """
    try:
        filesystem, path = resolve(address)
        with filesystem.open_input_stream(path) as stream:
            return stream.read().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError([f"{address!r}: no such file"]) from error
    except (OSError, ValueError) as error:
        raise ConfigError([f"{address!r}: cannot be read ({error})"]) from error


def first_of(names: Sequence[str], count: int = 10) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def can_be_listed(video_id: str) -> bool:
    """Whether a line with this id is read as this id: not where it holds a line break or `` #``, say."""
    return _names(video_id) == [video_id]


def _names(text: str) -> list[str]:
    names = [re.split(r"(?:^|\s)#", line)[0].strip() for line in text.splitlines()]
    return list(dict.fromkeys(filter(None, names)))


class VideoNames:
    """Which videos a name in a list means.

    That is an id or an address, which go first, or a file name with or without its suffix and folders. Where several
    videos share a file name, folders tell them apart: ``joy/12.mp4`` is a video of joy, ``b/12.mp4`` lies in ``b``.
    """

    def __init__(self, ids: Sequence[str], uris: Sequence[str | None], labels: Sequence[str]) -> None:
        """Take the videos.

        Args:
            ids: one per video.
            uris: one per video; None where it is not known.
            labels: one per video; empty where it is not known.
        """
        self._labels = labels
        self._paths = [uri or video for video, uri in zip(ids, uris, strict=True)]
        self._ids = {video: row for row, video in enumerate(ids) if video}
        self._uris = {uri: row for row, uri in enumerate(uris) if uri}
        self._files: defaultdict[str, set[int]] = defaultdict(set)
        for row, addresses in enumerate(zip(ids, uris, strict=True)):
            for address in filter(None, addresses):
                name = posixpath.basename(address)
                self._files[name].add(row)
                self._files[bare(name)].add(row)

    def rows(self, name: str) -> set[int]:
        """The videos that a name fits: none, one, or several where it is ambiguous."""
        name = name.strip()
        for known in (self._ids, self._uris):
            if name in known:
                return {known[name]}
        *folders, file = name.replace("\\", "/").removeprefix("./").split("/")
        found = self._files.get(file) or self._files.get(bare(file)) or set()
        classes = {folder.lower() for folder in folders} & set(LABELS)
        if classes:
            found = {row for row in found if self._labels[row] in classes | {""}}
        return found if len(found) < 2 else self._closest(found, folders)

    def _closest(self, rows: set[int], folders: Sequence[str]) -> set[int]:
        """Those whose last folders are most like the name's."""

        def upwards(parts: Sequence[str]) -> list[str]:
            return [part.lower() for part in reversed(parts)]

        wanted = upwards(folders)
        shared = {row: len(posixpath.commonprefix([upwards(self._paths[row].split("/")[:-1]), wanted])) for row in rows}
        return {row for row in rows if shared[row] == max(shared.values())}


def bare(name: str) -> str:
    """A name without a suffix of videos; another dot belongs to the name."""
    stem, suffix = posixpath.splitext(name)
    return stem if suffix.lower() in MEDIA_SUFFIXES else name


@dataclass
class Listed:
    """What a list names: the rows of the videos, sorted, and the names that are no video."""

    rows: list[int] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def find_listed(names: Sequence[str], videos: VideoNames, address: str) -> Listed:
    """The videos of a list.

    Raises:
        ConfigError: names that fit more than one video.
    """
    found = {name: videos.rows(name) for name in names}
    several = [name for name, rows in found.items() if len(rows) > 1]
    if several:
        raise ConfigError([f"{address!r}: names that fit more than one video: {first_of(several)}"])
    return Listed(sorted(set().union(*found.values())), [name for name, rows in found.items() if not rows])
