"""Frames by decord, where it has a wheel (x86-64 Linux)."""

from __future__ import annotations

import numpy as np

from vemoclap_batch.media import seek_reader
from vemoclap_batch.media.frame_decoder import VideoSource
from vemoclap_batch.media.frames import UPRIGHT, DecodedFrames, DisplayShape
from vemoclap_batch.media.video_index import VideoIndex

#: How far two decoders' frames may be apart in the mean, of 255: they interpolate chroma differently above 8 bits.
_ALIKE = 2.0


def read(source: VideoSource, numbers: list[int]) -> DecodedFrames | None:
    """Decode the frames of these numbers; None when decord is absent, fails or would give wrong frames.

    Four cases were seen where decord hands out another frame than it was asked for: frames that an edit list hides
    (it counts them), transport streams, frames that precede a key frame they follow in the file, and frames less than
    about 60 pixels wide (four channels). It knows nothing of mirrors in a display matrix, of cropping by the container
    and of high dynamic range, and does not tell when a frame is damaged. So PyAV decodes some of the frames, too: what
    decord gives has to be the same, and PyAV tells how the frames were turned.
    """
    index = source.index
    probed = sorted({0, _farthest(index, numbers)})
    probes = seek_reader.read(source, probed)
    is_plain = probes.plain and not probes.doubtful and not probes.orientation.mirrored and not any(index.shape.crop)
    if len(probes.by_number) < len(probed) or not (index.plain and is_plain):
        return None
    try:
        import decord
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    frames = DecodedFrames(decoder="decord")
    # decord turns frames upright itself.
    shape = DisplayShape(aspect=1 / index.shape.aspect if probes.orientation.transposed else index.shape.aspect)
    try:
        reader = decord.VideoReader(source.path, ctx=decord.cpu(0), num_threads=source.threads)
        if len(reader) != len(index.pts):
            return None
        for number in numbers:  # One at a time, so that only one frame of full size exists.
            source.heartbeat()
            rgb = reader[number].asnumpy()
            if rgb.shape[2] != 3:
                return None
            frames.add(number, rgb, UPRIGHT, shape, source.short_side)
    except (decord.DECORDError, RuntimeError, IndexError):
        return None
    frames.orientation = probes.orientation
    return frames if _are_alike(frames, probes) else None


def _farthest(index: VideoIndex, numbers: list[int]) -> int:
    """The frame that has most to be decoded before it: where decord goes wrong, it does so there."""
    keys = np.array([key.pts for key in index.keys] or [index.pts[0]])
    places = np.maximum(np.searchsorted(keys, index.pts[numbers], side="right") - 1, 0)
    behind = index.pts[numbers] - keys[places]
    # The last of several: where every frame is called a key frame, the first is one.
    return numbers[len(numbers) - 1 - int(np.argmax(behind[::-1]))]


def _are_alike(frames: DecodedFrames, probes: DecodedFrames) -> bool:
    both = frames.by_number.keys() & probes.by_number.keys()
    pairs = [(frames.by_number[number].astype(np.float32), probes.by_number[number]) for number in both]
    return all(ours.shape == other.shape and np.abs(ours - other).mean() < _ALIKE for ours, other in pairs)
