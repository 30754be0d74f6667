"""ELAN: an annotation document (.eaf) a video, with tiers for emotions, their confidence and what was heard."""

from __future__ import annotations

import datetime
import mimetypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from vemoclap_batch.config import LABELS
from vemoclap_batch.report.exports.base import FileList, Format, file_name, file_uri
from vemoclap_batch.report.exports.source import Chunk, Record
from vemoclap_batch.report.exports.times import Cue, Span, cues, printable, told, tracks

#: Tiers with such names hold the emotions; import looks for them.
EMOTION = "emotion"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
_VOCABULARY = "emotions"
#: ELAN knows a file by its type, not by its suffix.
_TYPES = {
    ".mkv": "video/x-matroska", ".webm": "video/webm", ".ts": "video/mp2t", ".m4v": "video/mp4", ".ogv": "video/ogg",
    ".wmv": "video/x-ms-wmv", ".flv": "video/x-flv", ".3gp": "video/3gpp", ".flac": "audio/flac", ".m4a": "audio/mp4",
}  # fmt: skip


class Elan(Format):
    """Times are whole milliseconds; no tier holds annotations that overlap: such windows go to several tiers."""

    name = "elan"
    may_be_blank = True
    contents = ("emotions", "speech")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._files = FileList(self.folder)

    def add(self, chunk: Chunk) -> None:
        """Write some videos."""
        for record in chunk.records():
            if record.uri is None:
                self.left_out("videos without an address")
                continue
            tiers = list(self._tiers(record))
            file = f"{file_name(record.video_id)}.eaf"
            document(record, self.address(record.uri), tiers, self.source.labels or LABELS).write(
                self.folder / file, encoding="utf-8", xml_declaration=True
            )
            self._files.write(file, record.video_id, record.uri)
            self.counts["videos"] += 1
            self.counts["annotations"] += sum(len(track) for _, track in tiers)

    def _tiers(self, record: Record) -> Iterator[tuple[str, list[Cue]]]:
        kinds: list[tuple[str, Sequence[Span]]] = []
        if "emotions" in self.chosen:
            kinds.append((EMOTION, record.emotions))
        if record.given_label is not None and record.duration_s:
            kinds.append(("given", [Span(0.0, record.duration_s, record.given_label)]))
        if "speech" in self.chosen:
            kinds += [("speech", record.speech), ("speech original", record.speech_original)]
        for kind, spans in kinds:
            # An empty tier of emotions is there as well, to be filled in.
            made = tracks(cues(told(spans))) or ([[]] if kind == EMOTION else [])
            for number, track in enumerate(made, 1):
                suffix = "" if number == 1 else f" {number}"
                yield f"{kind}{suffix}", track
                if kind == EMOTION and track:
                    yield f"confidence{suffix}", [_share(cue) for cue in track]

    def close(self) -> None:
        """End the list of files."""
        self._files.close()


def document(
    record: Record, address: str, tiers: Sequence[tuple[str, list[Cue]]], labels: Sequence[str]
) -> ElementTree.ElementTree:
    """An annotation document of format 3.0."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    root = Element(
        "ANNOTATION_DOCUMENT",
        {"AUTHOR": "", "DATE": now, "FORMAT": "3.0", "VERSION": "3.0", "xmlns:xsi": _XSI,
         "xsi:noNamespaceSchemaLocation": _SCHEMA},
    )  # fmt: skip
    header = SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=file_uri(address), MIME_TYPE=mime_type(address, record.has_video))
    for name, value in (("video_id", record.video_id), ("uri", record.uri or "")):
        SubElement(header, "PROPERTY", NAME=name).text = printable(value)
    # Each annotation has two slots of its own: with a shared one, moving an annotation would move another.
    slots: list[tuple[int, int]] = []
    order = SubElement(root, "TIME_ORDER")
    number = 0
    for name, track in tiers:
        kind = EMOTION if name.split()[0] in {EMOTION, "given"} else "default"
        tier = SubElement(root, "TIER", LINGUISTIC_TYPE_REF=kind, TIER_ID=name)
        for cue in track:
            number += 1
            refs = {"TIME_SLOT_REF1": str(len(slots)), "TIME_SLOT_REF2": str(len(slots) + 1)}
            slots += [(cue.start_ms, len(slots)), (cue.end_ms, len(slots) + 1)]
            annotation = SubElement(SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", refs)
            annotation.set("ANNOTATION_ID", f"a{number}")
            SubElement(annotation, "ANNOTATION_VALUE").text = cue.span.text
    ids = {at: f"ts{place}" for place, (_, at) in enumerate(sorted(slots), 1)}
    for ms, at in sorted(slots):
        SubElement(order, "TIME_SLOT", TIME_SLOT_ID=ids[at], TIME_VALUE=str(ms))
    for annotation in root.iter("ALIGNABLE_ANNOTATION"):
        for ref in ("TIME_SLOT_REF1", "TIME_SLOT_REF2"):
            annotation.set(ref, ids[int(annotation.attrib[ref])])
    _add_types(root, labels)
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _add_types(root: Element, labels: Sequence[str]) -> None:
    """The types of tiers, and the vocabulary from which an emotion is chosen."""
    for name, more in (("default", {}), (EMOTION, {"CONTROLLED_VOCABULARY_REF": _VOCABULARY})):
        common = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": name, "TIME_ALIGNABLE": "true"}
        SubElement(root, "LINGUISTIC_TYPE", common | more)
    language = "http://cdb.iso.org/lg/CDB-00138502-001"
    SubElement(root, "LANGUAGE", LANG_DEF=language, LANG_ID="eng", LANG_LABEL="English (eng)")
    vocabulary = SubElement(root, "CONTROLLED_VOCABULARY", CV_ID=_VOCABULARY)
    SubElement(vocabulary, "DESCRIPTION", LANG_REF="eng")
    for number, label in enumerate(labels):
        entry = SubElement(vocabulary, "CV_ENTRY_ML", CVE_ID=f"cveid{number}")
        SubElement(entry, "CVE_VALUE", DESCRIPTION="", LANG_REF="eng").text = label


def mime_type(address: str, has_video: bool) -> str:
    """The type of a file, told by its suffix; one that nobody knows is a video or a sound all the same."""
    suffix = Path(address.partition("?")[0]).suffix.lower()
    return _TYPES.get(suffix) or mimetypes.guess_type(f"x{suffix}")[0] or ("video/*" if has_video else "audio/*")


def _share(cue: Cue) -> Cue:
    return Cue(cue.start_ms, cue.end_ms, Span(cue.span.start_s, cue.span.end_s, f"{cue.span.confidence or 0:.3f}"))
