"""From the store to examples: which features table serves each feature, and its rows for some videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vemoclap_batch.config import ConfigError
from vemoclap_batch.media.windows import Window, inside
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table, keys

if TYPE_CHECKING:
    from vemoclap_batch.extractors.registry import Spec
    from vemoclap_batch.fusion.checkpoint import Checkpoint
    from vemoclap_batch.fusion.data import Examples


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
        chosen: the user's choice, feature → fingerprint; it goes first.
        preferred: the current profile's fingerprints, taken when there are several of one space.
        window: what is to be predicted for; None for whole videos. Only tables that say something of that are taken.

    Raises:
        ConfigError: a feature has no table, none of its space, or several and no way to choose; all are named.
    """
    chosen, preferred = chosen or {}, preferred or {}
    unknown = sorted(set(chosen) - set(spaces))
    mistakes = [
        f"--features {name}: not a feature of the model; it has {', '.join(sorted(spaces))}" for name in unknown
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
    there = store.fingerprints(name)
    if chosen is not None and chosen not in there:
        raise ConfigError([f"--features {name}={chosen}: no such table; there is {', '.join(there) or 'none'}"])
    candidates = {chosen: there[chosen]} if chosen else there
    fitting = {fp: made for fp, made in candidates.items() if space is None or made["space"] == space}
    if not fitting:
        found = ", ".join(sorted({str(made["space"]) for made in candidates.values()})) or "none at all"
        raise ConfigError([f"feature {name!r}: the model takes space {space}; {store.address} has {found}"])
    fitting = {fp: made for fp, made in fitting.items() if _serves(made, window)}
    if not fitting:
        what = "whole videos" if window is None else f"windows of {window.window_s:g} s every {window.hop_s:g} s"
        how = "without --window" if window is None else f"with --window {window.window_s:g} --hop {window.hop_s:g}"
        raise ConfigError([f"feature {name!r}: {store.address} has no table for {what}; label or extract {how} first"])
    if len(fitting) > 1 and preferred not in fitting:
        raise ConfigError([f"feature {name!r}: choose with --features {name}=FINGERPRINT among {', '.join(fitting)}"])
    fingerprint = preferred if preferred in fitting else next(iter(fitting))
    assert fingerprint is not None
    made = fitting[fingerprint]
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


def load(
    store: Store, selected: Mapping[str, Selected], videos: pa.Table, labels: Sequence[int] | None = None
) -> Examples:
    """The features of videos that have them all, in the order of ``videos`` (float32 in memory)."""
    # Here, since it loads torch, which choosing a table has no use for.
    from vemoclap_batch.fusion.data import Examples

    wanted = keys(videos)
    at = {key: row for row, key in enumerate(wanted.to_pylist())}
    features: dict[str, list[np.ndarray]] = {}
    for name, feature in selected.items():
        rows = feature.table(store).read(["feature"], of=wanted)
        arrays = [np.zeros((0, feature.width), np.float32)] * len(at)
        for key, value in zip(keys(rows).to_pylist(), rows["feature"], strict=True):
            arrays[at[key]] = _array(value, feature.width)
        features[name] = arrays
    known = np.full(len(at), -1, np.int64) if labels is None else np.asarray(labels, np.int64)
    return Examples(videos["video_id"].to_pylist(), features, known)


@dataclass(frozen=True)
class Timed:
    """One video's feature with the seconds that each item covers: arrays [length, width], [length], [length]."""

    feature: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray

    def within(self, window: Window, number: int, is_text: bool) -> np.ndarray:
        """The items of one window: [length, width]. A text's item is made for one window and serves no other."""
        start_s = number * window.hop_s
        if is_text:
            return self.feature[np.abs(self.start_s - start_s) < window.hop_s / 2]
        return self.feature[inside(self.start_s, self.end_s, start_s, start_s + window.window_s)]


def load_timed(store: Store, selected: Mapping[str, Selected], videos: pa.Table) -> dict[str, list[Timed]]:
    """The features of videos that have them all, with their times, in the order of ``videos``.

    Raises:
        ConfigError: a feature has no times.
    """
    wanted = keys(videos)
    at = {key: row for row, key in enumerate(wanted.to_pylist())}
    features: dict[str, list[Timed]] = {}
    for name, feature in selected.items():
        found = [Timed(np.zeros((0, feature.width), np.float32), np.zeros(0), np.zeros(0))] * len(at)
        rows = feature.table(store).read(["feature", "start_s", "end_s"], of=wanted)
        for key, *values in zip(keys(rows).to_pylist(), rows["feature"], rows["start_s"], rows["end_s"], strict=True):
            times = [np.array(value.as_py() or (), np.float64) for value in values[1:]]
            found[at[key]] = Timed(_array(values[0], feature.width), *times)
            if not len(found[at[key]].feature) == len(times[0]) == len(times[1]):
                raise ConfigError([f"feature {name!r}: {store.address} has no times for it, which windows need"])
        features[name] = found
    return features


def _array(value: Any, width: int) -> np.ndarray:
    items = value.values
    if items is None or not len(items):
        return np.zeros((0, width), np.float32)
    return items.flatten().to_numpy(zero_copy_only=False).reshape(-1, width).astype(np.float32, copy=False)


def selected_from(specs: Mapping[str, Spec], names: Sequence[str]) -> dict[str, Selected]:
    """The current profile's own tables, for the features a classifier takes."""
    return {
        name: Selected(name, specs[name].fingerprint, specs[name].space, specs[name].width, specs[name].cls.sequence)
        for name in names
    }


def fingerprint_notes(checkpoint: Checkpoint, selected: Mapping[str, Selected]) -> list[str]:
    """A line for every feature whose fingerprint is another than those the classifier was trained on."""
    return [
        f"{name}: predicted from fingerprint {feature.fingerprint}, trained on {', '.join(trained)} (same space)"
        for name, feature in selected.items()
        if (trained := checkpoint.fingerprints.get(name)) and feature.fingerprint not in trained
    ]
