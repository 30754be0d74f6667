"""A night in figures, for programs and people: what was done and what failed, whether labels drift, what it cost."""

from __future__ import annotations

import datetime
import html
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2_contingency

from vemoclap_batch.pipeline.run import Run
from vemoclap_batch.report.digest import shorten
from vemoclap_batch.sources.manifest import Manifest
from vemoclap_batch.upkeep.status import failures

#: A night's labels drift when they differ from the trailing weeks' by chance this rarely, and by this much at least.
DRIFT_P, DRIFT_DISTANCE = 0.01, 0.1
#: Fewer labels than this, tonight or in the trailing weeks, are too few to speak of drift.
DRIFT_MIN = 30
#: Addresses and failures that a summary names; a page for a person shows fewer.
_NAMED, _SHOWN = 100, 10
_OF_FAILURE = ["video_id", "uri", "extractor", "error_type", "message", "attempts", "run_id"]


def summarise(
    done: Run, manifest: Manifest, waiting: Sequence[str], weeks: int, gpu_hour_cost: float | None
) -> dict[str, Any]:
    """The night in figures.

    Args:
        done: the night's run.
        manifest: all videos under the sources.
        waiting: addresses of those that were left for the next night.
        weeks: how far back the labels go that tonight's are compared with.
        gpu_hour_cost: price of a GPU-hour; None leaves the cost out.

    Returns:
        ``ignored``: files of the sources that are no videos or may not be read, by suffix; ``failures``: what failed
        tonight, by type, and ``still_failing``, what failed in nights before and is not tried again; ``gpu_hours``, in
        which GPUs worked, and ``gpu_hours_held``, in which the run's actors had them, which is what ``gpu_cost`` is of.
        The others are what their names say.
    """
    every = _open_failures(done)
    failed = [row for row in every if row["run_id"] == done.run_id]
    tonight, before = _labels(done, weeks)
    held = _held(done)
    return {
        "run_id": done.run_id,
        "out": done.store.address,
        "counts": done.summary()["counts"] | {"left_for_next_night": len(waiting)},
        "left_for_next_night": list(waiting)[:_NAMED],
        "empty_sources": manifest.empty,
        "ignored": dict(manifest.ignored.most_common(_NAMED)),
        "failures": _by_type(failed),
        "still_failing": _by_type([row for row in every if row["run_id"] != done.run_id]),
        "failed": failed[:_NAMED],
        "labels": tonight,
        "labels_before": before,
        "weeks": weeks,
        "drift": drift(tonight, before),
        "wall_s": round(time.time() - done.began, 1),
        "gpu_hours": round(_busy(done), 4),
        "gpu_hours_held": round(held, 4),
        "gpu_cost": None if gpu_hour_cost is None else round(held * gpu_hour_cost, 2),
        "notes": done.notes,
    }


def needs_attention(summary: Mapping[str, Any]) -> bool:
    """Whether a person should look: something failed tonight, or the labels drift."""
    return bool(summary["failures"] or summary["drift"]["flagged"])


def _open_failures(done: Run) -> list[dict[str, Any]]:
    """What the night's videos still lack for a failure, of this night or another; what was made good since is none."""
    if not done.pending or not done.pending.incomplete.num_rows:
        return []
    return failures(done.store, done.specs, done.pending.incomplete).select(_OF_FAILURE).to_pylist()


def _by_type(failures: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return dict(sorted(Counter(row["error_type"] for row in failures).items()))


def _busy(done: Run) -> float:
    """Hours of GPU shares that worked."""
    return sum(
        done.totals.stages[name].seconds * stage.gpus / 3600
        for stage in (done.plan.stages if done.plan else ())
        if stage.gpus
        for name in stage.extractors
    )


def _held(done: Run) -> float:
    """Hours of GPU shares that the run's actors had, at work or waiting."""
    gpus = sum(stage.actors * stage.gpus for stage in done.plan.stages) if done.plan else 0.0
    return gpus * done.held_s / 3600


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
    lines = [f"# Night {summary['run_id']}", "", _in_short(summary), "", *_label_table(summary)]
    if summary["drift"]["flagged"]:
        lines += ["", f"**The labels drift**: p = {summary['drift']['p_value']:.2g}. Look at what was uploaded."]
    lines += _failure_table("failed tonight", summary["failures"])
    lines += [""] * bool(summary["failed"])
    lines += [f"* {_escaped(_failed(row))}" for row in summary["failed"][:_SHOWN]]
    lines += _failure_table("failed before, not tried again", summary["still_failing"])
    ignored = ", ".join(f"{count} {kind}" for kind, count in [*summary["ignored"].items()][:_SHOWN])
    lines += [""] * bool(summary["empty_sources"] or ignored or summary["notes"])
    lines += [f"* {_escaped(source)}: no video there" for source in summary["empty_sources"]]
    lines += [f"* left out: {_escaped(ignored)}"] * bool(ignored)
    lines += [f"* {_escaped(note)}" for note in summary["notes"]]
    return "\n".join(lines) + "\n"


def _in_short(summary: Mapping[str, Any]) -> str:
    counts = summary["counts"]
    cost = f", {summary['gpu_cost']:.2f} spent" if summary["gpu_cost"] is not None else ""
    return (
        f"{counts['done']} done, {counts['skipped']} there already, {counts['failed']} failed, "
        f"{counts['left_for_next_night']} left for the next night; {summary['wall_s']:.0f} s, "
        f"{summary['gpu_hours_held']:.2f} GPU-hours held, {summary['gpu_hours']:.2f} of them at work{cost}"
    )


def _label_table(summary: Mapping[str, Any]) -> list[str]:
    lines = [f"| label | tonight | last {summary['weeks']} weeks | change of share |", "| --- | --- | --- | --- |"]
    for name in sorted({*summary["labels"], *summary["labels_before"]}):
        shift = summary["drift"]["shift"].get(name)
        change = "" if shift is None else f"{shift:+.1%}"
        lines.append(
            f"| {name} | {summary['labels'].get(name, 0)} | {summary['labels_before'].get(name, 0)} | {change} |"
        )
    return lines


def _failure_table(title: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    return ["", f"| {title} | times |", "| --- | --- |", *(f"| {kind} | {count} |" for kind, count in counts.items())]


def _failed(row: Mapping[str, Any]) -> str:
    return f"{row['uri'] or row['video_id']} ({row['extractor'] or 'decode'}): {row['error_type']}"


def _escaped(text: str) -> str:
    """Text of unknown origin, so that Markdown and HTML show it and do nothing with it."""
    return re.sub(r"([\\`*_\[\]()#|~!<>{}])", r"\\\1", html.escape(shorten(text, 300), quote=False))
