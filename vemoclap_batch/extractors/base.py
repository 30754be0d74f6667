"""The one interface of all extractors: a batch of clips or texts in, one result each out. Knows nothing of Ray."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from vemoclap_batch.errors import Failure

#: What an extractor may declare in ``inputs``; a text in pieces with their times is asked for as TEXT and TIMES.
FRAMES, WAVEFORM, TEXT, TIMES = "frames", "waveform", "text", "times"


@dataclass(frozen=True)
class Resources:
    """What one extractor object may use.

    Attributes:
        threads: of the CPU.
        device: ``cpu`` or ``cuda``.
        models: where the weights lie that :meth:`Extractor.references` asked for, by the same names.
    """

    threads: int = 1
    device: str = "cpu"
    models: Mapping[str, Path] = field(default_factory=dict)


@dataclass
class Result:
    """What one extractor found in one video.

    Attributes:
        feature: float32 [length, width]; length 0 when there was nothing to find (no face, no speech).
        start_s, end_s: float64 [length], the seconds of the video each item covers (equal for a frame); None for an
            extractor whose feature is a single vector or that has none.
        extras: one value per name in the extractor's ``columns``, as Python objects that Arrow can type.
    """

    feature: np.ndarray
    start_s: np.ndarray | None = None
    end_s: np.ndarray | None = None
    extras: dict[str, Any] = field(default_factory=dict)


class ExtractorSettings(BaseModel):
    """Settings of one extractor; every field changes the output, so every field is part of the fingerprint."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Extractor(ABC):
    """A frozen pretrained model behind one method.

    A subclass declares, without loading anything, what the store and the plan must know; ``__init__`` loads the model
    once and :meth:`extract` runs it on many videos at a time, in full batches made across them.
    """

    #: Tells it apart from every other extractor, with :attr:`version`: stored features are found by the two, wherever
    #: the class lies and whatever it is called. Each class declares its own.
    name: ClassVar[str]
    #: The settings class, validated when the profile is read.
    Settings: ClassVar[type[ExtractorSettings]] = ExtractorSettings
    #: Raised whenever the same settings give another output than before.
    version: ClassVar[int] = 1
    #: ``("frames",)``, ``("waveform",)`` or ``("text",)``; the profile says whose text.
    inputs: ClassVar[tuple[str, ...]]
    #: Whether the feature is a sequence over time (with ``start_s`` and ``end_s``) or at most one vector.
    sequence: ClassVar[bool] = False
    #: The extra columns and their Arrow types. One named ``text`` can feed text extractors.
    columns: ClassVar[dict[str, pa.DataType]] = {}
    #: The column that lists what it finds (faces, lines of text), each with the number of its ``frame``; other
    #: extractors can be told of these.
    detections: ClassVar[str | None] = None

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Load the model.

        Raises:
            FileNotFoundError: a weight file is not where the settings say.
        """
        self.settings = settings
        self.resources = resources

    @classmethod
    def space(cls, settings: ExtractorSettings) -> str | None:
        """The feature space that a classifier may rely on, or None when there is no feature."""
        return None

    @classmethod
    def width(cls, settings: ExtractorSettings) -> int:
        """Width of the feature; 0 when there is none."""
        return 0

    @classmethod
    def weights(cls, settings: ExtractorSettings) -> str:
        """Which weights of installed packages are used, exactly (version or hash); part of the fingerprint."""
        return ""

    @classmethod
    def references(cls, settings: ExtractorSettings) -> dict[str, str]:
        """The weights it needs from outside the package: name of the setting → reference.

        See :mod:`vemoclap_batch.models.references`. Their content is part of the fingerprint, their place is not.
        """
        return {}

    @classmethod
    def pickles(cls, models: Mapping[str, Path]) -> list[Path]:
        """Those of its weights that can run code when they are loaded: only accepted ones may be."""
        return []

    def extract(self, items: Sequence[Any]) -> list[Result | Failure]:
        """Run the model on a batch; never raises for what is wrong with an item.

        A batch that fails as a whole is halved until the guilty items are alone, which is also the answer to too
        little memory.

        Args:
            items: :class:`~vemoclap_batch.media.clip.Clip` objects, or texts (str) for a text extractor.

        Returns:
            One result per item in the same order, or the failure of that item alone.
        """
        if not items:
            return []
        try:
            return self._extract(items)
        except Exception as error:
            if len(items) == 1:
                return [Failure.of(error)]
            half = len(items) // 2
            return self.extract(items[:half]) + self.extract(items[half:])

    @abstractmethod
    def _extract(self, items: Sequence[Any]) -> list[Result | Failure]:
        """What a subclass does with at least one item; whatever it raises fails the whole batch."""


def load_class(path: str) -> type[Extractor]:
    """The extractor class at ``package.module:Class``.

    Raises:
        ValueError: the path does not name an importable Extractor, or the class declares no name of its own.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path!r} cannot be imported ({error})") from error
    if not (isinstance(found, type) and issubclass(found, Extractor)):
        raise ValueError(f"{path!r} is not an Extractor")
    own = vars(found).get("name")
    if not (isinstance(own, str) and own):
        raise ValueError(
            f"{path!r} declares no name. Add one that no other extractor has, such as name = {name.lower()!r}: "
            "its stored features are found by it. "
            f"To keep the features that version 0.1 stored, add name = {path!r}"
        )
    return found


def class_path(cls: type[Extractor]) -> str:
    """Where a class lies, ``package.module:Class``, as a profile names it."""
    return f"{cls.__module__}:{cls.__qualname__}"
