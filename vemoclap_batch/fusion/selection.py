"""Which features table serves each feature of a classifier, and which videos have a row in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.media.windows import Window
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table, keys

if TYPE_CHECKING:
    from vemoclap_batch.extractors.registry import Spec


@dataclass(frozen=True)
class Selected:
    """The features table chosen for one feature."""

    name: str
    fingerprint: str
    space: str | None
    width: int
    sequence: bool

    def table(self, store: Store) -> Table:
        """The table, with the columns a classifier needs."""
        return store.features(self.name, self.fingerprint, schemas.features(self.sequence, {}, self.width))


def select(
    store: Store,
    spaces: Mapping[str, str | None],
    chosen: Mapping[str, str] | None = None,
    preferred: Mapping[str, str] | None = None,
    window: Window | None = None,
) -> dict[str, Selected]:
    """Choose one fingerprint for each feature.

    Args:
        store: the output folder.
        spaces: per wanted feature the space that the classifier accepts; None accepts any.
        chosen: the user's choice, feature → fingerprint.
        preferred: the current profile's fingerprints, taken when there are several of one space.
        window: of the predictions; None for whole videos. Only tables that serve it are taken.

    Raises:
        ConfigError: a feature has no table, none of its space, or several and no way to choose; all are named.
    """
    chosen, preferred = chosen or {}, preferred or {}
    mistakes = [
        f"--features {name}: not a feature of the model; it has {', '.join(sorted(spaces))}"
        for name in sorted(set(chosen) - set(spaces))
    ]
    selected = {}
    for name, space in sorted(spaces.items()):
        try:
            selected[name] = _select_one(store, name, space, chosen.get(name), preferred.get(name), window)
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return selected


def _select_one(
    store: Store, name: str, space: str | None, chosen: str | None, preferred: str | None, window: Window | None
) -> Selected:
    tables = store.fingerprints(name)
    if chosen is not None:
        if chosen not in tables:
            raise ConfigError([f"--features {name}={chosen}: no such table; tables: {', '.join(tables) or 'none'}"])
        tables = {chosen: tables[chosen]}
    fitting = {fp: made for fp, made in tables.items() if space is None or made["space"] == space}
    if not fitting:
        spaces = ", ".join(sorted({str(made["space"]) for made in tables.values()})) or "none at all"
        raise ConfigError([f"feature {name!r}: the model takes space {space}; {store.address} has {spaces}"])
    fitting = {fp: made for fp, made in fitting.items() if _serves(made, window)}
    if not fitting:
        what = "whole videos" if window is None else f"windows of {window.window_s:g} s every {window.hop_s:g} s"
        how = "without --window" if window is None else f"with --window {window.window_s:g} --hop {window.hop_s:g}"
        raise ConfigError([f"feature {name!r}: {store.address} has no table for {what}; label or extract {how} first"])
    if preferred in fitting:
        fitting = {preferred: fitting[preferred]}
    if len(fitting) > 1:
        raise ConfigError([f"feature {name!r}: choose with --features {name}=FINGERPRINT among {', '.join(fitting)}"])
    [(fingerprint, made)] = fitting.items()
    return Selected(name, fingerprint, made["space"], made["width"], made["sequence"])


def _serves(made: Mapping[str, Any], window: Window | None) -> bool:
    """Whether a table serves predictions for such windows: sequences serve any, texts of windows those alone."""
    settings = made.get("identity", {}).get("settings", {})
    if "window_s" in settings:
        return window == Window(settings["window_s"], settings["hop_s"])
    return window is None or made["sequence"]


def complete_mask(store: Store, selected: Mapping[str, Selected], videos: pa.Table) -> np.ndarray:
    """Which of the videos have a row in every selected table: bool [n]."""
    mask = np.ones(videos.num_rows, bool)
    for feature in selected.values():
        mask &= feature.table(store).committed(keys(videos))
    return mask


def names_of(selected: Mapping[str, Selected]) -> dict[str, str]:
    """Feature → the fingerprint that serves it."""
    return {name: feature.fingerprint for name, feature in selected.items()}


def selected_from(specs: Mapping[str, Spec], names: Sequence[str]) -> dict[str, Selected]:
    """The current profile's own tables, for the features a classifier takes."""
    return {
        name: Selected(name, specs[name].fingerprint, specs[name].space, specs[name].width, specs[name].cls.sequence)
        for name in names
    }


def fingerprint_notes(trained_on: Mapping[str, Sequence[str]], selected: Mapping[str, Selected]) -> list[str]:
    """A line for every feature whose fingerprint is another than those that a classifier was trained on."""
    return [
        f"{name}: predicted from fingerprint {feature.fingerprint}, trained on {', '.join(trained)} (same space)"
        for name, feature in selected.items()
        if (trained := trained_on.get(name)) and feature.fingerprint not in trained
    ]
