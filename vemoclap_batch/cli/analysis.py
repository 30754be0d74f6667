"""``vemoclap-batch analyze`` and ``suggest-blacklist``: what a data set looks like, which labels look wrong."""

from __future__ import annotations

from typing import Annotated

import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import print_json, print_notes, read_fingerprints, read_names

_SHOWN = 20


def analyze(
    out: opt.OutArgument, labels: opt.Labels, blacklist: opt.Blacklist = None,
    folder: Annotated[str | None, typer.Option("-o", "--out", help="Folder for analysis.json, .md, pictures.")] = None,
    profile: opt.Profile = "lite", settings: opt.Settings = None, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Say what the labelled videos of OUT are like, by class, and what a blacklist changes. Opens no video."""
    from vemoclap_batch.api import open_store, own_fingerprints
    from vemoclap_batch.report.digest import shorten
    from vemoclap_batch.studies.analysis import analyze as run_analysis
    from vemoclap_batch.studies.analysis_page import as_text, grids, summary, write_analysis

    store = open_store(out)
    result = run_analysis(store, labels, blacklist, own_fingerprints(store, profile, settings))
    for grid in grids(result):
        print(f"{as_text(grid)}\n")
    print_notes(result["notes"])
    unknown = result["blacklist"]["unknown"] if result["blacklist"] else []
    for name in unknown[:_SHOWN]:
        print(f"no labelled video in OUT: {shorten(name, 200)}")
    if len(unknown) > _SHOWN:
        print(f"… and {len(unknown) - _SHOWN} more, which -o and --json name")
    print(summary(result))
    if folder:
        print(f"{', '.join(write_analysis(result, folder))} are in {folder}")
    print_json({"out": out} | result, as_json)


def suggest_blacklist(
    out: opt.OutArgument, labels: opt.Labels,
    file: Annotated[str, typer.Option("-o", "--out", help="The list to write; a .csv and a .json go beside it.")],
    profile: opt.Profile = "lite", settings: opt.Settings = None, features: opt.Features = None, use: opt.Use = None,
    split: Annotated[str, typer.Option(help="Which split's labels are judged; all for every labelled video.")] = "all",
    folds: Annotated[int, typer.Option(help="Classifiers, each trained without its share of the videos.")] = 5,
    d_model: opt.Width = 512, heads: opt.Heads = 4, hyper: opt.Hyper = None,
    seed: Annotated[int, typer.Option(help="Same seed, same list.")] = 1,
    as_json: opt.Json = False,
) -> None:  # fmt: skip
    """List the labelled videos of OUT whose label looks wrong, in the form that --blacklist takes.

    Classifiers (preset quick) judge videos that they were not trained on; confident learning says which labels they
    contradict too clearly. A suggestion is no verdict.
    """
    from vemoclap_batch.api import open_store, own_fingerprints
    from vemoclap_batch.config import load_config, read_key_values
    from vemoclap_batch.report.progress import tracking
    from vemoclap_batch.studies import label_errors as suspects
    from vemoclap_batch.training.fit import training_settings

    store, config = open_store(out), load_config(profile, settings)
    preferred = own_fingerprints(store, profile, settings)
    suspects.files_beside(file)
    options = suspects.Options(
        folds=folds, seed=seed, frames=config.sampling.frames, d_model=d_model, heads=heads, split=split,
        settings=training_settings(suspects.PRESET, read_key_values("--hyper", hyper))[0],
        use_gpu=config.uses_gpu,
    )  # fmt: skip
    with tracking("folds", folds) as tracker:
        result = suspects.suggest_blacklist(
            store, labels, options, chosen=read_fingerprints(features), preferred=preferred,
            names=read_names(use), report=lambda number, _: tracker.update(number + 1),
        )  # fmt: skip
    files = suspects.write_suggestions(result, file)
    for suspect in result["suspects"][:_SHOWN]:
        print(suspects.line_of(suspect))
    if len(result["suspects"]) > _SHOWN:
        print(f"… and {len(result['suspects']) - _SHOWN} more in {file}")
    print_notes(result["notes"])
    agreement = f"the classifiers agree with {100 * result['accuracy']:.0f} % of the labels (preset {result['preset']})"
    print(f"{len(result['suspects'])} of {result['n']} labels look wrong; {agreement}")
    print(f"the list is {file}, every video's probabilities are in {files['csv']}, all of it in {files['json']}")
    brief = {name: value for name, value in result.items() if name != "videos"}
    print_json({"out": out, "files": files, **brief}, as_json)
