"""What a classifier judges: each video as a whole or each window of it, with the features of that stretch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.dataset import Timed
from vemoclap_batch.fusion.evidence import is_audible, nothing_to_go_by
from vemoclap_batch.media.windows import Window
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import keys

#: Videos that are judged and committed together at most, and their length in all.
_CHUNK, _CHUNK_S = 2048, 24 * 3600.0
#: Windows in memory at a time.
_WINDOWS = 512


class Media(NamedTuple):
    """What the videos table says of a video; None where it says nothing."""

    duration_s: float | None = None
    sound_db: list[float] | None = None


class Span(NamedTuple):
    """A video, or a window of it: the video's row, the window's number, its first and last second."""

    row: int
    number: int
    start_s: float
    end_s: float | None


@dataclass(frozen=True)
class Spans:
    """Some spans with the features of each, which :class:`~vemoclap_batch.fusion.data.Examples` are made of.

    Attributes:
        features: per feature one :class:`~vemoclap_batch.fusion.dataset.Timed` a span.
        nothing: whether a span has nothing to go by, bool [n].
    """

    spans: list[Span]
    features: dict[str, list[Timed]]
    nothing: np.ndarray

    def missing(self, row: int) -> list[str]:
        """The features that a span lacks: all of them where it has nothing to go by."""
        return [name for name, of in sorted(self.features.items()) if self.nothing[row] or not len(of[row].feature)]


def media_of(store: Store, videos: pa.Table) -> list[Media]:
    """What the videos table says of each video."""
    rows = store.videos().read(["duration_s", "sound_db"], of=keys(videos))
    media = map(Media, rows["duration_s"].to_pylist(), rows["sound_db"].to_pylist())
    by_key = dict(zip(keys(rows).to_pylist(), media, strict=True))
    return [by_key.get(key, Media()) for key in keys(videos).to_pylist()]


def chunks(durations: Sequence[float | None]) -> Iterator[tuple[int, int]]:
    """First video and number of videos of each chunk: bounded in number and in seconds, as features grow with both."""
    at = 0
    while at < len(durations):
        seconds = np.cumsum([duration or 0.0 for duration in durations[at : at + _CHUNK]])
        count = max(1, int(np.searchsorted(seconds, _CHUNK_S, side="right")))
        yield at, count
        at += count


def spans_of(
    videos: pa.Table, timed: Mapping[str, Sequence[Timed]], texts: set[str], media: Sequence[Media],
    window: Window | None,
) -> Iterator[Spans]:  # fmt: skip
    """The spans of some videos, some at a time: overlapping windows hold the same items several times.

    Args:
        videos: the videos.
        timed: per feature one of each video.
        texts: the features that are texts, whose items are made for one window and serve no other.
        media: of each video.
        window: None for videos as a whole.

    Raises:
        ConfigError: a video has no duration, which windows need.
    """
    spans = _spans(videos, [of.duration_s for of in media], window)
    for at in range(0, len(spans), _WINDOWS):
        some = spans[at : at + _WINDOWS]
        features = {
            name: [of[span.row].within(window, span.number, name in texts) if window else of[span.row] for span in some]
            for name, of in timed.items()
        }
        present = {name: np.array([len(one.feature) > 0 for one in of]) for name, of in features.items()}
        audible = [is_audible(media[span.row].sound_db, span.start_s, span.end_s) for span in some]
        yield Spans(some, features, nothing_to_go_by(present, np.array(audible)))


def _spans(videos: pa.Table, durations: Sequence[float | None], window: Window | None) -> list[Span]:
    spans = []
    for row, duration in enumerate(durations):
        if window is None:
            spans.append(Span(row, 0, 0.0, duration))
        elif duration is None:
            raise ConfigError([f"{videos['video_id'][row].as_py()}: its duration is not known, which windows need"])
        else:
            spans += [Span(row, number, start, end) for number, (start, end) in enumerate(window.over(duration))]
    return spans
