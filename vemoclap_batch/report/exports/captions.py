"""Subtitles: WebVTT and SubRip, a file for what was heard and one for the emotions of each video."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from vemoclap_batch.report.exports.base import FileList, Format, file_name
from vemoclap_batch.report.exports.source import Chunk, Record
from vemoclap_batch.report.exports.times import Cue, Span, cues, told, tracks


class Captions(Format):
    """What WebVTT and SubRip have in common; cues without a text are left out, and files without a cue."""

    contents = ("emotions", "speech")
    takes_labels = False
    suffix: str

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._files = FileList(self.folder)

    def add(self, chunk: Chunk) -> None:
        """Write some videos."""
        for record in chunk.records():
            name = file_name(record.video_id)
            written = False
            for kind, spans in self._kinds(record):
                for number, track in enumerate(self.tracks(cues(told(spans))), 1):
                    file = f"{name}.{kind}{'' if number == 1 else f'.{number}'}{self.suffix}"
                    (self.folder / file).write_text(self.text(track), encoding="utf-8", newline="\n")
                    self._files.write(file, record.video_id, record.uri)
                    self.counts["files"] += 1
                    self.counts["cues"] += len(track)
                    written = True
            self.counts["videos"] += written
            if not written:
                self.left_out("videos without a cue")

    def _kinds(self, record: Record) -> Iterator[tuple[str, Sequence[Span]]]:
        if "emotions" in self.chosen:
            yield "emotions", [_with_share(span) for span in record.emotions]
        if "speech" in self.chosen:
            yield "speech", record.speech
            yield "speech_original", record.speech_original

    def close(self) -> None:
        """End the list of files."""
        self._files.close()

    @abstractmethod
    def tracks(self, made: Sequence[Cue]) -> list[list[Cue]]:
        """The cues of each file."""

    @abstractmethod
    def text(self, track: Sequence[Cue]) -> str:
        """A file."""


class WebVtt(Captions):
    """Cues may overlap; ``&``, ``<`` and ``>`` are escaped, so that a text holds neither tags nor ``-->``."""

    name, suffix = "webvtt", ".vtt"

    def tracks(self, made: Sequence[Cue]) -> list[list[Cue]]:
        """The cues of each file: all in one."""
        return [list(made)] if made else []

    def text(self, track: Sequence[Cue]) -> str:
        """A file."""
        blocks = [
            f"{clock(cue.start_ms, '.')} --> {clock(cue.end_ms, '.')}\n{escape(cue.span.text, quote=False)}\n"
            for cue in track
        ]
        return "\n".join(["WEBVTT\n", *blocks])


class Srt(Captions):
    """Cues are numbered from 1 and do not overlap: windows that do go to several files. There are no escapes."""

    name, suffix = "srt", ".srt"

    def tracks(self, made: Sequence[Cue]) -> list[list[Cue]]:
        """The cues of each file: as many files as overlap at a time."""
        return tracks(made)

    def text(self, track: Sequence[Cue]) -> str:
        """A file."""
        return "\n".join(
            f"{number}\n{clock(cue.start_ms, ',')} --> {clock(cue.end_ms, ',')}\n{cue.span.text}\n"
            for number, cue in enumerate(track, 1)
        )


def clock(ms: int, mark: str) -> str:
    """Milliseconds as ``hh:mm:ss.mmm``, or with a comma."""
    seconds, rest = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}{mark}{rest:03}"


def _with_share(span: Span) -> Span:
    return span if span.confidence is None else Span(span.start_s, span.end_s, f"{span.text} {span.confidence:.0%}")
