"""Decode damaged clips, or random ones beside the ffmpeg program, by the hundred.

python jobs/fuzz_media.py CLIP... --count 300 --seed 1 [--json]:
every mutant of the clips goes through the decode worker of the pipeline and has to end as a clip or as one failure, in
bounded time and memory.

python jobs/fuzz_media.py --against ffmpeg --count 300 --seed 1 [--json]:
random combinations of container, codecs, rate, group of pictures, cut, join and display matrix are made and decoded by
the worker and by the ffmpeg program (imageio-ffmpeg's, or --ffmpeg PATH); the report says where they differ.

Exit status: 0 all is well, 1 some broke something or differ (they are named and kept), 2 wrong usage or no ffmpeg.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal, NoReturn

import typer

from fuzz import broken_files as fuzz
from fuzz import differential, second_decoder
from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import BROKEN, DONE, print_json, program, run_program
from vemoclap_batch.config import Decode
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.media.sampling import Limits
from vemoclap_batch.media.worker import DecodeWorker

app = program(__doc__)


@app.command(help=__doc__)
def fuzz_media(
    clips: Annotated[list[Path] | None, typer.Argument(metavar="CLIP", help="Intact media files.")] = None,
    against: Annotated[
        Literal["ffmpeg"] | None, typer.Option(help="Compare with this decoder, on random files.")
    ] = None,
    ffmpeg: Annotated[Path | None, typer.Option(help="The ffmpeg program [default: imageio-ffmpeg's].")] = None,
    count: Annotated[int, typer.Option(help="Files.", min=1)] = 300,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 1,
    keep: Annotated[Path, typer.Option(help="Folder for the files named at the end.")] = Path("fuzz-broken"),
    timeout: Annotated[float, typer.Option(help="Seconds of silence that end a decoder.")] = 20,
    bound: Annotated[float, typer.Option(help="Seconds that a mutant may take.")] = 60,
    memory: Annotated[float, typer.Option(help="GiB that decoding one may take.")] = 4,
    decoder: Annotated[Literal["decord", "pyav"], typer.Option()] = Decode().decoder,
    as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Decode the files and print the counts."""
    if bool(clips) == bool(against):
        raise ConfigError(["expected either clips to damage or --against ffmpeg"])
    if missing := [str(path) for path in clips or () if not path.is_file()]:
        raise ConfigError([f"no such file: {', '.join(missing)}"])
    limits = Limits(timeout_s=timeout, memory_gb=memory, decoder=decoder)
    if against:
        program_path = _find_ffmpeg(ffmpeg)
        with DecodeWorker(limits=limits) as worker:
            differences = differential.differential(program_path, count, seed, keep, worker.decode)
        show_differences(differences)
        print_json(differences.as_dict(), as_json)
        raise typer.Exit(BROKEN if differences.disagreeing else DONE)
    with TemporaryDirectory(prefix="vemoclap-fuzz-") as scratch:
        report = fuzz.fuzz(clips or [], count, seed, Path(scratch), keep, limits, bound)
    show(report)
    print_json(report.as_dict(), as_json)
    raise typer.Exit(BROKEN if report.broken else DONE)


def _find_ffmpeg(given: Path | None) -> str:
    path = second_decoder.find_program(given)
    if path is None or not second_decoder.encoders(path):
        named = f"{given} is no ffmpeg program" if given else "no ffmpeg program is installed"
        raise ConfigError([f"{named}: pip install imageio-ffmpeg, or name one by --ffmpeg PATH"])
    return path


def show(report: fuzz.Report) -> None:
    """Print the counts of damaged files."""
    counts = report.as_dict()
    for kind, results in counts["by_kind"].items():
        print(f"{kind:<14} {', '.join(f'{count} {result}' for result, count in results.items())}")
    print(f"{counts['mutants']} mutants: {', '.join(f'{n} {result}' for result, n in counts['results'].items())}")
    slowest = counts["slowest"]
    print(f"{counts['seconds']:.0f} s in all; slowest {slowest['seconds']:.1f} s: {slowest['name']}")
    print(f"peak memory of the worker {counts['peak_mib']} MiB")
    for outcome in report.broken:
        print(f"broken: {outcome.name}: {outcome.broken} (kept in {report.kept_in})", file=sys.stderr)


def show_differences(report: differential.Report) -> None:
    """Print of each kind how many files differ of how many."""
    counts = report.as_dict()
    for kind, values in counts["by_kind"].items():
        shares = [f"{value} {n['disagree']}/{n['agree'] + n['disagree']}" for value, n in values.items()]
        print(f"{kind:<12} {', '.join(shares)}")
    print(
        f"{counts['files']} files in {counts['seconds']:.0f} s: {counts['agree']} agree, {counts['disagree']} disagree"
    )
    if counts["differences"]:
        print(f"what differs: {', '.join(f'{what} in {count}' for what, count in counts['differences'].items())}")
    for outcome in report.disagreeing:
        print(f"differs: {outcome.name} (kept in {report.kept_in})", file=sys.stderr)
        for what, words in outcome.differences.items():
            print(f"  {what}: {words}", file=sys.stderr)
    for outcome in report.outcomes:
        if outcome.not_made is not None:
            print(f"not made: {outcome.name}: {outcome.not_made}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program."""
    run_program(app, arguments)


if __name__ == "__main__":
    main()
