"""Writes an export: all of it or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vemoclap_batch.errors import ConfigError, RunBroken
from vemoclap_batch.report.exports.request import Prepared
from vemoclap_batch.store.filesystem import local_path
from vemoclap_batch.store.retry import reason


def target_of(address: str) -> Path:
    """The folder that an export is to become.

    Raises:
        ConfigError: it is there and not an empty folder.
    """
    path = Path(local_path(address))
    try:
        if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
            kind = "has files in it" if path.is_dir() else "is no folder"
            raise ConfigError([f"-o {address!r} {kind}; expected a new or an empty folder"])
    except OSError as error:
        raise ConfigError([f"-o {address!r}: {reason(error)}"]) from error
    return path


def write_export(prepared: Prepared, target: Path, report: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Write an export to a folder, which appears when it is done.

    Args:
        prepared: what is exported.
        target: a folder that is empty or not there.
        report: called with the videos that are done.

    Returns:
        ``counts`` of what was written and ``left_out``, by reason.

    Raises:
        ConfigError: nothing is left to export.
        RunBroken: the disk is full, or the folder cannot be written.
    """
    source, done = prepared.source, 0
    with _appearing(target) as folder:
        form = prepared.format(folder, source, prepared.contents, prepared.media_url)
        for chunk in source.chunks():
            form.add(chunk)
            done += chunk.size
            if report:
                report(done)
        form.close()
        left_out = {why: count for why, count in source.keep.left_out.items() if count}
        if not form.counts["videos"]:
            why = "; ".join(f"{count} {what}" for what, count in left_out.items())
            raise ConfigError([f"nothing is left to export of {done} videos" + (f" ({why})" if why else "")])
    videos = form.counts.pop("videos")
    return {"counts": {"videos": videos, **form.counts}, "left_out": left_out}


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target, which becomes it at the end, and is removed if there is an error."""
    hidden = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        yield hidden
        os.chmod(hidden, 0o777 & ~_umask())
        os.replace(hidden, target)
        hidden = None
    except OSError as error:
        raise RunBroken(f"cannot write {target}: {reason(error)}") from error
    finally:
        if hidden is not None:
            with suppress(OSError):
                shutil.rmtree(hidden)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
