"""Frames by decord, where it has a wheel (x86-64 Linux)."""

from __future__ import annotations

from vemoclap_batch.media.error import Beat
from vemoclap_batch.media.pictures import UPRIGHT, Pictures, Shape
from vemoclap_batch.media.video_index import VideoIndex


def read(
    path: str, index: VideoIndex, numbers: list[int], short_side: int, threads: int, beat: Beat, first: Pictures
) -> Pictures | None:
    """Decode the frames of these numbers; None when decord is absent, fails or would give wrong pictures.

    Four cases were seen where decord hands out another picture than it was asked for: frames that an edit list hides
    (it counts them), transport streams, frames that precede a key frame they follow in the file, and pictures less
    than about 60 pixels wide (four channels). It knows nothing of mirrors in a display matrix, of cropping by the
    container and of high dynamic range, and does not tell when a frame is damaged. ``first`` is the first frame as PyAV
    decodes it: decord does not tell how it turned the picture.
    """
    if not index.plain or not _is_plain(first, index):
        return None
    try:
        import decord
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    pictures = Pictures(decoder="decord")
    # decord turns pictures upright itself.
    shape = Shape(aspect=1 / index.shape.aspect if first.turn.transposed else index.shape.aspect)
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
    pictures.turn = first.turn
    return pictures


def _is_plain(first: Pictures, index: VideoIndex) -> bool:
    """Whether a video is one that decord shows as it is."""
    sound = bool(first.by_number) and first.plain and not first.doubtful
    return sound and not first.turn.mirrored and not any(index.shape.crop)
