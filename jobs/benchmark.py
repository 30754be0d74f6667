"""Every figure that the README states: python jobs/benchmark.py BENCHMARK [--quick] [--json].

Each makes what it measures with on the spot and prints a table; --json adds the same as an object on the last line.
What is compared was measured in one run on one machine. Leave the machine alone meanwhile: the load it had is in the
report.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.report import Report
from vemoclap_batch.config import ConfigError


def main(given: Sequence[str] | None = None) -> int:
    """Run one benchmark; the exit status is 2 for settings that cannot be."""
    arguments = parse(given)
    try:
        report: Report = arguments.run(arguments)
    except ConfigError as error:
        print("\n".join(f"error: {mistake}" for mistake in error.mistakes), file=sys.stderr)
        return 2
    show(report.as_dict())
    if arguments.json:
        print(json.dumps(report.as_dict()))
    return 0


def parse(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="BENCHMARK")

    def command(run: Any, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(run.__name__, help=summary, description=summary)
        added.set_defaults(run=run)
        added.add_argument("--quick", action="store_true", help="small and soon done: shows that it works, no more")
        added.add_argument("--json", action="store_true", help="the report as an object on the last line")
        return added

    one = command(extractors, "time per clip of every extractor, batched against one by one")
    one.add_argument("--profile", choices=["paper", "lite"], required=True, help="paper: full-size random weights")
    one.add_argument("--clips", type=int, default=4)
    one.add_argument("--repeats", type=int, default=3)
    one.add_argument("--threads", type=int, default=1, help="of each model [%(default)s]")
    one = command(decode, "16 frames and the sound of a video against all of its frames")
    one.add_argument("--seconds", type=int, default=60)
    one.add_argument("--repeats", type=int, default=5)
    one.add_argument("--threads", type=int, default=1, help="of every decoder [%(default)s]")
    one = command(pipeline, "the whole pipeline against its models' own time and against the published way")
    one.add_argument("--clips", type=int, default=100, help="videos of the larger run [%(default)s]")
    one.add_argument("--sample", type=int, default=20, help="videos that the other ways do [%(default)s]")
    _run_settings(one)
    one = command(missing, "what is missing of an output folder where all is done: time and memory")
    one.add_argument("--rows", type=int, default=1_000_000)
    one.add_argument("--shards", type=int, default=2000, help="of each extractor's table [%(default)s]")
    one.add_argument("--profile", default="lite")
    one = command(memory, "memory of a few clips against that of many (Linux)")
    one.add_argument("--clips", type=int, nargs="+", default=[10, 100], metavar="N")
    _run_settings(one)
    one = command(long, "memory of a short video against that of a long one (Linux)")
    one.add_argument("--seconds", type=int, nargs="+", default=[60, 7200], metavar="S")
    _run_settings(one)
    return parser.parse_args(given)


def _run_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--profile", default="lite", help="a profile, or a file; classes of its own need PYTHONPATH")
    command.add_argument("--set", action="append", dest="overrides", default=[], metavar="KEY=VALUE")


def extractors(arguments: argparse.Namespace) -> Report:
    """Time per clip of every extractor."""
    from bench.extractors import lite, paper

    clips, repeats = (1, 1) if arguments.quick else (arguments.clips, arguments.repeats)
    if arguments.profile == "paper":
        return paper(clips, repeats, arguments.threads, small=arguments.quick)
    from bench.videos import write_variants
    from vemoclap_batch.cli.demo_clips import make_clips

    with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
        videos = write_variants(make_clips(Path(folder) / "demo"), clips, Path(folder) / "videos")
        return lite(videos, repeats, arguments.threads)


def decode(arguments: argparse.Namespace) -> Report:
    """Decoding a few frames against decoding all."""
    from bench.decode import measure

    if arguments.quick:
        return measure(2, (320, 180), 1, arguments.threads)
    return measure(arguments.seconds, repeats=arguments.repeats, threads=arguments.threads)


def pipeline(arguments: argparse.Namespace) -> Report:
    """The whole pipeline."""
    from bench.efficiency import measure
    from vemoclap_batch.cli.common import default_checkpoint
    from vemoclap_batch.cli.demo_clips import make_clips
    from vemoclap_batch.config import load_config
    from vemoclap_batch.pipeline.run import Classifier

    config = load_config(arguments.profile, arguments.overrides)
    classifier = Classifier.load(default_checkpoint(config)) if config.checkpoint else None
    count, sample = (6, 2) if arguments.quick else (arguments.clips, arguments.sample)
    with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
        return measure(make_clips(Path(folder)), config, classifier, count=count, sample=sample)


def missing(arguments: argparse.Namespace) -> Report:
    """What is missing."""
    from bench.missing import measure

    rows, shards = (2000, 4) if arguments.quick else (arguments.rows, arguments.shards)
    return measure(rows, shards, arguments.profile)


def memory(arguments: argparse.Namespace) -> Report:
    """Memory against the number of clips."""
    from bench.memory import flat

    return flat([1, 3] if arguments.quick else arguments.clips, arguments.profile, arguments.overrides)


def long(arguments: argparse.Namespace) -> Report:
    """Memory against the length of a video."""
    from bench.memory import long as measure

    return measure([2, 30] if arguments.quick else arguments.seconds, arguments.profile, arguments.overrides)


def show(report: dict[str, Any]) -> None:
    """Print a report for people."""
    # A log takes lines of any length.
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    table = Table(title=report["benchmark"], title_justify="left")
    for name in report["rows"][0]:
        table.add_column(name, justify="left" if isinstance(report["rows"][0][name], str) else "right")
    for row in report["rows"]:
        table.add_row(*map(str, row.values()))
    console.print(table)
    on = report["machine"]
    lines = [f"{name}: {value}" for name, value in report["figures"].items()]
    lines += [f"measured: {_words(report['settings'])}"]
    lines += [f"on: {on['cores']} cores ({on['cpu']}), {on['memory_gib']} GiB, load {on['load']}"]
    lines += [f"threads: {_words(on['threads']) or 'nothing in the environment'}", f"with: {_words(on['versions'])}"]
    lines += report["notes"]
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


if __name__ == "__main__":
    sys.exit(main())
