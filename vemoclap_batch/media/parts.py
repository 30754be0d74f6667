"""A long video goes through the pipeline as parts: where its sound is cut, and which frames go with which part."""

from __future__ import annotations

import numpy as np

from vemoclap_batch.media.audio import Sound
from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.decoded import Part
from vemoclap_batch.media.sampling import Limits

#: What a part knows of the sound after its own: no window of sound may be longer.
FOLLOWING_S = 10.0
#: The cut is looked for in this much sound before the end of a part.
_SEARCH_S = 30.0
#: A pause between words; the quietest stretch of this length is cut in the middle.
_PAUSE_S = 0.4
_STEP_S = 0.02


def divide(frames: int, sound: Sound, limits: Limits) -> list[Part]:
    """The parts of a video; one while neither its frames nor its sound are more than is left whole.

    Frames and sound are divided each by itself: no extractor reads both. All parts of one kind but the last are full;
    where there are more parts of the other kind, those that are left have none of it.

    Args:
        frames: how many frames are wanted of the video.
        sound: its sound.
        limits: how much is left whole, and how much a part has at most.
    """
    # Half a sample is more than the product is off by; the limit may be infinite.
    if frames <= limits.whole_frames and len(sound) < limits.whole_s * SAMPLE_RATE + 0.5:
        return [Part(0, 1, 0, frames, 0, len(sound))]
    step = limits.part_frames
    pictures = [(first, min(first + step, frames)) for first in range(0, frames, step)]
    ends = cuts(sound, max(round(limits.part_s * SAMPLE_RATE), 1))
    sounds = list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []
    count = max(len(pictures), len(sounds), 1)
    pictures += [(frames, frames)] * (count - len(pictures))
    sounds += [(len(sound), len(sound))] * (count - len(sounds))
    return [Part(number, count, *pictures[number], *sounds[number]) for number in range(count)]


def cuts(sound: Sound, longest: int) -> list[int]:
    """Where the parts of a sound end, in samples: each part has 1 to ``longest``, the last ends with the sound.

    A part ends at its quietest point within the last 30 s (half a part, if that is less), so that no word is cut.
    """
    ends: list[int] = []
    start = 0
    while len(sound) - start > longest:
        search = min(int(_SEARCH_S * SAMPLE_RATE), longest // 2)
        latest = start + longest
        start = latest - search + quietest(sound.between(latest - search, latest))
        ends.append(start)
    return [*ends, len(sound)] if len(sound) > start else ends


def quietest(pcm: np.ndarray) -> int:
    """The middle of the quietest stretch, the last one of several; the end of a sound too short to have one.

    Args:
        pcm: int16 [samples].
    """
    step = int(_STEP_S * SAMPLE_RATE)
    width = round(_PAUSE_S / _STEP_S)
    steps = len(pcm) // step
    if steps <= width:
        return len(pcm)
    power = (pcm[: steps * step].astype(np.float32).reshape(steps, step) ** 2).mean(1)
    # Integers, so that equal stretches are equal.
    sums = np.concatenate([[0], np.cumsum(power.astype(np.int64))])
    stretches = sums[width:] - sums[:-width]
    last = len(stretches) - 1 - int(np.argmin(stretches[::-1]))
    return last * step + width * step // 2
