"""The scheduled job: what is new or changed since last time, labelled, and a summary that says what to look at."""

from __future__ import annotations

import datetime
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import chi2_contingency

from vemoclap_batch.config import Config
from vemoclap_batch.pipeline.run import Classifier, Run, run
from vemoclap_batch.store.filesystem import is_remote, write_bytes_atomically

#: A night's labels drift when they differ from the trailing weeks' by chance this rarely, and by this much at least.
DRIFT_P, DRIFT_DISTANCE = 0.01, 0.1
#: Fewer labels than this, tonight or in the trailing weeks, are too few to speak of drift.
DRIFT_MIN = 30
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
    videos: pa.Table, out: str, config: Config, classifier: Classifier, settings: Settings, address: str | None = None
) -> dict[str, Any]:
    """Label what is new or changed, and write the night's summary to ``OUT/nightly/<run id>.json`` and ``.md``.

    Args:
        videos: all videos under the sources, as the manifest has them.
        out: the output folder of all nights.
        config: the configuration.
        classifier: the fusion checkpoint.
        settings: of the night.
        address: of a Ray cluster.

    Returns:
        The summary.

    Raises:
        Busy: another run, such as a night that has not ended, holds the folder.
    """
    settled, waiting = split_settled(videos, settings.settle_s)
    done = run(settled, out, config, classifier, wait=False, address=address)
    summary = summarise(done, waiting, settings)
    done.store.write_json(f"nightly/{done.run_id}.json", summary)
    path = f"{done.store.root}/nightly/{done.run_id}.md"
    write_bytes_atomically(done.store.filesystem, path, as_markdown(summary).encode())
    return summary


def split_settled(videos: pa.Table, settle_s: float, now: float | None = None) -> tuple[pa.Table, list[str]]:
    """The videos that are safe to read, and the addresses of those that may still be uploading.

    A local file is taken for settled when it was not changed for a while. An object store shows an object only when
    its upload is complete, so those all are.
    """
    now = time.time() if now is None else now
    waiting = [
        not is_remote(uri) and (changed := _changed_at(uri)) is not None and now - changed < settle_s
        for uri in videos["uri"].to_pylist()
    ]
    mask = pa.array(waiting, pa.bool_())
    return videos.filter(pc.invert(mask)), videos["uri"].filter(mask).to_pylist()


def _changed_at(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def summarise(done: Run, waiting: Sequence[str], settings: Settings) -> dict[str, Any]:
    """The night in figures."""
    gpu_hours = sum(
        done.totals.stages[name].seconds * stage.gpus / 3600
        for stage in (done.plan.stages if done.plan else ())
        if stage.gpus
        for name in stage.extractors
    )
    tonight, before = _labels(done, settings.weeks)
    return {
        "run_id": done.run_id,
        "out": done.store.address,
        "counts": done.summary()["counts"] | {"left_for_next_night": len(waiting)},
        "left_for_next_night": list(waiting)[:100],
        "failures": _failures(done),
        "labels": tonight,
        "labels_before": before,
        "weeks": settings.weeks,
        "drift": drift(tonight, before),
        "wall_s": round(time.time() - done.began, 1),
        "gpu_hours": round(gpu_hours, 4),
        "gpu_cost": None if settings.gpu_hour_cost is None else round(gpu_hours * settings.gpu_hour_cost, 2),
    }


def _failures(done: Run) -> dict[str, int]:
    log = done.store.errors().read(["error_type", "run_id"])
    mine = log.filter(pc.equal(log["run_id"], done.run_id))
    return dict(sorted(Counter(mine["error_type"].to_pylist()).items()))


def _labels(done: Run, weeks: int) -> tuple[dict[str, int], dict[str, int]]:
    """How often each label was given tonight, and in the weeks before."""
    if done.predicted is None:
        return {}, {}
    rows = done.predicted.table.read(["label", "run_id"])
    # Run ids begin with the time.
    since = f"{datetime.datetime.now(datetime.UTC) - datetime.timedelta(weeks=weeks):%Y%m%dT%H%M%S}"
    tonight, before = Counter[str](), Counter[str]()
    for label, run_id in zip(rows["label"].to_pylist(), rows["run_id"].to_pylist(), strict=True):
        if run_id == done.run_id:
            tonight[label] += 1
        elif run_id >= since:
            before[label] += 1
    return dict(sorted(tonight.items())), dict(sorted(before.items()))


def drift(tonight: Mapping[str, int], before: Mapping[str, int]) -> dict[str, Any]:
    """Whether tonight's labels differ from the trailing weeks' by more than chance.

    Returns:
        ``flagged``; ``p_value`` of a chi-square test of homogeneity and ``distance``, the total variation (0..1), both
        None when there are too few labels; ``shift``: label → change of its share.
    """
    names = sorted(name for name in {*tonight, *before} if tonight.get(name, 0) + before.get(name, 0))
    counts = np.array([[side.get(name, 0) for name in names] for side in (tonight, before)], float).reshape(2, -1)
    if min(counts.sum(1)) < DRIFT_MIN or len(names) < 2:
        return {"flagged": False, "p_value": None, "distance": None, "shift": {}}
    shares = counts / counts.sum(1, keepdims=True)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    p_value = float(chi2_contingency(counts).pvalue)
    return {
        "flagged": bool(p_value < DRIFT_P and distance >= DRIFT_DISTANCE),
        "p_value": p_value,
        "distance": distance,
        "shift": {name: float(shares[0, at] - shares[1, at]) for at, name in enumerate(names)},
    }


def as_markdown(summary: Mapping[str, Any]) -> str:
    """The summary for a person."""
    counts = summary["counts"]
    lines = [
        f"# Night {summary['run_id']}",
        "",
        f"{counts['done']} done, {counts['skipped']} there already, {counts['failed']} failed, "
        f"{counts['left_for_next_night']} left for the next night; {summary['wall_s']:.0f} s, "
        f"{summary['gpu_hours']:.2f} GPU-hours"
        + (f", {summary['gpu_cost']:.2f} spent" if summary["gpu_cost"] is not None else ""),
        "",
        f"| label | tonight | last {summary['weeks']} weeks | change of share |",
        "| --- | --- | --- | --- |",
    ]
    for name in sorted({*summary["labels"], *summary["labels_before"]}):
        shift = summary["drift"]["shift"].get(name)
        change = "" if shift is None else f"{shift:+.1%}"
        lines.append(
            f"| {name} | {summary['labels'].get(name, 0)} | {summary['labels_before'].get(name, 0)} | {change} |"
        )
    if summary["drift"]["flagged"]:
        lines += ["", f"**The labels drift**: p = {summary['drift']['p_value']:.2g}. Look at what was uploaded."]
    if summary["failures"]:
        lines += ["", "| failure | times |", "| --- | --- |"]
        lines += [f"| {kind} | {count} |" for kind, count in summary["failures"].items()]
    return "\n".join(lines) + "\n"


def needs_attention(summary: Mapping[str, Any]) -> bool:
    """Whether a person should look: something failed, or the labels drift."""
    return bool(summary["counts"]["failed"] or summary["drift"]["flagged"])


def call_hook(command: str, status: str, text: str) -> None:
    """Run an alert command, the summary on its standard input; its failure is said, and changes nothing else.

    Args:
        command: split as a shell would, but run without one.
        status: for the command's environment, as ``VEMOCLAP_STATUS``: ok, attention, held, stopped or broken.
        text: JSON, or a line saying why there is no summary.
    """
    environment = {**os.environ, "VEMOCLAP_STATUS": status}
    try:
        subprocess.run(
            shlex.split(command), input=text, text=True, env=environment, check=True, timeout=HOOK_TIMEOUT_S,
            stdout=sys.stderr,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"the hook failed: {error}", file=sys.stderr)
