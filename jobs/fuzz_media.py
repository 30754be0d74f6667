"""Decode damaged clips, or random ones beside the ffmpeg program, by the hundred.

python jobs/fuzz_media.py CLIP... --count 300 --seed 1 [--json]
    Every mutant of the clips goes through the decode worker of the pipeline and has to end as a clip or as one failure,
    in bounded time and memory.
python jobs/fuzz_media.py --against ffmpeg --count 300 --seed 1 [--json]
    Random combinations of container, codecs, rate, group of pictures, cut, join and display matrix are made and decoded
    by the worker and by the ffmpeg program (imageio-ffmpeg's, or --ffmpeg PATH); the report says where they differ.

Exit status: 0 all is well, 1 some broke something or differ (they are named and kept), 2 wrong usage or no ffmpeg.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz import broken_files as fuzz
from fuzz import differential, second_decoder
from vemoclap_batch.config import Decode
from vemoclap_batch.media.sampling import Limits
from vemoclap_batch.media.worker import DecodeWorker


def main() -> int:
    """Decode the files and print the counts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", metavar="CLIP", type=Path, nargs="*", help="intact media files")
    parser.add_argument("--against", choices=["ffmpeg"], help="compare with this decoder, on random files")
    parser.add_argument("--ffmpeg", metavar="PATH", type=Path, help="the ffmpeg program [imageio-ffmpeg's]")
    parser.add_argument("--count", type=int, default=300, help="files [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same files [%(default)s]")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-broken"), help="folder for the files named at the end")
    parser.add_argument("--timeout", type=float, default=20, help="seconds of silence that end a decoder [%(default)s]")
    parser.add_argument("--bound", type=float, default=60, help="seconds that a mutant may take [%(default)s]")
    parser.add_argument("--memory", type=float, default=4, help="GiB that decoding one may take [%(default)s]")
    parser.add_argument("--decoder", choices=["decord", "pyav"], default=Decode().decoder, help="[%(default)s]")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    given = parser.parse_args()
    if bool(given.clips) == bool(given.against):
        parser.error("expected either clips to damage or --against ffmpeg")
    if missing := [str(path) for path in given.clips if not path.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    if given.count < 1:
        parser.error(f"--count {given.count}: expected at least 1")
    program = second_decoder.find_program(given.ffmpeg) if given.against else None
    if given.against and (program is None or not second_decoder.encoders(program)):
        named = f"{given.ffmpeg} is no ffmpeg program" if given.ffmpeg else "no ffmpeg program is at hand"
        parser.error(f"{named}: pip install imageio-ffmpeg, or name one by --ffmpeg PATH")
    limits = Limits(timeout_s=given.timeout, memory_gb=given.memory, decoder=given.decoder)
    return _against(program, given, limits) if program else _damaged(given, limits)


def _damaged(given: argparse.Namespace, limits: Limits) -> int:
    with TemporaryDirectory(prefix="vemoclap-fuzz-") as scratch:
        report = fuzz.fuzz(given.clips, given.count, given.seed, Path(scratch), given.keep, limits, given.bound)
    show(report)
    if given.json:
        print(json.dumps(report.as_dict()), flush=True)
    return 1 if report.broken else 0


def _against(program: str, given: argparse.Namespace, limits: Limits) -> int:
    with DecodeWorker(limits=limits) as worker:
        report = differential.differential(program, given.count, given.seed, given.keep, worker.decode)
    show_differences(report)
    if given.json:
        print(json.dumps(report.as_dict()), flush=True)
    return 1 if report.disagreeing else 0


def show(report: fuzz.Report) -> None:
    """The counts as text."""
    found = report.as_dict()
    for kind, results in found["by_kind"].items():
        print(f"{kind:<14} {', '.join(f'{count} {result}' for result, count in results.items())}")
    print(f"{found['mutants']} mutants: {', '.join(f'{n} {result}' for result, n in found['results'].items())}")
    slowest = found["slowest"]
    print(f"{found['seconds']:.0f} s in all; slowest {slowest['seconds']:.1f} s: {slowest['name']}")
    print(f"peak memory of the worker {found['peak_mib']} MiB")
    for outcome in report.broken:
        print(f"broken: {outcome.name}: {outcome.broken} (kept in {report.kept_in})", file=sys.stderr)


def show_differences(report: differential.Report) -> None:
    """The counts as text: of each kind, how many files differ of how many."""
    found = report.as_dict()
    for kind, values in found["by_kind"].items():
        counts = [f"{value} {n['disagree']}/{n['agree'] + n['disagree']}" for value, n in values.items()]
        print(f"{kind:<12} {', '.join(counts)}")
    print(f"{found['files']} files in {found['seconds']:.0f} s: {found['agree']} agree, {found['disagree']} disagree")
    if found["differences"]:
        print(f"what differs: {', '.join(f'{what} in {count}' for what, count in found['differences'].items())}")
    for outcome in report.disagreeing:
        print(f"differs: {outcome.name} (kept in {report.kept_in})", file=sys.stderr)
        for what, words in outcome.differences.items():
            print(f"  {what}: {words}", file=sys.stderr)
    for outcome in report.outcomes:
        if outcome.not_made is not None:
            print(f"not made: {outcome.name}: {outcome.not_made}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
