"""Frames by PyAV: seek to the key frame before each wanted frame and decode only what that frame depends on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import groupby

import av
from av.video.frame import PictureType

from vemoclap_batch.media.container import open_media
from vemoclap_batch.media.error import Beat
from vemoclap_batch.media.in_turn import STARTS_ANYWHERE
from vemoclap_batch.media.picture_decoder import PictureDecoder
from vemoclap_batch.media.pictures import Pictures
from vemoclap_batch.media.video_index import Key, VideoIndex

#: What a frame may be that is decoded without any other.
_INTRA = frozenset([PictureType.I, PictureType.SI, PictureType.BI])


def read(path: str, index: VideoIndex, numbers: list[int], short_side: int, threads: int, beat: Beat) -> Pictures:
    """Decode the frames of these numbers.

    One that cannot be decoded, or that FFmpeg marks as corrupt, is absent from the result; ``doubtful`` is set where
    what came may be wrong, or show traces of damage before it.
    """
    with open_media(path) as container:
        decoder = PictureDecoder(container, index, short_side, threads, beat)
        wanted = [(int(index.pts[number]), number) for number in numbers]
        key_pts = [key.pts for key in index.keys]
        for place, group in groupby(wanted, key=lambda item: bisect_right(key_pts, item[0]) - 1):
            key = index.keys[place] if place >= 0 else None
            _read_group(decoder, key, dict(group), index)
    return decoder.pictures


def _read_group(decoder: PictureDecoder, key: Key | None, wanted: dict[int, int], index: VideoIndex) -> None:
    """Decode the wanted frames (time stamp → number) that depend on one key frame."""
    waiting = set(wanted)
    decoder.errors = 0
    decoder.last_pts = None
    # Frames before the first key frame may be built on grey.
    decoder.pictures.doubtful |= key is None and index.codec in STARTS_ANYWHERE
    # Decoding from the first frame on is right whatever it is called.
    sought = key if key is not None and key != index.keys[0] else None
    for packet in _from_key(decoder, key, index):
        # Nothing is predicted from the pictures this leaves out, so the wanted one comes out the same.
        decoder.codec.skip_frame = "DEFAULT" if packet.pts in waiting else "NONREF"
        _keep_wanted(decoder, decoder.decode(packet), wanted, sought)
        waiting.discard(packet.pts)
        if not waiting or _is_after(packet, max(wanted)):
            break
    _keep_wanted(decoder, decoder.decode(None), wanted, sought)


def _keep_wanted(
    decoder: PictureDecoder, frames: Iterable[av.VideoFrame], wanted: dict[int, int], sought: Key | None
) -> None:
    for frame in frames:
        pts = frame.pts if frame.pts is not None else frame.dts
        if sought is not None and pts == sought.pts and not frame.key_frame and frame.pict_type not in _INTRA:
            # The container calls a packet a key frame that is none, or the decoder does not tell: all that follows may
            # be built on grey.
            decoder.pictures.doubtful = True
        damaged = decoder.is_damaged(frame)
        decoder.errors += damaged
        # Frames come in the order in which they are shown: their time stamps are wrong if time goes back.
        decoder.pictures.doubtful |= decoder.last_pts is not None and pts is not None and pts < decoder.last_pts
        decoder.last_pts = pts
        number = wanted.get(pts)  # type: ignore[arg-type]
        if number is not None and not damaged:
            decoder.keep(number, frame)
            decoder.pictures.doubtful |= decoder.errors > 0


def _from_key(decoder: PictureDecoder, key: Key | None, index: VideoIndex) -> Iterator[av.Packet]:
    """The packets from a key frame on; from the start of the file where there is none or it cannot be found."""
    if key is None:
        yield from decoder.packets()  # Frames before the first key frame come first, when nothing has been read yet.
        return
    for target in (key.pts, key.dts):
        if target is None:
            continue
        packets = decoder.packets(target)
        for packet in packets:
            if packet.is_keyframe and packet.pts == key.pts:
                # Without an index some demuxers put another packet in this place.
                decoder.pictures.doubtful |= index.whole_packets and packet.size != key.size
                yield packet
                yield from packets
                return
            if _is_after(packet, key.pts):
                break
    yield from decoder.packets(int(index.pts[0]))


def _is_after(packet: av.Packet, pts: int) -> bool:
    """Whether neither this packet nor a later one is shown at this time: each is decoded before it is shown."""
    return packet.dts is not None and packet.dts > pts
