"""The tables and pictures of an ablation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from vemoclap_batch.store.filesystem import write_atomically, write_bytes_atomically

TABLE, MARKDOWN, ACCURACY, COST = "table.parquet", "table.md", "accuracy.png", "cost.png"
Row = Mapping[str, Any]
_TITLES = {
    "frames": "How the number of frames changes accuracy and cost",
    "modalities": "What each modality contributes",
    "fusion": "Cross-attention beside other fusions of the same features",
}
_BLUE, _RED, _GREY = "#4c78a8", "#e45756", "#9a9a9a"
_MARKERS = "osD^v<>P"
_MILLION = 1e6


def write_study(
    filesystem: pafs.FileSystem, folder: str, study: str, rows: Sequence[Row], base: str, about: Row
) -> None:
    """Write ``table.parquet``, ``table.md``, ``accuracy.png`` and ``cost.png`` of one study.

    Args:
        filesystem: where they go.
        folder: on that filesystem.
        study: ``frames``, ``modalities`` or ``fusion``.
        rows: one a line: ``name``, ``features``, ``frames``, ``fusion``; ``accuracy``, ``macro_f1`` and ``difference``
            (to the base line, seed by seed), each with its ``…_deviation`` over the seeds; ``accuracy_low``,
            ``accuracy_high`` (95 %, over the test videos); ``extract_s`` (None when not known), ``one_ms``,
            ``batch_ms``, ``parameters``, ``flops``, ``predict_mib``, ``train_mib``, ``train_s``, ``steps``;
            ``position_error_mean``, ``position_error_max``.
        base: name of the line that the others are compared with.
        about: what the rows are made of, the same for all.
    """
    write_atomically(filesystem, f"{folder}/{TABLE}", _table(rows, about))
    write_bytes_atomically(filesystem, f"{folder}/{MARKDOWN}", as_markdown(study, rows, base, about).encode())
    pictures = {ACCURACY: _draw_accuracy(study, rows, base, about), COST: _draw_cost(study, rows, about)}
    for name, content in pictures.items():
        write_bytes_atomically(filesystem, f"{folder}/{name}", content)


def _table(rows: Sequence[Row], about: Row) -> pa.Table:
    """The rows, each with what it is made of, so that tables of several runs can be joined."""
    shared = {name: about[name] for name in ("preset", "split", "split_source", "validation", "blacklist")}
    sizes = {name: about[name] for name in ("n_train", "n_validation", "n_test", "d_model", "heads", "dropout")}
    seeds = {"seeds": about["seeds"], "fingerprints": [f"{k}={v}" for k, v in sorted(about["fingerprints"].items())]}
    table = pa.Table.from_pylist([{**row, **shared, **sizes, **seeds} for row in rows])
    # A column in which nothing is known keeps its type.
    known = {"extract_s": pa.float64(), "blacklist": pa.string()}
    fields = [pa.field(field.name, known.get(field.name, field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))


def as_markdown(study: str, rows: Sequence[Row], base: str, about: Row) -> str:
    """One study as a page."""
    columns = _columns(study, base)
    lines = [
        f"# {_TITLES[study]}", "", *_made_of(about), "",
        "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns),
        *("| " + " | ".join(show(row) for show in columns.values()) + " |" for row in rows),
        "", *_notes(study, about), "", f"![accuracy]({ACCURACY})", f"![cost]({COST})", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _columns(study: str, base: str) -> dict[str, Callable[[Row], str]]:
    columns: dict[str, Callable[[Row], str]] = {
        study: lambda row: row["name"],
        "accuracy": lambda row: f"{row['accuracy']:.3f} ± {row['accuracy_deviation']:.3f}",
        "95 %": lambda row: f"{row['accuracy_low']:.3f}–{row['accuracy_high']:.3f}",
        f"to “{base}”": lambda row: "–" if row["name"] == base else _signed(row),
        "macro F1": lambda row: f"{row['macro_f1']:.3f} ± {row['macro_f1_deviation']:.3f}",
        "extract, s/video": lambda row: _or_dash(row["extract_s"], ".2f"),
        "classify, ms/video alone": lambda row: f"{row['one_ms']:.2f}",
        "in 32": lambda row: f"{row['batch_ms']:.2f}",
        "parameters": lambda row: f"{row['parameters']:,}",
        "MFLOP/video": lambda row: f"{row['flops'] / _MILLION:.2f}",
        "memory, MiB": lambda row: f"{row['predict_mib']:.1f}",
        "to train": lambda row: f"{row['train_mib']:.1f}",
        "train, s": lambda row: f"{row['train_s']:.1f}",
    }
    if study == "frames":
        columns["position error"] = _error
    return columns


def _signed(row: Row) -> str:
    return f"{row['difference']:+.3f} ± {row['difference_deviation']:.3f}"


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _error(row: Row) -> str:
    if not row["position_error_max"]:
        return "none"
    return f"{row['position_error_mean']:.2%}, at most {row['position_error_max']:.2%}"


def _made_of(about: Row) -> list[str]:
    fingerprints = ", ".join(f"{name} {value}" for name, value in sorted(about["fingerprints"].items()))
    seeds = ", ".join(map(str, about["seeds"]))
    return [
        f"Preset {about['preset']}; seeds {seeds}; d_model {about['d_model']}, {about['heads']} heads, dropout "
        f"{about['dropout']:g}.",
        f"Scored on split {about['split']} ({about['n_test']} videos), trained on {about['n_train']}; split: "
        f"{about['split_source']}; blacklist: {about['blacklist'] or 'none named'}.",
        f"The best step is chosen on {about['n_validation']} videos: {about['validation']}.",
        f"Features: {fingerprints}.",
    ]


def _notes(study: str, about: Row) -> list[str]:
    frames = ", ".join(about["frame_features"]) or "none"
    notes = [
        "± is the standard deviation over the seeds, 95 % a bootstrap interval over the test videos of the mean over "
        "the seeds; differences are taken seed by seed.",
        "Extraction: seconds of one core (or GPU) that the runs in OUT measured with these fingerprints, start-up "
        "apart; – where no run measured a stage. Decoding counts whole, and is not less for fewer frames.",
        "Classifying: from features in memory to probabilities on one thread, the median of 20 times. MFLOP: of the "
        "matrix products, for one video. Memory: the most that torch's allocator gave out, weights included, for a "
        "batch of 32; to train: with gradients and Adam's moments. Training time: beside other trials.",
    ]
    if study == "frames":
        notes += _frame_notes(about, frames)
    else:
        notes.append(f"All lines take n = {about['frames']} of the {about['extracted'] or 'stored'} frames.")
    if study == "modalities":
        notes.append(
            "With one sequence feature left nothing attends to anything: the classifier takes its mean over time."
        )
    if study == "fusion":
        notes += [
            "Late average: a classifier per feature, trained apart, the mean of their probabilities; its time to train "
            "is the sum.",
            "As published, nothing masks padding. A mean over time dilutes a sequence shorter than n by its zeros, "
            "attention can look past them: where sequences are short, that is part of the difference.",
        ]
    return [f"- {note}" for note in [*notes, *about["notes"]]]


def _frame_notes(about: Row, frames: str) -> list[str]:
    if about["extracted"] is None:
        return []
    return [
        f"The features were extracted once, with {about['extracted']} frames. For n, the evenly spaced n of them are "
        f"kept, and of {frames} what was found in these; sounds keep n windows. Extraction of {frames} is scaled by "
        "the frames. Text read off the frames stays that of all of them, and so does its time.",
        "Position error: how far the kept frames lie from those that extracting n takes, in shares of the video. None "
        "where n − 1 divides the intervals between the extracted frames: with --frames 31 for n = 1, 2, 4, 7, 16, 31 "
        "(of 7 one may be the frame beside it). 32 frames (31 intervals) serve only 1, 2 and 32 so; frames "
        "that serve 1, 2, 4, 8, 16 and 32 would be 52.",
    ]


# ---- pictures


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _subtitle(about: Row) -> str:
    seeds = len(about["seeds"])
    return f"preset {about['preset']}; {seeds} seed{'s' * (seeds > 1)}; split {about['split']}, n = {about['n_test']}"


def _draw_accuracy(study: str, rows: Sequence[Row], base: str, about: Row) -> bytes:
    """Accuracy of every line: a curve over the number of frames, else a bar each."""
    figure = _figure(6.8, 4.4) if study == "frames" else _figure(6.8, 1.6 + 0.36 * len(rows))
    axes = figure.subplots()
    axes.set_title(f"{_TITLES[study]}\n{_subtitle(about)}", fontsize=9)
    means, deviations = np.array([[row["accuracy"], row["accuracy_deviation"]] for row in rows]).T
    if study == "frames":
        low, high = np.array([[row["accuracy_low"], row["accuracy_high"]] for row in rows]).T
        n = [row["frames"] for row in rows]
        axes.fill_between(n, low, high, color=_BLUE, alpha=0.15, label="95 % over the test videos")
        axes.errorbar(n, means, deviations, color=_BLUE, marker="o", capsize=3, label="mean ± deviation over seeds")
        axes.set_xscale("log", base=2)
        axes.set(xticks=n, xticklabels=n, xlabel="frames", ylabel="accuracy")
        axes.legend(fontsize=8)
        return _png(figure)
    colours = [_RED if row["name"] == base else _BLUE for row in rows]
    axes.barh(range(len(rows)), means, xerr=deviations, color=colours, capsize=3)
    axes.axvline(next(row["accuracy"] for row in rows if row["name"] == base), color=_GREY, linestyle="--", linewidth=1)
    axes.set(yticks=range(len(rows)), xlabel="accuracy, mean ± deviation over seeds", xlim=(0, 1))
    axes.set_yticklabels([row["name"] for row in rows])
    axes.invert_yaxis()
    return _png(figure)


def _draw_cost(study: str, rows: Sequence[Row], about: Row) -> bytes:
    """Accuracy against what the study is about: seconds to extract where they are known, and operations to classify."""
    costs = {"to classify, MFLOP a video": [row["flops"] / _MILLION for row in rows]}
    known = all(row["extract_s"] is not None for row in rows)
    if study == "fusion":
        costs["parameters, millions"] = [row["parameters"] / _MILLION for row in rows]
    elif known:
        costs = {"to extract, s a video": [row["extract_s"] for row in rows]} | costs
    figure = _figure(4.0 * len(costs) + 2.2, 4.6)
    panels = np.atleast_1d(figure.subplots(1, len(costs), sharey=True))
    figure.suptitle(f"{_TITLES[study]}\n{_subtitle(about)}", fontsize=9)
    for axes, (label, values) in zip(panels, costs.items(), strict=True):
        _scatter(axes, values, rows)
        axes.set_xlabel(label)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    panels[0].set_ylabel("accuracy, mean ± deviation over seeds")
    return _png(figure)


def _scatter(axes: Any, values: Sequence[float], rows: Sequence[Row]) -> None:
    """One point a row, named in a legend: names beside points that lie close would cover each other."""
    for at, (value, row) in enumerate(zip(values, rows, strict=True)):
        style = {"color": f"C{at % 10}", "fmt": _MARKERS[at % len(_MARKERS)], "capsize": 3, "label": row["name"]}
        axes.errorbar(value, row["accuracy"], row["accuracy_deviation"], **style)
    if min(values) > 0 and max(values) / min(values) > 10:
        axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.grid(alpha=0.3)
