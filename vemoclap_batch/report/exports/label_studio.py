"""Label Studio: tasks with predictions as pre-annotations, and the labelling interface that they belong to."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from vemoclap_batch.config import LABELS
from vemoclap_batch.report.exports.base import Format, JsonItems
from vemoclap_batch.report.exports.source import Chunk, Record
from vemoclap_batch.report.exports.times import frames, printable
from vemoclap_batch.store.filesystem import is_remote

#: Names of the controls; import looks for them.
EMOTION, TIMELINE, VIDEO = "emotion", "emotions", "video"


class LabelStudio(Format):
    """``tasks.json`` for import, ``config.xml`` for the project's labelling interface.

    The emotion of a video is a choice; those of windows are regions of the time line besides, whose frames are counted
    from 1 and include the last one, at the task's own frame rate (``$fps``; without it the editor takes 24).
    """

    name = "label-studio"
    may_be_blank = True
    contents = ("emotions",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        labels = self.source.labels or LABELS
        (self.folder / "config.xml").write_text(config(labels), encoding="utf-8")
        self._tasks = JsonItems(self.folder / "tasks.json", "[", "\n]\n")

    def add(self, chunk: Chunk) -> None:
        """Write some videos."""
        for record in chunk.records():
            if record.uri is None:
                self.left_out("videos without an address")
                continue
            self._tasks.write(self._task(record, record.uri))
            self.counts["videos"] += 1

    def close(self) -> None:
        """End the tasks."""
        self._tasks.close()

    def _task(self, record: Record, uri: str) -> dict[str, Any]:
        data: dict[str, Any] = {
            "video": media_url(self.address(uri)),
            "video_id": record.video_id,
            "uri": uri,
            "name": printable(posixpath.basename(uri)),
            # The editor needs a number; where there are no frames none is used.
            "fps": record.fps or 25.0,
            "heard": record.heard or "–",
            "read": record.read or "–",
        }
        if record.given_label is not None:
            data["given_label"] = record.given_label
        task: dict[str, Any] = {"data": data}
        if overall := record.overall:
            result = [_choice(record.video_id, *overall), *self._regions(record)]
            version = f"vemoclap-batch {self.source.model}"
            task["predictions"] = [{"model_version": version, "score": overall[1], "result": result}]
            self.counts["pre-annotations"] += len(result)
        return task

    def _regions(self, record: Record) -> list[dict[str, Any]]:
        if not record.windowed:
            return []
        if record.fps is None:
            self.left_out("windows of videos without a frame rate", len(record.emotions))
            return []
        regions = []
        for number, span in enumerate(record.emotions):
            first, last = frames(span.start_s, span.end_s, record.fps, record.duration_s)
            value = {"ranges": [{"start": first, "end": last}], "timelinelabels": [span.text]}
            region = {"id": _id(record.video_id, number), "type": "timelinelabels", "from_name": TIMELINE}
            score = min(max(float(span.confidence or 0.0), 0.0), 1.0)
            regions.append(region | {"to_name": VIDEO, "origin": "prediction", "value": value, "score": score})
        return regions


def _choice(video_id: str, label: str, score: float) -> dict[str, Any]:
    named = {"id": _id(video_id, -1), "type": "choices", "from_name": EMOTION, "to_name": VIDEO}
    return named | {"origin": "prediction", "value": {"choices": [label]}, "score": float(score)}


def _id(video_id: str, number: int) -> str:
    return hashlib.sha256(f"{video_id}\0{number}".encode()).hexdigest()[:10]


def media_url(address: str) -> str:
    """What Label Studio fetches: a local file by its local storage (document root ``/``), anything else as it is."""
    return address if is_remote(address) else "/data/local-files/?d=" + quote(address.lstrip("/"))


def config(labels: Sequence[str]) -> str:
    """The labelling interface: the video, one emotion for it, emotions along its time line, what was heard and read."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Header", value="$name")
    ElementTree.SubElement(view, "Video", name=VIDEO, value="$video", frameRate="$fps", timelineHeight="120")
    choices = ElementTree.SubElement(view, "Choices", name=EMOTION, toName=VIDEO, choice="single", showInline="true")
    for label in labels:
        ElementTree.SubElement(choices, "Choice", value=label)
    timeline = ElementTree.SubElement(view, "TimelineLabels", name=TIMELINE, toName=VIDEO)
    for label in labels:
        ElementTree.SubElement(timeline, "Label", value=label)
    for name, title in (("heard", "Heard"), ("read", "Read")):
        ElementTree.SubElement(view, "Header", value=title)
        ElementTree.SubElement(view, "Text", name=name, value=f"${name}")
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"
