"""``vemoclap-batch models``: which weights a profile needs, fetching them once, checking them later."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import BROKEN, DONE, FAILED, print_json, program
from vemoclap_batch.errors import ConfigError

if TYPE_CHECKING:
    from vemoclap_batch.models.hashes import ModelRecord

app = program("The weights of a profile: list them, fetch them ahead of time, check them.", no_args_is_help=True)

Accept = Annotated[bool, typer.Option("--accept", help="Take the hashes that were recorded for the right ones.")]


@app.command("list")
def list_models(
    profile: opt.Profile = "paper", settings: opt.Settings = None, models_dir: opt.ModelsDir = None,
    as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Show the models of a profile: what for, which, how large, on what terms, and where they are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    references, folder = _references(profile, settings, models_dir)
    rows = []
    grid = Table(pad_edge=False)
    for column in ("role", "model", "revision", "size", "licence", "state", "where"):
        grid.add_column(column, overflow="fold")
    for reference, roles in references.items():
        row = _row(reference, roles, folder)
        rows.append(row)
        size = "?" if row["bytes"] is None else ("" if row["path"] else "about ") + decimal(row["bytes"])
        cells = [", ".join(roles), reference, (row["revision"] or "–")[:12], size, row["licence"], row["state"]]
        grid.add_row(*map(Text, [*cells, row["path"] or "–"]))
    Console(width=None if sys.stdout.isatty() else 160).print(grid)
    absent = sum(row["state"] in {"missing", "incomplete", "not accepted"} for row in rows)
    print(f"{len(rows)} models, {absent} not ready; they belong in {folder}")
    print_json({"models_dir": str(folder), "models": rows}, as_json)


def _row(reference: str, roles: list[str], folder: Path) -> dict[str, Any]:
    """How a reference stands; ``bytes`` is on the disk, or about what a pull would fetch, as far as known."""
    from vemoclap_batch.models.known import known
    from vemoclap_batch.models.references import look_up

    weights = look_up(reference, folder)
    fact, record, path = known(weights.repo or ""), weights.record, weights.path
    files = [path] if path.is_file() else path.rglob("*")
    is_there = weights.state != "missing"
    revision = None if weights.state == "by hand" or not weights.repo else fact.revision
    return {
        "model": reference,
        "roles": roles,
        "what": fact.role,
        "revision": record.revision if record else revision,
        "bytes": sum(file.stat().st_size for file in files if file.is_file()) if is_there else fact.bytes,
        "licence": (record.licence if record else fact.licence) or "unknown",
        "state": weights.state,
        "path": str(path) if is_there else None,
    }


@app.command("pull")
def pull_models(
    profile: opt.Profile = "paper", settings: opt.Settings = None, models_dir: opt.ModelsDir = None,
    accept: Accept = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Fetch the models that are missing and record what they are; afterwards nothing needs the network."""
    from vemoclap_batch.models.download import HashMismatch, HubError, connect, locked, pull
    from vemoclap_batch.models.references import HUB

    references, folder = _references(profile, settings, models_dir)
    _check_local(references)
    remote = [name for name in references if name.startswith(HUB)]
    hub, rows = connect(), []
    unreached: list[str] = []
    refused: list[str] = []
    with locked(folder, _say):
        for reference in remote:
            try:
                state, record = pull(reference, folder, hub, accept, _say)
            except (HubError, HashMismatch) as error:
                (unreached if isinstance(error, HubError) else refused).append(str(error))
                continue
            if record and (state in {"fetched", "accepted"} or not record.accepted):
                _show(reference, record)
            rows.append({"model": reference, "state": state} | _recorded(record))
    for line in unreached + refused:
        print(f"error: {line}", file=sys.stderr)
    waiting = [row["model"] for row in rows if row["accepted"] is False]
    if waiting:
        print(f"not accepted yet: {', '.join(waiting)}")
        print("compare the hashes above with a source you trust, then run the same command again with --accept")
    print(f"{len(rows) - len(waiting)} of {len(remote)} models ready, {len(unreached) + len(refused)} failed")
    print_json({"models_dir": str(folder), "models": rows, "errors": unreached + refused}, as_json)
    raise typer.Exit(BROKEN if unreached else FAILED if refused or waiting else DONE)


def _recorded(record: ModelRecord | None) -> dict[str, Any]:
    """What the manifest says; ``accepted`` is None for what was put there by hand."""
    if record is None:
        return {"revision": None, "licence": None, "accepted": None, "files": {}}
    shown = record.model_dump(mode="json", include={"revision", "licence", "files"})
    return shown | {"accepted": record.accepted is not None}


def _show(reference: str, record: ModelRecord) -> None:
    accepted = "accepted" if record.accepted else "not accepted"
    print(f"{reference} at {record.revision or 'no revision'}, licence {record.licence}: {accepted}")
    for name, file in record.files.items():
        print(f"  sha256 {file.sha256}  {decimal(file.size):>9}  {name}")


@app.command("verify")
def verify_models(
    profile: opt.Profile = "paper", settings: opt.Settings = None, models_dir: opt.ModelsDir = None,
    accept: Accept = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Read every recorded file again and compare; with --accept, record first what was put there by hand."""
    from vemoclap_batch.models.download import locked
    from vemoclap_batch.models.verify import accept as accept_hashes
    from vemoclap_batch.models.verify import verify

    references, folder = _references(profile, settings, models_dir)
    if accept:
        with locked(folder, _say):
            for reference, record in accept_hashes(folder, references):
                _show(reference, record)
    count, problems = verify(folder, references)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{count} files are recorded, {len(problems)} problems")
    rows = [vars(problem) | {"path": str(problem.path)} for problem in problems]
    print_json({"models_dir": str(folder), "files": count, "problems": rows}, as_json)
    raise typer.Exit(FAILED if problems else DONE)


def _references(profile: str, settings: list[str] | None, models_dir: str | None) -> tuple[dict[str, list[str]], Path]:
    """List the models of a profile, each with the settings that name it, and locate the models folder."""
    from vemoclap_batch.config import load_config
    from vemoclap_batch.extractors.registry import model_references
    from vemoclap_batch.models.hashes import default_folder

    config = load_config(profile, settings, models_dir=models_dir)
    folder = Path(config.models_dir).expanduser() if config.models_dir else default_folder()
    return model_references(config), folder.absolute()


def _check_local(references: Mapping[str, list[str]]) -> None:
    """Check that the user's own paths are there: no hub has them.

    Raises:
        ConfigError: some are not; it names all of them.
    """
    from vemoclap_batch.models.references import HUB

    mistakes = [
        f"extractors.{role} = {reference!r}: no such file or folder"
        for reference, roles in references.items()
        if not reference.startswith(HUB) and not Path(reference).expanduser().exists()
        for role in roles
    ]
    if mistakes:
        raise ConfigError(mistakes)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
