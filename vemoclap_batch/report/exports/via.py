"""VIA, the VGG Image Annotator's editor of video and audio (version 3): project files."""

from __future__ import annotations

import json
import posixpath
import time
from typing import Any

from vemoclap_batch.config import LABELS
from vemoclap_batch.report.exports.base import Format, file_uri
from vemoclap_batch.report.exports.source import Chunk, Record
from vemoclap_batch.report.exports.times import Cue, cues, told
from vemoclap_batch.store.filesystem import is_remote

#: The editor holds a project in a browser's memory and lists its files in one menu.
VIDEOS_OF_A_PROJECT = 100
# Numbers of the data format, version 3.1.1: where an attribute belongs, how it is filled in, what a file is and where.
_SEGMENT, _FILE = "FILE1_Z2_XY0", "FILE1_Z0_XY0"
_TEXT, _SELECT = 1, 4
_VIDEO, _AUDIO = 4, 8
_AT_HTTP, _AT_FILE = 2, 3
_EMOTION, _CONFIDENCE, _SPEECH, _GIVEN = "1", "2", "3", "4"


class Via(Format):
    """``project-001.json`` and so on, so many videos each; times are seconds, to the millisecond.

    A segment of a video's time line is an entry of ``metadata`` with two times and no shape.
    """

    name = "via"
    may_be_blank = True
    contents = ("emotions", "speech")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._labels = [*(self.source.labels or LABELS)]
        self._project: dict[str, Any] = self._empty()

    def add(self, chunk: Chunk) -> None:
        """Write some videos."""
        for record in chunk.records():
            if record.uri is None:
                self.left_out("videos without an address")
                continue
            self._add(record, record.uri)
            if len(self._project["view"]) == VIDEOS_OF_A_PROJECT:
                self._write()

    def close(self) -> None:
        """Write the last project."""
        if self._project["view"]:
            self._write()

    def _write(self) -> None:
        self.counts["projects"] += 1
        path = self.folder / f"project-{self.counts['projects']:03}.json"
        path.write_text(json.dumps(self._project, allow_nan=False), encoding="utf-8")
        self._project = self._empty()

    def _add(self, record: Record, uri: str) -> None:
        number = str(len(self._project["view"]) + 1)
        address = self.address(uri)
        self._project["project"]["vid_list"].append(number)
        self._project["view"][number] = {"fid_list": [number]}
        self._project["file"][number] = {
            "fid": number,
            "fname": posixpath.basename(uri),
            "type": _VIDEO if record.has_video else _AUDIO,
            "loc": _AT_HTTP if is_remote(address) else _AT_FILE,
            "src": file_uri(address),
        }
        if record.given_label is not None:
            self._entry(number, [], {_GIVEN: record.given_label})
        if "emotions" in self.chosen:
            for cue in cues(told(record.emotions)):
                option = str(self._labels.index(cue.span.text))
                share = f"{cue.span.confidence or 0:.3f}"
                self._entry(number, _times(cue), {_EMOTION: option, _CONFIDENCE: share})
        if "speech" in self.chosen:
            for cue in cues(told(record.speech)):
                self._entry(number, _times(cue), {_SPEECH: cue.span.text})
        self.counts["videos"] += 1

    def _entry(self, number: str, times: list[float], values: dict[str, str]) -> None:
        entries = self._project["metadata"]
        entries[f"{number}_{len(entries):06}"] = {"vid": number, "flg": 0, "z": times, "xy": [], "av": values}
        self.counts["segments"] += len(times) > 0

    def _empty(self) -> dict[str, Any]:
        def attribute(name: str, anchor: str, kind: int, text: str, options: dict[str, str]) -> dict[str, Any]:
            common = {"aname": name, "anchor_id": anchor, "type": kind, "desc": text}
            return common | {"options": options, "default_option_id": ""}

        options = {str(at): label for at, label in enumerate(self._labels)}
        return {
            "project": {
                # As the editor has them in a project that was never shared.
                "pid": "__VIA_PROJECT_ID__",
                "rev": "__VIA_PROJECT_REV_ID__",
                "rev_timestamp": "__VIA_PROJECT_REV_TIMESTAMP__",
                "pname": "vemoclap-batch",
                "creator": "vemoclap-batch",
                "created": int(time.time() * 1000),
                "data_format_version": "3.1.1",
                "vid_list": [],
            },
            "config": {
                "file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}},
                "ui": {"file_content_align": "center", "file_metadata_editor_visible": True,
                       "spatial_metadata_editor_visible": True, "temporal_segment_metadata_editor_visible": True,
                       "spatial_region_label_attribute_id": "", "gtimeline_visible_row_count": "4"},
            },
            "attribute": {
                _EMOTION: attribute("emotion", _SEGMENT, _SELECT, "emotion of a window", options),
                _CONFIDENCE: attribute("confidence", _SEGMENT, _TEXT, "probability of the emotion", {}),
                _SPEECH: attribute("speech", _SEGMENT, _TEXT, "what was heard, in English", {}),
                _GIVEN: attribute("given", _FILE, _TEXT, "label of the labels file", {}),
            },
            "file": {},
            "metadata": {},
            "view": {},
        }  # fmt: skip


def _times(cue: Cue) -> list[float]:
    return [cue.start_ms / 1000, cue.end_ms / 1000]
