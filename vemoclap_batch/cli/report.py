"""``vemoclap-batch report``: one HTML file to look at."""

from __future__ import annotations

import posixpath
from typing import Annotated

import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import print_json, print_notes

#: Where the report goes without -o, and where pictures are kept, below OUT.
_FOLDER, _NAME = "report", "index.html"


def report(
    out: opt.OutArgument,
    file: Annotated[str | None, typer.Option("-o", "--out", help="HTML file [default: OUT/report/index.html].")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels file: shows the confusion matrix and the reliability curve, too.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Videos with a page part of their own, a random sample [default: 1000].")
    ] = None,
    pictures: Annotated[
        float, typer.Option(help="Seconds for which videos are decoded for pictures; 0 takes those kept.")
    ] = 35.0,
    profile: opt.Profile = "lite", settings: opt.Settings = None, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Write OUT as one HTML file that opens from disk: overview, table, and a page part for each video.

    It needs no network and asks none. Another run may write to OUT meanwhile.
    """
    from rich.filesize import decimal

    from vemoclap_batch.api import open_store, own_fingerprints
    from vemoclap_batch.config import load_config
    from vemoclap_batch.errors import ConfigError, Mistakes
    from vemoclap_batch.report.html.page import write_report
    from vemoclap_batch.report.html.source import open_source
    from vemoclap_batch.report.progress import tracking
    from vemoclap_batch.store.folder import Folder
    from vemoclap_batch.upkeep.gc import newest_predictions

    mistakes, store, config, source = Mistakes(), None, None, None
    folder, _, name = (file or "").rpartition("/")
    with mistakes.gathered():
        if file is not None and not name.lower().endswith((".html", ".htm")):
            raise ConfigError([f"-o {file!r}: expected the name of an .html file"])
    with mistakes.gathered():
        if not pictures >= 0:
            raise ConfigError([f"--pictures {pictures:g}: expected 0 or more seconds"])
    with mistakes.gathered():
        config = load_config(profile, settings)
    with mistakes.gathered():
        store = open_store(out)
    if store is not None:
        with mistakes.gathered():
            preferred = own_fingerprints(store, profile, settings) if config else {}
            source = open_source(store, newest_predictions(store), labels, limit, preferred)
    mistakes.refuse()
    assert config is not None
    assert source is not None
    cache = Folder(out) / _FOLDER
    target = (Folder(folder or ("/" if file.startswith("/") else ".")), name) if file else (cache, _NAME)
    with tracking("pictures", source.shown.num_rows) as tracker:
        result = write_report(source, *target, cache, config.sources.policy, pictures, tracker.update)
    address = posixpath.join(target[0].address, target[1])
    print_notes(result["notes"])
    print(f"{result['shown']} of {result['videos']} videos, {decimal(result['bytes'])}: {address}")
    print_json({"out": out, "file": address, **result}, as_json)
