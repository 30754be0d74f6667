"""Label what is new or changed since last night: python jobs/nightly.py --source PREFIX --out OUT.

The last line of standard output is the night's summary as JSON. Exit status: 0 all well, 1 broke off, 2 wrong usage,
3 something failed or the labels drift, 4 the night before has not ended, 143 stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from vemoclap_batch.cli_common import BROKEN, DONE, FAILED, HELD, STOPPED, USAGE, default_checkpoint
from vemoclap_batch.config import ConfigError, load_config
from vemoclap_batch.failure import RunBroken
from vemoclap_batch.manifest import read_sources
from vemoclap_batch.pipeline.nightly import Settings, as_markdown, call_hook, needs_attention, nightly
from vemoclap_batch.pipeline.run import Classifier
from vemoclap_batch.pipeline.stopping import Stopped
from vemoclap_batch.store.lock import Busy


def main() -> int:
    """Run the night and tell whoever is to be told; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    arguments = parse(sys.argv[1:])
    try:
        summary = night(arguments)
    except ConfigError as error:
        return leave(arguments.hook, "broken", "\n".join(f"error: {mistake}" for mistake in error.mistakes), USAGE)
    except Busy as error:
        return leave(arguments.hook, "held", f"error: {error}", HELD)
    except RunBroken as error:
        return leave(arguments.hook, "broken", f"error: the run broke off: {error}", BROKEN)
    except Stopped:
        return leave(arguments.hook, "stopped", "stopped; the next night goes on from there", STOPPED)
    print(as_markdown(summary))
    print(json.dumps(summary), flush=True)
    status = "attention" if needs_attention(summary) else "ok"
    if arguments.hook and (status != "ok" or arguments.hook_on == "always"):
        call_hook(arguments.hook, status, json.dumps(summary))
    return DONE if status == "ok" else FAILED


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
    return parser.parse_args(given)


def night(arguments: argparse.Namespace) -> dict[str, Any]:
    """One night, by the command line's wishes."""
    config = load_config(arguments.profile, arguments.overrides or [])
    classifier = Classifier.load(arguments.model or default_checkpoint(config))
    settings = Settings(arguments.settle, arguments.weeks, arguments.gpu_hour_cost)
    videos = read_sources(arguments.source, config.sources.policy).rows
    return nightly(videos, arguments.out, config, classifier, settings, arguments.address)


def leave(hook: str | None, status: str, text: str, code: int) -> int:
    """Say why there is no summary, to the log and to the hook."""
    print(text, file=sys.stderr)
    if hook:
        call_hook(hook, status, text)
    return code


if __name__ == "__main__":
    sys.exit(main())
