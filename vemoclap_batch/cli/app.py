"""The program ``vemoclap-batch``. A command parses its arguments, calls the package and prints how it went."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from vemoclap_batch.cli import analysis, explain, export, imports, models, plan, report, search, serve, train, upkeep
from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import (
    DONE,
    FAILED,
    counts_of_ended_run,
    print_json,
    print_notes,
    program,
    read_fingerprints,
    run_program,
    show_run,
)
from vemoclap_batch.errors import ConfigError

app = program(
    "Label the emotions of many videos, on one machine or a Ray cluster. Start with: vemoclap-batch demo",
    no_args_is_help=True,
)


@app.command()
def label(
    source: opt.Sources, out: opt.Out, profile: opt.Profile = "lite", frames: opt.Frames = None,
    model: opt.Model = None, settings: opt.Settings = None, no_wait: opt.NoWait = False, as_json: opt.Json = False,
    address: opt.Address = None, verbose: opt.Verbose = False, models_dir: opt.ModelsDir = None,
    window: opt.WindowS = None, hop: opt.HopS = None,
) -> None:  # fmt: skip
    """Extract what is missing, predict the emotion of every video, write all of it to OUT and print a table."""
    from vemoclap_batch import api

    with counts_of_ended_run(as_json):
        summary = api.label(
            source, out, model=model, profile=profile, settings=settings, frames=frames, window=window, hop=hop,
            models_dir=models_dir, wait=not no_wait, address=address, verbose=verbose,
        )  # fmt: skip
    show_run(summary, as_json)


@app.command()
def extract(
    source: opt.Sources, out: opt.Out, profile: opt.Profile = "lite", frames: opt.Frames = None,
    settings: opt.Settings = None, no_wait: opt.NoWait = False, as_json: opt.Json = False, address: opt.Address = None,
    verbose: opt.Verbose = False, models_dir: opt.ModelsDir = None, window: opt.WindowS = None, hop: opt.HopS = None,
) -> None:  # fmt: skip
    """Extract the features that are missing and write them to OUT; the first half of label."""
    from vemoclap_batch import api

    with counts_of_ended_run(as_json):
        summary = api.extract(
            source, out, profile=profile, settings=settings, frames=frames, window=window, hop=hop,
            models_dir=models_dir, wait=not no_wait, address=address, verbose=verbose,
        )  # fmt: skip
    show_run(summary, as_json)


@app.command()
def predict(
    out: opt.OutArgument, model: Annotated[str, typer.Option("--model", help="Fusion checkpoint.")],
    features: opt.Features = None, profile: opt.Profile = "lite", settings: opt.Settings = None,
    no_wait: opt.NoWait = False, as_json: opt.Json = False, window: opt.WindowS = None, hop: opt.HopS = None,
) -> None:  # fmt: skip
    """Predict every video of OUT that has the model's features; the second half of label."""
    from vemoclap_batch import api

    result = api.predict(
        out, model, features=read_fingerprints(features), profile=profile, settings=settings, window=window,
        hop=hop, wait=not no_wait,
    )  # fmt: skip
    counts = result["counts"]
    print_notes(result["notes"])
    print(f"predictions are in {out}/predictions/{result['table']}")
    print(f"{counts['new']} done, {counts['skipped']} skipped, {counts['incomplete']} without all features")
    print_json(result, as_json)
    raise typer.Exit(FAILED if counts["incomplete"] else DONE)


@app.command()
def manifest(
    source: opt.Sources,
    out: Annotated[str, typer.Option("-o", "--out", help="File to write: .csv, .jsonl or .parquet.")],
    split: Annotated[str | None, typer.Option(help="With ekman6: file of videos and train or test.")] = None,
    blacklist: Annotated[str | None, typer.Option(help="With ekman6: text file of videos to leave out.")] = None,
    seed: Annotated[int | None, typer.Option(help="With ekman6: of the split, without --split [default: 1].")] = None,
) -> None:  # fmt: skip
    """Write a manifest of the videos that the sources name; or, as manifest ekman6 DIR, of Ekman-6 with its labels."""
    from vemoclap_batch.config import load_config
    from vemoclap_batch.report.failures import describe_ignored
    from vemoclap_batch.sources.manifest import read_sources, write_manifest

    if source[0] == "ekman6":
        imports.manifest_ekman6(source[1:], out, split, blacklist, seed)
        return
    ekman6_only = {"--split": split, "--blacklist": blacklist, "--seed": seed}
    if given := [name for name, value in ekman6_only.items() if value is not None]:
        raise ConfigError([f"{name}: only with manifest ekman6 DIR" for name in given])
    videos = read_sources(source, load_config("lite").sources.policy)
    write_manifest(videos, out)
    print(f"{videos.rows.num_rows} videos written to {out}; {describe_ignored(videos.ignored)}")


@app.command()
def demo(
    out: Annotated[str, typer.Option("-o", "--out", help="Folder for the clips and the output.")] = "demo-out",
    as_json: opt.Json = False,
) -> None:
    """Make a few clips from what installed packages carry, label them and show where everything is."""
    from vemoclap_batch import api
    from vemoclap_batch.sources.demo_clips import make_clips

    folder = Path(out)
    clips = make_clips(folder / "clips")
    print(f"{len(clips)} clips are in {folder / 'clips'}", file=sys.stderr)
    show_run(api.label(folder / "clips", folder / "tables"), as_json)


app.command()(plan.plan)
app.command()(serve.serve)
app.command()(train.train)
app.command()(train.evaluate)
app.command()(analysis.analyze)
app.command()(analysis.suggest_blacklist)
app.command()(export.export)
app.command()(report.report)
app.command()(search.search)
app.command()(explain.explain)
app.command()(upkeep.status)
app.command()(upkeep.retry)
app.command()(upkeep.compact)
app.command()(upkeep.gc)
app.command()(upkeep.upgrade)
app.add_typer(models.app, name="models")
app.add_typer(imports.app, name="import")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process with its exit status.

    Args:
        arguments: the command and its arguments; without them, those of the process.
    """
    run_program(app, arguments)
