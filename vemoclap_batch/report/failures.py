"""Failures and ignored files in words, each on one line without control characters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from vemoclap_batch.report.digest import shorten
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import keys

_COLUMNS = ["uri", "extractor", "error_type", "message", "attempts", "run_id"]
#: Suffixes of ignored files that are named one by one.
_SUFFIXES_NAMED = 10


def latest_failures(store: Store, videos: pa.Table, run_id: str | None = None) -> list[dict[str, Any]]:
    """Read the latest failure of each cell of some videos.

    Args:
        store: the output folder.
        videos: whose failures.
        run_id: only failures of this run.

    Returns:
        Per cell ``video_id``, ``uri``, ``extractor`` (None: it was not decoded), ``error_type``, ``message``,
        ``attempts`` and ``run_id``.
    """
    if not videos.num_rows:
        return []
    log = store.errors().read(_COLUMNS, of=keys(videos)).sort_by("run_id").to_pylist()
    rows = [row for row in log if run_id in (None, row["run_id"])]
    return list({(row["video_id"], row["extractor"]): row for row in rows}.values())


def describe_failure(failure: Mapping[str, Any]) -> str:
    """Say which video failed, in which extractor, and why."""
    attempt = f" (attempt {failure['attempts']})" if failure["attempts"] > 1 else ""
    return (
        f"{shorten(failure['uri'] or failure['video_id'], 300)} ({failure['extractor'] or 'decode'}): "
        f"{failure['error_type']}: {shorten(failure['message'], 200)}{attempt}"
    )


def describe_ignored(ignored: Counter[str]) -> str:
    """Count the files of the sources that are no videos, by suffix: ``left out 5 files: 3 .txt, 2 .srt``."""
    if not ignored:
        return "left out no file"
    named = ignored.most_common(_SUFFIXES_NAMED)
    kinds = [f"{count} {suffix}" for suffix, count in named]
    if len(ignored) > len(named):
        rest = ignored.total() - sum(count for _, count in named)
        kinds.append(f"{rest} of {len(ignored) - len(named)} other kinds")
    return f"left out {ignored.total()} file{'s' * (ignored.total() > 1)}: {', '.join(kinds)}"
