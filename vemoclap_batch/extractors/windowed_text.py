"""A text extractor run on the text of every window of a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field, field_serializer, model_validator

from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import TEXT, Extractor, ExtractorSettings, Resources, Result, load_class
from vemoclap_batch.extractors.fingerprint import hashed_name
from vemoclap_batch.media.timeline import TimedText, Window

#: Among an extractor's inputs: it takes the text in pieces with their times.
TIMES = "times"


class WindowedTextSettings(ExtractorSettings):
    """Settings of :class:`WindowedText`; all others are those of the extractor it runs, its defaults included."""

    model_config = ConfigDict(extra="allow")

    of: str = Field(description="package.module:Class of the extractor that it runs")
    window_s: float = Field(gt=0, description="length of a window")
    hop_s: float = Field(gt=0, description="from one window's start to the next one's")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: dict[str, Any]) -> dict[str, Any]:
        own: dict[str, Any] = {name: values[name] for name in ("of", "window_s", "hop_s") if name in values}
        if "of" not in own:
            return values
        inner = load_class(own["of"]).Settings(**{name: value for name, value in values.items() if name not in own})
        return {**inner.model_dump(), **own}

    @field_serializer("of", when_used="json")
    def _hashed(self, of: str) -> str:
        """Fingerprints know the extractor by its name, not by where it lies."""
        return hashed_name(load_class(of))


class WindowedText(Extractor):
    """A sequence with one vector for every window that has a text; ``start_s`` tells which window it is.

    The window and hop are among the settings and so in the fingerprint; the space is that of the extractor it runs.
    """

    name = "windowed-text"
    Settings = WindowedTextSettings
    inputs = (TEXT, TIMES)
    sequence = True
    settings: WindowedTextSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        self._inner = _class(settings)(_inner(settings), resources)
        self._window = Window(self.settings.window_s, self.settings.hop_s)

    @classmethod
    def space(cls, settings: ExtractorSettings) -> str | None:
        """That of the extractor it runs."""
        return _class(settings).space(_inner(settings))

    @classmethod
    def width(cls, settings: ExtractorSettings) -> int:
        """That of the extractor it runs."""
        return _class(settings).width(_inner(settings))

    @classmethod
    def weights(cls, settings: ExtractorSettings) -> str:
        """Those of the extractor it runs, and its version."""
        inner = _class(settings)
        return f"{inner.weights(_inner(settings))} version {inner.version}"

    @classmethod
    def references(cls, settings: ExtractorSettings) -> dict[str, str]:
        """Those of the extractor it runs."""
        return _class(settings).references(_inner(settings))

    def _extract(self, items: Sequence[TimedText]) -> list[Result | Failure]:
        """Run the windows of all videos together."""
        windows = [item.over(self._window) for item in items]
        found = iter(self._inner.extract([text for texts in windows for text in texts.values()]))
        return [self._one(list(texts), [next(found) for _ in texts]) for texts in windows]

    def _one(self, numbers: list[int], results: list[Result | Failure]) -> Result | Failure:
        """The result of a video from those of its windows; one that failed fails the video."""
        features = [np.zeros((0, self.width(self.settings)), np.float32)]
        starts = []
        for number, result in zip(numbers, results, strict=True):
            if isinstance(result, Failure):
                return result
            features.append(result.feature)
            starts += [number * self.settings.hop_s] * len(result.feature)
        begins = np.array(starts, np.float64)
        return Result(np.concatenate(features), begins, begins + self.settings.window_s)


def _class(settings: ExtractorSettings) -> type[Extractor]:
    assert isinstance(settings, WindowedTextSettings)
    return load_class(settings.of)


def _inner(settings: ExtractorSettings) -> ExtractorSettings:
    return _class(settings).Settings(**(settings.model_extra or {}))
