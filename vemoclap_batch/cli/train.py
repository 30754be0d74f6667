"""``vemoclap-batch train`` and ``evaluate``: the fusion classifier on features that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import print_json, print_notes, read_fingerprints, read_names, read_numbers

Stream = Annotated[bool | None, typer.Option(help="Read features from disk, not memory [default: from 2 GiB on].")]


def train(
    out: opt.OutArgument, labels: opt.Labels,
    checkpoint: Annotated[str, typer.Option("-o", "--out", help="Where the checkpoint goes.")],
    profile: opt.Profile = "lite", settings: opt.Settings = None, features: opt.Features = None, use: opt.Use = None,
    preset: Annotated[str, typer.Option(help="published (200,000 steps, 1e-5) or quick (2,000, 1e-3).")] = "published",
    hyper: opt.Hyper = None, d_model: opt.Width = 512, heads: opt.Heads = 4, dropout: opt.Dropout = 0.5,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 1,
    seeds: Annotated[str | None, typer.Option(help="Several, as 1,2,3: one checkpoint each in CKPT/seed-N.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that train together, on Ray; 1 does without it.")] = 1,
    stream: Stream = None,
    save_every: Annotated[float, typer.Option(help="Seconds of work that a kill may cost.")] = 30.0,
    address: opt.Address = None, verbose: opt.Verbose = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Train the fusion classifier on the features of OUT and given labels; the split called train is used."""
    from vemoclap_batch import api
    from vemoclap_batch.config import read_key_values
    from vemoclap_batch.store.folder import Folder

    result = api.train(
        out, labels, checkpoint, profile=profile, settings=settings, features=read_fingerprints(features),
        use=read_names(use), preset=preset, hyper=read_key_values("--hyper", hyper), d_model=d_model, heads=heads,
        dropout=dropout, seed=seed, seeds=read_numbers("--seeds", seeds) if seeds else None, workers=workers,
        stream=stream, save_every_s=save_every, address=address, verbose=verbose,
    )  # fmt: skip
    print(f"trained on {result['n_train']} videos; split: {result['split']}")
    print(f"preset {result['preset']}; blacklist: {result['blacklist'] or 'none named'}")
    print(_validation_line(result))
    print(f"the checkpoint{'s are' if seeds else ' is'} in {Folder(checkpoint).address}")
    print_json(result, as_json)


def _validation_line(result: Mapping[str, Any]) -> str:
    if result["accuracy"] is None:
        return "no video was left for validation: the last weights are kept"
    if "seeds" in result:
        spread = f"{result['accuracy']:.3f} ± {result['accuracy_deviation']:.3f} over {len(result['seeds'])} seeds"
        return f"best validation accuracy {spread}"
    return f"best validation accuracy {result['accuracy']:.3f} at step {result['best_step']} of {result['steps']}"


def evaluate(
    out: opt.OutArgument,
    model: Annotated[str, typer.Option("--model", help="Fusion checkpoint, or a folder of one a seed.")],
    labels: opt.Labels,
    folder: Annotated[str | None, typer.Option("-o", "--out", help="Folder for metrics.json and pictures.")] = None,
    split: Annotated[str, typer.Option(help="Which split is scored; all for every labelled video.")] = "test",
    features: opt.Features = None, profile: opt.Profile = "lite", settings: opt.Settings = None, stream: Stream = None,
    as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Score a checkpoint on labelled videos: accuracy, macro F1, per class, confusion matrix, calibration."""
    from vemoclap_batch import api
    from vemoclap_batch.config import MOST_LABELS
    from vemoclap_batch.fusion.evaluation import describe

    result = api.evaluate(
        out, model, labels, folder=folder, split=split, features=read_fingerprints(features), profile=profile,
        settings=settings, stream=stream,
    )  # fmt: skip
    print(describe(result))
    print(f"preset {result['preset'] or 'unknown'}; calibration error {result['calibration_error']:.3f}")
    print(f"split: {result['split']}, from {result['split_source']}; blacklist: {result['blacklist'] or 'none named'}")
    print("features: " + ", ".join(f"{name} {fingerprint}" for name, fingerprint in result["fingerprints"].items()))
    print_notes(result["model_notes"])
    print(f"  {'':<10} precision  recall      f1       n")
    for name, row in result["per_class"].items():
        print(f"  {name:<10} {row['precision']:>9.3f} {row['recall']:>7.3f} {row['f1']:>7.3f} {row['n']:>7}")
    if sets := result.get("prediction_sets"):
        print(
            f"prediction sets: {sets['coverage']:.1%} hold the given label (wanted {sets['wanted_coverage']:.0%}), "
            f"{sets['mean_size']:.2f} labels on average, {sets['unsure']:.0%} of more than {MOST_LABELS}"
        )
    if folder:
        print(f"metrics.json, confusion.png and reliability.png are in {folder}")
    print_json(result, as_json)
