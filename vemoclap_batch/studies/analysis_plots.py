"""The plots of an analysis: classes, durations and resolutions, and what is present in which class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vemoclap_batch.report.pages import BLUE, LIGHT_BLUE, RED, figure, png


def plots(result: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG files by name: ``classes.png``, ``kinds.png`` and, if anything is known of it, ``presence.png``."""
    drawn = {"classes.png": _classes(result), "kinds.png": _kinds(result)}
    return drawn | ({"presence.png": _presence(result)} if result["tables"] else {})


def _classes(result: Mapping[str, Any]) -> bytes:
    drawn = figure(7.2, 3.9)
    axes = drawn.subplots()
    labels = result["labels"]
    counts = {name: [group[label]["n"] for label in labels] for name, group in result["groups"].items()}
    _stack(axes, labels, counts["before"], counts.get("removed"))
    axes.set(ylabel="videos", title="Videos by class")
    return _with_legend(drawn)


def _kinds(result: Mapping[str, Any]) -> bytes:
    drawn = figure(11.0, 3.9)
    panels = drawn.subplots(1, len(result["kinds"]), squeeze=False)[0]
    for axes, (name, kinds) in zip(panels, result["kinds"].items(), strict=True):
        counts = {group: described["all"][name] for group, described in result["groups"].items()}
        if sum(counts["before"]):
            _stack(axes, kinds, counts["before"], counts.get("removed"))
        else:
            axes.text(0.5, 0.5, "not known of any video", ha="center", transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
        axes.set(ylabel="videos", title=f"Videos by {name.removesuffix('s')}")
    return _with_legend(drawn)


def _presence(result: Mapping[str, Any]) -> bytes:
    drawn = figure(3.9 * len(result["tables"]), 3.9)
    panels = drawn.subplots(1, len(result["tables"]), squeeze=False, sharey=True)[0]
    groups = {name: group for name, group in result["groups"].items() if name != "removed"}
    at, width = np.arange(len(result["labels"])), 0.8 / len(groups)
    for axes, name in zip(panels, result["tables"], strict=True):
        for number, (group, described) in enumerate(groups.items()):
            counts = [described[label][name] for label in result["labels"]]
            # A class of which nothing is known has no bar, unlike one without any.
            shares = [100 * c["present"] / c["known"] if c["known"] else np.nan for c in counts]
            offset = (number - (len(groups) - 1) / 2) * width
            axes.bar(at + offset, shares, width, color=(LIGHT_BLUE, BLUE)[number], label=group)
        axes.set(title=f"Videos with {name}", ylim=(0, 100))
        axes.set_xticks(at, result["labels"], rotation=35, ha="right")
    panels[0].set_ylabel("% of the class")
    return _with_legend(drawn)


def _stack(axes: Any, names: Sequence[str], before: Sequence[int], removed: Sequence[int] | None) -> None:
    """Bars of all videos, the removed ones on top with their share."""
    at = np.arange(len(names))
    gone = np.zeros(len(names), int) if removed is None else np.array(removed)
    kept = np.array(before) - gone
    axes.bar(at, kept, color=BLUE, label="kept")
    labels = [str(count) for count in before]
    if removed is not None:
        axes.bar(at, gone, bottom=kept, color=RED, label="removed")
        labels = [f"{n}\n−{100 * out / n:.0f} %" if n else "0" for n, out in zip(before, gone, strict=True)]
    for x, (count, text) in enumerate(zip(before, labels, strict=True)):
        axes.annotate(text, (x, count), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=8)
    axes.set_ylim(0, 1.25 * max(1, *before))
    axes.set_xticks(at, names, rotation=35, ha="right")


def _with_legend(drawn: Any) -> bytes:
    handles, names = drawn.axes[0].get_legend_handles_labels()
    if len(names) > 1:
        drawn.legend(handles, names, loc="outside right upper", fontsize=8)
    return png(drawn)
