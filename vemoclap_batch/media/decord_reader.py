"""Frames by decord, where it has a wheel (x86-64 Linux)."""

from __future__ import annotations

import numpy as np

from vemoclap_batch.media.error import Beat
from vemoclap_batch.media.pictures import UPRIGHT, Pictures, Shape
from vemoclap_batch.media.video_index import VideoIndex

#: How far two decoders' pictures may be apart in the mean, of 255: they interpolate chroma differently above 8 bits.
_ALIKE = 2.0


def read(
    path: str, index: VideoIndex, numbers: list[int], short_side: int, threads: int, beat: Beat, probes: Pictures
) -> Pictures | None:
    """Decode the frames of these numbers; None when decord is absent, fails or would give wrong pictures.

    Four cases were seen where decord hands out another picture than it was asked for: frames that an edit list hides
    (it counts them), transport streams, frames that precede a key frame they follow in the file, and pictures less
    than about 60 pixels wide (four channels). It knows nothing of mirrors in a display matrix, of cropping by the
    container and of high dynamic range, and does not tell when a frame is damaged. ``probes`` are some of the frames as
    PyAV decodes them: what decord gives has to be the same, and PyAV tells how the picture was turned.
    """
    if not index.plain or not _is_plain(probes, index):
        return None
    try:
        import decord
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    pictures = Pictures(decoder="decord")
    # decord turns pictures upright itself.
    shape = Shape(aspect=1 / index.shape.aspect if probes.turn.transposed else index.shape.aspect)
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=threads)
        if len(reader) != len(index.pts):
            return None
        for number in numbers:  # One at a time, so that only one picture of full size exists.
            beat()
            picture = reader[number].asnumpy()
            if picture.shape[2] != 3:
                return None
            pictures.add(number, picture, UPRIGHT, shape, short_side)
    except (decord.DECORDError, RuntimeError, IndexError):
        return None
    pictures.turn = probes.turn
    return pictures if _alike(pictures, probes) else None


def probe(index: VideoIndex, numbers: list[int]) -> int:
    """The frame that has most to be decoded before it: where decord goes wrong, it does so there."""
    keys = np.array([key.pts for key in index.keys] or [index.pts[0]])
    places = np.maximum(np.searchsorted(keys, index.pts[numbers], side="right") - 1, 0)
    behind = index.pts[numbers] - keys[places]
    # The last of several: where every frame is called a key frame, the first is one.
    return numbers[len(numbers) - 1 - int(np.argmax(behind[::-1]))]


def _is_plain(probes: Pictures, index: VideoIndex) -> bool:
    """Whether a video is one that decord shows as it is."""
    return probes.plain and not probes.doubtful and not probes.turn.mirrored and not any(index.shape.crop)


def _alike(pictures: Pictures, probes: Pictures) -> bool:
    both = pictures.by_number.keys() & probes.by_number.keys()
    pairs = [(pictures.by_number[number].astype(np.float32), probes.by_number[number]) for number in both]
    return all(ours.shape == other.shape and np.abs(ours - other).mean() < _ALIKE for ours, other in pairs)
