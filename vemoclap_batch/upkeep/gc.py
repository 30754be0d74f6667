"""Garbage collection: what nothing in an output folder needs any more, and removing it."""

from __future__ import annotations

import datetime
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import pyarrow.fs as pafs

from vemoclap_batch.config import Config
from vemoclap_batch.extractors.registry import resolvable
from vemoclap_batch.store.filesystem import delete, files
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import TableSize, keys

#: Hidden files are left alone for so long: the process that writes them may still be alive.
_LEFTOVER_AGE = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Removal:
    """A table that may go, and why."""

    size: TableSize
    why: str


@dataclass(frozen=True)
class Garbage:
    """What may go from a folder, and which older tables stay: the current one lacks so many of their videos."""

    tables: list[Removal]
    kept: dict[str, int]
    leftovers: list[str]
    leftover_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tables": [{"table": of.size.table, "why": of.why, **of.size.counts()} for of in self.tables],
            "kept": [{"table": table, "videos": videos} for table, videos in self.kept.items()],
            "rows": sum(table.size.rows for table in self.tables),
            "bytes": sum(table.size.bytes for table in self.tables) + self.leftover_bytes,
            "leftovers": {"count": len(self.leftovers), "bytes": self.leftover_bytes},
        }


def find_garbage(store: Store, configs: Sequence[Config], uncovered: bool = False) -> Garbage:
    """What nothing needs any more; changes nothing.

    Of predictions the newest table of each kind stays: of whole videos, and of each window; explanations stay with
    theirs. A features table goes when a current one of that extractor, which one of the ``configs`` names, has all of
    its videos, none of those predictions was made from it or from what reads it, and this package could make it again:
    imported features stay. Hidden files that a killed process left go after a day. With ``uncovered``, older features
    go even where the current table lacks some of their videos.
    """
    sizes = {size.table: size for size in store.sizes()}
    newest = _newest_of_each_window(store, sizes)
    removals = [
        Removal(size, "older predictions")
        for table, size in sizes.items()
        if table.startswith("predictions/") and posixpath.basename(table) not in newest
    ]
    removals += [
        Removal(size, "explains older predictions")
        for table, size in sizes.items()
        if table.startswith("explanations/") and posixpath.basename(table) not in newest
    ]
    used = {f"features/{name}/{fp}" for made in newest.values() for name, fp in made.get("features", {}).items()}
    used = _with_sources(store, used, sizes)
    kept = {}
    for name, current in _current_tables(configs, sizes).items():
        others = [table for table in sizes if table.startswith(f"features/{name}/") and table not in {*current, *used}]
        for older in others if current else []:
            if "class" not in _identity(store, older):
                continue
            if missing := 0 if uncovered else min(_uncovered(store, older, table) for table in current):
                kept[older] = missing
            else:
                fingerprint = posixpath.basename(current[0])
                removals.append(Removal(sizes[older], f"older settings; {fingerprint} is the current"))
    leftovers = _leftovers(store)
    removals.sort(key=lambda removal: removal.size.table)
    return Garbage(removals, kept, [info.path for info in leftovers], sum(info.size for info in leftovers))


def collect(store: Store, garbage: Garbage) -> None:
    """Remove what :func:`find_garbage` names, each table all or nothing. The caller holds the store."""
    for removal in garbage.tables:
        store.drop(removal.size.table)
    delete(store.filesystem, garbage.leftovers, store.check)


def newest_predictions(store: Store) -> str | None:
    """The fingerprint of the predictions that a run wrote to last; None when there are none."""
    return next(reversed(_by_last_run(store, [size.table for size in store.sizes()])), None)


def predictions_by_age(store: Store) -> list[str]:
    """The fingerprints of all predictions, the ones that a run wrote to last at the end."""
    return list(_by_last_run(store, [size.table for size in store.sizes()]))


def newest_model(store: Store) -> str | None:
    """The digest of the model that made the newest predictions; None when there are none."""
    newest = newest_predictions(store)
    made = store.read_json(f"predictions/{newest}/model.json") if newest else None
    return made["model"] if made else None


def _current_tables(configs: Sequence[Config], tables: Iterable[str]) -> dict[str, list[str]]:
    """The tables there are of what some configurations name, by extractor."""
    named = [(name, f"features/{name}/{spec.fingerprint}") for of in configs for name, spec in resolvable(of).items()]
    current: dict[str, list[str]] = {name: [] for name, _ in named}
    for name, table in dict.fromkeys(named):
        if table in tables:
            current[name].append(table)
    return current


def _with_sources(store: Store, used: Iterable[str], tables: Iterable[str]) -> set[str]:
    """Some features tables, and those that their extractors read from."""
    of_fingerprint = {posixpath.basename(table): table for table in tables if table.startswith("features/")}
    found: set[str] = set()
    pending = list(used)
    while pending:
        table = pending.pop()
        found.add(table)
        identity = _identity(store, table)
        fingerprints = [identity.get("input"), *identity.get("evidence", {}).values()]
        sources = {of_fingerprint[fingerprint] for fingerprint in fingerprints if fingerprint in of_fingerprint}
        pending += sources - found
    return found


def _identity(store: Store, table: str) -> Mapping[str, Any]:
    """What a features table's fingerprint stands for; empty when that is not known."""
    return (store.read_json(f"{table}/extractor.json") or {}).get("identity", {})


def _uncovered(store: Store, older: str, current: str) -> int:
    """How many videos, as they are by now, one features table has and the other lacks."""
    videos = keys(store.current_videos())
    has, has_now = (store.table(name).committed(videos) for name in (older, current))
    return int((has & ~has_now).sum())


def _newest_of_each_window(store: Store, tables: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """The newest predictions of whole videos and of each window: fingerprint → what made them."""
    made = {name: store.read_json(f"predictions/{name}/model.json") or {} for name in _by_last_run(store, tables)}
    newest = {str(description.get("window")): name for name, description in made.items()}
    return {name: made[name] for name in newest.values()}


def _by_last_run(store: Store, tables: Iterable[str]) -> list[str]:
    """Fingerprints of the tables of predictions, the one that a run wrote to last at the end (run ids sort by time)."""
    last = {}
    for table in tables:
        if table.startswith("predictions/"):
            name = posixpath.basename(table)
            last[name] = pc.max(store.predictions(name, []).read(["run_id"])["run_id"]).as_py() or ""
    return sorted(last, key=lambda name: (last[name], name))


def _leftovers(store: Store) -> list[pafs.FileInfo]:
    before = datetime.datetime.now(datetime.UTC) - _LEFTOVER_AGE
    infos = [
        info
        for folder in ("videos", "errors", "features", "predictions", "explanations", "runs")
        for info in files(store.filesystem, f"{store.root}/{folder}", recursive=True)
    ]
    hidden = [info for info in infos if info.base_name.startswith(".") and info.base_name.endswith(".tmp")]
    return [info for info in hidden if info.mtime is not None and info.mtime < before]
