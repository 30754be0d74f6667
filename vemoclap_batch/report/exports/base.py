"""What the formats have in common: the folder they write, the names of its files, addresses as the tools take them."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from vemoclap_batch.report.exports.source import Chunk, Source
from vemoclap_batch.store.filesystem import is_remote

#: What can be exported of a video.
CONTENTS = ("emotions", "speech", "text", "faces", "features")


class Format(ABC):
    """Writes an export to an empty folder, some videos at a time.

    Attributes:
        name: as ``--to`` says it.
        contents: what it holds by default.
        on_request: what it holds besides if ``--only content=`` names it.
        takes_labels: whether there is a place for given labels.
        may_be_blank: whether it is of use where nothing was predicted, for people to label.
        counts: of what was written.
    """

    name: ClassVar[str]
    contents: ClassVar[tuple[str, ...]]
    on_request: ClassVar[tuple[str, ...]] = ()
    takes_labels: ClassVar[bool] = True
    may_be_blank: ClassVar[bool] = False

    def __init__(
        self, folder: Path, source: Source, contents: Sequence[str], media_url: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.folder, self.source, self.chosen, self._media_url = folder, source, contents, media_url
        self.counts: Counter[str] = Counter()

    @abstractmethod
    def add(self, chunk: Chunk) -> None:
        """Write some videos."""

    @abstractmethod
    def close(self) -> None:
        """Write what comes last."""

    def left_out(self, what: str, count: int = 1) -> None:
        """Count what has no place in this format."""
        self.source.keep.left_out[what] += count

    def address(self, uri: str) -> str:
        """The address of a video, its beginning replaced as ``--media-url`` says."""
        for beginning, url in self._media_url:
            if uri.startswith(beginning):
                return url + uri[len(beginning) :]
        return uri


def file_uri(address: str) -> str:
    """An address as a URI; a local path has its odd characters as %XX."""
    return address if is_remote(address) else "file://" + quote(address)


def file_name(video_id: str) -> str:
    """A name for the files of a video: its id, or like it and unique where the id is no name on every system."""
    safe = re.sub(r"[^\w.-]+", "_", video_id).strip("._") or "video"
    if safe == video_id and len(safe.encode()) <= 180:
        return safe
    return f"{safe.encode()[:150].decode(errors='ignore')}-{hashlib.sha256(video_id.encode()).hexdigest()[:8]}"


class JsonItems:
    """A JSON file whose array or object is written an item at a time."""

    def __init__(self, path: Path, before: str, after: str) -> None:
        self._stream = path.open("w", encoding="utf-8")
        self._stream.write(before)
        self._after, self._first = after, True

    def write(self, item: Any, key: str | None = None) -> None:
        """Add an item; of an object, under a key."""
        text = json.dumps(item, allow_nan=False)
        self._stream.write("\n" if self._first else ",\n")
        self._stream.write(text if key is None else f"{json.dumps(key)}: {text}")
        self._first = False

    def close(self) -> None:
        """End the file."""
        self._stream.write(self._after)
        self._stream.close()


class FileList:
    """``files.csv``: which file is of which video."""

    def __init__(self, folder: Path) -> None:
        self._stream = (folder / "files.csv").open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._stream)
        self._writer.writerow(["file", "video_id", "uri"])

    def write(self, file: str, video_id: str, uri: str | None) -> None:
        """Add a file."""
        self._writer.writerow([file, video_id, uri or ""])

    def close(self) -> None:
        """End the list."""
        self._stream.close()
