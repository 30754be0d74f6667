"""The video stream of an open file: its packets, its decoder, and how a decoded frame becomes a picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from vemoclap_batch.media.container import decode_packet, demux
from vemoclap_batch.media.error import Beat
from vemoclap_batch.media.pictures import UPRIGHT, Pictures, Turn, display_size
from vemoclap_batch.media.sampling import MAX_PIXELS
from vemoclap_batch.media.tone import needs_tone_mapping, to_sdr
from vemoclap_batch.media.video_index import VideoIndex

_BEAT_EVERY = 32


class PictureDecoder:
    """Decodes one video stream and puts the frames that are wanted into :attr:`pictures`."""

    def __init__(
        self, container: av.container.InputContainer, index: VideoIndex, short_side: int, threads: int, beat: Beat
    ) -> None:
        self.pictures = Pictures()
        self._container = container
        self._index = index
        self._stream = next(stream for stream in container.streams.video if stream.index == index.stream)
        self.codec = self._stream.codec_context
        self.codec.thread_count = threads
        # A stream whose pictures grow midway is stopped by the decoder itself.
        self.codec.options = {"max_pixels": str(MAX_PIXELS)}
        self._reformatter = VideoReformatter()
        self._short_side = short_side
        self.beat = beat
        self.errors = 0  # packets that did not decode
        self.last_pts: int | None = None  # of the frame that came last
        self._broken: set[int] = set()  # time stamps of packets that the demuxer calls damaged

    def packets(self, seek_to: int | None = None) -> Iterator[av.Packet]:
        """The packets of the stream that are not empty, from a time stamp or from where the file is."""
        try:
            if seek_to is not None:
                self._container.seek(seek_to, stream=self._stream, backward=True)
            for number, packet in enumerate(demux(self._container, self._stream)):
                if number % _BEAT_EVERY == 0:
                    self.beat()
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
        """Add a frame to the pictures."""
        rgb = self._rgb(frame)
        if rgb is not None:
            shrunk = frame.width / rgb.shape[1]
            self.pictures.add(number, rgb, _turn(frame), self._index.shape, self._short_side, shrunk)

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
            self.pictures.plain = False
            return to_sdr(frame, self._smaller(frame))
        # Bicubic, which the ffmpeg program and decord use where chroma has to be interpolated.
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)
        return rgb.to_ndarray()

    def _smaller(self, frame: av.VideoFrame) -> tuple[int, int]:
        """The size that a frame is to be tone mapped in: mapping costs more than scaling down does."""
        shape = self._index.shape
        if any(shape.crop):
            return frame.width, frame.height
        scale = min(self._short_side / min(display_size(frame.width, frame.height, shape.aspect)), 1.0)
        return max(round(frame.width * scale), 1), max(round(frame.height * scale), 1)

    def _warn(self, message: str) -> None:
        self.pictures.plain = False
        if message not in self.pictures.warnings:
            self.pictures.warnings.append(message)


def _turn(frame: av.VideoFrame) -> Turn:
    """What turns a frame upright."""
    # FFmpeg's rotation is counter-clockwise.
    rotation = round(-frame.rotation / 90) % 4 * 90
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return UPRIGHT if matrix is None else Turn.of(np.frombuffer(bytes(matrix), np.int32, 9), rotation)
