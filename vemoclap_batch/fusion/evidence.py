"""Whether a video, or a window of one, has anything that an emotion can be told by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

#: Features that every video with pictures or sound has, whatever they show; all others (faces, texts) are there only
#: where something was found.
PICTURES, SOUND = "clip", "beats"
#: Sound whose loudest second is below this, in dBFS, is not heard.
INAUDIBLE_DB = -60.0


def nothing_to_go_by(present: Mapping[str, np.ndarray], audible: np.ndarray) -> np.ndarray:
    """Which examples say nothing of an emotion.

    That is so without any feature. A classifier that takes the sound and what is found in a video (faces, texts) has
    nothing to go by either where nothing was found and nothing is heard, whatever the pictures are like.

    Args:
        present: whether each example has each feature of the classifier, bool [n].
        audible: whether each example's sound is loud enough to be heard, bool [n].

    Returns:
        bool [n].
    """
    found = [there for name, there in present.items() if name not in {PICTURES, SOUND}]
    pictures = present.get(PICTURES, np.zeros(len(audible), bool))
    sound = present.get(SOUND, np.zeros(len(audible), bool))
    any_found = np.any(found, axis=0) if found else np.zeros(len(audible), bool)
    if found and SOUND in present:
        return ~any_found & ~(sound & audible)
    return ~(any_found | pictures | sound)


def is_audible(levels_db: Sequence[float] | None, start_s: float = 0.0, end_s: float | None = None) -> bool:
    """Whether sound is heard between two times.

    Args:
        levels_db: of every second of a video, dBFS; None where they are not known, which counts as heard.
        start_s: the first second.
        end_s: the last second; None for the video's end.
    """
    if levels_db is None:
        return True
    last = len(levels_db) if end_s is None else int(np.ceil(end_s))
    return max(levels_db[int(start_s) : last], default=-np.inf) >= INAUDIBLE_DB
