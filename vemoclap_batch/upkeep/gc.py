"""What nothing in an output folder needs any more, and removing it."""

from __future__ import annotations

import datetime
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from vemoclap_batch.config import Config
from vemoclap_batch.extractors.registry import resolvable
from vemoclap_batch.store.filesystem import delete, files
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import TableSize, keys

_LEFTOVER_AGE = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Removal:
    """A table that may go, and why."""

    size: TableSize
    why: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"table": self.size.table, "why": self.why, **self.size.counts()}


@dataclass(frozen=True)
class Kept:
    """A features table of older settings that stays: so many of its videos the current table lacks."""

    table: str
    videos: int


@dataclass(frozen=True)
class Garbage:
    """What may go from a folder, and which older tables stay all the same."""

    tables: list[Removal]
    kept: list[Kept]
    leftovers: list[str]
    leftover_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tables": [table.as_dict() for table in self.tables],
            "kept": [asdict(table) for table in self.kept],
            "rows": sum(table.size.rows for table in self.tables),
            "bytes": sum(table.size.bytes for table in self.tables) + self.leftover_bytes,
            "leftovers": {"count": len(self.leftovers), "bytes": self.leftover_bytes},
        }


def garbage(store: Store, config: Config, uncovered: bool = False) -> Garbage:
    """What nothing needs any more; changes nothing.

    Of predictions the newest table of each kind stays: of whole videos, and of each window. A features table goes when
    the profile's current one of that extractor has all of its videos, none of those predictions was made from it, and
    this package could make it again: imported features stay. Hidden files that a killed process left go after a day.

    Args:
        store: the output folder.
        config: names the current settings.
        uncovered: whether older features go, too, where the current table lacks some of their videos.
    """
    sizes = {size.table: size for size in store.sizes()}
    newest = _newest_predictions(store, sizes)
    used = {table for name in newest for table in _features_of(store, name)}
    current = {name: spec.fingerprint for name, spec in resolvable(config).items()}
    removals, kept = [], []
    for folder, size in sizes.items():
        kind, *rest = folder.split("/")
        if kind == "predictions" and rest[0] not in newest:
            removals.append(Removal(size, "older predictions"))
        if kind == "features" and len(rest) == 2 and folder not in used and _is_older(store, folder, current, sizes):
            now = f"features/{rest[0]}/{current[rest[0]]}"
            missing = 0 if uncovered else _uncovered(store, folder, now)
            if missing:
                kept.append(Kept(folder, missing))
            else:
                removals.append(Removal(size, f"older settings; {current[rest[0]]} is the current"))
    leftovers = _leftovers(store)
    return Garbage(removals, kept, [info.path for info in leftovers], sum(info.size for info in leftovers))


def collect(store: Store, found: Garbage) -> None:
    """Remove what :func:`garbage` found, each table all or nothing. The caller holds the store."""
    for removal in found.tables:
        store.drop(removal.size.table)
    delete(store.filesystem, found.leftovers, store.check)


def newest_predictions(store: Store) -> str | None:
    """The fingerprint of the predictions that a run wrote to last; None when there are none."""
    last = _last_runs(store, [size.table for size in store.sizes()])
    return max(last, key=lambda name: last[name]) if last else None


def newest_model(store: Store) -> str | None:
    """The digest of the model that made the newest predictions; None when there are none."""
    newest = newest_predictions(store)
    described = store.read_json(f"predictions/{newest}/model.json") if newest else None
    return described["model"] if described else None


def _is_older(store: Store, folder: str, current: Mapping[str, str], there: Mapping[str, TableSize]) -> bool:
    """Whether this package made a features table with other settings than the current, which have one as well."""
    _, extractor, fingerprint = folder.split("/")
    now = current.get(extractor)
    if now is None or fingerprint == now or f"features/{extractor}/{now}" not in there:
        return False
    described = store.read_json(f"{folder}/extractor.json")
    return described is not None and "class" in described.get("identity", {})


def _uncovered(store: Store, folder: str, now: str) -> int:
    """How many videos, as they are by now, one features table has and the other lacks."""
    videos = keys(store.current_videos())
    old, new = (store.table(name).committed(videos) for name in (folder, now))
    return int((old & ~new).sum())


def _features_of(store: Store, predictions: str) -> list[str]:
    """The features tables that a table of predictions was made from."""
    described = store.read_json(f"predictions/{predictions}/model.json") or {}
    return [f"features/{name}/{fingerprint}" for name, fingerprint in described.get("features", {}).items()]


def _newest_predictions(store: Store, folders: Mapping[str, TableSize]) -> set[str]:
    """Of whole videos and of each window, the fingerprint of the predictions that a run wrote to last."""
    newest: dict[str, tuple[str, str]] = {}
    for fingerprint, run_id in _last_runs(store, folders).items():
        window = (store.read_json(f"predictions/{fingerprint}/model.json") or {}).get("window")
        newest[str(window)] = max(newest.get(str(window), ("", "")), (run_id, fingerprint))
    return {fingerprint for _, fingerprint in newest.values()}


def _last_runs(store: Store, folders: Iterable[str]) -> dict[str, str]:
    """Of each table of predictions, the last run that wrote to it (run ids sort by time)."""
    last: dict[str, str] = {}
    for folder in folders:
        if folder.startswith("predictions/"):
            fingerprint = posixpath.basename(folder)
            last[fingerprint] = pc.max(store.predictions(fingerprint, []).read(["run_id"])["run_id"]).as_py() or ""
    return last


def _leftovers(store: Store) -> list[Any]:
    before = datetime.datetime.now(datetime.UTC) - _LEFTOVER_AGE
    return [
        info
        for name in ("videos", "errors", "features", "predictions", "runs")
        for info in files(store.filesystem, f"{store.root}/{name}", recursive=True)
        if _is_hidden(posixpath.basename(info.path)) and info.mtime is not None and info.mtime < before
    ]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")
