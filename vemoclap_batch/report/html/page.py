"""Writes the report: data, style, program and the chart library in one HTML file that asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vemoclap_batch import __version__
from vemoclap_batch.policy import Policy
from vemoclap_batch.report.html.overview import overview
from vemoclap_batch.report.html.source import Source
from vemoclap_batch.report.html.thumbnails import by_key, thumbnails
from vemoclap_batch.report.html.videos import describe_videos
from vemoclap_batch.store.folder import Folder
from vemoclap_batch.store.table import keys

#: Seconds for which videos are decoded for pictures.
PICTURES_S = 35.0


def write_report(
    source: Source, target: Folder, name: str, cache_in: Folder, policy: Policy, pictures_s: float = PICTURES_S,
    report: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:  # fmt: skip
    """Write a report, whole or not at all.

    Args:
        source: what it is made of.
        target: folder of the file.
        name: of the file.
        cache_in: where pictures are kept for the next report.
        policy: which files may be decoded for pictures.
        pictures_s: seconds for that.
        report: called with the number of videos whose pictures are there.

    Returns:
        ``videos``, ``shown``, ``with_pictures``, ``bytes``, ``overview`` and ``notes``.
    """
    shown = source.shown
    names = keys(shown).to_pylist()
    described = describe_videos(source)
    wanted = by_key(names, shown.select(["uri", "frame_times"]).to_pylist())
    pictures = thumbnails(wanted, cache_in, policy, pictures_s, report)
    reachable = [of.key for of in wanted if of.path is not None]
    for key, video in zip(names, described, strict=True):
        encoded = [[round(time, 3), base64.b64encode(content).decode()] for time, content in pictures.get(key, ())]
        video["pictures"] = encoded
    notes = list(source.notes)
    if late := sum(key not in pictures for key in reachable):
        notes.append(
            f"{late:,} of the {len(wanted):,} videos shown have no pictures yet: {pictures_s:g} s were spent on "
            "decoding. The same command goes on with them; --pictures changes the seconds."
        )
    if away := len(wanted) - len(reachable):
        notes.append(f"{away:,} videos are no files on this machine: they have no pictures and cannot be played here.")
    summary = overview(source)
    data = {
        "labels": source.labels, "overview": summary, "videos": described, "notes": notes,
        "features": sorted(source.made.get("features", {})), "predictions": source.fingerprint,
    }  # fmt: skip
    content = render(data, source.store.address)
    target.write(name, content)
    there = sum(bool(video["pictures"]) for video in described)
    return {
        "videos": source.videos.num_rows, "shown": len(described), "with_pictures": there, "bytes": len(content),
        "notes": notes, "overview": summary,
    }  # fmt: skip


def render(data: Mapping[str, Any], title: str, template: str = "report.html") -> bytes:
    """The page that shows some data, as UTF-8.

    Its content security policy lets only the two programs run whose hashes it names, and loads nothing but pictures in
    the page itself and videos from the disk.
    """
    style, program = asset("report.css"), asset("report.js")
    page = environment().get_template(template).render(
        title=title, made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", version=__version__, style=style,
        hashes=[_hash(plotly()), _hash(program)], data=json_for_script(data), plotly=plotly(), program=program,
    )  # fmt: skip
    return page.encode()


@cache
def environment() -> Environment:
    """Where templates are, all of which escape what is put into them."""
    return Environment(
        loader=PackageLoader("vemoclap_batch.report.html"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


@cache
def plotly() -> str:
    """Plotly's program, which its Python package carries."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")


def asset(name: str) -> str:
    """A file beside the templates."""
    return (files("vemoclap_batch.report.html") / "templates" / name).read_text("utf-8")


def _hash(program: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()


def json_for_script(data: Any) -> str:
    """JSON that may stand in a script element: no character of it can end the element or a line of a program."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), default=str, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
