"""FiftyOne: a FiftyOneTemporalDetectionDataset, labels and a manifest of the files, which stay where they are."""

from __future__ import annotations

import json
import posixpath
from typing import Any

from vemoclap_batch.report.exports.base import Format, JsonItems, file_name
from vemoclap_batch.report.exports.source import Chunk, Record
from vemoclap_batch.report.exports.times import frames
from vemoclap_batch.store.filesystem import is_remote


class FiftyOne(Format):
    """``labels.json`` and ``data.json``.

    A support is [first, last], frames counted from 1, both inclusive; windows that touch share no frame and none lies
    behind the video's end.
    """

    name = "fiftyone"
    contents = ("emotions",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        before = f'{{"classes": {json.dumps([*self.source.labels])}, "labels": {{'
        self._labels = JsonItems(self.folder / "labels.json", before, "\n}}\n")
        self._data = JsonItems(self.folder / "data.json", "{", "\n}\n")

    def add(self, chunk: Chunk) -> None:
        """Write some videos."""
        for record in chunk.records():
            if record.uri is None:
                self.left_out("videos without an address")
            elif record.fps is None:
                self.left_out("videos without a frame rate")
            else:
                self._add(record, record.uri, record.fps)

    def _add(self, record: Record, uri: str, fps: float) -> None:
        detections: list[dict[str, Any]] = []
        for span in record.emotions:
            support = list(frames(span.start_s, span.end_s, fps, record.duration_s))
            detections.append({"label": span.text, "support": support, "confidence": span.confidence})
            if record.given_label is not None:
                detections[-1]["attributes"] = {"given_label": record.given_label}
        # The importer takes the last suffix of the manifest's keys off, and of no other names.
        key = file_name(record.video_id)
        address = self.address(uri)
        address = address[len("file://") :] if not is_remote(address) and address.startswith("file://") else address
        self._labels.write(detections, key)
        self._data.write(address, key + (posixpath.splitext(uri)[1] or ".mp4"))
        self.counts["videos"] += 1
        self.counts["detections"] += len(detections)

    def close(self) -> None:
        """End the files."""
        self._labels.close()
        self._data.close()
