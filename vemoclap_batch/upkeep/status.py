"""The status of an output folder: what is done, missing and failed, and which failures to try again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.config import Config
from vemoclap_batch.errors import ConfigError, ErrorType
from vemoclap_batch.extractors.registry import Spec, resolvable
from vemoclap_batch.pipeline.pending import Cell, decoded_since, features_table, find_pending
from vemoclap_batch.sources.listing import current_content_keys
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table, keys

_RUNS_SHOWN, _OF_RUN = 5, ("run_id", "command", "counts", "wall_s")
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
    pending = find_pending(store, videos, specs, config.pipeline.max_attempts)
    open_failures = failures(store, specs, videos)
    kinds = Counter((row["stage"], row["extractor"], row["error_type"]) for row in open_failures.to_pylist())
    runs = store.runs()
    current = {f"features/{name}/{spec.fingerprint}" for name, spec in specs.items()}
    tables = [
        {"table": size.table, "current": size.table in current or "/" not in size.table, **size.counts()}
        for size in store.sizes()
    ]
    return {
        "videos": videos.num_rows,
        "extractors": {
            name: {
                "fingerprint": spec.fingerprint,
                "done": pending.done[name],
                "missing": videos.num_rows - pending.done[name] - pending.failed[name],
                "failed": pending.failed[name],
                "given_up": pending.given_up[name],
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


def failures(store: Store, specs: Mapping[str, Spec], videos: pa.Table) -> pa.Table:
    """The latest failure of every cell that is still open, of these videos and extractors.

    A failure to decode is open until a later run decodes the video, and as long as an extractor that reads media lacks
    it; another while its own extractor's table lacks the video.

    Returns:
        Rows of the errors table.
    """
    log = store.errors().read()
    log = log.filter(pc.is_in(keys(log), value_set=keys(videos).combine_chunks()))
    log = log.filter(pa.array(~decoded_since(store, specs, log)))
    log = log.sort_by([("run_id", "descending"), ("time", "descending")])
    media = [features_table(store, spec) for spec in specs.values() if spec.source is None]
    parts = [_latest_open(log.filter(pc.is_null(log["fingerprint"])), media)]
    for spec in specs.values():
        of = pc.equal(log["fingerprint"], spec.fingerprint)
        parts.append(_latest_open(log.filter(of), [features_table(store, spec)]))
    return pa.concat_tables(parts)


def _latest_open(rows: pa.Table, tables: Sequence[Table]) -> pa.Table:
    """Of rows of the log, latest first, the first of each key that one of the tables lacks."""
    if not rows.num_rows:
        return rows
    complete = [table.committed(keys(rows)) for table in tables]
    if complete:
        rows = rows.filter(pa.array(~np.all(complete, axis=0)))
    first = np.unique(keys(rows).to_numpy(), return_index=True)[1]
    return rows.take(pa.array(np.sort(first)))


@dataclass(frozen=True)
class Again:
    """Failures to try again: the rows of their videos as these are now, for a run, and the cells.

    A video whose content was replaced since it failed has no such cells: to a run it is new.
    """

    videos: pa.Table
    cells: frozenset[Cell]


def failed_again(store: Store, config: Config, stage: str | None = None, error_type: str | None = None) -> Again:
    """Select open failures of a profile's extractors: of a stage (decode, extract or an extractor), of a type, or all.

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
    videos = rows.group_by(["video_id", "content_key"]).aggregate([("uri", "max")])
    videos = videos.rename_columns(["video_id", "content_key", "uri"])
    now = current_content_keys(videos["uri"].to_pylist(), videos["content_key"].to_pylist())
    return Again(videos.set_column(1, "content_key", pa.array(now, pa.string())), cells)


def _check_selection(config: Config, stage: str | None, error_type: str | None) -> None:
    known: dict[str, tuple[str | None, list[str]]] = {
        "--stage": (stage, [*_STAGES, *config.extractors]),
        "--type": (error_type, [*ErrorType]),
    }
    mistakes = [
        f"{option} {value!r}: expected one of {', '.join(choices)}"
        for option, (value, choices) in known.items()
        if value is not None and value not in choices
    ]
    if mistakes:
        raise ConfigError(mistakes)
