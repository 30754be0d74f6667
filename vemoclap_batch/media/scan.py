"""One pass over a file's packets: where every frame lies, and the whole sound. No picture is decoded here."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple, TypeVar

import av
import numpy as np
from av.stream import Disposition

from vemoclap_batch.failure import ErrorType
from vemoclap_batch.media.audio import Sound, Track
from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.error import Beat, MediaError, no_beat
from vemoclap_batch.media.sampling import MAX_DURATION_S, MAX_GAP_S, MAX_PACKETS, MAX_PIXELS, MAX_SIDE, Limits

#: These have an index, and a length in their header that is measured, not estimated from the bit rate.
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
#: Formats that name other files, or look for them beside their own.
_OF_OTHER_FILES = frozenset(
    ["concat", "dash", "hls", "image2", "imf", "lavfi", "mlv", "rtsp", "sdp", "vobsub", "webm_dash_manifest"]
)
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
#: What a file that ends too early lacks at least, in seconds; less is rounding in the header.
_MISSING_S = 0.5
_BEAT_EVERY = 256

_Stream = TypeVar("_Stream", av.VideoStream, av.AudioStream)


class Key(NamedTuple):
    """A packet from which decoding can start, in the stream's time base."""

    pts: int
    dts: int | None


@dataclass
class VideoIndex:
    """Where the frames of the video stream are.

    Attributes:
        stream: its number in the file.
        pts: int64 [N], sorted: the time stamp of each frame that a player shows, in the stream's time base.
        keys: sorted by time stamp.
        ordered: False where the container does not say when each frame is shown, so that only decoding all of them
            in turn tells.
        plain: whether the container has an index of its own and no frame that precedes a key frame follows it in the
            file; less careful decoders than PyAV's seek to the wrong picture in others.
    """

    stream: int
    codec: str
    fps: float | None
    seconds: float  # per unit of pts
    start_s: float  # time stamp of the first frame, in seconds
    pts: np.ndarray
    keys: list[Key]
    ordered: bool
    plain: bool


@dataclass
class Scan:
    """What one pass over a file found.

    Attributes:
        origin_s: the time stamp, in seconds, that counts as time 0 of the clip.
        pcm: the sound, mono, 16 kHz.
    """

    origin_s: float
    duration_s: float = 0.0
    video: VideoIndex | None = None
    has_audio: bool = False
    pcm: Sound = field(default_factory=lambda: Sound(0))
    warnings: list[str] = field(default_factory=list)


@contextmanager
def open_media(path: str) -> Iterator[av.container.InputContainer]:
    """An open container; nothing but the file itself is opened.

    Raises:
        MediaError: NOT_MEDIA or UNDECODABLE, in words for a person.
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


@cache
def _formats() -> str:
    """All formats that are read from one file, as FFmpeg takes them."""
    readable = set()
    for name in av.formats_available:
        with suppress(ValueError):  # It can only be written.
            readable.add(av.ContainerFormat(name, "r").name)
    return ",".join(sorted(readable - _OF_OTHER_FILES))


def _unreadable(path: str, error: Exception) -> MediaError:
    with open(path, "rb") as stream:
        head = stream.read(16)
    for (offset, mark), name in _SIGNATURES.items():
        if head[offset : offset + len(mark)] == mark:
            cause = f"{path} begins like {name}, but its index cannot be read: truncated or damaged"
            return MediaError(ErrorType.UNDECODABLE, cause)
    reason = getattr(error, "strerror", None) or str(error)
    return MediaError(ErrorType.NOT_MEDIA, f"{path} is not a video or sound file ({reason})")


def scan(path: str, *, want_audio: bool = True, limits: Limits | None = None, beat: Beat = no_beat) -> Scan:
    """Read all packets of a file once and decode the sound among them.

    Sound beyond one part's waits on disk.

    Raises:
        MediaError: the file is no media file, or holds neither a video nor an audio stream.
    """
    with open_media(path) as container:
        video, audio = _streams(container)
        if video is None and audio is None:
            raise MediaError(ErrorType.NOT_MEDIA, f"{path} holds neither video nor sound")
        reader = _Reader(video, audio, want_audio, limits or Limits())
        reader.read(container, beat)
        return reader.result(container)


class _Reader:
    """The state of one pass."""

    def __init__(
        self,
        video: av.VideoStream | None,
        audio: av.AudioStream | None,
        want_audio: bool,
        limits: Limits,
    ) -> None:
        self.origin_s = _origin_s(video, audio)
        self.video, self.audio = video, audio
        self.track = None
        if audio is not None and want_audio:
            self.track = Track(self.origin_s, limits.max_duration_s, limits.part_s)
        self.warnings: list[str] = []
        self.pts = array("q")  # 8 bytes a frame: there are a million in nine hours.
        self.keys: list[Key] = []
        self.ordered = True
        self.open_groups = False
        self.end_s = self.origin_s
        self.audio_packets = 0
        self.bad_audio = 0

    def read(self, container: av.container.InputContainer, beat: Beat) -> None:
        streams = [stream for stream in (self.video, self.audio) if stream is not None]
        try:
            for number, packet in enumerate(container.demux(streams)):
                if number % _BEAT_EVERY == 0:
                    beat()
                if number >= MAX_PACKETS:
                    self.warnings.append(f"only the first {MAX_PACKETS} packets were read")
                    return
                self._take(packet)
        except MemoryError:
            raise
        except (av.FFmpegError, OSError) as error:
            self.warnings.append(f"reading stopped early: {getattr(error, 'strerror', None) or error}")

    def _take(self, packet: av.Packet) -> None:
        if packet.size:  # The last packet of each stream is empty: it flushes the decoder.
            self._measure(packet)
        if packet.stream is self.video:
            if packet.size:
                self._index(packet)
        else:
            self.audio_packets += bool(packet.size)
            if self.track is not None and not self.track.full:
                self._decode(packet, self.track)

    def _measure(self, packet: av.Packet) -> None:
        start = packet.pts if packet.pts is not None else packet.dts
        if start is None or packet.is_discard:
            return
        end_s = float((start + (packet.duration or 0)) * packet.time_base)
        if end_s - self.origin_s <= MAX_DURATION_S:
            self.end_s = max(self.end_s, end_s)

    def _index(self, packet: av.Packet) -> None:
        assert self.video is not None
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None:
            self.ordered = False
            pts = 0
        if packet.is_keyframe:
            self.keys.append(Key(pts, packet.dts))
        elif self.keys and pts < self.keys[-1].pts:
            self.open_groups = True
        if not packet.is_discard and not _is_hidden(packet, self.video.codec_context.name):
            self.pts.append(pts)

    def _decode(self, packet: av.Packet, track: Track) -> None:
        try:
            for frame in packet.decode():
                track.add(frame)  # type: ignore[arg-type]
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError):
            # ValueError: a sample format or rate that PyAV or the track refuses.
            self.bad_audio += 1

    def result(self, container: av.container.InputContainer) -> Scan:
        """Sum the pass up."""
        pcm = self.track.finish() if self.track is not None else Sound(0)
        found = Scan(self.origin_s, self.end_s - self.origin_s, self._video_index(container), pcm=pcm)
        found.has_audio = len(pcm) > 0 if self.track is not None else self.audio_packets > 0
        found.warnings = self.warnings + (self.track.warnings if self.track is not None else [])
        if self.bad_audio and not len(pcm):
            found.warnings.append("no packet of the audio stream could be decoded")
        elif self.bad_audio:
            found.warnings.append(f"{self.bad_audio} of {self.audio_packets} audio packets could not be decoded")
        if found.duration_s == 0 and found.video is not None and found.video.fps:
            found.duration_s = len(found.video.pts) / found.video.fps
        found.duration_s = max(found.duration_s, len(pcm) / SAMPLE_RATE)
        self._compare_length(container, found)
        return found

    def _compare_length(self, container: av.container.InputContainer, found: Scan) -> None:
        declared = (container.duration or 0) / av.time_base
        if container.format.name not in _INDEXED or declared > MAX_DURATION_S:
            return
        if declared - found.duration_s > max(_MISSING_S, 0.01 * declared):
            found.warnings.append(f"the file seems truncated after {found.duration_s:.1f} of {declared:.1f} s")

    def _video_index(self, container: av.container.InputContainer) -> VideoIndex | None:
        if self.video is None or not self.pts:
            if self.video is not None:
                self.warnings.append("the video stream holds no frame")
            return None
        codec = self.video.codec_context
        if codec.width * codec.height > MAX_PIXELS or max(codec.width, codec.height) > MAX_SIDE:
            self.warnings.append(f"the picture is left out: {codec.width}x{codec.height} pixels are more than allowed")
            return None
        # AVI has no time stamps of showing; what the demuxer makes up for reordered frames is wrong.
        ordered = self.ordered and not (container.format.name == "avi" and codec.has_b_frames)
        pts = np.sort(np.array(self.pts, np.int64))
        seconds = float(self.video.time_base or 0)
        start_s = float(pts[0]) * seconds if ordered else self.origin_s
        return VideoIndex(
            stream=self.video.index,
            codec=codec.codec.canonical_name,
            fps=_fps(self.video),
            seconds=seconds,
            start_s=start_s,
            pts=pts,
            keys=sorted(self.keys, key=lambda key: key.pts),
            ordered=ordered,
            plain=container.format.name in _INDEXED and not self.open_groups,
        )


def _origin_s(video: av.VideoStream | None, audio: av.AudioStream | None) -> float:
    """Time 0 of a player: where the first stream starts, unless the two starts cannot belong together."""
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in (video, audio)
        if stream is not None and stream.start_time is not None and stream.time_base is not None
    ]
    if len(starts) == 2 and abs(starts[0] - starts[1]) > MAX_GAP_S:
        return starts[0]
    return min(starts, default=0.0)


def _streams(container: av.container.InputContainer) -> tuple[av.VideoStream | None, av.AudioStream | None]:
    """The default video and audio stream, else the first of each that has a decoder; cover art is no video."""
    art = Disposition.attached_pic | Disposition.timed_thumbnails
    videos = [s for s in container.streams.video if s.codec_context is not None and not s.disposition & art]
    audios = [s for s in container.streams.audio if s.codec_context is not None]
    for stream in (*videos, *audios):
        stream.codec_context.thread_count = 1
    return _default(videos), _default(audios)


def _default(streams: Sequence[_Stream]) -> _Stream | None:
    marked = [stream for stream in streams if stream.disposition & Disposition.default]
    return next(iter(marked or streams), None)


def _is_hidden(packet: av.Packet, codec: str) -> bool:
    """Whether a packet holds a picture that is only there to predict others; VP8 stores those apart."""
    return codec in ("vp8", "libvpx") and not memoryview(packet)[0] & 0x10


def _fps(stream: av.VideoStream) -> float | None:
    rate = float(stream.average_rate or stream.base_rate or 0)
    return rate if 0 < rate <= 1000 else None
