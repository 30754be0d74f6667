"""What a Matroska file says of its tracks that FFmpeg reads and PyAV does not hand on: cropping and encryption.

Element numbers are those of the Matroska specification, RFC 9559.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, NamedTuple

_SEGMENT, _TRACKS, _CLUSTER, _TRACK = 0x18538067, 0x1654AE6B, 0x1F43B675, 0xAE
_TYPE, _VIDEO, _ENCODINGS, _ENCODING, _ENCODING_TYPE = 0x83, 0xE0, 0x6D80, 0x6240, 0x5033
_LEFT, _TOP, _RIGHT, _BOTTOM = 0x54CC, 0x54BB, 0x54DD, 0x54AA
_IS_VIDEO, _IS_ENCRYPTION = 1, 1
#: Tracks are described in some hundred bytes, their codec's private data in some thousand.
_MAX_TRACKS = 4 * 2**20
#: More elements in a row are no real file's, before the tracks or within them.
_MAX_ELEMENTS = 1000


class Crop(NamedTuple):
    """How many pixels of the stored frame are not to be shown, at each side."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


NO_CROP = Crop()


class Track(NamedTuple):
    """One track, as its entry says."""

    is_video: bool = False
    is_encrypted: bool = False
    crop: Crop = NO_CROP


class _Element(NamedTuple):
    kind: int
    start: int  # of its content
    end: int


def tracks(path: str) -> list[Track]:
    """The tracks of a Matroska or WebM file in its order; none where they cannot be read."""
    with open(path, "rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        segment = next((item for item in _elements(stream, 0, size) if item.kind == _SEGMENT), None)
        if segment is None:
            return []
        for item in _elements(stream, segment.start, min(segment.end, size)):
            if item.kind == _TRACKS:
                stream.seek(item.start)
                return _read_tracks(stream.read(min(item.end - item.start, _MAX_TRACKS)))
            if item.kind == _CLUSTER:
                break
    return []


def _read_tracks(content: bytes) -> list[Track]:
    stream = io.BytesIO(content)

    def within(element: _Element) -> Iterator[_Element]:
        return _elements(stream, element.start, element.end)

    def number(element: _Element) -> int:
        return int.from_bytes(content[element.start : element.end])

    found = []
    for entry in _elements(stream, 0, len(content)):
        if entry.kind != _TRACK:
            continue
        track = Track()
        for item in within(entry):
            if item.kind == _TYPE:
                track = track._replace(is_video=number(item) == _IS_VIDEO)
            elif item.kind == _VIDEO:
                sides = {part.kind: number(part) for part in within(item)}
                track = track._replace(crop=Crop(*(sides.get(side, 0) for side in (_LEFT, _TOP, _RIGHT, _BOTTOM))))
            elif item.kind == _ENCODINGS:
                parts = [part for encoding in within(item) if encoding.kind == _ENCODING for part in within(encoding)]
                types = [number(part) for part in parts if part.kind == _ENCODING_TYPE]
                track = track._replace(is_encrypted=_IS_ENCRYPTION in types)
        found.append(track)
    return found


def _elements(stream: IO[bytes], at: int, end: int) -> Iterator[_Element]:
    """The elements of a file between two places, without their contents."""
    for _ in range(_MAX_ELEMENTS):
        if at >= end:
            return
        stream.seek(at)
        head = stream.read(12)
        kind = _variable(head, 0, 4, keep_mark=True)
        size = _variable(head, kind[1], 8, keep_mark=False) if kind else None
        if kind is None or size is None:
            return
        start = at + kind[1] + size[1]
        # All ones: the size is not known, as in a live recording; it goes on to the end.
        unknown = size[0] == 2 ** (7 * size[1]) - 1
        at = end if unknown else min(start + size[0], end)
        yield _Element(kind[0], start, at)


def _variable(content: bytes, place: int, longest: int, keep_mark: bool) -> tuple[int, int] | None:
    """A number of variable length and how many bytes it takes: the zeros that it begins with tell."""
    if place >= len(content) or not content[place]:
        return None
    length = 9 - content[place].bit_length()
    if length > longest or place + length > len(content):
        return None
    value = int.from_bytes(content[place : place + length])
    return (value if keep_mark else value & (1 << 7 * length) - 1, length)
