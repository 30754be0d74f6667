"""The video stream of an open file: its packets, its decoder, and how a decoded frame becomes RGB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from vemoclap_batch.media.clip import Heartbeat
from vemoclap_batch.media.container import decode_packet, demux
from vemoclap_batch.media.frames import UPRIGHT, DecodedFrames, Orientation, display_size
from vemoclap_batch.media.sampling import MAX_PIXELS
from vemoclap_batch.media.tone import needs_tone_mapping, to_sdr
from vemoclap_batch.media.video_index import VideoIndex

_HEARTBEAT_EVERY = 32


@dataclass(frozen=True)
class VideoSource:
    """The video stream that is read, and how: ``threads`` of the decoder, frames scaled down to ``short_side``."""

    path: str
    index: VideoIndex
    short_side: int
    threads: int
    heartbeat: Heartbeat


class FrameDecoder:
    """Decodes one video stream and puts the frames that are wanted into :attr:`frames`."""

    def __init__(self, container: av.container.InputContainer, source: VideoSource) -> None:
        self.frames = DecodedFrames()
        self.errors = 0  # packets that did not decode
        self._container, self._source, self._index = container, source, source.index
        self._stream = next(stream for stream in container.streams.video if stream.index == source.index.stream)
        self.codec = self._stream.codec_context
        self.codec.thread_count = source.threads
        # A stream whose frames grow midway is stopped by the decoder itself.
        self.codec.options = {"max_pixels": str(MAX_PIXELS)}
        self._reformatter = VideoReformatter()
        self._broken: set[int] = set()  # time stamps of packets that the demuxer calls damaged

    def packets(self, seek_to: int | None = None) -> Iterator[av.Packet]:
        """The packets of the stream that are not empty, from a time stamp or from where the file is."""
        try:
            if seek_to is not None:
                self._container.seek(seek_to, stream=self._stream, backward=True)
            for number, packet in enumerate(demux(self._container, self._stream, [])):
                if number % _HEARTBEAT_EVERY == 0:
                    self._source.heartbeat()
                if packet.size:
                    yield packet
        except MemoryError:
            raise
        except (av.FFmpegError, OSError):
            # The file breaks off here, which the scan has met and reported.
            return

    def decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """The frames that a packet completes; None flushes the decoder."""
        # Where parts were joined the demuxer calls whole packets damaged, as their counters jump.
        if self._index.seekable and packet is not None and packet.is_corrupt and packet.pts is not None:
            self._broken.add(packet.pts)
        try:
            return decode_packet(self.codec, packet)
        except MemoryError:
            raise
        except av.FFmpegError:
            # A damaged packet. The frames it costs are missing from the result, which the caller notices.
            self.errors += 1
            return []

    def is_damaged(self, frame: av.VideoFrame) -> bool:
        """Whether FFmpeg marks a frame, or the packet that it came in, as corrupt."""
        return frame.is_corrupt or frame.pts in self._broken

    def keep(self, number: int, frame: av.VideoFrame) -> None:
        """Add a frame to :attr:`frames`; one whose colours cannot be converted at all is left out, with a warning."""
        rgb = self._rgb(frame)
        if rgb is not None:
            shrunk = frame.width / rgb.shape[1]
            self.frames.add(number, rgb, _orientation(frame), self._index.shape, self._source.short_side, shrunk)

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray | None:
        """RGB uint8 [height, width, 3]; None for colours that cannot be converted at all."""
        try:
            return self._converted(frame)
        except MemoryError:
            raise
        except av.FFmpegError:
            matrix = frame.colorspace
            frame.colorspace = Colorspace.ITU601
        try:
            rgb = self._converted(frame)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            self._warn(f"pictures were left out, as their colours cannot be converted: {error.strerror}")
            return None
        self._warn(f"FFmpeg cannot convert the colours (matrix {int(matrix)}): they were taken for BT.601's")
        return rgb

    def _converted(self, frame: av.VideoFrame) -> np.ndarray:
        if needs_tone_mapping(frame):
            self.frames.plain = False
            return to_sdr(frame, self._mapped_size(frame))
        # Bicubic, which the ffmpeg program and decord use where chroma has to be interpolated.
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)
        return rgb.to_ndarray()

    def _mapped_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Width and height in which a frame is tone mapped: mapping costs more than scaling down does."""
        shape = self._index.shape
        if any(shape.crop):
            return frame.width, frame.height
        scale = min(self._source.short_side / min(display_size(frame.width, frame.height, shape.aspect)), 1.0)
        return max(round(frame.width * scale), 1), max(round(frame.height * scale), 1)

    def _warn(self, message: str) -> None:
        self.frames.plain = False
        if message not in self.frames.warnings:
            self.frames.warnings.append(message)


def _orientation(frame: av.VideoFrame) -> Orientation:
    # FFmpeg's rotation is counter-clockwise.
    rotation = round(-frame.rotation / 90) % 4 * 90
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return UPRIGHT if matrix is None else Orientation.of(np.frombuffer(bytes(matrix), np.int32, 9), rotation)
