"""The interface of every extractor: a batch of clips or texts in, one result each out. Knows nothing of Ray."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from vemoclap_batch.errors import Failure

#: What an extractor may declare in ``inputs``. With TIMES beside TEXT it is given
#: :class:`~vemoclap_batch.media.windows.TimedText` in place of a text.
FRAMES, WAVEFORM, TEXT, TIMES = "frames", "waveform", "text", "times"
#: Columns that can feed text extractors: the text, and the same in the language that was spoken or written.
TEXTS = ("text", "text_original")


@dataclass(frozen=True)
class Resources:
    """What one extractor object may use.

    Attributes:
        threads: CPU threads.
        device: as torch names it: ``cpu``, ``cuda`` or ``cuda:1``.
        models: the weights that :meth:`Extractor.references` asked for, by the same names.
    """

    threads: int = 1
    device: str = "cpu"
    models: Mapping[str, Path] = field(default_factory=dict)


def _no_feature() -> np.ndarray:
    return np.zeros((0, 0), np.float32)


@dataclass
class Result:
    """What one extractor found in one video.

    Attributes:
        feature: float32 [length, width]; length 0 when there was nothing to find (no face, no speech).
        start_s, end_s: float64 [length], the seconds of the video that each row covers (equal for a frame); None where
            the feature is a single vector, or where there is none.
        extras: a value for each name in the extractor's ``columns``, as Python objects that Arrow can convert.
    """

    feature: np.ndarray = field(default_factory=_no_feature)
    start_s: np.ndarray | None = None
    end_s: np.ndarray | None = None
    extras: dict[str, Any] = field(default_factory=dict)


class ExtractorSettings(BaseModel):
    """Settings of one extractor. Every field changes the output, so every field is part of the fingerprint."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Extractor(ABC):
    """A frozen pretrained model behind one method.

    A subclass declares what the store and the plan must know without loading anything. ``__init__`` loads the model
    once, :meth:`extract` runs it on many videos at a time.
    """

    #: Tells it apart from every other extractor, with :attr:`version`: stored features are found by the two, wherever
    #: the class lies and whatever it is called. Each class declares its own.
    name: ClassVar[str]
    #: Raised whenever the same settings give another output than before.
    version: ClassVar[int] = 1
    #: The settings class, validated when the profile is read.
    Settings: ClassVar[type[ExtractorSettings]] = ExtractorSettings
    #: ``("frames",)``, ``("waveform",)`` or ``("text",)``; the profile says whose text.
    inputs: ClassVar[tuple[str, ...]]
    #: Whether the feature is a sequence over time (with ``start_s`` and ``end_s``) or at most one vector.
    sequence: ClassVar[bool] = False
    #: The extra columns and their Arrow types. Those in TEXTS can feed text extractors.
    columns: ClassVar[dict[str, pa.DataType]] = {}
    #: The column that lists what it finds (faces, lines of text), each with the number of its ``frame``; other
    #: extractors can be told of these.
    detections: ClassVar[str | None] = None
    #: What :meth:`space` and :meth:`width` say where no setting changes it; None and 0 without a feature.
    feature_space: ClassVar[str | None] = None
    feature_width: ClassVar[int] = 0
    #: The installed package that carries the weights, if one does.
    package: ClassVar[str | None] = None

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Load the model.

        Raises:
            FileNotFoundError: a weights file is missing.
        """
        self.settings = settings
        self.resources = resources

    @classmethod
    def space(cls, settings: Any) -> str | None:
        """The feature space that a classifier may rely on, or None when there is no feature."""
        return cls.feature_space

    @classmethod
    def width(cls, settings: Any) -> int:
        """Width of the feature; 0 when there is none."""
        return cls.feature_width

    @classmethod
    def weights(cls, settings: Any) -> str:
        """Which weights of installed packages are used: a version or a hash. It is part of the fingerprint."""
        return f"{cls.package} {installed_version(cls.package)}" if cls.package else ""

    @classmethod
    def references(cls, settings: Any) -> dict[str, str]:
        """Weights from outside the package: setting → reference, see :mod:`vemoclap_batch.models.references`.

        Their content is part of the fingerprint, their place is not.
        """
        return {}

    @classmethod
    def mistakes(cls, settings: Any, models: Mapping[str, Path]) -> list[str]:
        """What of the settings the weights do not allow; asked when a configuration is read and its weights are there.

        Raises:
            OSError, ValueError: a file of the weights cannot be read.
        """
        return []

    @classmethod
    def pickles(cls, models: Mapping[str, Path]) -> list[Path]:
        """Those of its weights that can run code when they are loaded; they are refused until they are accepted."""
        return []

    def extract(self, items: Sequence[Any]) -> list[Result | Failure]:
        """Run the model on a batch. What is wrong with one item fails that item alone.

        A batch that fails as a whole, for want of memory too, is halved until the items at fault are alone.

        Args:
            items: :class:`~vemoclap_batch.media.clip.Clip` objects, or texts (str) for a text extractor.

        Returns:
            A result or a failure for each item, in order.
        """
        if not items:
            return []
        try:
            return list(self._extract(items))
        except Exception as error:
            if len(items) == 1:
                return [Failure.of(error)]
            half = len(items) // 2
            return self.extract(items[:half]) + self.extract(items[half:])

    @abstractmethod
    def _extract(self, items: Sequence[Any]) -> Sequence[Result | Failure]:
        """The results of at least one item, in order; an exception fails the whole batch."""


def load_class(path: str) -> type[Extractor]:
    """The extractor class at ``package.module:Class``.

    Raises:
        ValueError: the path does not name an importable Extractor, or the class declares no name of its own.
    """
    module, _, attribute = path.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path!r} cannot be imported ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, Extractor)):
        raise ValueError(f"{path!r} is not an Extractor")
    if not isinstance(vars(cls).get("name"), str):
        raise ValueError(
            f"{path!r} declares no name. Add one that no other extractor has, such as name = {attribute.lower()!r}: "
            "its stored features are found by it. "
            f"To keep the features that version 0.1 stored, add name = {path!r}"
        )
    return cls


def class_path(cls: type[Extractor]) -> str:
    """Where a class lies, ``package.module:Class``, as a profile names it."""
    return f"{cls.__module__}:{cls.__qualname__}"
