"""The tables and plots of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vemoclap_batch.report.pages import BLUE, GREY, RED, figure, markdown_table, png, write_files
from vemoclap_batch.store.folder import Folder

TABLE, MARKDOWN, ACCURACY, COST = "table.parquet", "table.md", "accuracy.png", "cost.png"
Row = Mapping[str, Any]
_TITLES = {
    "frames": "How the number of frames changes accuracy and cost",
    "modalities": "What each modality contributes",
    "fusion": "Cross-attention beside other fusions of the same features",
}
_MARKERS = "osD^v<>P"
_MILLION = 1e6


def write_study(folder: Folder, study: str, rows: Sequence[Row], base: str, about: Row) -> None:
    """Write ``table.parquet``, ``table.md``, ``accuracy.png`` and ``cost.png`` of one study.

    Args:
        folder: where they go.
        study: ``frames``, ``modalities`` or ``fusion``.
        rows: one a line: ``name``, ``features``, ``frames``, ``fusion``; ``accuracy``, ``macro_f1`` and ``difference``
            (to the base line, seed by seed), each with its ``…_deviation`` over the seeds; ``accuracy_low``,
            ``accuracy_high`` (95 %, over the test videos); ``extract_s`` (None when not known), ``one_ms``,
            ``batch_ms``, ``parameters``, ``flops``, ``predict_mib``, ``train_mib``, ``train_s``, ``steps``;
            ``position_error_mean``, ``position_error_max``.
        base: name of the line that the others are compared with.
        about: what the rows are made of, the same for all.
    """
    files: dict[str, str | bytes] = {
        TABLE: _parquet(rows, about),
        MARKDOWN: as_markdown(study, rows, base, about),
        ACCURACY: _plot_accuracy(study, rows, base, about),
        COST: _plot_cost(study, rows, about),
    }
    write_files(folder, files)


def _parquet(rows: Sequence[Row], about: Row) -> bytes:
    """The rows, each with what it is made of, so that tables of several runs can be joined."""
    shared = ["preset", "split", "split_source", "validation", "blacklist", "n_train", "n_validation", "n_test"]
    shared += ["d_model", "heads", "dropout", "seeds"]
    constants = {name: about[name] for name in shared}
    constants["fingerprints"] = [f"{name}={value}" for name, value in sorted(about["fingerprints"].items())]
    table = pa.Table.from_pylist([{**row, **constants} for row in rows])
    # A column in which nothing is known keeps its type.
    known = {"extract_s": pa.float64(), "blacklist": pa.string()}
    schema = pa.schema([(field.name, known.get(field.name, field.type)) for field in table.schema])
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(schema), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def as_markdown(study: str, rows: Sequence[Row], base: str, about: Row) -> str:
    """One study as a page."""
    cells = [_cells(study, row, base) for row in rows]
    table = markdown_table(list(cells[0]), [list(row.values()) for row in cells])
    lines = [f"# {_TITLES[study]}", "", *_made_of(about), "", table, "", *_notes(study, about)]
    return "\n".join([*lines, "", f"![accuracy]({ACCURACY})", f"![cost]({COST})", ""])


def _cells(study: str, row: Row, base: str) -> dict[str, str]:
    """What a line of the table says, by column."""
    difference = f"{row['difference']:+.3f} ± {row['difference_deviation']:.3f}"
    cells = {
        study: row["name"],
        "accuracy": f"{row['accuracy']:.3f} ± {row['accuracy_deviation']:.3f}",
        "95 %": f"{row['accuracy_low']:.3f}–{row['accuracy_high']:.3f}",
        f"to “{base}”": "–" if row["name"] == base else difference,
        "macro F1": f"{row['macro_f1']:.3f} ± {row['macro_f1_deviation']:.3f}",
        "extract, s/video": "–" if row["extract_s"] is None else f"{row['extract_s']:.2f}",
        "classify, ms/video alone": f"{row['one_ms']:.2f}",
        "in 32": f"{row['batch_ms']:.2f}",
        "parameters": f"{row['parameters']:,}",
        "MFLOP/video": f"{row['flops'] / _MILLION:.2f}",
        "memory, MiB": f"{row['predict_mib']:.1f}",
        "to train": f"{row['train_mib']:.1f}",
        "train, s": f"{row['train_s']:.1f}",
    }
    if study == "frames":
        error = f"{row['position_error_mean']:.2%}, at most {row['position_error_max']:.2%}"
        cells["position error"] = error if row["position_error_max"] else "none"
    return cells


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
        notes += _frame_notes(about)
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


def _frame_notes(about: Row) -> list[str]:
    if about["extracted"] is None:
        return []
    frames = ", ".join(about["frame_features"]) or "none"
    return [
        f"The features were extracted once, with {about['extracted']} frames. For n, the evenly spaced n of them are "
        f"kept, and of {frames} what was found in these; sounds keep n windows. Extraction of {frames} is scaled by "
        "the frames. Text read off the frames stays that of all of them, and so does its time.",
        "Position error: how far the kept frames lie from those that extracting n takes, in shares of the video. None "
        "where n − 1 divides the intervals between the extracted frames: with --frames 31 for n = 1, 2, 4, 7, 16, 31 "
        "(of 7 one may be the frame beside it). 32 frames (31 intervals) serve only 1, 2 and 32 so; frames "
        "that serve 1, 2, 4, 8, 16 and 32 would be 52.",
    ]


# ---- plots


def _subtitle(about: Row) -> str:
    seeds = len(about["seeds"])
    return f"preset {about['preset']}; {seeds} seed{'s' * (seeds > 1)}; split {about['split']}, n = {about['n_test']}"


def _plot_accuracy(study: str, rows: Sequence[Row], base: str, about: Row) -> bytes:
    """Accuracy of every line: a curve over the number of frames, else a bar each."""
    drawn = figure(6.8, 4.4) if study == "frames" else figure(6.8, 1.6 + 0.36 * len(rows))
    axes = drawn.subplots()
    axes.set_title(f"{_TITLES[study]}\n{_subtitle(about)}", fontsize=9)
    means, deviations, low, high = (
        [row[name] for row in rows] for name in ("accuracy", "accuracy_deviation", "accuracy_low", "accuracy_high")
    )
    if study == "frames":
        n = [row["frames"] for row in rows]
        axes.fill_between(n, low, high, color=BLUE, alpha=0.15, label="95 % over the test videos")
        axes.errorbar(n, means, deviations, color=BLUE, marker="o", capsize=3, label="mean ± deviation over seeds")
        axes.set_xscale("log", base=2)
        axes.set(xticks=n, xticklabels=n, xlabel="frames", ylabel="accuracy")
        axes.legend(fontsize=8)
        return png(drawn)
    names = [row["name"] for row in rows]
    colours = [RED if name == base else BLUE for name in names]
    axes.barh(range(len(rows)), means, xerr=deviations, color=colours, capsize=3)
    axes.axvline(means[names.index(base)], color=GREY, linestyle="--", linewidth=1)
    axes.set(yticks=range(len(rows)), xlabel="accuracy, mean ± deviation over seeds", xlim=(0, 1))
    axes.set_yticklabels(names)
    axes.invert_yaxis()
    return png(drawn)


def _plot_cost(study: str, rows: Sequence[Row], about: Row) -> bytes:
    """Accuracy against what the study is about: seconds to extract where they are known, and operations to classify."""
    costs = {"to classify, MFLOP a video": [row["flops"] / _MILLION for row in rows]}
    if study == "fusion":
        costs["parameters, millions"] = [row["parameters"] / _MILLION for row in rows]
    elif all(row["extract_s"] is not None for row in rows):
        costs = {"to extract, s a video": [row["extract_s"] for row in rows]} | costs
    drawn = figure(4.0 * len(costs) + 2.2, 4.6)
    panels = np.atleast_1d(drawn.subplots(1, len(costs), sharey=True))
    drawn.suptitle(f"{_TITLES[study]}\n{_subtitle(about)}", fontsize=9)
    for axes, (label, values) in zip(panels, costs.items(), strict=True):
        # Named in a legend: names beside points that lie close would cover each other.
        for at, (value, row) in enumerate(zip(values, rows, strict=True)):
            style = {"color": f"C{at % 10}", "fmt": _MARKERS[at % len(_MARKERS)], "capsize": 3, "label": row["name"]}
            axes.errorbar(value, row["accuracy"], row["accuracy_deviation"], **style)
        if min(values) > 0 and max(values) / min(values) > 10:
            axes.set_xscale("log")
        axes.margins(x=0.1)
        axes.grid(alpha=0.3)
        axes.set_xlabel(label)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    panels[0].set_ylabel("accuracy, mean ± deviation over seeds")
    return png(drawn)
