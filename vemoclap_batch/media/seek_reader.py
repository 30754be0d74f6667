"""Frames by seeking to the key frame before each wanted frame and decoding only what that frame depends on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby

import av
from av.video.frame import PictureType

from vemoclap_batch.media.container import open_media
from vemoclap_batch.media.frame_decoder import FrameDecoder, VideoSource
from vemoclap_batch.media.frames import DecodedFrames
from vemoclap_batch.media.video_index import STARTS_ANYWHERE, Key

#: What a frame may be that is decoded without any other.
_INTRA = frozenset([PictureType.I, PictureType.SI, PictureType.BI])


def read(source: VideoSource, numbers: list[int]) -> DecodedFrames:
    """Decode the frames of these numbers.

    One that cannot be decoded, or that FFmpeg marks as corrupt, is absent from the result; ``doubtful`` is set where
    what came may be wrong, or show traces of damage before it.
    """
    index = source.index
    with open_media(source.path) as container:
        decoder = FrameDecoder(container, source)
        wanted = [(int(index.pts[number]), number) for number in numbers]
        key_pts = [key.pts for key in index.keys]
        for place, group in groupby(wanted, key=lambda item: bisect_right(key_pts, item[0]) - 1):
            _Group(decoder, source, index.keys[place] if place >= 0 else None, dict(group)).read()
    return decoder.frames


class _Group:
    """The wanted frames (time stamp → number) that depend on one key frame, or come before the first."""

    def __init__(self, decoder: FrameDecoder, source: VideoSource, key: Key | None, wanted: dict[int, int]) -> None:
        self._decoder, self._index, self._key, self._wanted = decoder, source.index, key, wanted
        # Decoding from the first frame on is right whatever it is called.
        self._sought = key if key is not None and key != source.index.keys[0] else None
        self._last_pts: int | None = None  # of the frame that came last

    def read(self) -> None:
        """Decode the group."""
        decoder, waiting = self._decoder, set(self._wanted)
        decoder.errors = 0
        # Frames before the first key frame may be built on grey.
        decoder.frames.doubtful |= self._key is None and self._index.codec in STARTS_ANYWHERE
        for packet in self._packets():
            # Nothing is predicted from the frames this leaves out, so the wanted one comes out the same.
            decoder.codec.skip_frame = "DEFAULT" if packet.pts in waiting else "NONREF"
            self._take(decoder.decode(packet))
            waiting.discard(packet.pts)
            if not waiting or _is_after(packet, max(self._wanted)):
                break
        self._take(decoder.decode(None))

    def _take(self, frames: list[av.VideoFrame]) -> None:
        decoder = self._decoder
        for frame in frames:
            pts = frame.pts if frame.pts is not None else frame.dts
            if self._sought is not None and pts == self._sought.pts:
                # The container calls a packet a key frame that is none, or the decoder does not tell: all that follows
                # may be built on grey.
                decoder.frames.doubtful |= not frame.key_frame and frame.pict_type not in _INTRA
            damaged = decoder.is_damaged(frame)
            decoder.errors += damaged
            # Frames come in the order in which they are shown: their time stamps are wrong if time goes back.
            decoder.frames.doubtful |= self._last_pts is not None and pts is not None and pts < self._last_pts
            self._last_pts = pts
            number = self._wanted.get(pts)  # type: ignore[arg-type]
            if number is not None and not damaged:
                decoder.keep(number, frame)
                decoder.frames.doubtful |= decoder.errors > 0

    def _packets(self) -> Iterator[av.Packet]:
        """The packets from the key frame on; from the start of the file where there is none or it is not found."""
        key, decoder = self._key, self._decoder
        if key is None:
            yield from decoder.packets()  # These frames are read first, when nothing has been read yet.
            return
        for target in (key.pts, key.dts):
            if target is None:
                continue
            packets = decoder.packets(target)
            for packet in packets:
                if packet.is_keyframe and packet.pts == key.pts:
                    # Without an index some demuxers put another packet in this place.
                    decoder.frames.doubtful |= self._index.whole_packets and packet.size != key.size
                    yield packet
                    yield from packets
                    return
                if _is_after(packet, key.pts):
                    break
        yield from decoder.packets(int(self._index.pts[0]))


def _is_after(packet: av.Packet, pts: int) -> bool:
    """Whether neither this packet nor a later one is shown at this time: each is decoded before it is shown."""
    return packet.dts is not None and packet.dts > pts
