"""Label what is new or changed since last night: python jobs/nightly.py --source PREFIX --out OUT.

The last line of standard output is the night's summary as JSON, however it ended. Exit status: 0 all well, 1 broke off,
2 wrong usage, 3 something failed tonight or the labels drift, 4 the night before has not ended, 143 stopped.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn

import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import BROKEN, DONE, FAILED, HELD, STOPPED, USAGE, program, run_program
from vemoclap_batch.errors import Busy, ConfigError, RunEnded
from vemoclap_batch.report.failures import describe_failure
from vemoclap_batch.request import request
from vemoclap_batch.shutdown import Stopped, stoppable
from vemoclap_batch.upkeep.nightly import Settings as NightSettings
from vemoclap_batch.upkeep.nightly import call_hook
from vemoclap_batch.upkeep.nightly import nightly as run_night
from vemoclap_batch.upkeep.nightly_report import as_markdown, needs_attention

_MOST_WEEKS = 520

app = program(__doc__)


@app.command(help=__doc__)
def nightly(
    source: Annotated[list[str], typer.Option(metavar="SOURCE", help="Folders, prefixes or manifests.")],
    out: Annotated[str, typer.Option(help="Output folder of all nights.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="SOURCE", help="More sources.")] = None,
    profile: opt.Profile = "lite", model: opt.Model = None, settings: opt.Settings = None,
    settle: Annotated[float, typer.Option(help="Leave files changed in the last SECONDS.")] = 600,
    weeks: Annotated[int, typer.Option(help="Compare labels with the last WEEKS.")] = 4,
    gpu_hour_cost: Annotated[float | None, typer.Option(help="Price of a GPU-hour, for the summary.")] = None,
    hook: Annotated[
        str | None, typer.Option(help="Command to run when a person should look; the summary is its standard input.")
    ] = None,
    hook_on: Annotated[Literal["problems", "always"], typer.Option()] = "problems",
    address: opt.Address = None,
) -> None:  # fmt: skip
    """Run the night, call the hook if a person should look, and print the summary."""
    _check(settle, weeks, hook)
    try:
        with stoppable():  # A run listens for SIGTERM by itself; listing a large prefix before it takes a while too.
            asked = request([*source, *(more or [])], profile, settings, model=model, predicts=True, may_be_empty=True)
            assert asked.classifier is not None
            night = NightSettings(settle, weeks, gpu_hour_cost)
            summary = run_night(asked.manifest, out, asked.config, asked.classifier, night, address)
    except Exception as error:
        status, code = _status_of(error)
        why = str(error) or "stopped; the next night goes on from there"
        print(f"{status}: {why}", file=sys.stderr)
        summary = {"out": out, **(getattr(error, "summary", None) or {}), "error": why}
    else:
        _print_night(summary)
        status, code = ("attention", FAILED) if needs_attention(summary) else ("ok", DONE)
    text = json.dumps({**summary, "status": status, "exit_status": code}, default=str)
    sys.stdout.flush()
    if hook and (status != "ok" or hook_on == "always"):
        call_hook(hook, status, text)
    print(text, flush=True)
    raise typer.Exit(code)


def _check(settle: float, weeks: int, hook: str | None) -> None:
    """Check the options before the night, of which nobody hears at night.

    Raises:
        ConfigError: with every wrong one.
    """
    mistakes = []
    if not settle >= 0:
        mistakes.append(f"--settle {settle:g}: expected 0 seconds or more")
    if not 1 <= weeks <= _MOST_WEEKS:
        mistakes.append(f"--weeks {weeks}: expected 1 to {_MOST_WEEKS}")
    try:
        words = shlex.split(hook or "true")
    except ValueError as error:
        mistakes.append(f"--hook {hook!r}: {error}")
    else:
        if not words or shutil.which(words[0]) is None:
            mistakes.append(f"--hook {hook!r}: no such command")
    if mistakes:
        raise ConfigError(mistakes)


def _status_of(error: Exception) -> tuple[str, int]:
    """The status for the hook and the exit status of a night that was not finished."""
    if isinstance(error, ConfigError):
        return "broken", USAGE
    if isinstance(error, Busy):
        return "held", HELD
    if isinstance(error, Stopped):
        return "stopped", STOPPED
    if not isinstance(error, RunEnded):
        # Nobody watches at night: whatever it is, the hook is called.
        traceback.print_exception(error)
    return "broken", BROKEN


def _print_night(summary: Mapping[str, Any]) -> None:
    print(as_markdown(summary))
    for failure in summary["failed"]:
        print(f"failed: {describe_failure(failure)}")
    if (more := sum(summary["failures"].values()) - len(summary["failed"])) > 0:
        print(f"failed: and {more} more, see {summary['out']}/errors")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program."""
    run_program(app, arguments)


if __name__ == "__main__":
    main()
