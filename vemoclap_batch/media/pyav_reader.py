"""Frames by PyAV: seek to the key frame before each wanted frame and decode only what that frame depends on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import groupby

import av
from av.video.reformatter import Interpolation, VideoReformatter

from vemoclap_batch.media.error import Beat
from vemoclap_batch.media.pictures import Pictures
from vemoclap_batch.media.sampling import MAX_PIXELS
from vemoclap_batch.media.scan import Key, VideoIndex, open_media
from vemoclap_batch.media.windows import evenly_spaced

_BEAT_EVERY = 32
#: For a file that gives neither times nor a rate.
FPS = 25.0


def read(path: str, index: VideoIndex, numbers: list[int], short_side: int, threads: int, beat: Beat) -> Pictures:
    """Decode the frames of these numbers; one that cannot be decoded is absent from the result."""
    pictures = Pictures()
    with open_media(path) as container:
        decoder = _Decoder(container, index, pictures, short_side, threads, beat)
        wanted = [(int(index.pts[number]), number) for number in numbers]
        key_pts = [key.pts for key in index.keys]
        for place, group in groupby(wanted, key=lambda item: bisect_right(key_pts, item[0]) - 1):
            key = index.keys[place] if place >= 0 else None
            decoder.read_group(key, dict(group))
    return pictures


def read_in_turn(path: str, index: VideoIndex, count: int, short_side: int, threads: int, beat: Beat) -> Pictures:
    """Decode every frame from the first to the last and keep ``count`` evenly spaced ones.

    For files that do not say when each frame is shown. The packets tell how many frames there are; where decoding
    gives another number, a second pass corrects the choice.
    """
    total = len(index.pts)
    for _ in range(2):
        pictures = Pictures(total=total)
        numbers = set(evenly_spaced(total, min(count, total)).tolist())
        found = 0
        with open_media(path) as container:
            decoder = _Decoder(container, index, pictures, short_side, threads, beat)
            for frame in decoder.all_frames():
                if found in numbers:
                    decoder.keep(found, frame)
                    pictures.times[found] = index.start_s + found / (index.fps or FPS)
                found += 1
        if found in (0, total):
            break
        total = found
    return pictures


def count_in_turn(path: str, index: VideoIndex, short_side: int, threads: int, beat: Beat) -> int:
    """How many frames decode, for files that do not say when each frame is shown."""
    with open_media(path) as container:
        decoder = _Decoder(container, index, Pictures(), short_side, threads, beat)
        return sum(1 for _ in decoder.all_frames())


def groups_in_turn(
    path: str, index: VideoIndex, groups: Iterable[list[int]], short_side: int, threads: int, beat: Beat
) -> Iterator[Pictures]:
    """Decode every frame once and give those of one sorted group of numbers after the other."""
    with open_media(path) as container:
        decoder = _Decoder(container, index, Pictures(), short_side, threads, beat)
        frames = enumerate(decoder.all_frames())
        for group in groups:
            decoder.pictures = pictures = Pictures()
            wanted = set(group)
            for number, frame in frames:
                if number in wanted:
                    decoder.keep(number, frame)
                    pictures.times[number] = index.start_s + number / (index.fps or FPS)
                if number == group[-1]:
                    break
            yield pictures


class _Decoder:
    """The video stream of an open file and where its pictures go."""

    def __init__(
        self,
        container: av.container.InputContainer,
        index: VideoIndex,
        pictures: Pictures,
        short_side: int,
        threads: int,
        beat: Beat,
    ) -> None:
        self._container = container
        self._stream = next(stream for stream in container.streams.video if stream.index == index.stream)
        self._codec = self._stream.codec_context
        self._codec.thread_count = threads
        # A stream whose pictures grow midway is stopped by the decoder itself.
        self._codec.options = {"max_pixels": str(MAX_PIXELS)}
        self._start = int(index.pts[0])
        self._reformatter = VideoReformatter()
        self.pictures = pictures
        self._short_side = short_side
        self._beat = beat

    def read_group(self, key: Key | None, wanted: dict[int, int]) -> None:
        """Decode the wanted frames (time stamp → number) that depend on one key frame."""
        waiting = set(wanted)
        for number, packet in enumerate(self._from_key(key)):
            if number % _BEAT_EVERY == 0:
                self._beat()
            # Nothing is predicted from the pictures this leaves out, so the wanted one comes out the same.
            self._codec.skip_frame = "DEFAULT" if packet.pts in waiting else "NONREF"
            self._keep_wanted(self._decode(packet), wanted)
            waiting.discard(packet.pts)
            if not waiting or _is_after(packet, max(wanted)):
                break
        self._keep_wanted(self._decode(None), wanted)

    def all_frames(self) -> Iterator[av.VideoFrame]:
        """Every frame that decodes, in the order they are shown."""
        for number, packet in enumerate(self._packets()):
            if number % _BEAT_EVERY == 0:
                self._beat()
            yield from self._decode(packet)
        yield from self._decode(None)

    def keep(self, number: int, frame: av.VideoFrame) -> None:
        """Add a frame to the pictures."""
        # Bicubic, which the ffmpeg program and decord use where chroma has to be interpolated.
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)
        # FFmpeg's rotation is counter-clockwise.
        self.pictures.add(number, rgb.to_ndarray(), _right_angle(-frame.rotation), self._short_side)

    def _keep_wanted(self, frames: Iterable[av.VideoFrame], wanted: dict[int, int]) -> None:
        for frame in frames:
            number = wanted.get(frame.pts if frame.pts is not None else frame.dts)  # type: ignore[arg-type]
            if number is not None:
                self.keep(number, frame)

    def _decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        try:
            return self._codec.decode(packet)
        except MemoryError:
            raise
        except av.FFmpegError:
            # A damaged packet. The frames it costs are missing from the result, which the caller reports.
            return []

    def _from_key(self, key: Key | None) -> Iterator[av.Packet]:
        """The packets from a key frame on; from the start of the file where there is none or it cannot be found."""
        if key is not None:
            for target in (key.pts, key.dts):
                if target is None:
                    continue
                packets = self._packets(target)
                for packet in packets:
                    if packet.is_keyframe and packet.pts == key.pts:
                        yield packet
                        yield from packets
                        return
                    if _is_after(packet, key.pts):
                        break
            yield from self._packets(self._start)
        else:
            yield from self._packets()  # Frames before the first key frame come first, when nothing has been read yet.

    def _packets(self, seek_to: int | None = None) -> Iterator[av.Packet]:
        try:
            if seek_to is not None:
                self._container.seek(seek_to, stream=self._stream, backward=True)
            for packet in self._container.demux(self._stream):
                if packet.size:
                    yield packet
        except MemoryError:
            raise
        except (av.FFmpegError, OSError):
            # The file breaks off here, which the scan has met and reported.
            return


def _is_after(packet: av.Packet, pts: int) -> bool:
    """Whether neither this packet nor a later one is shown at this time: each is decoded before it is shown."""
    return packet.dts is not None and packet.dts > pts


def _right_angle(degrees: float) -> int:
    return round(degrees / 90) % 4 * 90
