"""Features on the local disk, for sets that do not fit into memory: written once, read some videos at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from vemoclap_batch.fusion.data import Examples, Rows


@dataclass
class Spooled:
    """One feature of all videos in a file that has no name, so that even a killed process leaves nothing behind.

    It lies in the folder for temporary files (``TMPDIR``) and takes 4 bytes a number.

    Attributes:
        width: numbers in an item.
        start, length: where each video's items are, in items, int64 [n]; length 0 = missing.
    """

    width: int
    start: np.ndarray
    length: np.ndarray
    _file: IO[bytes] = field(default_factory=tempfile.TemporaryFile, repr=False)
    _items: int = 0

    @classmethod
    def of(cls, videos: int, width: int) -> Spooled:
        """Room for so many videos, all missing as yet."""
        return cls(width, np.zeros(videos, np.int64), np.zeros(videos, np.int64))

    def put(self, video: int, array: np.ndarray) -> None:
        """Add the feature of one video, float32 [length, width]."""
        self.start[video], self.length[video] = self._items, len(array)
        self._file.write(np.ascontiguousarray(array, np.float32).data)
        self._items += len(array)

    def seal(self) -> None:
        """Make what was added readable."""
        self._file.flush()

    def get(self, videos: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """The features of some videos, in memory."""
        return [self._read(int(self.start[video]), int(self.length[video])) for video in videos]

    def _read(self, start: int, length: int) -> np.ndarray:
        self._file.seek(start * self.width * 4)
        flat = np.frombuffer(self._file.read(length * self.width * 4), np.float32)
        return flat.reshape(length, self.width)


class Spool:
    """Labelled videos whose features are on the local disk; batches are the same as of examples in memory."""

    def __init__(self, ids: list[str], labels: np.ndarray, features: Mapping[str, Spooled], rows: Rows) -> None:
        """Name some of the spooled videos.

        Args:
            ids: of these videos.
            labels: of these videos, int64 [n].
            features: of all videos that were spooled.
            rows: which of all these are, one position a video.
        """
        self.ids, self.labels = ids, labels
        self._features, self._rows = features, np.asarray(rows, np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: Rows) -> Examples:
        """The examples at these positions, read into memory."""
        at = np.asarray(rows, np.int64)
        features = {name: feature.get(self._rows[at]) for name, feature in self._features.items()}
        return Examples([self.ids[row] for row in at], features, self.labels[at])

    def part(self, rows: Rows) -> Spool:
        """These positions alone; the files are shared."""
        at = np.asarray(rows, np.int64)
        return Spool([self.ids[row] for row in at], self.labels[at], self._features, self._rows[at])
