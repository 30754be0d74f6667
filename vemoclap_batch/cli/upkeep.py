"""The commands that look after an output folder: status, retry, compact, gc."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import DONE, counts_of_ended_run, print_json, show_run

if TYPE_CHECKING:
    from vemoclap_batch.config import Config
    from vemoclap_batch.pipeline.run import Classifier
    from vemoclap_batch.store.store import Store

Model = Annotated[str | None, typer.Option("--model", help="Fusion checkpoint to predict with.")]
Stage = Annotated[str | None, typer.Option(help="Only failures of decode, of extract or of one extractor.")]
Type = Annotated[str | None, typer.Option("--type", help="Only failures of this error type, such as timeout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]


def status(
    out: opt.OutArgument, profile: opt.Profile = "lite", settings: opt.Settings = None, as_json: opt.Json = False,
    models_dir: opt.ModelsDir = None, frames: opt.Frames = None, window: opt.WindowS = None, hop: opt.HopS = None,
) -> None:  # fmt: skip
    """Say what is done, missing and failed in OUT, for each extractor of the profile. Loads no model.

    What runs with --frames, --window or --hop did is found with the same options.
    """
    from vemoclap_batch.api import open_store
    from vemoclap_batch.request import run_config
    from vemoclap_batch.upkeep.status import status as read_status

    result = read_status(open_store(out), run_config(profile, settings, frames, models_dir, window, hop))
    print(f"{result['videos']} videos in {out}")
    for name, cells in result["extractors"].items():
        given_up = f" ({cells['given_up']} given up)" if cells["given_up"] else ""
        counts = f"{cells['done']:>8} done {cells['missing']:>8} missing {cells['failed']:>6} failed{given_up}"
        print(f"{name:<14} {counts}  {cells['fingerprint']}")
    for name in result["without_weights"]:
        print(f"{name:<14} not known: its weights are not on this machine")
    for failure in result["failures"]:
        where = failure["extractor"] or failure["stage"]
        print(f"failed: {failure['count']:>6} {where}: {failure['error_type']}")
    for table in result["tables"]:
        older = table["table"].startswith("features") and not table["current"]
        size = decimal(table["bytes"]) + ("  (not of these settings)" if older else "")
        print(f"{table['table']:<40} {table['rows']:>9} rows {table['shards']:>6} shards {size:>10}")
    for run in result["runs"]["latest"]:
        print(f"run {run['run_id']} {run['command']}: {json.dumps(run['counts'])} in {run['wall_s']} s")
    print(f"{result['runs']['count']} runs, {result['shards']} shards, {decimal(result['bytes'])}")
    print_json({"out": out} | result, as_json)


def retry(
    out: opt.OutArgument, stage: Stage = None, error_type: Type = None, profile: opt.Profile = "lite",
    model: Model = None, settings: opt.Settings = None, no_wait: opt.NoWait = False, as_json: opt.Json = False,
    address: opt.Address = None, verbose: opt.Verbose = False, models_dir: opt.ModelsDir = None,
    frames: opt.Frames = None, window: opt.WindowS = None, hop: opt.HopS = None,
) -> None:  # fmt: skip
    """Run what has failed in OUT again, whatever the failure and however often it was tried.

    Profile, settings, frames and windows are those of the runs that failed; a file that was replaced since is done as
    what it is now. The videos get whatever else they lack, too, and emotions if --model is given or if OUT's newest
    predictions are those of the profile's own checkpoint.
    """
    from vemoclap_batch.api import open_store, run_summary
    from vemoclap_batch.pipeline.run import run
    from vemoclap_batch.request import run_config, window_of
    from vemoclap_batch.store.store import new_run_id
    from vemoclap_batch.upkeep.status import failed_again

    store, config = open_store(out), run_config(profile, settings, frames, models_dir)
    windowed = run_config(profile, settings, frames, models_dir, window, hop)
    # Under the lock, which converts tables of version 0.1 first.
    with store.writing(new_run_id(), wait=not no_wait):
        again = failed_again(store, windowed, stage, error_type)
    if not again.cells:
        print("nothing to try again: 0 failures" + (" of this kind" if stage or error_type else ""))
        counts = {"videos": 0, "done": 0, "skipped": 0, "failed": 0}
        print_json({"out": out, "again": 0, "counts": counts}, as_json)
        raise typer.Exit(DONE)
    print(f"{len(again.cells)} failures of {again.videos.num_rows} videos are tried again")
    with counts_of_ended_run(as_json):
        done = run(
            again.videos, out, config, _classifier(store, config, model), wait=not no_wait, address=address,
            verbose=verbose, window=window_of(window, hop), again=again.cells,
        )  # fmt: skip
    show_run(run_summary(done), as_json)


def compact(out: opt.OutArgument, no_wait: opt.NoWait = False, as_json: opt.Json = False) -> None:
    """Merge the many small shards of each table of OUT into few large ones. Safe to kill at any moment."""
    from vemoclap_batch.api import open_store
    from vemoclap_batch.store.store import new_run_id

    store = open_store(out)
    with store.writing(new_run_id(), wait=not no_wait):
        tables = store.compact()
    for table in tables:
        sizes = f"{decimal(table.bytes_before)} → {decimal(table.bytes_after)}"
        print(
            f"{table.table:<40} {table.shards_before:>6} → {table.shards_after:>4} shards {table.rows:>9} rows {sizes}"
        )
    before, after = sum(t.shards_before for t in tables), sum(t.shards_after for t in tables)
    print(f"{before} shards became {after}")
    counts = {"shards_before": before, "shards_after": after}
    print_json({"out": out, **counts, "tables": [asdict(table) for table in tables]}, as_json)


def gc(
    out: opt.OutArgument, dry_run: DryRun = False, profile: opt.Profile = "lite", settings: opt.Settings = None,
    no_wait: opt.NoWait = False, as_json: opt.Json = False, models_dir: opt.ModelsDir = None,
    frames: opt.Frames = None, window: opt.WindowS = None, hop: opt.HopS = None,
    uncovered: Annotated[bool, typer.Option("--uncovered", help="Remove the only features of a video, too.")] = False,
) -> None:  # fmt: skip
    """Remove features of older settings and predictions but the newest from OUT.

    What the profile's current settings name, what the newest predictions were made from and imported features stay;
    so do features that the current settings have not yet for each of their videos, unless --uncovered is given.
    Whole videos and each kind of window have newest predictions of their own. With --window, the features that such
    windows need stay as well as those of whole videos.
    """
    from vemoclap_batch.api import open_store
    from vemoclap_batch.request import run_config
    from vemoclap_batch.store.store import new_run_id
    from vemoclap_batch.upkeep.gc import collect, find_garbage

    store, configs = open_store(out), [run_config(profile, settings, frames, models_dir)]
    if window:
        configs.append(run_config(profile, settings, frames, models_dir, window, hop))
    if dry_run:
        found = find_garbage(store, configs, uncovered)
    else:
        with store.writing(new_run_id(), wait=not no_wait):
            found = find_garbage(store, configs, uncovered)
            collect(store, found)
    for table in found.tables:
        size = table.size
        print(f"{size.table:<40} {size.rows:>9} rows {size.shards:>6} shards {decimal(size.bytes):>10}  {table.why}")
    for older, videos in found.kept.items():
        print(f"{older:<40} stays: {videos} of its videos have no current features; see --uncovered")
    total = found.as_dict()
    if found.leftovers:
        print(f"{len(found.leftovers)} files that killed processes left, {decimal(found.leftover_bytes)}")
    what = f"{len(found.tables)} tables, {total['rows']} rows, {decimal(total['bytes'])}"
    print(f"{what} would be removed" if dry_run else f"{what} removed")
    print_json({"out": out, "dry_run": dry_run} | total, as_json)


def upgrade(out: opt.OutArgument, no_wait: opt.NoWait = False, as_json: opt.Json = False) -> None:
    """Make Delta tables of those that version 0.1 wrote to OUT. Safe to kill at any moment and to repeat."""
    from vemoclap_batch.api import open_store
    from vemoclap_batch.store.store import new_run_id

    store = open_store(out)
    with store.writing(new_run_id(), wait=not no_wait):
        print(f"{store.upgraded} tables were converted")
    print_json({"out": out, "converted": store.upgraded}, as_json)


def _classifier(store: Store, config: Config, model: str | None) -> Classifier | None:
    """Load the model that predicts after a retry: the one given, or the profile's if OUT was predicted by it."""
    from vemoclap_batch.request import load_classifier
    from vemoclap_batch.upkeep.gc import newest_model

    if model is None and config.checkpoint is None:
        return None
    classifier = load_classifier(config, model)
    return classifier if model is not None or newest_model(store) == classifier.digest else None
