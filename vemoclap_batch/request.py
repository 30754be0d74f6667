"""From the arguments of a run to its videos, configuration and classifier; one message names all that is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from vemoclap_batch.config import Config, own_checkpoint, read_config
from vemoclap_batch.errors import ConfigError, Mistakes
from vemoclap_batch.extractors.registry import resolve_for_plan
from vemoclap_batch.extractors.windowed_text import windowed
from vemoclap_batch.media.windows import Window
from vemoclap_batch.sources.manifest import Manifest, read_sources

if TYPE_CHECKING:
    from vemoclap_batch.pipeline.run import Classifier

Address: TypeAlias = str | os.PathLike[str]
Settings: TypeAlias = Sequence[str] | Mapping[str, Any] | None


@dataclass(frozen=True)
class Request:
    """What is asked of a run; nothing of it is wrong by itself.

    Attributes:
        classifier: None where nothing is to be predicted.
        windows: None for whole videos.
    """

    manifest: Manifest
    config: Config
    classifier: Classifier | None
    windows: Window | None


def request(
    sources: Address | Iterable[Address], profile: str, settings: Settings = None, frames: int | None = None,
    models_dir: Address | None = None, window: float | None = None, hop: float | None = None, *,
    model: Address | None = None, predicts: bool = False, may_be_empty: bool = False,
) -> Request:  # fmt: skip
    """Check the arguments of :func:`vemoclap_batch.label` (``predicts``) or :func:`vemoclap_batch.extract`.

    A source may hold no video where it ``may_be_empty``.

    Raises:
        ConfigError: with the mistakes of the profile, settings, extractors, windows, classifier and sources.
        RunBroken: a store that the sources lie in does not answer, or refuses.
    """
    mistakes = Mistakes()
    config, found = read_config(
        profile, settings, frames=frames, models_dir=os.fspath(models_dir) if models_dir else None
    )
    mistakes.add(found)
    windows = classifier = manifest = None
    with mistakes.gathered():
        windows = window_of(window, hop)
    if config is not None:
        with mistakes.gathered():
            classifier = load_classifier(config, model) if predicts else None
        with mistakes.gathered():
            given = [sources] if isinstance(sources, str | os.PathLike) else sources
            manifest = read_sources([os.fspath(source) for source in given], config.sources.policy, may_be_empty)
    if mistakes and config is not None:
        # A run looks at the extractors by itself; what it would refuse is named together with all this.
        with mistakes.gathered():
            resolve_for_plan(config)
    mistakes.refuse()
    assert config is not None
    assert manifest is not None
    return Request(manifest, windowed(config, windows) if windows else config, classifier, windows)


def load_classifier(config: Config, model: Address | None) -> Classifier:
    """Load a fusion checkpoint; without one, that of the profile."""
    from vemoclap_batch.pipeline.run import Classifier

    return Classifier.load(own_checkpoint(config) if model is None else os.fspath(model))


def window_of(window: float | None, hop: float | None) -> Window | None:
    """Check the lengths of ``--window`` and ``--hop``; None stands for whole videos."""
    mistakes = [
        f"{name} {value:g}: expected more than 0 seconds"
        for name, value in (("--window", window), ("--hop", hop))
        if value is not None and not value > 0
    ]
    if hop is not None and window is None:
        mistakes.append("--hop: needs --window")
    if mistakes:
        raise ConfigError(mistakes)
    return Window(window, hop or window) if window else None


def run_config(
    profile: str, settings: Settings = None, frames: int | None = None, models_dir: Address | None = None,
    window: float | None = None, hop: float | None = None,
) -> Config:  # fmt: skip
    """Make the configuration of a run: its extractors are those of the windows, where there are some.

    Raises:
        ConfigError: with the mistakes of the profile, settings, extractors and windows.
    """
    mistakes = Mistakes()
    config, found = read_config(
        profile, settings, frames=frames, models_dir=os.fspath(models_dir) if models_dir else None
    )
    mistakes.add(found)
    windows = None
    with mistakes.gathered():
        windows = window_of(window, hop)
    if mistakes and config is not None:
        with mistakes.gathered():
            resolve_for_plan(config)
    mistakes.refuse()
    assert config is not None
    return windowed(config, windows) if windows else config
