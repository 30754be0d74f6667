"""The nightly run: label what is new or changed, and write a summary that says what to look at."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.config import Config
from vemoclap_batch.errors import RunBroken
from vemoclap_batch.pipeline.run import Classifier, run
from vemoclap_batch.sources.listing import changed_at
from vemoclap_batch.sources.manifest import Manifest
from vemoclap_batch.store.filesystem import is_remote
from vemoclap_batch.store.folder import Folder
from vemoclap_batch.upkeep.nightly_report import as_markdown, summarise

HOOK_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Settings:
    """Settings of a nightly run.

    Attributes:
        settle_s: a file changed less than this many seconds ago may still be uploading; the next night takes it.
        weeks: how far back the labels go that tonight's are compared with.
        gpu_hour_cost: price of a GPU-hour, in whatever currency; None leaves the cost out.
    """

    settle_s: float = 600.0
    weeks: int = 4
    gpu_hour_cost: float | None = None


def nightly(
    manifest: Manifest, out: str, config: Config, classifier: Classifier, settings: Settings, address: str | None = None
) -> dict[str, Any]:
    """Label what is new or changed; write the summary to ``OUT/nightly/<run id>.json`` and ``.md`` and return it.

    Raises:
        Busy: another run, such as a night that has not ended, holds the folder.
        RunBroken: the run broke off, or its summary, which the error then has, cannot be written.
        Stopped: SIGTERM came.
    """
    settled, waiting = split_settled(manifest.rows, settings.settle_s)
    done = run(settled, out, config, classifier, wait=False, address=address)
    summary = summarise(done, manifest, waiting, settings.weeks, settings.gpu_hour_cost)
    try:
        done.store.write_json(f"nightly/{done.run_id}.json", summary)
        (Folder(out) / "nightly").write(f"{done.run_id}.md", as_markdown(summary).encode())
    except RunBroken as error:
        error.summary = summary
        raise
    return summary


def split_settled(videos: pa.Table, settle_s: float) -> tuple[pa.Table, list[str]]:
    """The videos that are safe to read, and the addresses of those that may still be uploading.

    A file is taken for settled when it is there and was not changed for ``settle_s`` seconds; of a remote one a listing
    of its folder tells. An object store shows an object only when its upload is complete, so those all are settled, and
    so is what a listing gives no time of.

    Raises:
        RunBroken: a remote filesystem does not answer, or refuses.
    """
    uris = videos["uri"].to_pylist()
    listed = changed_at(uris)
    changed = [listed.get(uri, 0.0) if is_remote(uri) else _changed_here(uri) for uri in uris]
    # A date in the future is a wrong clock, not an upload.
    waiting = pa.array([when is None or abs(time.time() - when) < settle_s for when in changed], pa.bool_())
    return videos.filter(pc.invert(waiting)), videos["uri"].filter(waiting).to_pylist()


def _changed_here(path: str) -> float | None:
    """When a local file was changed; None: it is not there."""
    try:
        return os.stat(path).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return 0.0  # Decoding will say what the matter is.


def call_hook(command: str, status: str, text: str) -> None:
    """Run an alert command with the summary on its standard input; a failure of it is only printed.

    The command is split as a shell would, but run without one; its ``VEMOCLAP_STATUS`` is the status: ok, attention,
    held, stopped or broken.
    """
    environment = {**os.environ, "VEMOCLAP_STATUS": status}
    try:
        subprocess.run(
            shlex.split(command), input=text, text=True, env=environment, check=True, timeout=HOOK_TIMEOUT_S,
            stdout=sys.stderr,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"the hook failed: {error}", file=sys.stderr)
