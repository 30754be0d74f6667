"""One pass over a file's packets: where every frame lies, and the whole sound. No picture is decoded here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import av
import numpy as np
from av.stream import Disposition

from vemoclap_batch.media import matroska
from vemoclap_batch.media.audio import Sound, Track
from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.container import decode_packet, demux, encrypted, nothing_in, open_media
from vemoclap_batch.media.error import Beat, no_beat
from vemoclap_batch.media.pictures import Shape
from vemoclap_batch.media.sampling import MAX_DURATION_S, MAX_GAP_S, MAX_PACKETS, MAX_PIXELS, MAX_SIDE, Limits
from vemoclap_batch.media.timestamps import Timeline
from vemoclap_batch.media.video_index import Packets, VideoIndex

_MATROSKA, _MP4 = "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"
#: These have an index, and a length in their header that is measured, not estimated from the bit rate.
_INDEXED = (_MP4, _MATROSKA)
#: AVFMT_TS_DISCONT, which PyAV has no name for.
_MAY_JUMP = 0x0200
#: What a file that ends too early lacks at least, in seconds; less is rounding in the header.
_MISSING_S = 0.5
_BEAT_EVERY = 256
#: So many times as many chunks as frames are no variable rate.
_EVEN = 1.1

_Stream = TypeVar("_Stream", av.VideoStream, av.AudioStream)


@dataclass
class Scan:
    """What one pass over a file found.

    Attributes:
        origin_s: the time stamp, in seconds, that counts as time 0 of the clip.
        pcm: the sound, mono, 16 kHz.
        is_empty: whether the streams have no packet.
    """

    origin_s: float
    duration_s: float = 0.0
    video: VideoIndex | None = None
    has_audio: bool = False
    pcm: Sound = field(default_factory=lambda: Sound(0))
    is_empty: bool = False
    warnings: list[str] = field(default_factory=list)


def scan(path: str, *, want_audio: bool = True, limits: Limits | None = None, beat: Beat = no_beat) -> Scan:
    """Read all packets of a file once and decode the sound among them.

    Sound beyond one part's waits on disk.

    Raises:
        MediaError: the file is no media file, holds neither a video nor an audio stream, or is encrypted.
    """
    with open_media(path) as container:
        tracks = matroska.tracks(path) if container.format.name == _MATROSKA else []
        video, audio = _streams(container)
        if any(track.is_encrypted for track in tracks):
            raise encrypted(path)
        if video is None and audio is None:
            raise nothing_in(path, container)
        reader = _Reader(container, video, audio, want_audio, limits or Limits())
        reader.read(container, beat)
        if reader.encrypted:
            raise encrypted(path)
        return reader.result(container, tracks)


class _Reader:
    """The state of one pass."""

    def __init__(
        self,
        container: av.container.InputContainer,
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
        codec = video.codec_context if video is not None else None
        self.packets = Packets(
            codec.name if codec is not None else "",
            in_avi=container.format.name == "avi",
            reordered=codec is not None and codec.has_b_frames,
        )
        self._timeline = Timeline(bool(container.format.flags & _MAY_JUMP), audio is not None)
        # Fractions are slow, and there are many packets.
        self._seconds = {stream.index: float(stream.time_base or 0) for stream in (video, audio) if stream is not None}
        self._has_palette = video is not None and video.codec_context.pix_fmt == "pal8"
        self.encrypted = False
        self._in_mp4 = container.format.name == _MP4
        # Where each stream's last frame begins and ends, in its time base.
        self._latest: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self.audio_packets = 0
        self.bad_audio = 0

    def read(self, container: av.container.InputContainer, beat: Beat) -> None:
        streams = [stream for stream in (self.video, self.audio) if stream is not None]
        try:
            for number, packet in enumerate(demux(container, streams, passed_over=self._pass_over)):
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

    def _pass_over(self) -> None:
        message = "what begins only midway, in a stream of its own, was left out"
        self.warnings += [message] * (message not in self.warnings)

    def _take(self, packet: av.Packet) -> None:
        # The last packet of each stream is empty: it flushes the decoder.
        moved = self._moved(packet) if packet.size and not self._is_header(packet) else 0
        if packet.is_keyframe and packet.has_sidedata("encryption_info"):
            self.encrypted = True
        if packet.stream is self.video:
            if packet.size:
                self.packets.add(packet, moved)
            return
        self.audio_packets += bool(packet.size)
        if self.track is not None and not self.track.full:
            if moved and packet.pts is not None:
                packet.pts += moved
            self._decode(packet, self.track)

    def _is_header(self, packet: av.Packet) -> bool:
        return packet.stream is self.video and self.packets.is_header(packet)

    def _moved(self, packet: av.Packet) -> int:
        """What a packet's time stamps are to be moved by, in its time base; its end is noted."""
        start = packet.pts if packet.pts is not None else packet.dts
        if start is None or packet.is_discard:
            return 0
        seconds = self._seconds[packet.stream_index]
        decoded_s = packet.dts * seconds if packet.dts is not None else None
        duration_s = (packet.duration or 0) * seconds
        offset_s = self._timeline.offset_s(packet.stream_index, decoded_s, start * seconds, duration_s)
        moved = round(offset_s / seconds) if offset_s else 0
        self._note_end(packet, start + moved, seconds)
        return moved

    def _note_end(self, packet: av.Packet, start: int, seconds: float) -> None:
        index, duration = packet.stream_index, packet.duration or 0
        if (start + duration) * seconds - self.origin_s > MAX_DURATION_S:
            return
        self._latest[index] = max(self._latest.get(index, start), start)
        # In MP4 the lengths are those of the order of decoding: only the last packet's is that of the last frame.
        end = self._latest[index] + duration if self._in_mp4 else start + duration
        self._ends[index] = end if self._in_mp4 else max(self._ends.get(index, end), end)

    def _decode(self, packet: av.Packet, track: Track) -> None:
        try:
            frames = decode_packet(packet.stream.codec_context, packet)
            # The packet that flushes the decoder has no number of a stream.
            said_s = (packet.duration or 0) * self._seconds[packet.stream.index]
            track.add_all(frames, said_s)
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError):
            # ValueError: a sample format or rate that PyAV or the track refuses.
            self.bad_audio += 1

    def result(self, container: av.container.InputContainer, tracks: Sequence[matroska.Track]) -> Scan:
        """Sum the pass up."""
        pcm = self.track.finish() if self.track is not None else Sound(0)
        found = Scan(self.origin_s, self._duration_s(), self._video_index(container, tracks), pcm=pcm)
        found.has_audio = len(pcm) > 0 if self.track is not None else self.audio_packets > 0
        found.is_empty = not self.packets.stamps and not self.audio_packets
        found.warnings = self.warnings + (self.track.warnings if self.track is not None else [])
        found.warnings += self._of_time()
        if self.bad_audio and not len(pcm):
            found.warnings.append("no packet of the audio stream could be decoded")
        elif self.bad_audio:
            found.warnings.append(f"{self.bad_audio} of {self.audio_packets} audio packets could not be decoded")
        if found.duration_s == 0 and found.video is not None and found.video.fps:
            found.duration_s = len(found.video.pts) / found.video.fps
        found.duration_s = max(found.duration_s, len(pcm) / SAMPLE_RATE)
        self._compare_length(container, found)
        return found

    def _duration_s(self) -> float:
        """How long the longest stream is, by its packets; those of sound may lie about their lengths."""
        ends = [
            float(self._ends[stream.index] * stream.time_base)
            for stream in (self.video, self.audio)
            if stream is not None and stream.time_base is not None and stream.index in self._ends
            if stream is not self.audio or self.track is None or self.track.timed
        ]
        return max([self.origin_s, *ends]) - self.origin_s

    def _of_time(self) -> list[str]:
        """What time stamps did that they should not."""
        found = []
        if restarts := self._timeline.restarts:
            times = "once" if restarts == 1 else f"{restarts} times"
            found.append(f"time starts again {times}, as in parts that were joined: they were taken as one video")
        if jumps := self._timeline.jumps:
            times = "once" if jumps == 1 else f"{jumps} times"
            found.append(f"the time stamps jump {times}: time was taken as going on there")
        return found

    def _compare_length(self, container: av.container.InputContainer, found: Scan) -> None:
        declared = (container.duration or 0) / av.time_base
        if container.format.name not in _INDEXED or declared > MAX_DURATION_S or self._timeline.jumps:
            return
        if declared - found.duration_s > max(_MISSING_S, 0.01 * declared):
            found.warnings.append(f"the file seems truncated after {found.duration_s:.1f} of {declared:.1f} s")

    def _video_index(
        self, container: av.container.InputContainer, tracks: Sequence[matroska.Track]
    ) -> VideoIndex | None:
        packets = self.packets
        if self.video is None or not packets.pts:
            if self.video is not None:
                self.warnings.append("the video stream holds no frame")
            return None
        codec = self.video.codec_context
        if codec.width * codec.height > MAX_PIXELS or max(codec.width, codec.height) > MAX_SIDE:
            self.warnings.append(f"the picture is left out: {codec.width}x{codec.height} pixels are more than allowed")
            return None
        # Of a constant rate, numbers tell the times better: AVI may begin with empty chunks.
        even = packets.by_dts and max(packets.pts) - min(packets.pts) < _EVEN * len(packets.pts)
        ordered = packets.ordered and not even
        joined = self._timeline.restarts + self._timeline.jumps > 0
        if packets.packed:
            self.warnings.append("the video may have packed B-frames: all of it was decoded in turn")
        pts = np.sort(np.array(packets.pts, np.int64))
        seconds = self._seconds[self.video.index]
        return VideoIndex(
            stream=self.video.index,
            codec=codec.codec.canonical_name,
            fps=_fps(self.video),
            seconds=seconds,
            start_s=float(pts[0] - packets.delay) * seconds if ordered else self.origin_s,
            pts=pts,
            delay=packets.delay,
            stamps=np.array(packets.stamps, np.int64),
            keys=sorted(packets.keys, key=lambda key: key.pts),
            ordered=ordered,
            seekable=ordered and not (joined or packets.unseekable or (self._has_palette and packets.palette)),
            plain=container.format.name in _INDEXED and not packets.open_groups,
            whole_packets=not container.format.flags & _MAY_JUMP,
            shape=_shape(container, self.video, tracks),
        )


def _shape(
    container: av.container.InputContainer, video: av.VideoStream, tracks: Sequence[matroska.Track]
) -> Shape:  # fmt: skip
    """What the container says of how the picture is shown."""
    aspect = float(video.sample_aspect_ratio or 1)
    crops = [track.crop for track in tracks if track.is_video]
    place = [stream.index for stream in container.streams.video].index(video.index)
    if place >= len(crops) or not any(crops[place]):
        return Shape(aspect=aspect)
    crop = crops[place]
    width, height = video.codec_context.width, video.codec_context.height
    seen_width, seen_height = width - crop.left - crop.right, height - crop.top - crop.bottom
    # Who sets the crop often leaves the display size at that of the whole picture. FFmpeg reads this as if what is left
    # was to be stretched over it.
    stretched = seen_width > 0 and seen_height > 0 and abs(aspect * seen_width * height / (width * seen_height) - 1)
    return Shape(crop, 1.0 if stretched < 0.001 else aspect)


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


def _fps(stream: av.VideoStream) -> float | None:
    rate = float(stream.average_rate or stream.base_rate or 0)
    return rate if 0 < rate <= 1000 else None
