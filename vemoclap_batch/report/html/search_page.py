"""The page of a search: frames with their time, score and emotion. It has no program."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from vemoclap_batch.report.digest import clock
from vemoclap_batch.report.html.page import asset, environment
from vemoclap_batch.report.html.videos import links


def search_page(query: str, out: str, hits: Sequence[Mapping[str, Any]]) -> bytes:
    """The page of what :func:`vemoclap_batch.studies.search.describe` says, as UTF-8."""
    shown = []
    for hit in hits:
        link, _ = links(hit["uri"])
        seconds = hit["time_s"]
        shown.append(
            {
                **hit,
                "name": posixpath.basename(hit["uri"]) if hit["uri"] else hit["video_id"],
                "clock": "" if seconds is None else clock(seconds),
                # Browsers start a video at that second.
                "link": f"{link}#t={seconds:.2f}" if link and seconds is not None else link,
                "picture": base64.b64encode(hit["thumbnail"]).decode() if hit["thumbnail"] else "",
            }
        )
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    template = environment().get_template("search.html")
    return template.render(query=query, out=out, made=made, style=asset("report.css"), hits=shown).encode()
