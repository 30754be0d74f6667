"""From a configuration to the extractors of a run: classes, checked settings, weights, fingerprints. Loads no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vemoclap_batch.config import Config, ExtractorEntry, ExtractorResources, describe_errors
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors import base
from vemoclap_batch.extractors.base import Extractor, ExtractorSettings, class_path, load_class
from vemoclap_batch.extractors.fingerprint import fingerprint, identity
from vemoclap_batch.models.hashes import NotAccepted, require_accepted
from vemoclap_batch.models.references import HUB, MissingWeights, locate, split


@dataclass(frozen=True)
class Spec:
    """One extractor of a run, ready to be planned, looked up in the store and built.

    Attributes:
        source: the extractor whose text it reads; None for one that reads frames or audio.
        text_column: which of that one's texts it reads.
        detections: the extractors whose detections it is given with the frames.
        resources: what it takes of a machine; ``gpu`` is False in a run that uses none.
        models: its weights.
        identity: everything that changes its output; :attr:`fingerprint` is a hash of it.
    """

    name: str
    cls: type[Extractor]
    settings: ExtractorSettings
    source: str | None
    text_column: str
    detections: tuple[str, ...]
    resources: ExtractorResources
    models: dict[str, Path]
    identity: dict[str, Any]
    fingerprint: str
    space: str | None
    width: int

    @property
    def reads(self) -> tuple[str, ...]:
        """The extractors whose results it needs."""
        return (*self.detections, *([self.source] if self.source else []))

    @property
    def reads_frames(self) -> bool:
        """Whether it needs the frames of a video."""
        return base.FRAMES in self.cls.inputs

    @property
    def reads_waveform(self) -> bool:
        """Whether it needs the audio of a video."""
        return base.WAVEFORM in self.cls.inputs

    @property
    def reads_times(self) -> bool:
        """Whether it needs its text in pieces with their times."""
        return base.TIMES in self.cls.inputs


class WeightsError(ConfigError):
    """Nothing is wrong except that weights are not on this machine."""


def resolve(config: Config) -> dict[str, Spec]:
    """The extractors of a configuration, each after the ones it reads from.

    Raises:
        WeightsError: weights are missing, and nothing else is wrong; names all of them and the command that helps.
        ConfigError: with every mistake in every extractor's entry.
    """
    specs, missing, mistakes = _resolve(config)
    if mistakes:
        raise ConfigError(mistakes + missing)
    if missing:
        folder = f" --models-dir {config.models_dir}" if config.models_dir else ""
        pull = f"vemoclap-batch models pull --profile {config.profile}{folder}"
        raise WeightsError([*missing, f"to fetch what is missing: {pull}"])
    return specs


def resolve_for_plan(config: Config) -> tuple[dict[str, Spec], list[str]]:
    """The extractors of a configuration, whether or not their weights are on this machine: they cannot be built.

    Returns:
        The extractors, each after the ones it reads from, and what is missing. The fingerprint of one whose weights are
        missing, or which reads from such a one, is of no stored feature.

    Raises:
        ConfigError: with every mistake other than missing weights.
    """
    specs, missing, mistakes = _resolve(config, without_weights=True)
    if mistakes:
        raise ConfigError(mistakes)
    return specs, missing


def resolvable(config: Config) -> dict[str, Spec]:
    """Those extractors of a configuration whose weights are on this machine.

    Raises:
        ConfigError: a mistake other than missing weights.
    """
    specs, _, mistakes = _resolve(config)
    if mistakes:
        raise ConfigError(mistakes)
    return specs


def model_references(config: Config) -> dict[str, list[str]]:
    """The models of a configuration, by reference, each with the settings (``extractor.setting``) that name it.

    Raises:
        ConfigError: with every mistake in every extractor's entry.
    """
    found: dict[str, list[str]] = {}
    mistakes: list[str] = []
    for name, entry in config.extractors.items():
        try:
            cls, settings = _class_and_settings(f"extractors.{name}", entry)
            for setting, reference in cls.references(settings).items():
                if reference.startswith(HUB):
                    split(reference)
                found.setdefault(reference, []).append(f"{name}.{setting}")
        except ConfigError as error:
            mistakes += error.mistakes
        except ValueError as error:
            mistakes.append(f"extractors.{name}: {error}")
    if mistakes:
        raise ConfigError(mistakes)
    return found


def _resolve(config: Config, without_weights: bool = False) -> tuple[dict[str, Spec], list[str], list[str]]:
    """The extractors whose weights are there (or all), the weights that are not, and the mistakes."""
    specs: dict[str, Spec] = {}
    missing: list[str] = []
    mistakes: list[str] = []
    # Those that read from others last, so that the fingerprints of what they read are known.
    for name, entry in sorted(config.extractors.items(), key=lambda item: len(item[1].reads)):
        try:
            specs[name] = _spec(name, entry, config, specs, missing, without_weights)
        except WeightsError as error:
            missing += error.mistakes
        except ConfigError as error:
            mistakes += error.mistakes
    return specs, missing, mistakes + _same_names(specs)


def _same_names(specs: Mapping[str, Spec]) -> list[str]:
    """A mistake for every extractor with the name and version of another class: they would share a fingerprint."""
    mistakes = []
    first: dict[tuple[str, int], Spec] = {}
    for spec in specs.values():
        other = first.setdefault((spec.cls.name, spec.cls.version), spec)
        if other.cls is not spec.cls:
            mistakes.append(
                f"extractors.{spec.name}.class: {class_path(spec.cls)} has the name {spec.cls.name!r} and version "
                f"{spec.cls.version} of {class_path(other.cls)} (extractors.{other.name}); "
                "give one of them another name"
            )
    return mistakes


def _spec(
    name: str, entry: ExtractorEntry, config: Config, earlier: Mapping[str, Spec], missing: list[str],
    without_weights: bool,
) -> Spec:  # fmt: skip
    """One extractor; ``missing`` are weights of earlier ones, and get its own if it may be ``without_weights``."""
    prefix = f"extractors.{name}"
    cls, settings = _class_and_settings(prefix, entry)
    _check_input(prefix, cls, entry, config)
    if getattr(settings, "precision", None) == "auto":
        # The fingerprint has the precision of the device that it will run on.
        on_cuda = config.uses_gpu and entry.resources.gpu and config.pipeline.gpu_device == "cuda"
        precision = "float16" if on_cuda else "float32"
        settings = settings.model_copy(update={"precision": precision})
    try:
        models = _models(prefix, cls, settings, config)
    except WeightsError as error:
        if not without_weights:
            raise
        missing += error.mistakes
        models = {}
    if unknown := [source for source in entry.reads if source not in earlier]:
        if missing:
            raise WeightsError([])
        raise ConfigError([f"{prefix} reads {', '.join(unknown)}: that entry is wrong, or reads from others itself"])
    if entry.input is not None and entry.text_column not in texts_of(earlier[entry.input].cls):
        texts = ", ".join(texts_of(earlier[entry.input].cls)) or "none"
        raise ConfigError([f"{prefix}.text_column = {entry.text_column!r}: the texts of {entry.input} are {texts}"])
    if without := [source for source in entry.detections if earlier[source].cls.detections is None]:
        raise ConfigError([f"{prefix}.detections: {', '.join(without)} has no detections (such as faces) to give"])
    try:
        fingerprints = {source: earlier[source].fingerprint for source in entry.reads}
        described = identity(cls, settings, entry, config.sampling, models, fingerprints)
        space, width = cls.space(settings), cls.width(settings)
    except (ImportError, OSError) as error:
        raise ConfigError([f"{prefix}: its weights are not there ({error})"]) from error
    return Spec(
        name=name,
        cls=cls,
        settings=settings,
        source=entry.input,
        text_column=entry.text_column,
        detections=entry.detections,
        resources=entry.resources if config.uses_gpu else entry.resources.model_copy(update={"gpu": False}),
        models=models,
        identity=described,
        fingerprint=fingerprint(described),
        space=space,
        width=width,
    )


def _class_and_settings(prefix: str, entry: ExtractorEntry) -> tuple[type[Extractor], ExtractorSettings]:
    try:
        cls = load_class(entry.class_path)
    except ValueError as error:
        raise ConfigError([f"{prefix}.class: {error}"]) from error
    try:
        return cls, cls.Settings(**entry.settings)
    except ValidationError as error:
        raise ConfigError(describe_errors(prefix, error)) from error


def _models(prefix: str, cls: type[Extractor], settings: ExtractorSettings, config: Config) -> dict[str, Path]:
    models: dict[str, Path] = {}
    missing = []
    for name, reference in cls.references(settings).items():
        try:
            models[name] = locate(reference, config.models_dir)
        except MissingWeights as error:
            missing.append(f"{prefix}.{name}: {error}")
        except ValueError as error:
            raise ConfigError([f"{prefix}.{name}: {error}"]) from error
    if missing:
        raise WeightsError(missing)
    try:
        mistakes = cls.mistakes(settings, models)
    except (ValueError, OSError) as error:
        raise ConfigError([f"{prefix}: its weights cannot be read ({error})"]) from error
    if mistakes:
        raise ConfigError([f"{prefix}.{mistake}" for mistake in mistakes])
    try:
        for path in cls.pickles(models):
            require_accepted(path)
    except NotAccepted as error:
        raise WeightsError([f"{prefix}: {error}"]) from error
    return models


def texts_of(cls: type[Extractor]) -> list[str]:
    """The columns of an extractor that others can read as its text."""
    return [name for name in base.TEXTS if name in cls.columns]


def _check_input(prefix: str, cls: type[Extractor], entry: ExtractorEntry, config: Config) -> None:
    reads_text = base.TEXT in cls.inputs
    if reads_text and entry.input is None:
        raise ConfigError([f"{prefix}.input: missing; expected the extractor whose text it reads"])
    if not reads_text and entry.input is not None:
        raise ConfigError(
            [f"{prefix}.input = {entry.input!r}: this extractor reads {' and '.join(cls.inputs)}, no text"]
        )
    if unknown := [name for name in entry.reads if name not in config.extractors]:
        raise ConfigError([f"{prefix} reads {name!r}: no such extractor in this profile" for name in unknown])
