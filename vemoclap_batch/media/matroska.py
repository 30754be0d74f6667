"""What a Matroska file says of its tracks that FFmpeg reads and PyAV does not hand on: cropping and encryption.

Element numbers are those of the Matroska specification, RFC 9559.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

_SEGMENT, _TRACKS, _CLUSTER, _TRACK = 0x18538067, 0x1654AE6B, 0x1F43B675, 0xAE
_TYPE, _VIDEO, _ENCODINGS, _ENCODING, _ENCODING_TYPE = 0x83, 0xE0, 0x6D80, 0x6240, 0x5033
_LEFT, _TOP, _RIGHT, _BOTTOM = 0x54CC, 0x54BB, 0x54DD, 0x54AA
_IS_VIDEO, _IS_ENCRYPTION = 1, 1
#: Tracks are described in some hundred bytes, their codec's private data in some thousand.
_MAX_TRACKS = 4 * 2**20
#: So many elements before the tracks are no real file's.
_MAX_ELEMENTS = 1000


class Crop(NamedTuple):
    """How many pixels of the stored picture are not to be shown, at each side."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


NO_CROP = Crop()


@dataclass
class Track:
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
        size = stream.seek(0, 2)
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
    found = []
    for entry in _within(content, 0, len(content)):
        if entry.kind != _TRACK:
            continue
        track = Track()
        for item in _within(content, entry.start, entry.end):
            if item.kind == _TYPE:
                track.is_video = _number(content, item) == _IS_VIDEO
            elif item.kind == _VIDEO:
                sides = {part.kind: _number(content, part) for part in _within(content, item.start, item.end)}
                track.crop = Crop(*(sides.get(side, 0) for side in (_LEFT, _TOP, _RIGHT, _BOTTOM)))
            elif item.kind == _ENCODINGS:
                track.is_encrypted = _is_encrypted(content, item)
        found.append(track)
    return found


def _is_encrypted(content: bytes, encodings: _Element) -> bool:
    parts = [
        part
        for encoding in _within(content, encodings.start, encodings.end)
        if encoding.kind == _ENCODING
        for part in _within(content, encoding.start, encoding.end)
    ]
    return any(part.kind == _ENCODING_TYPE and _number(content, part) == _IS_ENCRYPTION for part in parts)


def _number(content: bytes, element: _Element) -> int:
    return int.from_bytes(content[element.start : element.end])


def _elements(stream: IO[bytes], at: int, end: int) -> Iterator[_Element]:
    """The elements of a file between two places, without their contents."""
    for _ in range(_MAX_ELEMENTS):
        if at >= end:
            return
        stream.seek(at)
        found = _element(stream.read(12), 0, at, end)
        if found is None:
            return
        yield found
        at = found.end


def _within(content: bytes, at: int, end: int) -> Iterator[_Element]:
    """The elements of a piece of memory."""
    while at < end and (found := _element(content, at, at, end)) is not None:
        yield found
        at = found.end


def _element(content: bytes, place: int, at: int, end: int) -> _Element | None:
    """The element whose head is at a place of the content and at ``at`` of the whole; None where there is none."""
    kind = _variable(content, place, 4, keep_mark=True)
    size = _variable(content, place + kind[1], 8, keep_mark=False) if kind else None
    if kind is None or size is None:
        return None
    start = at + kind[1] + size[1]
    # All ones: the size is not known, as in a live recording; it goes on to the end.
    unknown = size[0] == 2 ** (7 * size[1]) - 1
    return _Element(kind[0], start, end if unknown else min(start + size[0], end))


def _variable(content: bytes, place: int, longest: int, keep_mark: bool) -> tuple[int, int] | None:
    """A number of variable length and how many bytes it takes: the zeros that it begins with tell."""
    if place >= len(content) or not content[place]:
        return None
    length = 9 - content[place].bit_length()
    if length > longest or place + length > len(content):
        return None
    value = int.from_bytes(content[place : place + length])
    return (value if keep_mark else value & (1 << 7 * length) - 1, length)
