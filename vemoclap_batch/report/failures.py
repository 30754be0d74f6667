"""What failed, in words for a log: one line each, without control characters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from vemoclap_batch.report.digest import shorten
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import keys

_COLUMNS = ["uri", "extractor", "error_type", "message", "attempts", "run_id"]


def latest_failures(store: Store, videos: pa.Table, run_id: str | None = None) -> list[dict[str, Any]]:
    """The latest failure of each cell of some videos.

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


def in_words(failure: Mapping[str, Any]) -> str:
    """Which video failed, in what, and why."""
    attempt = f" (attempt {failure['attempts']})" if failure["attempts"] > 1 else ""
    return (
        f"{shorten(failure['uri'] or failure['video_id'], 300)} ({failure['extractor'] or 'decode'}): "
        f"{failure['error_type']}: {shorten(failure['message'], 200)}{attempt}"
    )
