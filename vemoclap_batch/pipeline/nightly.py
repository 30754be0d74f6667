"""The scheduled job: what is new or changed since last time, labelled, and a summary that says what to look at."""

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
from vemoclap_batch.manifest import Manifest
from vemoclap_batch.pipeline.night_summary import as_markdown, summarise
from vemoclap_batch.pipeline.run import Classifier, run
from vemoclap_batch.store.filesystem import is_remote, write_bytes_atomically

HOOK_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Settings:
    """How a night is run.

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
    """Label what is new or changed, and write the night's summary to ``OUT/nightly/<run id>.json`` and ``.md``.

    Args:
        manifest: all videos under the sources.
        out: the output folder of all nights.
        config: the configuration.
        classifier: the fusion checkpoint.
        settings: of the night.
        address: of a Ray cluster.

    Returns:
        The summary.

    Raises:
        Busy: another run, such as a night that has not ended, holds the folder.
        RunBroken: the run broke off.
        Stopped: SIGTERM came.
    """
    settled, waiting = split_settled(manifest.rows, settings.settle_s)
    done = run(settled, out, config, classifier, wait=False, address=address)
    summary = summarise(done, waiting, manifest.empty, settings.weeks, settings.gpu_hour_cost)
    done.store.write_json(f"nightly/{done.run_id}.json", summary)
    path = f"{done.store.root}/nightly/{done.run_id}.md"
    write_bytes_atomically(done.store.filesystem, path, as_markdown(summary).encode())
    return summary


def split_settled(videos: pa.Table, settle_s: float, now: float | None = None) -> tuple[pa.Table, list[str]]:
    """The videos that are safe to read, and the addresses of those that may still be uploading.

    A local file is taken for settled when it is there and was not changed for a while. An object store shows an object
    only when its upload is complete, so those all are; on HDFS, writers are expected to rename what is finished.
    """
    now = time.time() if now is None else now
    waiting = pa.array([_may_be_uploading(uri, settle_s, now) for uri in videos["uri"].to_pylist()], pa.bool_())
    return videos.filter(pc.invert(waiting)), videos["uri"].filter(waiting).to_pylist()


def _may_be_uploading(uri: str, settle_s: float, now: float) -> bool:
    if is_remote(uri):
        return False
    try:
        changed = os.stat(uri).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # Decoding will say what the matter is.
    # A date in the future is a wrong clock, not an upload.
    return abs(now - changed) < settle_s


def call_hook(command: str, status: str, text: str) -> None:
    """Run an alert command, the summary on its standard input; its failure is said, and changes nothing else.

    Args:
        command: split as a shell would, but run without one.
        status: for the command's environment, as ``VEMOCLAP_STATUS``: ok, attention, held, stopped or broken.
        text: the summary as JSON.
    """
    environment = {**os.environ, "VEMOCLAP_STATUS": status}
    try:
        subprocess.run(
            shlex.split(command), input=text, text=True, env=environment, check=True, timeout=HOOK_TIMEOUT_S,
            stdout=sys.stderr,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"the hook failed: {error}", file=sys.stderr)
