"""The pictures of an analysis: classes, durations and resolutions, and what is present in which class."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

_KEPT, _REMOVED, _BEFORE = "#4c78a8", "#e45756", "#9ecae9"


def pictures(result: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG files by name: ``classes.png``, ``kinds.png`` and, if anything is known of it, ``presence.png``.

    Args:
        result: as of :func:`vemoclap_batch.studies.analysis.analyze`.
    """
    found = {"classes.png": _classes(result), "kinds.png": _kinds(result)}
    return found | ({"presence.png": _presence(result)} if result["tables"] else {})


def _classes(result: Mapping[str, Any]) -> bytes:
    figure = _figure(7.2, 3.9)
    axes = figure.subplots()
    labels = result["labels"]
    before = [result["groups"]["before"][label]["n"] for label in labels]
    removed = _removed(result, lambda group: [group[label]["n"] for label in labels])
    _stack(axes, labels, before, removed)
    axes.set(ylabel="videos", title="Videos by class")
    return _png(figure)


def _kinds(result: Mapping[str, Any]) -> bytes:
    figure = _figure(11.0, 3.9)
    panels = figure.subplots(1, len(result["kinds"]), squeeze=False)[0]
    for axes, (name, kinds) in zip(panels, result["kinds"].items(), strict=True):
        before = result["groups"]["before"]["all"][name]
        removed = _removed(result, partial(_of_kinds, name))
        if sum(before):
            _stack(axes, kinds, before, removed)
        else:
            axes.text(0.5, 0.5, "not known of any video", ha="center", transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
        axes.set(ylabel="videos", title=f"Videos by {name.removesuffix('s')}")
    return _png(figure)


def _presence(result: Mapping[str, Any]) -> bytes:
    figure = _figure(3.9 * len(result["tables"]), 3.9)
    panels = figure.subplots(1, len(result["tables"]), squeeze=False, sharey=True)[0]
    shown = {name: result["groups"][name] for name in ("before", "after") if name in result["groups"]}
    colours = dict(zip(shown, (_BEFORE, _KEPT), strict=False))
    at, width = np.arange(len(result["labels"])), 0.8 / len(shown)
    for axes, name in zip(panels, result["tables"], strict=True):
        for number, (group, found) in enumerate(shown.items()):
            counts = [found[label][name] for label in result["labels"]]
            # A class of which nothing is known has no bar, unlike one without any.
            shares = [100 * c["present"] / c["known"] if c["known"] else np.nan for c in counts]
            axes.bar(at + (number - (len(shown) - 1) / 2) * width, shares, width, color=colours[group], label=group)
        axes.set(title=f"Videos with {name}", ylim=(0, 100))
        axes.set_xticks(at, result["labels"], rotation=35, ha="right")
    panels[0].set_ylabel("% of the class")
    return _png(figure)


def _removed(result: Mapping[str, Any], counts: Callable[[Any], list[int]]) -> list[int] | None:
    groups = result["groups"]
    return counts(groups["removed"]) if "removed" in groups else None


def _of_kinds(name: str, group: Mapping[str, Any]) -> list[int]:
    return group["all"][name]


def _stack(axes: Any, names: Sequence[str], before: Sequence[int], removed: Sequence[int] | None) -> None:
    """Bars of all videos, the removed ones on top with their share."""
    at = np.arange(len(names))
    gone = np.zeros(len(names), int) if removed is None else np.array(removed)
    kept = np.array(before) - gone
    axes.bar(at, kept, color=_KEPT, label="kept")
    labels = [str(count) for count in before]
    if removed is not None:
        axes.bar(at, gone, bottom=kept, color=_REMOVED, label="removed")
        labels = [f"{n}\n−{100 * out / n:.0f} %" if n else "0" for n, out in zip(before, gone, strict=True)]
    for x, (count, text) in enumerate(zip(before, labels, strict=True)):
        axes.annotate(text, (x, count), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=8)
    axes.set_ylim(0, 1.25 * max(1, *before))
    axes.set_xticks(at, names, rotation=35, ha="right")


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    handles, names = figure.axes[0].get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, loc="outside right upper", fontsize=8)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=120)
    return sink.getvalue()
