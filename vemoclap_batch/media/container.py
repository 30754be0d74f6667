"""Opening a media file, what Matroska says of its tracks, and what to say of a file that does not open."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import IO, Any, NamedTuple

import av

from vemoclap_batch.errors import ErrorType
from vemoclap_batch.media.clip import MediaError
from vemoclap_batch.media.frames import NO_CROP, Crop

# Element numbers of the Matroska specification, RFC 9559.
_SEGMENT, _TRACKS, _CLUSTER, _TRACK = 0x18538067, 0x1654AE6B, 0x1F43B675, 0xAE
_TYPE, _VIDEO, _ENCODINGS, _ENCODING, _ENCODING_TYPE = 0x83, 0xE0, 0x6D80, 0x6240, 0x5033
_LEFT, _TOP, _RIGHT, _BOTTOM = 0x54CC, 0x54BB, 0x54DD, 0x54AA
_IS_VIDEO, _IS_ENCRYPTION = 1, 1
#: Tracks are described in some hundred bytes, their codec's private data in some thousand.
_MAX_TRACKS = 4 * 2**20
#: More elements in a row are no real file's, before the tracks or within them.
_MAX_ELEMENTS = 1000
#: Formats that name other files, or look for them beside their own.
_OF_OTHER_FILES = frozenset("concat dash hls image2 imf lavfi mlv rtsp sdp vobsub webm_dash_manifest".split())
#: First bytes of media files, to tell a broken video from something that never was one.
_SIGNATURES = {
    (4, b"ftyp"): "an MP4 or MOV file",
    (0, b"\x1a\x45\xdf\xa3"): "a Matroska or WebM file",
    (8, b"AVI "): "an AVI file",
    (8, b"WAVE"): "a WAV file",
    (0, b"OggS"): "an Ogg file",
    (0, b"FLV"): "an FLV file",
    (0, b"\x30\x26\xb2\x75"): "a WMV or ASF file",
}
#: How much of a file is read to say what it is.
_HEAD_BYTES = 65_536
#: What an MP4 or MOV file may begin with.
_FIRST_BOXES = frozenset([b"ftyp", b"wide", b"mdat", b"moov", b"free", b"skip"])
_PLAYLIST = re.compile(
    rb"#EXTM3U|ffconcat|\[playlist\]|\[reference\]|<asx|<smil|(<\?xml[^>]*>\s*)?<(MPD|playlist)", re.IGNORECASE
)
_WEB_PAGE = re.compile(rb"<!doctype html|<html|<head|<body|<\?xml|<!--|\{\s*\"", re.IGNORECASE)
#: The objects of an ASF file that say how it is encrypted: their GUIDs as they are stored.
_ASF_ENCRYPTION = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
)
#: How much of the index of an MP4 file is searched for signs of encryption, and of a transport stream.
_INDEX_BYTES = 16 * 2**20
_STREAM_BYTES = 2**20
_TS_PACKET = 188
#: Boxes at the top of a file are few; a chain of more is no longer followed.
_MAX_BOXES = 100_000


@contextmanager
def open_media(path: str) -> Iterator[av.container.InputContainer]:
    """An open container; nothing but the file itself is opened.

    Raises:
        MediaError: in words for a person, of a type that says what kind of file it is.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": _formats()}
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error
    with container:
        yield container


def demux(container: av.container.InputContainer, streams: Any, warnings: list[str]) -> Iterator[av.Packet]:
    """The packets of these streams, in the order of the file.

    A stream that begins only midway, as after a change of programme, is left out with a warning: PyAV does not know it
    and raises IndexError at its first packet.
    """
    message = "what begins only midway, in a stream of its own, was left out"
    while True:
        try:
            yield from container.demux(streams)
            return
        except IndexError:
            warnings += [message] * (message not in warnings)


def decode_packet(codec: Any, packet: av.Packet | None) -> list[Any]:
    """The frames that a packet completes; None flushes the decoder.

    A decoder that failed several times may take no further packet: it is emptied then, and goes on.

    Raises:
        av.FFmpegError: the packet is damaged.
    """
    try:
        return codec.decode(packet)
    except av.BlockingIOError:
        codec.flush_buffers()
        return codec.decode(packet)


@cache
def _formats() -> str:
    """All formats that are read from one file, as FFmpeg takes them."""
    readable = set()
    for name in av.formats_available:
        with suppress(ValueError):  # It can only be written.
            readable.add(av.ContainerFormat(name, "r").name)
    return ",".join(sorted(readable - _OF_OTHER_FILES))


def _unreadable(path: str, error: Exception) -> MediaError:
    """What a file is that does not open, and what to do about it."""
    with open(path, "rb") as stream:
        head = stream.read(_HEAD_BYTES)
        no_index = head[4:8] in _FIRST_BOXES and _find_box(stream, b"moov") is None
    if (text := _text(path, head)) is not None:
        return text
    if no_index:
        return MediaError(
            ErrorType.INCOMPLETE,
            f"{path} is not complete: its index (moov) is missing. It is still being uploaded or recorded, or was "
            "truncated or damaged; give it again once it is whole",
        )
    if not head.strip(b"\0"):
        cause = "it begins with zeros, as a download does whose content is still to come"
        return MediaError(ErrorType.INCOMPLETE, f"{path} is not complete: {cause}")
    for (offset, mark), name in _SIGNATURES.items():
        if head[offset : offset + len(mark)] == mark:
            cause = f"begins like {name}, but its index cannot be read: truncated or damaged"
            return MediaError(ErrorType.UNDECODABLE, f"{path} {cause}")
    reason = getattr(error, "strerror", None) or str(error)
    return MediaError(ErrorType.NOT_MEDIA, f"{path} is not a video or sound file ({reason})")


def _text(path: str, head: bytes) -> MediaError | None:
    """The failure of a text that may stand under the name of a video; None for anything else."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if _PLAYLIST.match(text):
        cause = "a playlist, which only names other files: give those, or save the stream as one file"
        return MediaError(ErrorType.PLAYLIST, f"{path} is {cause}")
    if _WEB_PAGE.match(text):
        cause = "a web page or a server's answer, not a video: download the video itself again"
        return MediaError(ErrorType.WEB_PAGE, f"{path} is {cause}")
    return None


def nothing_in(path: str, container: av.container.InputContainer) -> MediaError:
    """The failure of a file that opens, but in which no stream can be decoded."""
    if is_encrypted(path):
        return encrypted(path)
    if container.streams.video or container.streams.audio:
        cause = "can be decoded: its streams are of a kind that no decoder here knows"
        return MediaError(ErrorType.UNDECODABLE, f"nothing in {path} {cause}")
    with open(path, "rb") as stream:
        text = _text(path, stream.read(_HEAD_BYTES))  # Some playlists look like subtitles.
    cause = "neither pictures nor sound (subtitles or data alone): give a file that has one of them"
    return text or MediaError(ErrorType.NO_STREAMS, f"{path} holds {cause}")


def encrypted(path: str) -> MediaError:
    """The failure of an encrypted file."""
    cause = "encrypted (protected against copying) and cannot be decoded: give a copy without protection"
    return MediaError(ErrorType.ENCRYPTED, f"{path} is {cause}")


def is_encrypted(path: str) -> bool:
    """Whether a file of which nothing can be decoded says that it is encrypted."""
    with open(path, "rb") as stream:
        head = stream.read(_STREAM_BYTES)
        if head[4:8] in _FIRST_BOXES:
            at = _find_box(stream, b"moov")
            if at is None:
                return False
            stream.seek(at)
            # Each protected track has a box of its protection scheme (ISO/IEC 14496-12, 8.12).
            return b"sinf" in stream.read(_INDEX_BYTES)
    if any(guid in head[:_HEAD_BYTES] for guid in _ASF_ENCRYPTION):
        return True
    # Most packets of a scrambled transport stream say that their payload is (ISO/IEC 13818-1, 2.4.3.3).
    packets = [head[at : at + 4] for at in range(0, len(head) - _TS_PACKET, _TS_PACKET)]
    scrambled = sum(packet[3] >> 6 > 1 for packet in packets)
    return all(packet[0] == 0x47 for packet in packets) and scrambled > len(packets) / 2


def _find_box(stream: IO[bytes], kind: bytes) -> int | None:
    """Where the first box of a kind at the top of an MP4 or MOV file begins; None where there is none."""
    at = 0
    for _ in range(_MAX_BOXES):
        stream.seek(at)
        head = stream.read(16)
        if len(head) < 8:
            return None
        size, found = struct.unpack_from(">I4s", head)
        if found == kind:
            return at
        if size == 1 and len(head) == 16:
            size = struct.unpack_from(">Q", head, 8)[0]
        if size < 8:  # 0: up to the end of the file
            return None
        at += size
    return None


class Track(NamedTuple):
    """What a track entry says that FFmpeg reads and PyAV does not hand on."""

    is_video: bool = False
    is_encrypted: bool = False
    crop: Crop = NO_CROP


class _Element(NamedTuple):
    kind: int
    start: int  # of its content
    end: int


def matroska_tracks(path: str) -> list[Track]:
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
