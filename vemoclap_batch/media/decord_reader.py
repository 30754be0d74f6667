"""Frames by decord, where it has a wheel (x86-64 Linux)."""

from __future__ import annotations

from vemoclap_batch.media.error import Beat
from vemoclap_batch.media.pictures import Pictures
from vemoclap_batch.media.scan import VideoIndex


def read(
    path: str, index: VideoIndex, numbers: list[int], short_side: int, threads: int, beat: Beat
) -> Pictures | None:
    """Decode the frames of these numbers; None when decord is absent, fails or counts other frames than the index.

    decord also counts the frames that an edit list hides, and then hands out others than it was asked for.
    """
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
            pictures.add(number, reader[number].asnumpy(), 0, short_side)
    except (decord.DECORDError, RuntimeError, IndexError):
        return None
    return pictures
