"""One pass over a file's packets: where every frame lies, and the whole audio. No frame is decoded here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import av
import numpy as np
from av.stream import Disposition

from vemoclap_batch.media.audio import AudioBuffer, AudioTrack
from vemoclap_batch.media.clip import SAMPLE_RATE, Heartbeat, no_heartbeat
from vemoclap_batch.media.container import (
    Track,
    decode_packet,
    demux,
    encrypted,
    matroska_tracks,
    nothing_in,
    open_media,
)
from vemoclap_batch.media.frames import DisplayShape
from vemoclap_batch.media.sampling import MAX_DURATION_S, MAX_GAP_S, MAX_PACKETS, MAX_PIXELS, MAX_SIDE, Limits
from vemoclap_batch.media.timestamps import Timeline
from vemoclap_batch.media.video_index import PacketLog, VideoIndex

_MATROSKA, _MP4 = "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"
#: These have an index, and a length in their header that is measured, not estimated from the bit rate.
_INDEXED = (_MP4, _MATROSKA)
#: AVFMT_TS_DISCONT, which PyAV has no name for.
_MAY_JUMP = 0x0200
#: What a file that ends too early lacks at least, in seconds; less is rounding in the header.
_MISSING_S = 0.5
_HEARTBEAT_EVERY = 256
#: So many times as many chunks as frames are no variable rate.
_EVEN = 1.1

_DEFAULT = Limits()
_Stream = TypeVar("_Stream", av.VideoStream, av.AudioStream)


@dataclass
class Scan:
    """What one pass over a file found.

    Attributes:
        origin_s: the time stamp, in seconds, that counts as time 0 of the clip.
        audio: mono, 16 kHz.
        is_empty: whether the streams have no packet.
    """

    origin_s: float
    duration_s: float
    video: VideoIndex | None
    audio: AudioBuffer
    has_audio: bool
    is_empty: bool
    warnings: list[str] = field(default_factory=list)


def scan(path: str, want_audio: bool = True, limits: Limits = _DEFAULT, heartbeat: Heartbeat = no_heartbeat) -> Scan:
    """Read all packets of a file once and decode the audio among them; more of it than a chunk has is kept on disk.

    Raises:
        MediaError: the file is no media file, holds neither a video nor an audio stream, or is encrypted.
    """
    with open_media(path) as container:
        tracks = matroska_tracks(path) if container.format.name == _MATROSKA else []
        if any(track.is_encrypted for track in tracks):
            raise encrypted(path)
        reader = _PacketReader(container, want_audio, limits)
        if not reader.streams:
            raise nothing_in(path, container)
        reader.read(heartbeat)
        if reader.encrypted:
            raise encrypted(path)
        return reader.result(tracks)


class _PacketReader:
    """The state of one pass."""

    def __init__(self, container: av.container.InputContainer, want_audio: bool, limits: Limits) -> None:
        video, audio = _streams(container)
        self._container, self._video, self._audio = container, video, audio
        self.streams = [stream for stream in (video, audio) if stream is not None]
        self._origin_s = _origin_s(self.streams)
        self._track = None
        if audio is not None and want_audio:
            self._track = AudioTrack(self._origin_s, limits.max_duration_s, limits.part_s)
        self._warnings: list[str] = []
        codec = video.codec_context if video is not None else None
        self._log = PacketLog(codec, in_avi=container.format.name == "avi")
        self._timeline = Timeline(bool(container.format.flags & _MAY_JUMP), audio is not None)
        # Fractions are slow, and there are many packets.
        self._seconds = {stream.index: float(stream.time_base or 0) for stream in self.streams}
        self._in_mp4 = container.format.name == _MP4
        # Where each stream's last frame begins and ends, in its time base.
        self._latest: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._audio_packets = self._bad_audio = 0
        self.encrypted = False

    def read(self, heartbeat: Heartbeat) -> None:
        """Take every packet, as far as the file can be read."""
        try:
            for number, packet in enumerate(demux(self._container, self.streams, self._warnings)):
                if number % _HEARTBEAT_EVERY == 0:
                    heartbeat()
                if number >= MAX_PACKETS:
                    self._warnings.append(f"only the first {MAX_PACKETS} packets were read")
                    return
                self._take(packet)
        except MemoryError:
            raise
        except (av.FFmpegError, OSError) as error:
            self._warnings.append(f"reading stopped early: {getattr(error, 'strerror', None) or error}")

    def _take(self, packet: av.Packet) -> None:
        # The last packet of each stream is empty: it flushes the decoder.
        is_video = packet.stream is self._video
        moved = self._moved(packet) if packet.size and not (is_video and self._log.is_header(packet)) else 0
        if packet.is_keyframe and packet.has_sidedata("encryption_info"):
            self.encrypted = True
        if is_video:
            if packet.size:
                self._log.add(packet, moved)
            return
        self._audio_packets += bool(packet.size)
        if self._track is not None and not self._track.full:
            if moved and packet.pts is not None:
                packet.pts += moved
            self._decode(packet, self._track)

    def _moved(self, packet: av.Packet) -> int:
        """What a packet's time stamps are to be moved by, in its time base; its end is noted."""
        start = packet.pts if packet.pts is not None else packet.dts
        if start is None or packet.is_discard:
            return 0
        index, duration = packet.stream_index, packet.duration or 0
        seconds = self._seconds[index]
        decoded_s = packet.dts * seconds if packet.dts is not None else None
        offset_s = self._timeline.offset_s(index, decoded_s, start * seconds, duration * seconds)
        moved = round(offset_s / seconds) if offset_s else 0
        start, end = start + moved, start + moved + duration
        if end * seconds - self._origin_s <= MAX_DURATION_S:
            latest = self._latest[index] = max(self._latest.get(index, start), start)
            # In MP4 the lengths are those of the order of decoding: only the last packet's is that of the last frame.
            self._ends[index] = latest + duration if self._in_mp4 else max(self._ends.get(index, end), end)
        return moved

    def _decode(self, packet: av.Packet, track: AudioTrack) -> None:
        try:
            frames = decode_packet(packet.stream.codec_context, packet)
            # The packet that flushes the decoder has no number of a stream.
            track.add(frames, (packet.duration or 0) * self._seconds[packet.stream.index])
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError):
            # ValueError: a sample format or rate that PyAV or the track refuses.
            self._bad_audio += 1

    def result(self, tracks: Sequence[Track]) -> Scan:
        """Sum the pass up."""
        audio = self._track.finish() if self._track is not None else AudioBuffer(0)
        video = self._video_index(tracks)
        warnings = self._warnings + (self._track.warnings if self._track is not None else [])
        if restarts := self._timeline.restarts:
            joined = "as in parts that were joined: they were taken as one video"
            warnings.append(f"time starts again {_times(restarts)}, {joined}")
        if jumps := self._timeline.jumps:
            warnings.append(f"the time stamps jump {_times(jumps)}: time was taken as going on there")
        if self._bad_audio and not len(audio):
            warnings.append("no packet of the audio stream could be decoded")
        elif self._bad_audio:
            warnings.append(f"{self._bad_audio} of {self._audio_packets} audio packets could not be decoded")
        duration_s = self._duration_s()
        if duration_s == 0 and video is not None and video.fps:
            duration_s = len(video.pts) / video.fps
        duration_s = max(duration_s, len(audio) / SAMPLE_RATE)
        warnings += self._compared_to_header(duration_s)
        has_audio = len(audio) > 0 if self._track is not None else self._audio_packets > 0
        is_empty = not self._log.stamps and not self._audio_packets
        return Scan(self._origin_s, duration_s, video, audio, has_audio, is_empty, warnings)

    def _duration_s(self) -> float:
        """How long the longest stream is, by its packets; those of audio may lie about their lengths."""
        ends = [
            float(self._ends[stream.index] * stream.time_base)
            for stream in self.streams
            if stream.time_base is not None
            and stream.index in self._ends
            and (stream is not self._audio or self._track is None or self._track.timed)
        ]
        return max([self._origin_s, *ends]) - self._origin_s

    def _compared_to_header(self, duration_s: float) -> list[str]:
        """A warning where the header says that the file is longer."""
        declared_s = (self._container.duration or 0) / av.time_base
        if self._container.format.name not in _INDEXED or declared_s > MAX_DURATION_S or self._timeline.jumps:
            return []
        if declared_s - duration_s <= max(_MISSING_S, 0.01 * declared_s):
            return []
        return [f"the file seems truncated after {duration_s:.1f} of {declared_s:.1f} s"]

    def _video_index(self, tracks: Sequence[Track]) -> VideoIndex | None:
        log, container, video = self._log, self._container, self._video
        if video is None:
            return None
        if not log.pts:
            self._warnings.append("the video stream holds no frame")
            return None
        codec = video.codec_context
        if codec.width * codec.height > MAX_PIXELS or max(codec.width, codec.height) > MAX_SIDE:
            size = f"{codec.width}x{codec.height} pixels"
            self._warnings.append(f"the picture is left out: {size} are more than allowed")
            return None
        # Of a constant rate, numbers tell the times better: AVI may begin with empty chunks.
        even = log.by_dts and max(log.pts) - min(log.pts) < _EVEN * len(log.pts)
        ordered = log.ordered and not even
        joined = self._timeline.restarts + self._timeline.jumps > 0
        if log.packed:
            self._warnings.append("the video may have packed B-frames: all of it was decoded in turn")
        pts = np.sort(np.array(log.pts, np.int64))
        seconds = self._seconds[video.index]
        # Where packets do not tell which of them gives which frame, or a palette came with the first one.
        unseekable = joined or log.packed or log.by_dts or (codec.pix_fmt == "pal8" and log.palette)
        return VideoIndex(
            stream=video.index,
            codec=codec.codec.canonical_name,
            fps=_fps(video),
            seconds=seconds,
            start_s=float(pts[0] - log.delay) * seconds if ordered else self._origin_s,
            pts=pts,
            stamps=np.array(log.stamps, np.int64),
            keys=sorted(log.keys, key=lambda key: key.pts),
            delay=log.delay,
            ordered=ordered,
            seekable=ordered and not unseekable,
            plain=container.format.name in _INDEXED and not log.open_groups,
            whole_packets=not container.format.flags & _MAY_JUMP,
            shape=_shape(container, video, tracks),
        )


def _shape(
    container: av.container.InputContainer, video: av.VideoStream, tracks: Sequence[Track]
) -> DisplayShape:  # fmt: skip
    """What the container says of how the frame is shown."""
    aspect = float(video.sample_aspect_ratio or 1)
    crops = [track.crop for track in tracks if track.is_video]
    place = [stream.index for stream in container.streams.video].index(video.index)
    if place >= len(crops) or not any(crops[place]):
        return DisplayShape(aspect=aspect)
    crop = crops[place]
    width, height = video.codec_context.width, video.codec_context.height
    seen_width, seen_height = width - crop.left - crop.right, height - crop.top - crop.bottom
    # Who sets the crop often leaves the display size at that of the whole frame. FFmpeg reads this as if what is left
    # was to be stretched over it.
    stretched = seen_width > 0 and seen_height > 0 and abs(aspect * seen_width * height / (width * seen_height) - 1)
    return DisplayShape(crop, 1.0 if stretched < 0.001 else aspect)


def _origin_s(streams: Sequence[av.VideoStream | av.AudioStream]) -> float:
    """Time 0 of a player: where the first stream starts, unless the two starts cannot belong together."""
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in streams
        if stream.start_time is not None and stream.time_base is not None
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


def _fps(stream: av.VideoStream) -> float | None:
    rate = float(stream.average_rate or stream.base_rate or 0)
    return rate if 0 < rate <= 1000 else None


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
