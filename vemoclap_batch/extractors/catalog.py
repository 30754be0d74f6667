"""From a configuration to the extractors it means: classes, checked settings, fingerprints. Loads no model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vemoclap_batch.config import Config, ConfigError, ExtractorEntry, Pool, describe_errors
from vemoclap_batch.extractors.base import FRAMES, TEXT, WAVEFORM, Extractor, ExtractorSettings, load_class


@dataclass(frozen=True)
class Spec:
    """One extractor of a run, ready to be planned, looked up in the store and built.

    Attributes:
        source: the extractor whose text it reads; None for one that reads frames or sound.
        identity: everything that changes its output; :attr:`fingerprint` is a hash of it.
    """

    name: str
    cls: type[Extractor]
    settings: ExtractorSettings
    source: str | None
    pool: Pool
    identity: dict[str, Any]
    fingerprint: str
    space: str | None
    width: int

    @property
    def reads_frames(self) -> bool:
        """Whether it needs the frames of a video."""
        return FRAMES in self.cls.inputs

    @property
    def reads_waveform(self) -> bool:
        """Whether it needs the sound of a video."""
        return WAVEFORM in self.cls.inputs


def resolve(config: Config) -> dict[str, Spec]:
    """The extractors of a configuration, each after the one it reads from.

    Raises:
        ConfigError: with every mistake in every extractor's entry.
    """
    specs: dict[str, Spec] = {}
    mistakes: list[str] = []
    # Text extractors last, so that the fingerprint of what they read is known.
    for name, entry in sorted(config.extractors.items(), key=lambda item: item[1].input is not None):
        try:
            specs[name] = _spec(name, entry, config, specs)
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return specs


def _spec(name: str, entry: ExtractorEntry, config: Config, earlier: dict[str, Spec]) -> Spec:
    prefix = f"extractors.{name}"
    try:
        cls = load_class(entry.class_path)
    except ValueError as error:
        raise ConfigError([f"{prefix}.class: {error}"]) from error
    try:
        settings = cls.Settings(**entry.settings)
    except ValidationError as error:
        raise ConfigError(describe_errors(prefix, error)) from error
    _check_input(prefix, cls, entry.input, config)
    if entry.input is not None and entry.input not in earlier:
        raise ConfigError([f"{prefix}.input = {entry.input!r}: its own entry is wrong, or reads text itself"])
    try:
        identity = _identity(entry, cls, settings, config, earlier)
        space, width = cls.space(settings), cls.width(settings)
    except (ImportError, OSError) as error:
        raise ConfigError([f"{prefix}: its weights are not there ({error})"]) from error
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return Spec(
        name=name,
        cls=cls,
        settings=settings,
        source=entry.input,
        pool=entry.pool,
        identity=identity,
        fingerprint=hashlib.sha256(canonical.encode()).hexdigest()[:12],
        space=space,
        width=width,
    )


def _check_input(prefix: str, cls: type[Extractor], source: str | None, config: Config) -> None:
    reads_text = TEXT in cls.inputs
    if reads_text and source is None:
        raise ConfigError([f"{prefix}.input: missing; expected the extractor whose text it reads"])
    if not reads_text and source is not None:
        raise ConfigError([f"{prefix}.input = {source!r}: this extractor reads {' and '.join(cls.inputs)}, no text"])
    if source is not None and source not in config.extractors:
        raise ConfigError([f"{prefix}.input = {source!r}: no such extractor in this profile"])


def _identity(
    entry: ExtractorEntry, cls: type[Extractor], settings: ExtractorSettings, config: Config, earlier: dict[str, Spec]
) -> dict[str, Any]:
    identity = {
        "class": entry.class_path,
        "version": cls.version,
        "settings": settings.model_dump(mode="json"),
        "weights": cls.weights(settings),
    }
    if FRAMES in cls.inputs:
        identity["sampling"] = config.sampling.model_dump(mode="json")
    if entry.input is not None:
        identity["input"] = earlier[entry.input].fingerprint
    return identity
