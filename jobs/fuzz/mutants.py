"""Damaged copies of media files, each by one kind of damage: what downloads, cameras and attackers do to them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Mutator = Callable[[bytearray, np.random.Generator], bytes]

#: Boxes of an MP4 or MOV file that hold boxes, and how many bytes come before those.
_PARENTS = {b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"edts": 0, b"dinf": 0, b"udta": 0, b"stsd": 8}
#: Sample tables: a count after version and flags (after the common sample size, too, in stsz).
_COUNTS = {b"stts": 4, b"ctts": 4, b"stsc": 4, b"stco": 4, b"co64": 4, b"stss": 4, b"stsz": 8, b"elst": 4}
_SIGNATURE = slice(4, 8)


@dataclass(frozen=True)
class Box:
    """One box of an MP4 or MOV file: where it and its content begin, and where it ends."""

    kind: bytes
    start: int
    content: int
    end: int
    track: int  # which trak it is in; -1 outside
    depth: int


def kinds(content: bytes) -> list[str]:
    """The kinds of damage that a file can be given: those of its boxes only if it has any."""
    return [*_ANY, *(_BOXED if content[_SIGNATURE] == b"ftyp" else ())]


def mutate(content: bytes, kind: str, random: np.random.Generator) -> bytes:
    """A damaged copy."""
    return (_ANY | _BOXED)[kind](bytearray(content), random)


def boxes(content: bytes | bytearray) -> list[Box]:
    """All boxes of an intact MP4 or MOV file, in order, parents before their children."""
    found: list[Box] = []
    _walk(content, 0, len(content), -1, 0, found)
    return found


def _walk(content: bytes | bytearray, at: int, end: int, track: int, depth: int, found: list[Box]) -> None:
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", content, at)
        header = 8
        if size == 1:
            size, header = struct.unpack_from(">Q", content, at + 8)[0], 16
        stop = end if size == 0 else at + size
        if (size and size < header) or stop > end:
            return
        own = 1 + max((box.track for box in found), default=-1) if kind == b"trak" else track
        found.append(Box(kind, at, at + header, stop, own, depth))
        if kind in _PARENTS:
            _walk(content, at + header + _PARENTS[kind], stop, own, depth + 1, found)
        at = stop


def _bits(content: bytearray, random: np.random.Generator) -> bytes:
    """Single bits, one to a thousand of them."""
    for place in random.integers(0, len(content), int(10 ** random.uniform(0, 3))):
        content[place] ^= 1 << int(random.integers(8))
    return bytes(content)


def _header_bits(content: bytearray, random: np.random.Generator) -> bytes:
    """A few bits of what describes the streams."""
    at = [(box.start, box.end) for box in boxes(content) if box.kind == b"moov"]
    first, last = at[0] if at else (0, len(content))
    for place in random.integers(first, last, int(random.integers(1, 20))):
        content[place] ^= 1 << int(random.integers(8))
    return bytes(content)


def _noise(content: bytearray, random: np.random.Generator) -> bytes:
    """A stretch of random bytes."""
    first, last = _stretch(content, random)
    content[first:last] = random.bytes(last - first)
    return bytes(content)


def _zeros(content: bytearray, random: np.random.Generator) -> bytes:
    """A stretch of zeros: a download whose pieces did not all come."""
    first, last = _stretch(content, random)
    content[first:last] = bytes(last - first)
    return bytes(content)


def _cut_out(content: bytearray, random: np.random.Generator) -> bytes:
    """A stretch left out."""
    first, last = _stretch(content, random)
    return bytes(content[:first] + content[last:])


def _truncated(content: bytearray, random: np.random.Generator) -> bytes:
    return bytes(content[: int(random.integers(len(content)))])


def _stretch(content: bytearray, random: np.random.Generator) -> tuple[int, int]:
    length = int(len(content) * 10 ** random.uniform(-4, -0.5))
    first = int(random.integers(len(content) - length))
    return first, first + length


def _swapped(content: bytearray, random: np.random.Generator) -> bytes:
    """Two neighbouring boxes of one parent in the wrong order."""
    pairs = [(a, b) for a in boxes(content) for b in boxes(content) if a.end == b.start and a.depth == b.depth]
    first, second = pairs[int(random.integers(len(pairs)))]
    swapped = content[second.start : second.end] + content[first.start : first.end]
    return bytes(content[: first.start] + swapped + content[second.end :])


def _dimensions(content: bytearray, random: np.random.Generator) -> bytes:
    """Another width or height of the frame in the track's header or the decoder's."""
    return _overwrite(content, [*_sizes(content)], random)


def _durations(content: bytearray, random: np.random.Generator) -> bytes:
    """Other lengths and time scales of the file, its tracks, their edits and their frames."""
    return _overwrite(content, [*_lengths(content)], random)


def _rates(content: bytearray, random: np.random.Generator) -> bytes:
    """Other sampling rates and channels of the audio."""
    return _overwrite(content, [*_audio_fields(content)], random)


def _huge(content: bytearray, random: np.random.Generator) -> bytes:
    """A box, a table or a sample that says it is far larger than the file."""
    places = [(box.start, 4) for box in boxes(content)]
    for box in boxes(content):
        if box.kind in _COUNTS:
            places += [(box.content + _COUNTS[box.kind] + 4 * at, 4) for at in range(3)]
    fits = [(at, size) for at, size in places if at + size <= len(content)]
    at, _ = fits[int(random.integers(len(fits)))]
    struct.pack_into(">I", content, at, int(random.choice([2**31 - 1, 2**31, 2**32 - 1, 2**28, len(content) + 1])))
    return bytes(content)


def _no_samples(content: bytearray, random: np.random.Generator) -> bytes:
    """A track, or every track, of which some tables or all say that it has no samples."""
    tables = [box for box in boxes(content) if box.kind in _COUNTS and box.kind != b"elst"]
    tracks = sorted({box.track for box in tables})
    chosen = set(tracks) if random.integers(2) else {int(random.choice(tracks))}
    every = bool(random.integers(2))
    for box in tables:
        if box.track in chosen and (every or random.integers(2)):
            struct.pack_into(">I", content, box.content + _COUNTS[box.kind], 0)
    return bytes(content)


def _sizes(content: bytearray) -> Iterator[tuple[int, int]]:
    for box in boxes(content):
        if box.kind == b"tkhd":
            at = box.content + (88 if content[box.content] else 76)
            yield from ((at, 4), (at + 4, 4))
        elif box.kind == b"stsd" and _handler(content, box.track) == b"vide":
            yield from ((box.content + 40, 2), (box.content + 42, 2))


def _lengths(content: bytearray) -> Iterator[tuple[int, int]]:
    for box in boxes(content):
        long = bool(content[box.content]) if box.kind in (b"tkhd", b"mvhd", b"mdhd", b"elst") else False
        if box.kind == b"tkhd":
            yield (box.content + 28, 8) if long else (box.content + 20, 4)
        elif box.kind in (b"mvhd", b"mdhd"):
            yield (box.content + (20 if long else 12), 4)
            yield (box.content + 24, 8) if long else (box.content + 16, 4)
        elif box.kind == b"elst":
            size = 8 if long else 4
            yield from ((box.content + 8, size), (box.content + 8 + size, size))
        elif box.kind == b"stts":
            yield from ((box.content + 8, 4), (box.content + 12, 4))


def _audio_fields(content: bytearray) -> Iterator[tuple[int, int]]:
    for box in boxes(content):
        if _handler(content, box.track) == b"soun":
            if box.kind == b"mdhd":
                yield (box.content + (20 if content[box.content] else 12), 4)
            elif box.kind == b"stsd":
                # The sample entry's channels and rate, and AAC's own two bytes: profile, rate and channels in bits.
                yield from ((box.content + 32, 2), (box.content + 40, 4))
                config = content.find(b"\x05\x80\x80\x80", box.content, box.end)
                if config >= 0:
                    yield (config + 5, 2)


def _handler(content: bytearray, track: int) -> bytes:
    """What a track is: vide, soun or something else."""
    for box in boxes(content):
        if box.kind == b"hdlr" and box.track == track >= 0:
            return bytes(content[box.content + 8 : box.content + 12])
    return b""


def _overwrite(content: bytearray, places: list[tuple[int, int]], random: np.random.Generator) -> bytes:
    """Put the least, the greatest or any number in one place or two."""
    count = min(len(places), int(random.integers(1, 3)))
    for number in random.choice(len(places), count, replace=False) if places else ():
        at, size = places[number]
        most = 2 ** (8 * size)
        value = [0, 1, most - 1, most // 2 - 1, most // 2, int.from_bytes(random.bytes(size))][random.integers(6)]
        content[at : at + size] = value.to_bytes(size)
    return bytes(content)


_ANY: dict[str, Mutator] = {
    "bits": _bits, "header bits": _header_bits, "noise": _noise, "zeros": _zeros, "cut out": _cut_out,
    "truncated": _truncated,
}  # fmt: skip
_BOXED: dict[str, Mutator] = {
    "swapped boxes": _swapped, "dimensions": _dimensions, "durations": _durations, "huge sizes": _huge,
    "no samples": _no_samples, "sound rates": _rates,
}  # fmt: skip
