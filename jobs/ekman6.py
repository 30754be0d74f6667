"""Ekman-6 from its folder to a table beside the published one: python jobs/ekman6.py DIR -o OUT [--blacklist FILE].

Makes the manifests, extracts what is missing, trains several seeds on the data set as given and, with a blacklist, on
the cleaned one, scores each on both test sets and writes OUT/ekman6/report.html, .md and .json. What was finished is
kept: the same command goes on after a kill. With --json the last line of standard output is the report. Exit status: 0
done, 1 broke off, 2 wrong usage, 3 done, but some videos failed and are not in it, 4 another run holds OUT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import DONE, FAILED, print_json, print_notes, program, read_numbers, run_program
from vemoclap_batch.config import load_config, read_key_values
from vemoclap_batch.studies.ekman6_page import HTML
from vemoclap_batch.studies.reproduction import FOLDER, Options, reproduce

app = program(__doc__)


@app.command(help=__doc__)
def ekman6(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder per class, or videos with a label file.")],
    out: opt.Out,
    split: Annotated[
        str | None, typer.Option(help="File of videos and train or test [default: half of each class, drawn].")
    ] = None,
    split_seed: Annotated[int, typer.Option(help="Of the drawn split.")] = 1,
    blacklist: opt.Blacklist = None, profile: opt.Profile = "paper", models_dir: opt.ModelsDir = None,
    frames: opt.Frames = None, settings: opt.Settings = None,
    preset: Annotated[str, typer.Option(help="published or quick.")] = "published",
    hyper: opt.Hyper = None,
    seeds: Annotated[str, typer.Option(help="Of the trainings.")] = "1,2,3",
    d_model: opt.Width = 512, heads: opt.Heads = 4, dropout: opt.Dropout = 0.5,
    workers: Annotated[int, typer.Option(help="Processes that train together.")] = 1,
    no_wait: opt.NoWait = False, address: opt.Address = None, verbose: opt.Verbose = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Reproduce the published table and print the scores."""
    config = load_config(profile, settings, frames=frames, models_dir=models_dir)
    options = Options(
        split=split, blacklist=blacklist, split_seed=split_seed, preset=preset,
        hyper=read_key_values("--hyper", hyper), seeds=read_numbers("--seeds", seeds), d_model=d_model,
        heads=heads, dropout=dropout, workers=workers,
    )  # fmt: skip
    result = reproduce(folder, out, config, options, wait=not no_wait, address=address, verbose=verbose)
    for scores in result["scores"]:
        print(
            f"trained on {scores['trained_on']}, scored on {scores['scored_on']}: "
            f"accuracy {scores['accuracy']:.3f} ± {scores['accuracy_deviation']:.3f}, n = {scores['n']}"
        )
    about = result["about"]
    print(f"preset {about['preset']}, {len(about['seeds'])} seeds; split: {result['split_source']}")
    print_notes(result["notes"])
    print(f"the report is {result['out']}/{FOLDER}/{HTML}")
    print_json(result, as_json)
    raise typer.Exit(FAILED if result["failed"] else DONE)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program."""
    run_program(app, arguments)


if __name__ == "__main__":
    main()
