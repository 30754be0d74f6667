"""``vemoclap-batch import …`` and ``manifest ekman6 …``: the authors' files and data set, labels of other tools."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import keeps_nothing, print_json, print_notes, program
from vemoclap_batch.errors import ConfigError

app = program("Import the authors' files, no code in which is run, and labels from other tools.", no_args_is_help=True)


@app.command()
def features(
    file: Annotated[str, typer.Argument(metavar="FILE.pkl", help="The authors' feature file.")],
    out: Annotated[str, typer.Option("-o", "--out", help="Output folder, as of extract.")],
    no_wait: opt.NoWait = False,
    as_json: opt.Json = False,
) -> None:
    """Write the features of a pickle to OUT as if extract had made them, and its labels to OUT/labels.parquet."""
    from vemoclap_batch.fusion.import_features import LABELS_FILE, import_features, read_samples
    from vemoclap_batch.report.progress import tracking
    from vemoclap_batch.store.store import Store, new_run_id

    samples = read_samples(file)
    run_id = new_run_id()
    store = Store(out)
    with store.writing(run_id, wait=not no_wait), tracking("videos", len(samples.ids)) as tracker:
        done = import_features(store, samples, Path(file).name, run_id, tracker.update)
    print_notes(done.notes)
    for name, count in done.present.items():
        print(f"{name:<14} {count:>7} of {done.videos} videos have it; space {done.spaces[name]}")
    print(f"the features are in {out}, fingerprint {done.fingerprint}")
    if done.labelled:
        print(f"labels of {done.labelled} videos are in {out}/{LABELS_FILE}")
    print(f"{done.new} done, {done.videos - done.new} skipped")
    print_json({"out": out, **asdict(done)}, as_json)


@app.command()
def checkpoint(
    model: Annotated[str, typer.Argument(metavar="MODEL.pt", help="The authors' weights, a plain state_dict.")],
    out: Annotated[str, typer.Option("-o", "--out", help="Where the checkpoint goes.")],
    config: Annotated[str | None, typer.Option(help="Their model_config.pt.")] = None,
    stats: Annotated[str | None, typer.Option(help="Their stats.pt [default: the released normalisation].")] = None,
    heads: opt.Heads = 4,
    as_json: opt.Json = False,
) -> None:
    """Make a checkpoint of the authors' weights, for predict, label and evaluate."""
    from vemoclap_batch.fusion.published import read_checkpoint

    made = read_checkpoint(model, config, stats, heads)
    made.checkpoint.save(out)
    for warning in made.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print_notes(made.notes)
    spec = made.checkpoint.spec
    for name, feature in spec.features.items():
        size = f"{feature.length} × {feature.width}"
        print(f"{name:<14} {size:>9}  {feature.minimum:>12.6f} … {feature.maximum:<12.6f} space {feature.space}")
    print(f"the checkpoint is in {out}: {spec.d_model} wide, {spec.heads} heads, labels {', '.join(spec.labels)}")
    description = {"checkpoint": out, "warnings": made.warnings, "notes": made.notes}
    print_json(description | {"spec": spec.model_dump(mode="json")}, as_json)


@app.command()
def labels(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What the tool exported; of ELAN a folder too.")],
    tool: Annotated[str, typer.Option("--from", help="label-studio, csv or elan.")],
    out: Annotated[str, typer.Option("-o", "--out", help="Labels file to write: .parquet, .csv or .jsonl.")],
    of: Annotated[str | None, typer.Option(help="Output folder whose videos these are; others are refused.")] = None,
    as_json: opt.Json = False,
) -> None:
    """Make a labels file, for train and evaluate, of what people labelled or corrected in another tool."""
    from vemoclap_batch.api import open_store
    from vemoclap_batch.errors import Mistakes
    from vemoclap_batch.sources import corrections

    keeps_nothing()
    mistakes, known, done = Mistakes(), None, None
    with mistakes.gathered():
        corrections.check_suffix(out)
    with mistakes.gathered():
        known = corrections.known_videos(open_store(of).current_videos()) if of else None
    with mistakes.gathered():
        done = corrections.read_corrections(file, tool, known)
    mistakes.refuse()
    assert done is not None
    corrections.write_labels(done, out)
    counts = Counter(label for label in done.rows["label"].to_pylist() if label)
    for label, count in sorted(counts.items()):
        print(f"  {label:<10} {count:>6}")
    print_notes(corrections.describe(done))
    alpha = "undefined" if done.alpha is None else f"{done.alpha:.3f}"
    print(f"{done.annotators} annotators; Krippendorff's alpha {alpha}")
    print(f"labels of {counts.total()} videos are in {out}")
    result = {"file": file, "from": tool, "out": out, "labels": dict(counts), "annotators": done.annotators}
    print_json(result | {"alpha": done.alpha, "ties": done.ties, "without_label": done.without_label}, as_json)


def manifest_ekman6(
    folders: Sequence[str], out: str, split: str | None, blacklist: str | None, seed: int | None
) -> None:
    """Write the manifest of Ekman-6 and say what is in it; the body of ``manifest ekman6 DIR``."""
    from vemoclap_batch.sources.ekman6 import read_ekman6
    from vemoclap_batch.sources.manifest import write_manifest

    if len(folders) != 1:
        raise ConfigError([f"manifest ekman6: expected one folder, found {len(folders)} (one of that name: ./ekman6)"])
    ekman6 = read_ekman6(folders[0], split, blacklist, 1 if seed is None else seed)
    write_manifest(ekman6.manifest, out)
    for label, counts in ekman6.counts().items():
        print(f"  {label:<10} " + ", ".join(f"{count:>4} {name}" for name, count in sorted(counts.items())))
    print_notes(ekman6.notes)
    print(f"{ekman6.manifest.rows.num_rows} videos written to {out}; split: {ekman6.split_source}")
