"""Looking after an output folder: how it stands, which failures to try again, what may go."""

from __future__ import annotations

import datetime
import posixpath
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.config import Config, ConfigError
from vemoclap_batch.extractors.catalog import Spec, resolvable
from vemoclap_batch.failure import ErrorType
from vemoclap_batch.pipeline.missing import Cell, features_table, find_work
from vemoclap_batch.store.compaction import drop, shard_rows
from vemoclap_batch.store.filesystem import delete, files
from vemoclap_batch.store.store import TABLES, Store
from vemoclap_batch.store.table import Table, keys

_RUNS_SHOWN = 5
_LEFTOVER_AGE = datetime.timedelta(days=1)
_STAGES = ("decode", "extract")


def status(store: Store, config: Config) -> dict[str, Any]:
    """How a folder stands against a profile, over all videos that any run has seen; loads no model, changes nothing.

    Returns:
        ``videos``; per extractor ``fingerprint``, ``done``, ``missing`` (never tried), ``failed`` and, of those,
        ``given_up``; ``without_weights``, the extractors that cannot be told for lack of weights; ``failures``, the
        open ones by stage, extractor and error type; ``runs``; ``tables`` with their rows, shards and bytes.
    """
    specs = resolvable(config)
    videos = store.known_videos()
    work = find_work(store, videos, specs, config.pipeline.max_attempts)
    open_failures = failures(store, specs, videos)
    kinds = Counter((row["stage"], row["extractor"], row["error_type"]) for row in open_failures.to_pylist())
    runs = store.runs()
    current = {f"features/{name}/{spec.fingerprint}" for name, spec in specs.items()}
    tables = [
        {
            "table": folder,
            "current": folder in current or "/" not in folder,
            "rows": shard_rows(store, shards),
            "shards": len(shards),
            "bytes": sum(shard.size for shard in shards),
        }
        for folder, shards in store.shard_files().items()
    ]
    return {
        "videos": videos.num_rows,
        "extractors": {
            name: {
                "fingerprint": spec.fingerprint,
                "done": work.done[name],
                "missing": videos.num_rows - work.done[name] - work.failed[name],
                "failed": work.failed[name],
                "given_up": work.given_up[name],
            }
            for name, spec in specs.items()
        },
        "without_weights": sorted(set(config.extractors) - set(specs)),
        "failures": [
            {"stage": stage, "extractor": extractor, "error_type": error_type, "count": count}
            for (stage, extractor, error_type), count in kinds.most_common()
        ],
        "runs": {
            "count": len(runs),
            "latest": [{name: run.get(name) for name in _OF_RUN} for run in runs[: -_RUNS_SHOWN - 1 : -1]],
        },
        "tables": tables,
        "shards": sum(table["shards"] for table in tables),
        "bytes": sum(table["bytes"] for table in tables),
    }


_OF_RUN = ("run_id", "command", "counts", "wall_s")


def failures(store: Store, specs: Mapping[str, Spec], videos: pa.Table) -> pa.Table:
    """The latest failure of every cell that is still open, of these videos and extractors.

    A failure to decode is open while the video has no row, another while its extractor's table has none.

    Returns:
        Rows of the errors table.
    """
    log = store.errors().read()
    log = log.filter(pc.is_in(keys(log), value_set=keys(videos).combine_chunks()))
    log = log.sort_by([("run_id", "descending"), ("time", "descending")])
    parts = [_latest_open(log, None, store.videos())]
    for spec in specs.values():
        parts.append(_latest_open(log, spec.fingerprint, features_table(store, spec)))
    return pa.concat_tables(parts)


def _latest_open(log: pa.Table, fingerprint: str | None, table: Table) -> pa.Table:
    """Of a log, latest first, the first row of each key with this fingerprint that the table lacks."""
    of = pc.is_null(log["fingerprint"]) if fingerprint is None else pc.equal(log["fingerprint"], fingerprint)
    rows = log.filter(of)
    if not rows.num_rows:
        return rows
    rows = rows.filter(pa.array(~table.committed(keys(rows))))
    seen: set[str] = set()
    first = []
    for key in keys(rows).to_pylist():
        first.append(key not in seen)
        seen.add(key)
    return rows.filter(pa.array(first, pa.bool_()))


@dataclass(frozen=True)
class Again:
    """Failures to try again: the rows of their videos, for a run, and the cells."""

    videos: pa.Table
    cells: frozenset[Cell]


def failed_again(store: Store, config: Config, stage: str | None = None, error_type: str | None = None) -> Again:
    """Select open failures of a profile.

    Args:
        store: the output folder.
        config: whose extractors count; a failure with other settings is over.
        stage: decode, extract or an extractor's name; None for all.
        error_type: one of :class:`~vemoclap_batch.failure.ErrorType`; None for all.

    Raises:
        ConfigError: no such stage or error type.
    """
    _check_selection(config, stage, error_type)
    rows = failures(store, resolvable(config), store.known_videos())
    if stage is not None:
        rows = rows.filter(pc.or_kleene(pc.equal(rows["stage"], stage), pc.equal(rows["extractor"], stage)))
    if error_type is not None:
        rows = rows.filter(pc.equal(rows["error_type"], error_type))
    cells = frozenset(zip(keys(rows).to_pylist(), rows["fingerprint"].to_pylist(), strict=True))
    videos = rows.select(["video_id", "content_key", "uri"]).group_by(["video_id", "content_key"])
    one_each = videos.aggregate([("uri", "max")]).rename_columns(["video_id", "content_key", "uri"])
    return Again(one_each, cells)


def _check_selection(config: Config, stage: str | None, error_type: str | None) -> None:
    mistakes = []
    stages = [*_STAGES, *config.extractors]
    if stage is not None and stage not in stages:
        mistakes.append(f"--stage {stage!r}: expected one of {', '.join(stages)}")
    if error_type is not None and error_type not in list(ErrorType):
        mistakes.append(f"--type {error_type!r}: expected one of {', '.join(ErrorType)}")
    if mistakes:
        raise ConfigError(mistakes)


@dataclass(frozen=True)
class Removal:
    """A table that may go, and why."""

    table: str
    why: str
    rows: int
    shards: int
    bytes: int


@dataclass(frozen=True)
class Garbage:
    """What may go from a folder."""

    tables: list[Removal]
    leftovers: list[str]
    leftover_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tables": [asdict(table) for table in self.tables],
            "rows": sum(table.rows for table in self.tables),
            "bytes": sum(table.bytes for table in self.tables) + self.leftover_bytes,
            "leftovers": {"count": len(self.leftovers), "bytes": self.leftover_bytes},
        }


def garbage(store: Store, config: Config) -> Garbage:
    """What nothing needs any more; changes nothing.

    A features table goes when the profile's current one of that extractor is there, the newest predictions were not
    made from it, and this package could make it again: imported features stay. Of predictions the newest table stays.
    Hidden files that a killed process left go after a day.
    """
    shards = store.shard_files()
    newest = _newest_predictions(store, shards)
    used = (store.read_json(f"predictions/{newest}/model.json") or {}).get("features", {}) if newest else {}
    current = {name: spec.fingerprint for name, spec in resolvable(config).items()}
    reasons = {folder: _why(store, folder, current, used, newest, shards) for folder in shards}
    removals = [
        Removal(
            folder, why, shard_rows(store, shards[folder]), len(shards[folder]), sum(i.size for i in shards[folder])
        )
        for folder, why in reasons.items()
        if why is not None
    ]
    leftovers = _leftovers(store)
    return Garbage(removals, [info.path for info in leftovers], sum(info.size for info in leftovers))


def newest_model(store: Store) -> str | None:
    """The digest of the model that made the newest predictions; None when there are none."""
    newest = _newest_predictions(store, store.shard_files())
    described = store.read_json(f"predictions/{newest}/model.json") if newest else None
    return described["model"] if described else None


def collect(store: Store, found: Garbage) -> None:
    """Remove what :func:`garbage` found, each table all or nothing. The caller holds the store."""
    for removal in found.tables:
        drop(store, removal.table)
    for path in found.leftovers:
        store.check()
        delete(store.filesystem, path)


def _why(
    store: Store, folder: str, current: Mapping[str, str], used: Mapping[str, str], newest: str | None,
    there: Collection[str],
) -> str | None:  # fmt: skip
    """Why a table may go; None if it stays."""
    kind, *rest = folder.split("/")
    if kind == "predictions" and rest != [newest]:
        return "older predictions"
    if kind != "features" or len(rest) != 2:
        return None
    extractor, fingerprint = rest
    now = current.get(extractor)
    if now is None or fingerprint in {now, used.get(extractor)} or f"features/{extractor}/{now}" not in there:
        return None
    described = store.read_json(f"{folder}/extractor.json")
    if described is None or "class" not in described.get("identity", {}):
        return None
    return f"older settings; {now} is the current"


def _newest_predictions(store: Store, folders: Collection[str]) -> str | None:
    """The fingerprint of the predictions table that a run wrote to last (run ids sort by time)."""
    last: dict[str, str] = {}
    for folder in folders:
        if folder.startswith("predictions/"):
            fingerprint = posixpath.basename(folder)
            last[fingerprint] = pc.max(store.predictions(fingerprint, []).read(["run_id"])["run_id"]).as_py() or ""
    return max(last, key=lambda fingerprint: last[fingerprint]) if last else None


def _leftovers(store: Store) -> list[Any]:
    before = datetime.datetime.now(datetime.UTC) - _LEFTOVER_AGE
    return [
        info
        for name in (*TABLES, "runs", ".journal")
        for info in files(store.filesystem, f"{store.root}/{name}", recursive=True)
        if _is_hidden(posixpath.basename(info.path)) and info.mtime is not None and info.mtime < before
    ]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and (name.endswith(".tmp") or name.startswith(".compacted-"))
