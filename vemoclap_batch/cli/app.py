"""The commands. Each parses its arguments, calls the package and says how it went; nothing else."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vemoclap_batch.cli.analysis import mount as mount_analysis
from vemoclap_batch.cli.common import (
    DONE,
    FAILED,
    Address,
    Features,
    Frames,
    HopS,
    Json,
    Model,
    ModelsDir,
    NoWait,
    Out,
    OutArgument,
    Overrides,
    Profile,
    Sources,
    Verbose,
    WindowS,
    chosen_fingerprints,
    configuration,
    default_checkpoint,
    existing_store,
    exit_statuses,
    left_out,
    over_windows,
    preferred_fingerprints,
    window_of,
)
from vemoclap_batch.cli.imports import app as import_app
from vemoclap_batch.cli.imports import manifest_ekman6
from vemoclap_batch.cli.models import models_app
from vemoclap_batch.cli.train import mount as mount_train
from vemoclap_batch.cli.upkeep import mount as mount_upkeep
from vemoclap_batch.config import Config, ConfigError, load_config
from vemoclap_batch.errors import RunEnded

_SHOWN = 40

app = typer.Typer(
    help="Label the emotions of many videos, on one machine or a Ray cluster. Start with: vemoclap-batch demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(import_app, name="import")

app.add_typer(models_app, name="models")
mount_upkeep(app)
mount_analysis(app)
mount_train(app)


@app.command()
def label(
    source: Sources, out: Out, profile: Profile = "lite", frames: Frames = None, model: Model = None,
    overrides: Overrides = None, no_wait: NoWait = False, as_json: Json = False, address: Address = None,
    verbose: Verbose = False, models_dir: ModelsDir = None, window: WindowS = None, hop: HopS = None,
) -> None:  # fmt: skip
    """Extract what is missing, predict the emotion of every video, write all of it to OUT and print a table."""
    from vemoclap_batch.pipeline.run import Classifier

    config = configuration(profile, frames, overrides, models_dir)
    classifier = Classifier.load(model or default_checkpoint(config))
    _run(source, out, config, classifier, no_wait, as_json, address, verbose, window_of(window, hop))


@app.command()
def extract(
    source: Sources, out: Out, profile: Profile = "lite", frames: Frames = None, overrides: Overrides = None,
    no_wait: NoWait = False, as_json: Json = False, address: Address = None, verbose: Verbose = False,
    models_dir: ModelsDir = None, window: WindowS = None, hop: HopS = None,
) -> None:  # fmt: skip
    """Extract the features that are missing and write them to OUT; the first half of label."""
    config = configuration(profile, frames, overrides, models_dir)
    _run(source, out, config, None, no_wait, as_json, address, verbose, window_of(window, hop))


def _run(
    source: Sequence[str], out: str, config: Config, classifier: Any, no_wait: bool, as_json: bool,
    address: str | None, verbose: bool, window: Any,
) -> None:  # fmt: skip
    from vemoclap_batch.pipeline.run import run
    from vemoclap_batch.sources.manifest import read_sources

    manifest = read_sources(source, config.sources.policy)
    if manifest.ignored:
        print(left_out(manifest.ignored), file=sys.stderr)
    with telling_the_end(as_json):
        done = run(
            manifest.rows, out, config, classifier, wait=not no_wait, address=address, verbose=verbose, window=window
        )
    print_run(done, as_json)
    raise typer.Exit(FAILED if done.failed else DONE)


@contextmanager
def telling_the_end(as_json: bool) -> Iterator[None]:
    """Have the counts of a run that ends before it is done printed in the end, as :func:`print_run` does of others."""
    try:
        yield
    except RunEnded as error:
        if error.summary is not None:
            error.last_words = _counts(error.summary, as_json)
        raise


def print_run(done: Any, as_json: bool) -> None:
    """Print the videos of a run, where everything is, and last the counts."""
    from vemoclap_batch.pipeline.pending import features_table
    from vemoclap_batch.report.digest import digest, show
    from vemoclap_batch.report.failures import in_words, latest_failures

    videos = done.work.videos
    tables = {name: features_table(done.store, spec) for name, spec in done.specs.items()}
    predictions = done.predicted.table if done.predicted else None
    labels = [name[2:] for name in predictions.schema.names if name.startswith("p_")] if predictions else []
    rows = digest(videos.slice(0, _SHOWN), predictions, tables, labels)
    show(rows, Console(width=None if sys.stdout.isatty() else 160))
    if videos.num_rows > _SHOWN:
        print(f"… and {videos.num_rows - _SHOWN} more in {done.store.address}/predictions")
    for note in done.notes:
        print(f"note: {note}")
    failures = latest_failures(done.store, done.work.incomplete) if done.failed else []
    for failure in failures[:_SHOWN]:
        print(f"failed: {in_words(failure)}")
    if len(failures) > _SHOWN:
        print(f"failed: and {len(failures) - _SHOWN} more, see {done.store.address}/errors")
    print(f"all tables are in {done.store.address}")
    print(_counts(done.summary() | {"out": done.store.address, "rows": rows}, as_json))


def _counts(summary: Mapping[str, Any], as_json: bool) -> str:
    counts = summary["counts"]
    text = f"{counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed"
    if summary["left"]:
        text += f", {summary['left']} left"
    return f"{text}\n{json.dumps(summary, default=str)}" if as_json else text


@app.command()
def predict(
    out: OutArgument, model: Annotated[str, typer.Option("--model", help="Fusion checkpoint.")],
    features: Features = None, profile: Profile = "lite", overrides: Overrides = None, no_wait: NoWait = False,
    as_json: Json = False, window: WindowS = None, hop: HopS = None,
) -> None:  # fmt: skip
    """Predict every video of OUT that has the model's features; the second half of label."""
    from vemoclap_batch.fusion.predict import predict as run_predict
    from vemoclap_batch.fusion.selection import select
    from vemoclap_batch.pipeline.run import Classifier, fingerprint_notes
    from vemoclap_batch.store.store import new_run_id

    classifier = Classifier.load(model)
    spaces = {name: feature.space for name, feature in classifier.checkpoint.spec.features.items()}
    store = existing_store(out)
    chosen = window_of(window, hop)
    preferred = preferred_fingerprints(store, profile, overrides, chosen)
    selected = select(store, spaces, chosen_fingerprints(features), preferred, chosen)
    run_id = new_run_id()
    with store.writing(run_id, wait=not no_wait):
        videos = store.current_videos()
        done = run_predict(store, videos, classifier.checkpoint, classifier.digest, selected, run_id, window=chosen)
    notes = fingerprint_notes(classifier.checkpoint, selected)
    for note in notes:
        print(f"note: {note}")
    print(f"predictions are in {out}/predictions/{done.fingerprint}")
    print(f"{done.new} done, {done.there} skipped, {done.incomplete} without all features")
    if as_json:
        counts = {"new": done.new, "skipped": done.there, "incomplete": done.incomplete}
        print(json.dumps({"out": out, "table": done.fingerprint, "counts": counts, "notes": notes}))
    raise typer.Exit(FAILED if done.incomplete else DONE)


@app.command()
def plan(
    source: Sources,
    out: Annotated[str | None, typer.Option("-o", "--out", help="Output folder to compare with.")] = None,
    profile: Profile = "lite", frames: Frames = None, overrides: Overrides = None, as_json: Json = False,
    models_dir: ModelsDir = None, window: WindowS = None, hop: HopS = None,
) -> None:  # fmt: skip
    """Dry run: what is missing, which actors would run, how long it may take. Starts nothing."""
    from vemoclap_batch.pipeline.dry_run import dry_run
    from vemoclap_batch.sources.manifest import read_sources

    config = over_windows(configuration(profile, frames, overrides, models_dir), window_of(window, hop))
    result = dry_run(read_sources(source, config.sources.policy).rows, out, config)
    for name, cells in result["cells"].items():
        print(f"{name:<14} {cells['done']:>8} done {cells['missing']:>8} missing {cells['given_up']:>6} given up")
    expected = result["plan"]
    for stage in expected["stages"]:
        size = f"{stage['actors']} actors × {stage['threads']} threads, {stage['gpus']:g} GPU"
        print(f"{stage['name']:<28} {size}, about {stage['seconds']:.0f} s")
    to_do = f"{result['videos_to_do']} of {result['videos']} videos to do"
    time = (
        f"about {expected['expected_seconds']:.0f} s and the start-up, {expected['expected_gpu_hours']:.2f} GPU-hours"
    )
    print(f"{to_do}: {time} ({result['costs_from']})")
    if as_json:
        print(json.dumps(result))


@app.command()
def manifest(
    source: Sources, out: Annotated[str, typer.Option("-o", "--out", help="File to write: .csv, .jsonl or .parquet.")],
    split: Annotated[str | None, typer.Option(help="With ekman6: file of videos and train or test.")] = None,
    blacklist: Annotated[str | None, typer.Option(help="With ekman6: text file of videos to leave out.")] = None,
    seed: Annotated[int | None, typer.Option(help="With ekman6: of the split, without --split [default: 1].")] = None,
) -> None:  # fmt: skip
    """Write a manifest of the videos that the sources name; or, as manifest ekman6 DIR, of Ekman-6 with its labels."""
    from vemoclap_batch.sources.manifest import read_sources, write_manifest

    if source[0] == "ekman6":
        manifest_ekman6(source[1:], out, split, blacklist, seed)
        return
    given = [
        name for name, value in (("--split", split), ("--blacklist", blacklist), ("--seed", seed)) if value is not None
    ]
    if given:
        raise ConfigError([f"{name}: only with manifest ekman6 DIR" for name in given])
    found = read_sources(source, load_config("lite").sources.policy)
    write_manifest(found, out)
    print(f"{found.rows.num_rows} videos written to {out}; {left_out(found.ignored)}")


@app.command()
def demo(
    out: Annotated[str, typer.Option("-o", "--out", help="Folder for the clips and the output.")] = "demo-out",
    as_json: Json = False,
) -> None:
    """Make a few clips from what installed packages carry, label them and show where everything is."""
    from vemoclap_batch.cli.demo_clips import make_clips
    from vemoclap_batch.pipeline.run import Classifier, run
    from vemoclap_batch.sources.manifest import read_sources

    config = load_config("lite")
    clips = make_clips(Path(out) / "clips")
    print(f"{len(clips)} clips are in {out}/clips", file=sys.stderr)
    done = run(
        read_sources([str(Path(out) / "clips")]).rows,
        f"{out}/tables",
        config,
        Classifier.load(default_checkpoint(config)),
    )
    print_run(done, as_json)
    raise typer.Exit(FAILED if done.failed else DONE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: runs a command; wrong usage is reported in full on standard error with exit status 2.

    Args:
        arguments: the command and its arguments; without them, those of the process.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    with exit_statuses():
        app(arguments)
