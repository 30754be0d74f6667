"""Label what is new or changed since last night: python jobs/nightly.py --source PREFIX --out OUT.

The last line of standard output is the night's summary as JSON, however it ended. Exit status: 0 all well, 1 broke off,
2 wrong usage, 3 something failed tonight or the labels drift, 4 the night before has not ended, 143 stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import shutil
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from vemoclap_batch.cli.common import BROKEN, DONE, FAILED, HELD, STOPPED, USAGE, default_checkpoint
from vemoclap_batch.config import ConfigError, load_config
from vemoclap_batch.errors import RunBroken, RunEnded
from vemoclap_batch.pipeline.run import Classifier
from vemoclap_batch.pipeline.shutdown import Stopped, stoppable
from vemoclap_batch.report.failures import in_words
from vemoclap_batch.sources.manifest import read_sources
from vemoclap_batch.store.lock import Busy
from vemoclap_batch.upkeep.nightly import Settings, call_hook, nightly
from vemoclap_batch.upkeep.nightly_report import as_markdown, needs_attention

_MOST_WEEKS = 520


def main() -> int:
    """Run the night and tell whoever is to be told; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    arguments = parse(sys.argv[1:])
    try:
        with stoppable():  # A run hears SIGTERM by itself; listing a large prefix, before it, takes a while too.
            summary = night(arguments)
    except ConfigError as error:
        return leave(arguments, "broken", error, USAGE)
    except Busy as error:
        return leave(arguments, "held", error, HELD)
    except Stopped as error:
        return leave(arguments, "stopped", error, STOPPED)
    except RunBroken as error:
        return leave(arguments, "broken", error, BROKEN)
    except Exception as error:
        # Nobody watches at night: whatever it is, the hook is called.
        traceback.print_exc()
        return leave(arguments, "broken", error, BROKEN)
    print(as_markdown(summary))
    for failure in summary["failed"]:
        print(f"failed: {in_words(failure)}")
    if (more := sum(summary["failures"].values()) - len(summary["failed"])) > 0:
        print(f"failed: and {more} more, see {arguments.out}/errors")
    status = "attention" if needs_attention(summary) else "ok"
    return end(arguments, status, summary, DONE if status == "ok" else FAILED)


def leave(arguments: argparse.Namespace, status: str, error: Exception, code: int) -> int:
    """End a night that was not finished: to the log, to the hook, and as the last line."""
    why = str(error) or "stopped; the next night goes on from there"
    print(f"{status}: {why}", file=sys.stderr)
    began = (error.summary if isinstance(error, RunEnded) else None) or {}
    return end(arguments, status, {"out": arguments.out, **began, "error": why}, code)


def end(arguments: argparse.Namespace, status: str, summary: dict[str, Any], code: int) -> int:
    """Call the hook if it is to be called, and print the summary as the last line; returns the exit status."""
    text = json.dumps({**summary, "status": status, "exit_status": code}, default=str)
    sys.stdout.flush()
    if arguments.hook and (status != "ok" or arguments.hook_on == "always"):
        call_hook(arguments.hook, status, text)
    print(text, flush=True)
    return code


def parse(given: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", nargs="+", required=True, help="folders, prefixes or manifests to look through")
    parser.add_argument("--out", required=True, help="output folder of all nights")
    parser.add_argument("--profile", default="lite")
    parser.add_argument("--model", help="fusion checkpoint [default: the profile's own]")
    parser.add_argument("--set", action="append", dest="overrides", metavar="KEY=VALUE", help="change a setting")
    parser.add_argument(
        "--settle", type=float, default=600, help="leave files changed in the last SECONDS [%(default)s]"
    )
    parser.add_argument("--weeks", type=int, default=4, help="compare labels with the last WEEKS [%(default)s]")
    parser.add_argument("--gpu-hour-cost", type=float, help="price of a GPU-hour, for the summary")
    parser.add_argument("--hook", help="command to run when a person should look; the summary is its standard input")
    parser.add_argument("--hook-on", choices=["problems", "always"], default="problems")
    parser.add_argument("--address", help="Ray cluster [default: RAY_ADDRESS, else this machine]")
    arguments = parser.parse_args(given)
    if not arguments.settle >= 0:
        parser.error(f"--settle {arguments.settle:g}: expected 0 seconds or more")
    if not 1 <= arguments.weeks <= _MOST_WEEKS:
        parser.error(f"--weeks {arguments.weeks}: expected 1 to {_MOST_WEEKS}")
    try:
        words = shlex.split(arguments.hook or "true")
    except ValueError as error:
        parser.error(f"--hook {arguments.hook!r}: {error}")
    if not words or shutil.which(words[0]) is None:
        parser.error(f"--hook {arguments.hook!r}: no such command")
    return arguments


def night(arguments: argparse.Namespace) -> dict[str, Any]:
    """One night, by the command line's wishes."""
    config = load_config(arguments.profile, arguments.overrides or [])
    classifier = Classifier.load(arguments.model or default_checkpoint(config))
    settings = Settings(arguments.settle, arguments.weeks, arguments.gpu_hour_cost)
    manifest = read_sources(arguments.source, config.sources.policy, may_be_empty=True)
    return nightly(manifest, arguments.out, config, classifier, settings, arguments.address)


if __name__ == "__main__":
    sys.exit(main())
