"""``vemoclap-batch train`` and ``evaluate``: the fusion classifier on features that are there."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vemoclap_batch.cli.common import (
    Features,
    Json,
    Labels,
    OutArgument,
    Overrides,
    Profile,
    chosen_fingerprints,
    existing_store,
    hyper_parameters,
    numbers,
    preferred_fingerprints,
)
from vemoclap_batch.config import load_config

Stream = Annotated[
    bool | None,
    typer.Option("--stream/--no-stream", help="Read features from disk, not memory [default: from 2 GiB on]."),
]


def train(
    out: OutArgument, labels: Labels,
    checkpoint: Annotated[str, typer.Option("-o", "--out", help="Where the checkpoint goes.")],
    profile: Profile = "lite", overrides: Overrides = None, features: Features = None,
    use: Annotated[str | None, typer.Option(help="Features to train on, comma-separated [default: all].")] = None,
    preset: Annotated[str, typer.Option(help="published (200,000 steps, 1e-5) or quick (2,000, 1e-3).")] = "published",
    hyper: Annotated[
        list[str] | None,
        typer.Option(
            "--hyper", metavar="KEY=VALUE",
            help="Change the preset: lr, batch, max_steps, evaluate_every, patience, clip_gradients, class_weights, "
            "label_smoothing, modality_dropout, weight_decay, amp.",
        ),
    ] = None,
    d_model: Annotated[int, typer.Option(help="Width of the classifier.")] = 512,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 4,
    dropout: Annotated[float, typer.Option(help="Dropout of the classifier.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 1,
    seeds: Annotated[
        str | None, typer.Option(help="Several, comma-separated: one checkpoint each in CKPT/seed-N.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that train together, on Ray; 1 does without it.")] = 1,
    stream: Stream = None,
    save_every: Annotated[float, typer.Option(help="Seconds of work that a kill may cost.")] = 30.0,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster, for more workers [default: RAY_ADDRESS, else this machine].")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log of Ray too.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Train the fusion classifier on the features of OUT and given labels; the split called train is used."""
    from vemoclap_batch.store.folder import Folder
    from vemoclap_batch.training.fit import fit

    config = load_config(profile, overrides or [])
    result = fit(
        existing_store(out), labels, checkpoint, config, preset=preset, chosen=chosen_fingerprints(features),
        names=use.split(",") if use else None, d_model=d_model, heads=heads, dropout=dropout, seed=seed,
        seeds=numbers("--seeds", seeds) if seeds else None, hyper=hyper_parameters(hyper), workers=workers,
        stream=stream, save_every_s=save_every, address=address, verbose=verbose,
    )  # fmt: skip
    print(f"trained on {result['n_train']} videos; split: {result['split']}")
    print(f"preset {result['preset']}; blacklist: {result['blacklist'] or 'none named'}")
    print(_validation_line(result))
    print(f"the checkpoint{'s are' if seeds else ' is'} in {Folder(checkpoint).address}")
    if as_json:
        print(json.dumps(result))


def _validation_line(result: dict[str, Any]) -> str:
    if result["accuracy"] is None:
        return "no video was left for validation: the last weights are kept"
    if "seeds" in result:
        spread = f"{result['accuracy']:.3f} ± {result['accuracy_deviation']:.3f} over {len(result['seeds'])} seeds"
        return f"best validation accuracy {spread}"
    return f"best validation accuracy {result['accuracy']:.3f} at step {result['best_step']} of {result['steps']}"


def evaluate(
    out: OutArgument,
    model: Annotated[str, typer.Option("--model", help="Fusion checkpoint, or a folder of one a seed.")],
    labels: Labels,
    folder: Annotated[
        str | None, typer.Option("-o", "--out", help="Where metrics.json, confusion.png and reliability.png go.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which split is scored; all for every labelled video.")] = "test",
    features: Features = None, profile: Profile = "lite", overrides: Overrides = None, stream: Stream = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Score a checkpoint on labelled videos: accuracy, macro F1, per class, confusion matrix, calibration."""
    from vemoclap_batch.fusion.evaluation import describe
    from vemoclap_batch.fusion.scoring import score

    store = existing_store(out)
    preferred = preferred_fingerprints(store, profile, overrides)
    result = score(
        store,
        model,
        labels,
        split=split,
        chosen=chosen_fingerprints(features),
        preferred=preferred,
        folder=folder,
        stream=stream,
    )
    print(describe(result))
    print(f"preset {result['preset'] or 'unknown'}; calibration error {result['calibration_error']:.3f}")
    print(f"split: {result['split']}, from {result['split_source']}; blacklist: {result['blacklist'] or 'none named'}")
    print("features: " + ", ".join(f"{name} {fingerprint}" for name, fingerprint in result["fingerprints"].items()))
    for note in result["model_notes"]:
        print(f"note: {note}")
    print(f"  {'':<10} precision  recall      f1       n")
    for name, row in result["per_class"].items():
        print(f"  {name:<10} {row['precision']:>9.3f} {row['recall']:>7.3f} {row['f1']:>7.3f} {row['n']:>7}")
    if folder:
        print(f"metrics.json, confusion.png and reliability.png are in {folder}")
    if as_json:
        print(json.dumps(result))


def mount(app: typer.Typer) -> None:
    """Add the commands to the program's."""
    for command in (train, evaluate):
        app.command()(command)
