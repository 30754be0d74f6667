"""Damage real clips by the hundred and decode them: python jobs/fuzz.py CLIP... --count 300 --seed 1 [--json].

Every mutant goes through the decode worker of the pipeline and has to end as a clip or as one failure, in bounded time
and memory. Exit status: 0 all did, 1 some did not (they are named and kept), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from vemoclap_batch.config import Decode
from vemoclap_batch.fuzz import Report, fuzz
from vemoclap_batch.media.sampling import Limits


def main() -> int:
    """Decode the mutants and print the counts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", metavar="CLIP", type=Path, nargs="+", help="intact media files")
    parser.add_argument("--count", type=int, default=300, help="mutants [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same mutants [%(default)s]")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-broken"), help="folder for those that broke something")
    parser.add_argument("--timeout", type=float, default=20, help="seconds of silence that end a decoder [%(default)s]")
    parser.add_argument("--bound", type=float, default=60, help="seconds that a mutant may take [%(default)s]")
    parser.add_argument("--memory", type=float, default=4, help="GiB that decoding one may take [%(default)s]")
    parser.add_argument("--decoder", choices=["decord", "pyav"], default=Decode().decoder, help="[%(default)s]")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    given = parser.parse_args()
    if missing := [str(path) for path in given.clips if not path.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    if given.count < 1:
        parser.error(f"--count {given.count}: expected at least 1")
    limits = Limits(timeout_s=given.timeout, memory_gb=given.memory, decoder=given.decoder)
    with TemporaryDirectory(prefix="vemoclap-fuzz-") as scratch:
        report = fuzz(given.clips, given.count, given.seed, Path(scratch), given.keep, limits, given.bound)
    show(report)
    if given.json:
        print(json.dumps(report.as_dict()), flush=True)
    return 1 if report.broken else 0


def show(report: Report) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
