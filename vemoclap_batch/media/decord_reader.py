"""Frames by decord, where it has a wheel (x86-64 Linux)."""

from __future__ import annotations

from vemoclap_batch.media.error import Beat
from vemoclap_batch.media.pictures import Pictures
from vemoclap_batch.media.scan import VideoIndex


def read(
    path: str, index: VideoIndex, numbers: list[int], short_side: int, threads: int, beat: Beat
) -> Pictures | None:
    """Decode the frames of these numbers; None when decord is absent, fails or would give wrong pictures.

    Four cases were seen where decord hands out another picture than it was asked for: frames that an edit list hides
    (it counts them), transport streams, frames that precede a key frame they follow in the file, and pictures less
    than about 60 pixels wide (four channels).
    """
    if not index.plain:
        return None
    try:
        import decord
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    pictures = Pictures(decoder="decord")
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=threads)
        if len(reader) != len(index.pts):
            return None
        for number in numbers:  # One at a time, so that only one picture of full size exists.
            beat()
            # decord turns pictures upright itself.
            picture = reader[number].asnumpy()
            if picture.shape[2] != 3:
                return None
            pictures.add(number, picture, 0, short_side)
    except (decord.DECORDError, RuntimeError, IndexError):
        return None
    return pictures
