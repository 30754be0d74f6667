"""The summary of a nightly run: what was done, what failed, whether labels drift, and what it cost."""

from __future__ import annotations

import datetime
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from scipy.stats import chi2_contingency

from vemoclap_batch.pipeline.run import Run
from vemoclap_batch.report.pages import escaped, markdown_table
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
    """Count what a nightly run did.

    ``waiting`` are the addresses left for the next night, ``weeks`` says how far back the labels go that tonight's are
    compared with, and ``gpu_hour_cost`` is the price of a GPU-hour; None leaves the cost out.

    Returns:
        ``counts`` of the run; ``ignored``, files of the sources that are no videos or may not be read, by suffix;
        ``failures``, what failed tonight, by type, and ``still_failing``, what failed in nights before and is not tried
        again; ``labels`` and ``labels_before``, how often each was given, and their ``drift``; ``nothing_to_go_by``,
        how many videos of tonight have none; ``gpu_hours``, in which GPUs worked, and ``gpu_hours_held``, in which the
        run's actors had them, which ``gpu_cost`` is of; ``notes``.
    """
    open_failures = _open_failures(done)
    failed = [row for row in open_failures if row["run_id"] == done.run_id]
    failed_before = [row for row in open_failures if row["run_id"] != done.run_id]
    tonight, before, nothing = _labels(done, weeks)
    held = (done.plan.gpus if done.plan else 0.0) * done.held_s / 3600
    return {
        "run_id": done.run_id,
        "out": done.store.address,
        "counts": done.summary()["counts"] | {"left_for_next_night": len(waiting)},
        "left_for_next_night": list(waiting)[:_NAMED],
        "empty_sources": manifest.empty,
        "ignored": dict(manifest.ignored.most_common(_NAMED)),
        "failures": _by_type(failed),
        "still_failing": _by_type(failed_before),
        "failed": failed[:_NAMED],
        "labels": tonight,
        "labels_before": before,
        "nothing_to_go_by": nothing,
        "weeks": weeks,
        "drift": drift(tonight, before),
        "wall_s": round(time.time() - done.began, 1),
        "gpu_hours": round(_gpu_hours_at_work(done), 4),
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


def _gpu_hours_at_work(done: Run) -> float:
    return sum(
        done.totals.stages[name].seconds * stage.gpus / 3600
        for stage in (done.plan.stages if done.plan else ())
        if stage.gpus
        for name in stage.extractors
    )


def _labels(done: Run, weeks: int) -> tuple[dict[str, int], dict[str, int], int]:
    """How often each label was given tonight, and in the weeks before; how often none was tonight."""
    if done.predicted is None:
        return {}, {}, 0
    rows = done.predicted.table.read(["label", "run_id"])
    # Run ids begin with the time.
    since = f"{datetime.datetime.now(datetime.UTC) - datetime.timedelta(weeks=weeks):%Y%m%dT%H%M%S}"
    is_tonight = pc.equal(rows["run_id"], done.run_id)
    is_before = pc.and_not(pc.greater_equal(rows["run_id"], since), is_tonight)
    tonight, before = (rows["label"].filter(mask) for mask in (is_tonight, is_before))
    given = [dict(sorted(Counter(labels.drop_null().to_pylist()).items())) for labels in (tonight, before)]
    return given[0], given[1], tonight.null_count


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
    """The summary as a page."""
    parts = [f"# Night {summary['run_id']}", _in_short(summary), _label_table(summary)]
    if summary["drift"]["flagged"]:
        parts.append(f"**The labels drift**: p = {summary['drift']['p_value']:.2g}. Look at what was uploaded.")
    if nothing := summary["nothing_to_go_by"]:
        parts.append(f"{nothing} without a label: no face, no text and no sound to go by.")
    parts += _failure_table("failed tonight", summary["failures"])
    failed = [
        f"{row['uri'] or row['video_id']} ({row['extractor'] or 'decode'}): {row['error_type']}"
        for row in summary["failed"][:_SHOWN]
    ]
    parts += _list(failed)
    parts += _failure_table("failed before, not tried again", summary["still_failing"])
    ignored = ", ".join(f"{count} {kind}" for kind, count in [*summary["ignored"].items()][:_SHOWN])
    remarks = [f"{source}: no video there" for source in summary["empty_sources"]]
    remarks += [f"left out: {ignored}"] if ignored else []
    parts += _list([*remarks, *summary["notes"]])
    return "\n\n".join(parts) + "\n"


def _in_short(summary: Mapping[str, Any]) -> str:
    counts = summary["counts"]
    cost = f", {summary['gpu_cost']:.2f} spent" if summary["gpu_cost"] is not None else ""
    return (
        f"{counts['done']} done, {counts['skipped']} there already, {counts['failed']} failed, "
        f"{counts['left_for_next_night']} left for the next night; {summary['wall_s']:.0f} s, "
        f"{summary['gpu_hours_held']:.2f} GPU-hours held, {summary['gpu_hours']:.2f} of them at work{cost}"
    )


def _label_table(summary: Mapping[str, Any]) -> str:
    tonight, before, shift = summary["labels"], summary["labels_before"], summary["drift"]["shift"]
    rows = [
        [name, str(tonight.get(name, 0)), str(before.get(name, 0)), f"{shift[name]:+.1%}" if name in shift else ""]
        for name in sorted({*tonight, *before})
    ]
    return markdown_table(["label", "tonight", f"last {summary['weeks']} weeks", "change of share"], rows)


def _failure_table(title: str, counts: Mapping[str, int]) -> list[str]:
    rows = [[kind, str(count)] for kind, count in counts.items()]
    return [markdown_table([title, "times"], rows)] if rows else []


def _list(lines: Sequence[str]) -> list[str]:
    """A list of texts from outside; nothing of an empty one."""
    return ["\n".join(f"* {escaped(line)}" for line in lines)] if lines else []
