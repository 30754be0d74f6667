"""Where the frames of a video stream are, as one pass over its packets found."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import NamedTuple

import av
import numpy as np

from vemoclap_batch.media.frames import DisplayShape

#: A packet of MPEG-4 video so small holds no frame: it says that the last one stays, or stands for a B-frame that was
#: packed into the packet before.
_PLACE_HOLDER_BYTES = 19
#: FFmpeg's decoders of these start at any frame and predict from grey; others wait for a whole one.
STARTS_ANYWHERE = frozenset(
    "mpeg4 h263 flv1 msmpeg4v1 msmpeg4v2 msmpeg4v3 wmv1 wmv2 rv10 rv20 svq1 svq3 vp6 vp6f vp6a theora".split()
)
#: For a file that gives neither times nor a rate.
FPS = 25.0


class Key(NamedTuple):
    """A packet from which decoding can start: its time stamps in the stream's time base, and its size in bytes."""

    pts: int
    dts: int | None
    size: int


@dataclass
class VideoIndex:
    """Where the frames of the video stream are.

    Attributes:
        stream: its number in the file.
        seconds: length of a unit of the time stamps.
        start_s: time stamp of the first frame, in seconds.
        pts: int64 [N], sorted: the time stamp of each frame that a player shows, on one time line.
        stamps: int64 [M]: the time stamp of each packet in the order of the file, on the same time line.
        keys: sorted by time stamp.
        delay: by how much the time stamps are later than the frames are shown: AVI has none, and the demuxer makes up
            for decoders that put out frames later.
        ordered: False where the container does not say when each frame is shown, so that only decoding all of them
            in sequence tells.
        seekable: False where decoding from a key frame on gives wrong frames: where time starts again, a palette came
            with the first packet, B-frames are packed, and where not ordered.
        plain: whether the container has an index of its own and no frame that precedes a key frame follows it in the
            file; less careful decoders than PyAV's seek to the wrong frame in others.
        whole_packets: whether the container stores packets; others (MPEG streams) are split into them, and the first
            after a seek may begin with the rest of another.
        shape: how the container wants the stored frame to be shown.
    """

    stream: int
    codec: str
    fps: float | None
    seconds: float
    start_s: float
    pts: np.ndarray
    stamps: np.ndarray
    keys: list[Key]
    delay: int
    ordered: bool
    seekable: bool
    plain: bool
    whole_packets: bool
    shape: DisplayShape

    @property
    def times(self) -> np.ndarray:
        """When each frame is shown, in seconds from the first: float64 [N]; by the frame rate if not ordered."""
        if not self.ordered:
            return np.arange(len(self.pts)) / (self.fps or FPS)
        return (self.pts - self.pts[0]) * self.seconds


class PacketLog:
    """Collects the time stamps and key frames of the packets of a video stream.

    Attributes:
        by_dts: whether the order of decoding alone is known: AVI has no other, and what the demuxer makes up is wrong.
            The times are right all the same: sorted, they are those at which the frames are shown.
        packed: whether B-frames may be packed; in AVI, for which that was made, all is decoded in sequence anyway.
        pts, stamps, keys, ordered, delay: as in :class:`VideoIndex`, not sorted.
    """

    def __init__(self, codec: av.VideoCodecContext | None, in_avi: bool) -> None:
        self._codec, self._in_avi = codec.name if codec is not None else "", in_avi
        self.by_dts = in_avi and codec is not None and codec.has_b_frames
        self.pts, self.stamps = array("q"), array("q")  # 8 bytes a frame: there are a million in nine hours.
        self.keys: list[Key] = []
        self.ordered = True
        self.open_groups = self.palette = self.packed = False
        self.delay = 0

    def add(self, packet: av.Packet, moved: int) -> None:
        """Note one packet that is not empty; ``moved`` is what its time stamps are moved by, in its time base."""
        pts = packet.dts if self.by_dts or packet.pts is None else packet.pts
        if pts is None:
            self.ordered = False
            pts = 0
        if self._in_avi and not self.stamps and packet.dts is not None:
            self.delay = pts - packet.dts
        self.stamps.append(pts + moved)
        self.packed |= self._codec == "mpeg4" and not self._in_avi and packet.size <= _PLACE_HOLDER_BYTES
        if packet.is_keyframe:
            self.keys.append(Key(pts, packet.dts, packet.size))
            self.palette = self.palette or packet.has_sidedata("palette")
        elif self.keys and pts < self.keys[-1].pts:
            self.open_groups = True
        # VP8 stores frames that are only there to predict others apart.
        hidden = self._codec in ("vp8", "libvpx") and not memoryview(packet)[0] & 0x10
        if not (packet.is_discard or self.is_header(packet) or hidden):
            self.pts.append(pts + moved)

    def is_header(self, packet: av.Packet) -> bool:
        """Whether a packet describes what follows, as Theora's do where one file is chained to another."""
        return self._codec == "theora" and bool(memoryview(packet)[0] & 0x80)
