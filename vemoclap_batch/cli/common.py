"""What all commands share: how they print, and the exit status they end with."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import typer

from vemoclap_batch.errors import Busy, ConfigError, RunEnded

DONE, BROKEN, USAGE, FAILED, HELD, INTERRUPTED, STOPPED = 0, 1, 2, 3, 4, 130, 143


def program(text: str | None = None, **options: Any) -> typer.Typer:
    """Make a Typer program with plain help and plain exceptions."""
    plain: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
    return typer.Typer(help=text, **plain, **options)


def run_program(app: typer.Typer, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a Typer program and end the process with its exit status.

    Args:
        app: the program.
        arguments: the command line; without it that of the process.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    with exit_statuses():
        try:
            app(arguments, help_option_names=["-h", "--help"])
        except SystemExit as error:
            if error.code == INTERRUPTED:  # What Typer makes of Ctrl-C, without a word.
                raise KeyboardInterrupt from error
            raise
    raise AssertionError("a Typer program ends by SystemExit")


@contextmanager
def exit_statuses() -> Iterator[None]:
    """Turn exceptions into exit statuses; each mistake is a line on standard error.

    SIGTERM ends the process as an error does, so that what it holds, such as the lock of a folder, is released.
    """
    from vemoclap_batch.shutdown import Stopped, stoppable

    _kept.set(_GO_ON)
    try:
        with stoppable():
            yield
    except ConfigError as error:
        _leave(USAGE, [f"error: {mistake}" for mistake in error.mistakes])
    except Busy as error:
        _leave(HELD, [f"error: {error}"])
    except Stopped as error:
        _leave(STOPPED, [f"stopped; {_kept.get()}"], error)
    except RunEnded as error:
        _leave(BROKEN, _broke_off(error), error)
    except KeyboardInterrupt:
        _leave(INTERRUPTED, [f"interrupted; {_kept.get()}"])


_GO_ON = "what was finished is kept, and the same command goes on from there"
_NOTHING = "nothing was written"
#: What is said to be left of a command that ended early.
_kept = ContextVar("kept", default=_GO_ON)


def keeps_nothing() -> None:
    """Have the end of this command, if it is early, say that nothing was written: it writes all or nothing."""
    _kept.set(_NOTHING)


def _broke_off(error: RunEnded) -> list[str]:
    if _kept.get() == _NOTHING:
        return [f"error: {error}", _NOTHING]
    return [f"error: the run broke off: {error}", f"{_GO_ON}; --verbose shows more"]


def _leave(status: int, messages: Sequence[str], error: BaseException | None = None) -> NoReturn:
    for message in messages:
        # Names of unknown origin may hold control characters, which a terminal takes for commands.
        text = "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in message)
        print(text, file=sys.stderr)
    sys.stderr.flush()  # A job's log holds both streams: the counts come last.
    for note in getattr(error, "__notes__", ()):
        print(note)
    sys.exit(status)


@contextmanager
def counts_of_ended_run(as_json: bool) -> Iterator[None]:
    """Have the counts of a run that ends early printed last, as :func:`show_run` does of others."""
    try:
        yield
    except RunEnded as error:
        if error.summary is not None:
            error.add_note(_counts(error.summary, as_json))
        raise


def show_run(summary: Mapping[str, Any], as_json: bool) -> NoReturn:
    """Print the summary of a run, the counts last, and exit with 3 if some cell failed, else with 0."""
    from rich.console import Console

    from vemoclap_batch.report.digest import show
    from vemoclap_batch.report.failures import describe_failure

    out, counts = summary["out"], summary["counts"]
    show(summary["rows"], Console(width=None if sys.stdout.isatty() else 160))
    if (more := counts["videos"] - len(summary["rows"])) > 0:
        print(f"… and {more} more in {out}/predictions")
    print_notes(summary["notes"])
    for failure in summary["failed"]:
        print(f"failed: {describe_failure(failure)}")
    if (more := sum(summary["failures"].values()) - len(summary["failed"])) > 0:
        print(f"failed: and {more} more, see {out}/errors")
    print(f"all tables are in {out}")
    print(_counts(summary, as_json))
    raise typer.Exit(FAILED if counts["failed"] else DONE)


def _counts(summary: Mapping[str, Any], as_json: bool) -> str:
    counts = summary["counts"]
    text = f"{counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed"
    if summary["left"]:
        text += f", {summary['left']} left"
    return f"{text}\n{json.dumps(summary, default=str)}" if as_json else text


def print_notes(notes: Iterable[str]) -> None:
    """Print what to know of a result, one line each."""
    for note in notes:
        print(f"note: {note}")


def print_json(result: Any, wanted: bool = True) -> None:
    """Print an object as the last line of standard output, if ``--json`` was given."""
    if wanted:
        # In ASCII: texts may hold characters at which a reader takes the line for two, such as U+2028.
        print(json.dumps(result, default=str), flush=True)


def read_fingerprints(features: Sequence[str] | None) -> dict[str, str]:
    """Read ``--features``: extractor → fingerprint."""
    pairs = [item.partition("=") for given in features or [] for item in given.split(",")]
    wrong = [
        f"--features {name!r}: expected NAME=FINGERPRINT" for name, equals, value in pairs if not (equals and value)
    ]
    if wrong:
        raise ConfigError(wrong)
    return {name: value for name, _, value in pairs}


def read_numbers(option: str, text: str) -> list[int]:
    """Read the comma-separated numbers of an option."""
    try:
        return [int(item) for item in text.split(",")]
    except ValueError as error:
        raise ConfigError([f"{option} {text!r}: expected numbers such as 1,2,3"]) from error


def read_names(text: str | None) -> list[str] | None:
    """Read the comma-separated names of an option; None when it was not given."""
    return text.split(",") if text else None
