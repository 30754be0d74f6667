"""``vemoclap-batch export``: what was found, as the files of other tools."""

from __future__ import annotations

from typing import Annotated

import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import keeps_nothing, print_json, print_notes, read_fingerprints

_TO = "csv, jsonl, parquet, hf, webvtt, srt, label-studio, fiftyone, elan or via."


def export(
    out: opt.OutArgument,
    to: Annotated[str, typer.Option("--to", help=_TO)],
    folder: Annotated[str, typer.Option("-o", "--out", help="Folder to write, new or empty.")],
    labels: Annotated[str | None, typer.Option(help="Labels file; its labels go beside the predictions.")] = None,
    min_confidence: Annotated[float | None, typer.Option(help="Only predictions from this on, 0 to 1.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=VALUE,…", help="label=joy,fear · video=NAME or @LIST · content=emotions,speech."),
    ] = None,
    pick: Annotated[str | None, typer.Option(help="Which come first: uncertain, or a list of videos.")] = None,
    limit: Annotated[int | None, typer.Option(help="So many videos at most.")] = None,
    media_url: Annotated[
        list[str] | None, typer.Option(metavar="BEGINNING=URL", help="Where tools find files that begin so.")
    ] = None,
    predictions: Annotated[str | None, typer.Option(help="Which table of predictions [default: the newest].")] = None,
    features: opt.Features = None, profile: opt.Profile = "lite", settings: opt.Settings = None,
    as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Export predictions, and what was heard, read and seen, for spreadsheets, players and tools of annotation."""
    from vemoclap_batch.api import open_store, own_fingerprints
    from vemoclap_batch.errors import Mistakes
    from vemoclap_batch.report.exports.export import target_of, write_export
    from vemoclap_batch.report.exports.request import Asked, Prepared, prepare
    from vemoclap_batch.report.progress import tracking
    from vemoclap_batch.upkeep.gc import newest_predictions

    keeps_nothing()
    store, mistakes, prepared = open_store(out), Mistakes(), None
    chosen: dict[str, str] = {}
    with mistakes.gathered():
        target = target_of(folder)
    with mistakes.gathered():
        chosen = read_fingerprints(features)
    with mistakes.gathered():
        preferred = own_fingerprints(store, profile, settings)
        asked = Asked(
            to, folder, labels, min_confidence, only or (), pick, limit, predictions, chosen, media_url or ()
        )  # fmt: skip
        prepared = prepare(store, asked, newest_predictions(store), preferred)
    mistakes.refuse()
    assert isinstance(prepared, Prepared)
    with tracking("videos", prepared.source.videos.num_rows) as tracker:
        result = write_export(prepared, target, tracker.update)
    print_notes(prepared.notes)
    for why, count in result["left_out"].items():
        print(f"left out: {count} {why}")
    print(", ".join(f"{count} {what}" for what, count in result["counts"].items()) + f" are in {folder}")
    print_json({"out": out, "to": to, "folder": str(target), "notes": prepared.notes, **result}, as_json)
