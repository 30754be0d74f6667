"""What the trials of an ablation learn from: stored features as fewer frames would have given them, and their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.fusion.data import Data, Examples, Rows
from vemoclap_batch.fusion.selection import Selected, names_of
from vemoclap_batch.media.windows import evenly_spaced
from vemoclap_batch.pipeline.plan import measured_costs
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table, keys

#: The numbers of frames that are compared where the user names none.
LADDER = (1, 2, 4, 8, 16, 32)
#: Stored times are the decoder's own, so those of one frame are equal but for how they were written.
_SAME_S = 1e-6


@dataclass
class Frames:
    """Which frames of the videos the features are of, so that fewer can be taken of them.

    Attributes:
        wanted: how many were extracted of a long enough video; None when no feature tells.
        counts: how many there are of each video, int64 [n].
        numbers: per visual feature, for each video the number of the frame that each item is of.
        notes: what a reader should know of them.
    """

    wanted: int | None
    counts: np.ndarray
    numbers: dict[str, list[np.ndarray]]
    notes: list[str]

    def kept(self, n: int, features: Sequence[str]) -> dict[str, list[np.ndarray]]:
        """Positions of the items that ``n`` evenly spaced frames of each video would have given, by feature."""
        chosen = [evenly_spaced(int(count), n) for count in self.counts]
        return {
            name: [np.flatnonzero(np.isin(own, few)) for own, few in zip(self.numbers[name], chosen, strict=True)]
            for name in features
            if name in self.numbers
        }

    def share(self, n: int) -> float:
        """The share of the frames there are that ``n`` frames of each video make."""
        return float(np.minimum(self.counts, n).sum() / max(self.counts.sum(), 1))

    def position_error(self, n: int) -> tuple[float, float]:
        """How far the chosen frames lie from those that extracting ``n`` takes: mean and most.

        In shares of the time from the first to the last frame. A video of fewer frames than were wanted has all that
        it can give, so there is no error in it.
        """
        errors = [np.zeros(0)]
        for count in self.counts.tolist():
            exact = n == 1 or n >= count or count < (self.wanted or 0)
            ideal = np.linspace(0, count - 1, min(n, count))
            errors.append(np.zeros(len(ideal)) if exact else np.abs(evenly_spaced(count, n) - ideal) / (count - 1))
        every = np.concatenate(errors)
        return (float(every.mean()), float(every.max())) if len(every) else (0.0, 0.0)


def is_contained(wanted: int, n: int) -> bool:
    """Whether the positions of ``n`` evenly spaced frames are among those of ``wanted``: the intervals divide."""
    return n == 1 or (n <= wanted and (wanted - 1) % (n - 1) == 0)


def ladder(wanted: int) -> list[int]:
    """The numbers of frames to compare, of so many extracted: 1, 2, 4, 8, 16, 32.

    A neighbour takes the place of one whose frames are not among the extracted ones, if its own are: of 31 frames
    1, 2, 4, 7, 16 and 31 are served exactly (of 7 but for the rounding of a middle that falls between two frames); of
    32 only 1, 2 and 32, since 31 intervals divide by nothing else.
    """
    chosen = set()
    for n in LADDER:
        contained = [m for m in (n, n - 1, n + 1) if 1 <= m <= wanted and is_contained(wanted, m)]
        if contained or n <= wanted:
            chosen.add(contained[0] if contained else n)
    return sorted(chosen)


def find_frames(store: Store, selected: Mapping[str, Selected], videos: pa.Table) -> Frames:
    """Look up the frame of every item of the visual features, of videos that have a row in every table."""
    sampled = {name: n for name, feature in selected.items() if (n := _frames_asked(store, feature)) is not None}
    if not sampled:
        return Frames(None, np.zeros(videos.num_rows, np.int64), {}, [_NO_FRAMES])
    items = {name: _column(selected[name].table(store), "start_s", videos) for name in sampled}
    decoded = _column(store.videos(), "frame_times", videos)
    times = [_frame_times(own, of) for own, *of in zip(decoded, *items.values(), strict=True)]
    numbers = {
        name: [np.searchsorted(t + _SAME_S, s) for t, s in zip(times, of, strict=True)] for name, of in items.items()
    }
    others = sum(len(t) != len(own) for t, own in zip(times, decoded, strict=True))
    notes = [f"the frames of {others} videos are those that any visual feature has an item of"] if others else []
    return Frames(max(sampled.values()), np.array([len(t) for t in times], np.int64), numbers, notes)


_NO_FRAMES = (
    "the features do not tell which frames they are of (imported ones do not): longer sequences are reduced by the "
    "classifier, and what extracting fewer would have saved is not known"
)


def _frames_asked(store: Store, feature: Selected) -> int | None:
    """How many frames the extraction of a sequence took of each video; None when its description does not say."""
    return _identity(store, feature).get("sampling", {}).get("frames") if feature.sequence else None


def _identity(store: Store, feature: Selected) -> dict[str, Any]:
    return store.fingerprints(feature.name)[feature.fingerprint].get("identity") or {}


def _column(table: Table, column: str, videos: pa.Table) -> list[np.ndarray]:
    """A list column of some videos, float64 [length] each, empty where it is null."""
    wanted = keys(videos)
    rows = table.read([column], of=wanted)
    values = dict(zip(keys(rows).to_pylist(), rows[column].to_pylist(), strict=True))
    return [np.array(values.get(key) or (), np.float64) for key in wanted.to_pylist()]


def _frame_times(decoded: np.ndarray, items: Sequence[np.ndarray]) -> np.ndarray:
    """The times of a video's frames: as decoded, or of all items where those are of another extraction than that."""
    every = np.unique(np.concatenate(items))
    if len(decoded) and all(np.abs(decoded - time).min() < _SAME_S for time in every):
        return decoded
    return every


class Thinned:
    """Labelled videos with some of their items only; features without an entry in ``kept`` stay whole."""

    def __init__(self, data: Data, kept: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Keep, by feature, the items at these positions of each video."""
        self._data, self._kept = data, kept
        self.ids, self.labels = data.ids, data.labels

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: Rows) -> Examples:
        """The examples at these positions, in memory."""
        examples = self._data.subset(rows)
        for name, kept in self._kept.items():
            arrays = examples.features[name]
            examples.features[name] = [array[kept[row]] for array, row in zip(arrays, rows, strict=True)]
        return examples

    def part(self, rows: Rows) -> Thinned:
        """These positions alone, their features where they are."""
        return Thinned(self._data.part(rows), {name: [kept[row] for row in rows] for name, kept in self._kept.items()})


@dataclass
class Extraction:
    """Seconds of one core (or GPU) that extracting takes a video, as the runs in OUT measured.

    Attributes:
        seconds: by stage; a stage that no run with the fingerprints in use measured is missing.
        visual: the features whose stage takes time with the number of frames.
        sources: the extractor whose text a feature is made of.
    """

    seconds: dict[str, float]
    visual: list[str]
    sources: dict[str, str]

    @classmethod
    def of(
        cls, store: Store, selected: Mapping[str, Selected], specs: Mapping[str, Spec], visual: Sequence[str]
    ) -> Extraction:
        """Read the summaries of the runs."""
        sources, inputs = {}, {}
        for name, feature in selected.items():
            identity, source = _identity(store, feature), specs[name].source
            if source and "input" in identity:
                sources[name], inputs[source] = source, identity["input"]
        by_device = measured_costs(store, names_of(selected) | inputs)
        # What was measured on CPUs goes before what a GPU took.
        seconds = {name: cost for device in sorted(by_device, reverse=True) for name, cost in by_device[device].items()}
        return cls(seconds, list(visual), sources)

    def per_video(self, features: Sequence[str], share: float = 1.0) -> float | None:
        """Seconds a video with ``share`` of its frames; None when a stage was not measured.

        Decoding counts whole, and so does reading text off the frames: what fewer frames would have shown of it is not
        known.
        """
        stages = ["decode", *features, *{self.sources[name] for name in features if name in self.sources}]
        if not set(stages) <= set(self.seconds):
            return None
        return sum(self.seconds[stage] * (share if stage in self.visual else 1.0) for stage in stages)
