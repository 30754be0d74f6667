"""Ekman-6 from its folder to a table beside the published one: python jobs/ekman6.py DIR -o OUT [--blacklist FILE].

Makes the manifests, extracts what is missing, trains several seeds on the data set as given and, with a blacklist, on
the cleaned one, scores each on both test sets and writes OUT/ekman6/report.html, .md and .json. What was finished is
kept: the same command goes on after a kill. With --json the last line of standard output is the report. Exit status: 0
done, 1 broke off, 2 wrong usage, 3 done, but some videos failed and are not in it, 4 another run holds OUT.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from vemoclap_batch.cli.common import DONE, FAILED, configuration, exit_statuses, hyper_parameters, numbers
from vemoclap_batch.studies.ekman6_page import HTML
from vemoclap_batch.studies.reproduction import FOLDER, Options, reproduce


def main() -> int:
    """Do it and print the scores; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    arguments = parse(sys.argv[1:])
    with exit_statuses():
        result = do(arguments)
    for found in result["scores"]:
        print(
            f"trained on {found['trained_on']}, scored on {found['scored_on']}: "
            f"accuracy {found['accuracy']:.3f} ± {found['accuracy_deviation']:.3f}, n = {found['n']}"
        )
    about = result["about"]
    print(f"preset {about['preset']}, {len(about['seeds'])} seeds; split: {result['split_source']}")
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"the report is {result['out']}/{FOLDER}/{HTML}")
    if arguments.json:
        print(json.dumps(result), flush=True)
    return FAILED if result["failed"] else DONE


def parse(given: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="a folder per class, or videos with a label file")
    parser.add_argument("-o", "--out", required=True, help="output folder")
    parser.add_argument("--split", help="file of videos and train or test [half of each class, drawn]")
    parser.add_argument("--split-seed", type=int, default=1, help="of the drawn split [%(default)s]")
    parser.add_argument("--blacklist", help="text file of videos that cleaning removes")
    parser.add_argument("--profile", default="paper", help="[%(default)s]")
    parser.add_argument("--models-dir", help="folder of the models")
    parser.add_argument("--frames", type=int, help="frames per video [the profile's, 16]")
    parser.add_argument("--set", action="append", dest="overrides", metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--preset", default="published", help="published or quick [%(default)s]")
    parser.add_argument("--hyper", action="append", metavar="KEY=VALUE", help="change the preset, as in train")
    parser.add_argument("--seeds", default="1,2,3", help="of the trainings [%(default)s]")
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--workers", type=int, default=1, help="processes that train together [%(default)s]")
    parser.add_argument("--no-wait", action="store_true", help="exit with 4 if another run holds OUT")
    parser.add_argument("--address", help="Ray cluster [default: RAY_ADDRESS, else this machine]")
    parser.add_argument("--verbose", action="store_true", help="show the log of Ray too")
    parser.add_argument("--json", action="store_true", help="the last line is the report")
    return parser.parse_args(given)


def do(arguments: argparse.Namespace) -> dict[str, Any]:
    """All of it, by the command line's wishes."""
    config = configuration(arguments.profile, arguments.frames, arguments.overrides, arguments.models_dir)
    options = Options(
        split=arguments.split, blacklist=arguments.blacklist, split_seed=arguments.split_seed, preset=arguments.preset,
        hyper=hyper_parameters(arguments.hyper), seeds=numbers("--seeds", arguments.seeds), d_model=arguments.d_model,
        heads=arguments.heads, dropout=arguments.dropout, workers=arguments.workers,
    )  # fmt: skip
    return reproduce(
        arguments.folder, arguments.out, config, options, wait=not arguments.no_wait, address=arguments.address,
        verbose=arguments.verbose,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
