"""The jobs of the server, in a file of SQLite that survives it, and the files that belong to them."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

#: A job that two servers in a row ended with is not begun again.
MAX_BEGUN = 2


class State(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Job:
    """One request for a video.

    Attributes:
        id: names it to whoever asked, and to nobody else: it cannot be guessed.
        name: of the file or link, for people; never a path.
        url: of a link; None for an upload.
        path: of the file on this machine; None for a link that is still to be fetched.
        video_id, content_key, uri: of the video in the tables, once they are known.
        stage: what is being done.
        begun: how often a server has begun it.
        result: JSON of what was found.
        error_type, message: why it failed.
        seconds: from its turn to its end.
    """

    id: str
    name: str
    created: float
    state: State = State.QUEUED
    url: str | None = None
    path: str | None = None
    video_id: str | None = None
    content_key: str | None = None
    uri: str | None = None
    duration_s: float | None = None
    stage: str | None = None
    begun: int = 0
    finished: float | None = None
    seconds: float | None = None
    error_type: str | None = None
    message: str | None = None
    result: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be done for it."""
        return self.state in {State.DONE, State.FAILED}

    @property
    def key(self) -> tuple[str | None, str | None]:
        """The video that it is about."""
        return self.video_id, self.content_key

    @property
    def found(self) -> dict[str, Any] | None:
        """What was found, as values."""
        return json.loads(self.result) if self.result else None


def new_id() -> str:
    """Return an id that nobody can guess: 128 random bits."""
    return secrets.token_urlsafe(16)


_COLUMNS = [field.name for field in fields(Job)]
_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL, state TEXT NOT NULL,
    url TEXT, path TEXT, video_id TEXT, content_key TEXT, uri TEXT, duration_s REAL, stage TEXT,
    begun INTEGER NOT NULL, finished REAL, seconds REAL, error_type TEXT, message TEXT, result TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, created);
CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
"""


class Jobs:
    """All jobs. Every change is on disk when the method returns. Any thread may call."""

    def __init__(self, folder: Path) -> None:
        """Open the jobs of a folder, or begin with none."""
        self.folder = folder
        for name in ("uploads", "previews"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(folder / "jobs.sqlite", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_TABLE)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def add(self, job: Job) -> None:
        """Add one."""
        self._write(f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})", _values(job))

    def change(self, job: Job, **changes: Any) -> Job:
        """Change some of a job's values; returns it as it is now. A job that was deleted stays so."""
        names = ", ".join(f"{name} = ?" for name in changes)
        self._write(f"UPDATE jobs SET {names} WHERE id = ?", [*changes.values(), job.id])
        return replace(job, **changes)

    def get(self, job_id: str) -> Job | None:
        """Return a job; None when there is none of that id."""
        return next(iter(self._read("WHERE id = ?", [job_id])), None)

    def of(self, *states: State) -> list[Job]:
        """Return the jobs in some states, oldest first."""
        return self._read(f"WHERE state IN ({', '.join('?' * len(states))}) ORDER BY created, id", list(states))

    def delete(self, job: Job) -> None:
        """Forget a job, and delete its files unless another job has the same."""
        self._write("DELETE FROM jobs WHERE id = ?", [job.id])
        if job.path and not self._read("WHERE path = ? LIMIT 1", [job.path]):
            self.delete_file(Path(job.path))

    def delete_file(self, path: Path) -> None:
        """Delete a file of a job that lies in the folder, with the preview made of it; others are left alone."""
        if path.parent == self.folder / "uploads":
            previews = (self.folder / "previews").glob(f"{self.preview_of(path).stem}*")
            for each in (path, *previews):
                with suppress(OSError):
                    each.unlink(missing_ok=True)

    def preview_of(self, path: Path) -> Path:
        """Name the preview of a video file."""
        return self.folder / "previews" / f"{path.stem}.mp4"

    def recover(self) -> list[Job]:
        """Put the jobs that a server ended with back to the queue; returns those that are given up instead.

        What nobody's upload became, because the server ended first, is deleted.
        """
        lost = []
        for job in self.of(State.RUNNING):
            if job.begun >= MAX_BEGUN:
                lost.append(job)
            else:
                self.change(job, state=State.QUEUED, stage=None)
        known = {path for (path,) in self._rows("SELECT path FROM jobs WHERE path IS NOT NULL", [])}
        for file in (self.folder / "uploads").iterdir():
            if str(file) not in known:
                with suppress(OSError):
                    file.unlink()
        return lost

    def forget_older(self, than: float) -> int:
        """Delete jobs that were over before a time, with their files; returns how many."""
        over = self._read("WHERE state IN ('done', 'failed') AND finished < ?", [than])
        for job in over:
            self.delete(job)
        return len(over)

    def number(self, name: str, otherwise: float) -> float:
        """Return a number that was kept."""
        rows = self._rows("SELECT value FROM numbers WHERE name = ?", [name])
        return rows[0][0] if rows else otherwise

    def keep_number(self, name: str, value: float) -> None:
        """Keep a number."""
        self._write("INSERT OR REPLACE INTO numbers VALUES (?, ?)", [name, value])

    def _read(self, where: str, values: Sequence[Any]) -> list[Job]:
        rows = self._rows(f"SELECT {', '.join(_COLUMNS)} FROM jobs {where}", values)
        jobs = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
        return [Job(**{**values, "state": State(values["state"])}) for values in jobs]

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        with self._lock:
            return self._database.execute(query, [_plain(value) for value in values]).fetchall()

    def _write(self, query: str, values: Sequence[Any]) -> None:
        with self._lock:
            self._database.execute(query, [_plain(value) for value in values])


def _values(job: Job) -> list[Any]:
    return [getattr(job, name) for name in _COLUMNS]


def _plain(value: Any) -> Any:
    # SQLite takes no text with lone surrogates.
    return str(value).encode("utf-8", "replace").decode() if isinstance(value, str) else value
