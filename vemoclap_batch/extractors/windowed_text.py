"""Extraction for windows of a video: a text extractor that runs on every window's text, and a profile that uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, field_serializer, model_validator

from vemoclap_batch.config import Config, ExtractorEntry
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import (
    TEXT,
    TIMES,
    WAVEFORM,
    Extractor,
    ExtractorSettings,
    Resources,
    Result,
    class_path,
    load_class,
)
from vemoclap_batch.extractors.fingerprint import hashed_name
from vemoclap_batch.media.windows import TimedText, Window

#: Seconds from frame to frame where the profile does not say, as in the paper.
EVERY_S = 1.0
#: The setting of an audio extractor that says how many of its windows are kept, and more than any video has.
_KEPT = ("max_windows", "windows")
ALL_WINDOWS = 10**9
NOTE = pa.struct({"start_s": pa.float64(), "end_s": pa.float64(), "note": pa.string()})


class WindowedTextSettings(ExtractorSettings):
    """Settings of :class:`WindowedText`; all others are those of the extractor it runs, with its defaults."""

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

    @property
    def inner_class(self) -> type[Extractor]:
        """The extractor that it runs."""
        return load_class(self.of)

    @property
    def inner(self) -> ExtractorSettings:
        """The settings of the extractor that it runs."""
        return self.inner_class.Settings(**(self.model_extra or {}))


class WindowedText(Extractor):
    """A sequence with one vector for every window that has a text; ``start_s`` is the window's start.

    Column ``notes``: the windows of which the extractor that it runs notes something, such as a language left out.

    Space, width and models are those of the extractor that it runs. The window and hop are in the fingerprint.
    """

    name = "windowed-text"
    Settings = WindowedTextSettings
    inputs = (TEXT, TIMES)
    sequence = True
    columns = {"notes": pa.list_(NOTE)}
    settings: WindowedTextSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        self._inner = self.settings.inner_class(self.settings.inner, resources)
        self._window = Window(self.settings.window_s, self.settings.hop_s)

    @classmethod
    def space(cls, settings: Any) -> str | None:
        """That of the extractor it runs."""
        return settings.inner_class.space(settings.inner)

    @classmethod
    def width(cls, settings: Any) -> int:
        """That of the extractor it runs."""
        return settings.inner_class.width(settings.inner)

    @classmethod
    def weights(cls, settings: Any) -> str:
        """Those of the extractor it runs, and its version."""
        return f"{settings.inner_class.weights(settings.inner)} version {settings.inner_class.version}"

    @classmethod
    def references(cls, settings: Any) -> dict[str, str]:
        """Those of the extractor it runs."""
        return settings.inner_class.references(settings.inner)

    def _extract(self, items: Sequence[TimedText]) -> list[Result | Failure]:
        windows = [item.over(self._window) for item in items]
        # The windows of all videos together.
        results = iter(self._inner.extract([text for texts in windows for text in texts.values()]))
        return [self._joined(list(texts), [next(results) for _ in texts]) for texts in windows]

    def _joined(self, numbers: list[int], results: list[Result | Failure]) -> Result | Failure:
        """The result of a video from those of its windows; one that failed fails the video."""
        features = [np.zeros((0, self.width(self.settings)), np.float32)]
        starts, notes = [], []
        for number, result in zip(numbers, results, strict=True):
            if isinstance(result, Failure):
                return result
            at_s = number * self.settings.hop_s
            features.append(result.feature)
            starts += [at_s] * len(result.feature)
            if note := result.extras.get("note"):
                notes.append({"start_s": at_s, "end_s": at_s + self.settings.window_s, "note": note})
        start_s = np.array(starts, np.float64)
        return Result(np.concatenate(features), start_s, start_s + self.settings.window_s, {"notes": notes})


def windowed(config: Config, window: Window) -> Config:
    """The configuration whose features serve predictions for windows of a video.

    Frames are taken every second (``sampling.every_s``), whatever the window, and at least as many of each video as
    without windows: other windows need no other frames. Extractors of texts, whose one vector a video says nothing of
    a window, run on every window's text. Extractors of audio that keep some windows of it keep all. A configuration
    of such windows is returned as it is.
    """
    extractors = {name: _windowed_entry(entry, window) for name, entry in config.extractors.items()}
    sampling = config.sampling.model_copy(update={"every_s": config.sampling.every_s or EVERY_S})
    return config.model_copy(update={"extractors": extractors, "sampling": sampling})


def _windowed_entry(entry: ExtractorEntry, window: Window) -> ExtractorEntry:
    cls = load_class(entry.class_path)
    kept = [name for name in _KEPT if name in cls.Settings.model_fields]
    if WAVEFORM in cls.inputs and kept:
        return entry.model_copy(update=dict.fromkeys(kept, ALL_WINDOWS))
    if entry.input is None or TEXT not in cls.inputs or issubclass(cls, WindowedText):
        return entry
    return ExtractorEntry(
        class_path=class_path(WindowedText),
        input=entry.input,
        text_column=entry.text_column,
        detections=entry.detections,
        resources=entry.resources,
        of=entry.class_path,
        window_s=window.window_s,
        hop_s=window.hop_s,
        **entry.settings,
    )
