"""What the paper leaves open, answered on your features: python jobs/ablate.py OUT --labels FILE --study all.

Trains and scores the fusion with fewer frames, with fewer modalities and with other fusions, and measures what each
costs; OUT/ablation/<study> gets table.parquet, table.md, accuracy.png and cost.png. Trials that ended are kept: the
same command goes on after a kill. With --json the last line of standard output holds all tables. Exit status: 0 done,
1 a trial broke off, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from vemoclap_batch.cli.common import chosen_fingerprints, existing_store, exit_statuses, hyper_parameters, numbers
from vemoclap_batch.config import load_config
from vemoclap_batch.studies.ablation import STUDIES, Options, ablate
from vemoclap_batch.studies.ablation_tables import MARKDOWN


def main() -> None:
    """Run the studies and print their tables; the exit status tells what went wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    arguments = parse(sys.argv[1:])
    with exit_statuses():
        found = study(arguments)
    for name, rows in found["studies"].items():
        print(f"{name}: {found['out']}/ablation/{name}/{MARKDOWN}")
        for row in rows:
            print(f"  {row['name']:<28} accuracy {row['accuracy']:.3f} ± {row['accuracy_deviation']:.3f}")
    print(f"preset {found['about']['preset']}; trials: {found['trials']['run']} run, {found['trials']['kept']} kept")
    if arguments.json:
        print(json.dumps(found), flush=True)


def parse(given: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", help="output folder of label or extract")
    parser.add_argument("--labels", required=True, help="file with video_id or uri, label and, if you like, split")
    parser.add_argument("--study", choices=[*STUDIES, "all"], default="all")
    parser.add_argument("--preset", default="quick", help="published or quick [%(default)s]")
    parser.add_argument("--seeds", default="1,2,3", help="each trains every line once [%(default)s]")
    parser.add_argument("--n", help="numbers of frames [1,2,4,8,16,32, as far as extracted]")
    parser.add_argument("--split", default="test", help="which split is scored [%(default)s]")
    parser.add_argument("--use", help="features, comma-separated [all of the profile]")
    parser.add_argument("--features", action="append", metavar="NAME=FINGERPRINT", help="which features table to use")
    parser.add_argument("--profile", default="lite")
    parser.add_argument("--set", action="append", dest="overrides", metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--hyper", action="append", metavar="KEY=VALUE", help="change the preset, as in train")
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--address", help="Ray cluster [default: RAY_ADDRESS, else this machine]")
    parser.add_argument("--verbose", action="store_true", help="show the log of Ray too")
    parser.add_argument("--json", action="store_true", help="the last line holds all tables")
    return parser.parse_args(given)


def study(arguments: argparse.Namespace) -> dict[str, Any]:
    """The studies, by the command line's wishes."""
    options = Options(
        preset=arguments.preset, hyper=hyper_parameters(arguments.hyper), seeds=numbers("--seeds", arguments.seeds),
        numbers=numbers("--n", arguments.n) if arguments.n else None, split=arguments.split,
        chosen=chosen_fingerprints(arguments.features), names=arguments.use.split(",") if arguments.use else None,
        d_model=arguments.d_model, heads=arguments.heads, dropout=arguments.dropout,
    )  # fmt: skip
    return ablate(
        existing_store(arguments.out), arguments.labels, STUDIES if arguments.study == "all" else [arguments.study],
        load_config(arguments.profile, arguments.overrides or []), options, address=arguments.address,
        verbose=arguments.verbose,
    )  # fmt: skip


if __name__ == "__main__":
    main()
