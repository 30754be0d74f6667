"""``vemoclap-batch models``: which weights a profile needs, fetching them once, checking them later."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from vemoclap_batch.cli.common import BROKEN, DONE, FAILED, Json, ModelsDir, Overrides, Profile
from vemoclap_batch.config import Config, ConfigError, describe_errors, load_config
from vemoclap_batch.models.download import HashMismatch, HubError, connect, locked, pull
from vemoclap_batch.models.hashes import ModelRecord, default_folder
from vemoclap_batch.models.known import known
from vemoclap_batch.models.references import HUB, look_up, split
from vemoclap_batch.models.verify import accept as accept_hashes
from vemoclap_batch.models.verify import verify

models_app = typer.Typer(
    help="The weights of a profile: list them, fetch them ahead of time, check them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Accept = Annotated[bool, typer.Option("--accept", help="Take the hashes that were recorded for the right ones.")]


@models_app.command("list")
def list_models(
    profile: Profile = "paper", overrides: Overrides = None, models_dir: ModelsDir = None, as_json: Json = False
) -> None:
    """Show the models of a profile: what for, which, how large, on what terms, and where they are."""
    config, folder = _chosen(profile, overrides, models_dir)
    rows = []
    grid = Table(pad_edge=False)
    for column in ("role", "model", "revision", "size", "licence", "state", "where"):
        grid.add_column(column, overflow="fold")
    for reference, roles in _wanted(config).items():
        row = _row(reference, roles, folder)
        rows.append(row)
        size = "?" if row["bytes"] is None else ("" if row["path"] else "about ") + decimal(row["bytes"])
        cells = [", ".join(roles), reference, (row["revision"] or "–")[:12], size, row["licence"], row["state"]]
        grid.add_row(*map(Text, [*cells, row["path"] or "–"]))
    Console(width=None if sys.stdout.isatty() else 160).print(grid)
    absent = sum(row["state"] in {"missing", "incomplete", "not accepted"} for row in rows)
    print(f"{len(rows)} models, {absent} not ready; they belong in {folder}")
    if as_json:
        print(json.dumps({"models_dir": str(folder), "models": rows}, ensure_ascii=False))


def _row(reference: str, roles: list[str], folder: Path) -> dict[str, Any]:
    """How a reference stands; ``bytes`` is on the disk, or about what a pull would fetch, as far as known."""
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


@models_app.command("pull")
def pull_models(
    profile: Profile = "paper", overrides: Overrides = None, models_dir: ModelsDir = None, accept: Accept = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Fetch the models that are missing and record what they are; afterwards nothing needs the network."""
    config, folder = _chosen(profile, overrides, models_dir)
    references = _wanted(config)
    _check_local(references)
    remote = [name for name in references if name.startswith(HUB)]
    hub, rows, unreached, refused = connect(), [], [], []
    with locked(folder, _say):
        for reference in remote:
            try:
                state, record = pull(reference, folder, hub, accept, _say)
            except HubError as error:
                unreached.append(str(error))
                continue
            except HashMismatch as error:
                refused.append(str(error))
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
    if as_json:
        print(json.dumps({"models_dir": str(folder), "models": rows, "errors": unreached + refused}))
    raise typer.Exit(BROKEN if unreached else FAILED if refused or waiting else DONE)


def _recorded(record: ModelRecord | None) -> dict[str, Any]:
    """What the manifest says; ``accepted`` is None for what was put there by hand."""
    if record is None:
        return {"revision": None, "licence": None, "accepted": None, "files": {}}
    files = record.model_dump(mode="json")["files"]
    accepted = record.accepted is not None
    return {"revision": record.revision, "licence": record.licence, "accepted": accepted, "files": files}


def _show(reference: str, record: ModelRecord) -> None:
    accepted = "accepted" if record.accepted else "not accepted"
    print(f"{reference} at {record.revision or 'no revision'}, licence {record.licence}: {accepted}")
    for name, file in record.files.items():
        print(f"  sha256 {file.sha256}  {decimal(file.size):>9}  {name}")


@models_app.command("verify")
def verify_models(
    profile: Profile = "paper", overrides: Overrides = None, models_dir: ModelsDir = None, accept: Accept = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Read every recorded file again and compare; with --accept, record first what was put there by hand."""
    config, folder = _chosen(profile, overrides, models_dir)
    references = _wanted(config)
    if accept:
        with locked(folder, _say):
            for reference, record in accept_hashes(folder, references):
                _show(reference, record)
    count, problems = verify(folder, references)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{count} files are recorded, {len(problems)} problems")
    if as_json:
        rows = [vars(problem) | {"path": str(problem.path)} for problem in problems]
        print(json.dumps({"models_dir": str(folder), "files": count, "problems": rows}))
    raise typer.Exit(FAILED if problems else DONE)


def _chosen(profile: str, overrides: list[str] | None, models_dir: str | None) -> tuple[Config, Path]:
    """The configuration and the models folder of a command."""
    config = load_config(profile, overrides or [])
    chosen = models_dir or config.models_dir
    return config, (Path(chosen).expanduser() if chosen else default_folder()).absolute()


def _wanted(config: Config) -> dict[str, list[str]]:
    """The references of a profile, each with the settings (``extractor.setting``) that name it.

    Raises:
        ConfigError: with every mistake in every extractor's entry.
    """
    from vemoclap_batch.extractors.base import load_class

    found: dict[str, list[str]] = {}
    mistakes = []
    for name, entry in config.extractors.items():
        try:
            cls = load_class(entry.class_path)
            references = cls.references(cls.Settings(**entry.settings))
            for reference in references.values():
                if reference.startswith(HUB):
                    split(reference)
        except ValidationError as error:
            mistakes += describe_errors(f"extractors.{name}", error)
        except ValueError as error:
            mistakes.append(f"extractors.{name}: {error}")
        else:
            for setting, reference in references.items():
                found.setdefault(reference, []).append(f"{name}.{setting}")
    if mistakes:
        raise ConfigError(mistakes)
    return found


def _check_local(references: Mapping[str, list[str]]) -> None:
    """Say which of the user's own paths are not there: no hub has them."""
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
