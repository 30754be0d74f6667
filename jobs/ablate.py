"""What the paper leaves open, answered on your features: python jobs/ablate.py OUT --labels FILE --study all.

Trains and scores the fusion with fewer frames, with fewer modalities and with other fusions, and measures what each
costs; OUT/ablation/<study> gets table.parquet, table.md, accuracy.png and cost.png. Trials that ended are kept: the
same command goes on after a kill. With --json the last line of standard output holds all tables. Exit status: 0 done,
1 a trial broke off, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from vemoclap_batch.api import open_store
from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import print_json, program, read_fingerprints, read_names, read_numbers, run_program
from vemoclap_batch.config import load_config, read_key_values
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.studies.ablation import STUDIES, Options
from vemoclap_batch.studies.ablation import ablate as run_ablation
from vemoclap_batch.studies.ablation_tables import MARKDOWN

app = program(__doc__)


@app.command(help=__doc__)
def ablate(
    out: opt.OutArgument, labels: opt.Labels,
    study: Annotated[str, typer.Option(help=f"One of {', '.join(STUDIES)}, or all.")] = "all",
    preset: Annotated[str, typer.Option(help="published or quick.")] = "quick",
    seeds: Annotated[str, typer.Option(help="Each trains every line once.")] = "1,2,3",
    n: Annotated[str | None, typer.Option(help="Numbers of frames [default: up to 32, as far as extracted].")] = None,
    split: Annotated[str, typer.Option(help="Which split is scored.")] = "test",
    use: opt.Use = None, features: opt.Features = None, profile: opt.Profile = "lite", settings: opt.Settings = None,
    hyper: opt.Hyper = None, d_model: opt.Width = 512, heads: opt.Heads = 4, dropout: opt.Dropout = 0.5,
    address: opt.Address = None, verbose: opt.Verbose = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Run the studies and print their tables."""
    if study not in {*STUDIES, "all"}:
        raise ConfigError([f"--study {study!r}: expected one of {', '.join(STUDIES)}, or all"])
    options = Options(
        preset=preset, hyper=read_key_values("--hyper", hyper), seeds=read_numbers("--seeds", seeds),
        numbers=read_numbers("--n", n) if n else None, split=split, chosen=read_fingerprints(features),
        names=read_names(use), d_model=d_model, heads=heads, dropout=dropout,
    )  # fmt: skip
    studies = STUDIES if study == "all" else [study]
    config = load_config(profile, settings)
    result = run_ablation(open_store(out), labels, studies, config, options, address=address, verbose=verbose)
    for name, rows in result["studies"].items():
        print(f"{name}: {result['out']}/ablation/{name}/{MARKDOWN}")
        for row in rows:
            print(f"  {row['name']:<28} accuracy {row['accuracy']:.3f} ± {row['accuracy_deviation']:.3f}")
    print(f"preset {result['about']['preset']}; trials: {result['trials']['run']} run, {result['trials']['kept']} kept")
    print_json(result, as_json)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program."""
    run_program(app, arguments)


if __name__ == "__main__":
    main()
