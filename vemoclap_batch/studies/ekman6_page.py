"""The page about Ekman-6: our scores beside the published ones, as Markdown and as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vemoclap_batch.report.pages import as_html, as_json, code, markdown_table, write_files

JSON, MARKDOWN, HTML = "report.json", "report.md", "report.html"
#: Accuracy on Ekman-6 in %, as published for the split of 819 and 818 videos; or the difference that is stated instead.
PUBLISHED = (
    ("Xu et al.", "50.4", "as given"),
    ("Emotion in Context", "51.8", "as given"),
    ("VAANet (AAAI 2020)", "55.3", "as given"),
    ("CTEN (CVPR 2023)", "58.2", "as given"),
    ("VEMOCLAP (arXiv 2410.21303)", "+4.3 over the best before it, +2.6 from cleaning", "cleaned"),
)
_COLUMNS = ("system", "trained on", "scored on", "accuracy, %", "95 %", "macro F1, %", "videos")


def write_page(result: Mapping[str, Any], folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html`` to the folder that holds the result's pictures."""
    page = as_markdown(result)
    write_files(folder, {JSON: as_json(result), MARKDOWN: page, HTML: as_html(page, folder)})


def as_markdown(result: Mapping[str, Any]) -> str:
    """The page; what comes from outside is quoted as code."""
    about, seeds = result["about"], len(result["about"]["seeds"])
    blacklist = code(result["blacklist"]) if result["blacklist"] else "none"
    parts = [
        "# Ekman-6",
        f"Profile {code(about['profile'])}, {about['frames']} frames; preset {about['preset']}; seeds "
        f"{', '.join(map(str, about['seeds']))}; d_model {about['d_model']}, {about['heads']} heads, dropout "
        f"{about['dropout']:g}; {about['workers']} worker{'s' * (about['workers'] > 1)}. Split: "
        f"{code(result['split_source'])}. Blacklist: {blacklist}.",
        "## Accuracy beside the published figures",
        markdown_table(_COLUMNS, _accuracies(result)),
        f"± is the standard deviation over {seeds} seed{'s' * (seeds > 1)}; 95 % is a bootstrap interval over the test "
        "videos. Published figures are as their papers state them; their split lists cannot be matched to file names, "
        "so they are of other halves of the videos unless a split file was given here.",
    ]  # fmt: skip
    if result["notes"]:
        parts += ["## What to know", "\n".join(f"* {code(note)}" for note in result["notes"])]
    parts += ["## Videos", _videos(result["videos"])]
    parts += ["What cleaning changes is in [analysis/analysis.md](analysis/analysis.md)."]
    for scores in result["scores"]:
        parts += _details(scores)
    fingerprints = sorted(result["scores"][0]["fingerprints"].items())
    features = [[name, code(fingerprint)] for name, fingerprint in fingerprints]
    parts += ["## Features", markdown_table(["feature", "fingerprint"], features)]
    return "\n\n".join(parts) + "\n"


def _accuracies(result: Mapping[str, Any]) -> list[list[str]]:
    rows = [[name, data, data, accuracy, "", "", ""] for name, accuracy, data in PUBLISHED]
    for scores in result["scores"]:
        low, high = scores["accuracy_interval"]
        rows.append([
            "**vemoclap_batch**", scores["trained_on"], scores["scored_on"],
            f"**{_mean(scores, 'accuracy')}**", f"{100 * low:.1f}–{100 * high:.1f}", _mean(scores, "macro_f1"),
            str(scores["n"]),
        ])  # fmt: skip
    return rows


def _mean(scores: Mapping[str, Any], name: str) -> str:
    return f"{100 * scores[name]:.1f} ± {100 * scores[f'{name}_deviation']:.1f}"


def _videos(videos: Mapping[str, Any]) -> str:
    """How many videos of each class are in each split of each data set."""
    columns: dict[str, dict[str, int]] = {}
    for name, of_class in videos.items():
        splits = {split for counts in of_class.values() for split in counts}
        for split in sorted(splits, key=lambda split: (split != "train", split)):
            columns[f"{name}: {split}"] = {label: counts.get(split, 0) for label, counts in of_class.items()}
    rows = [[label, *[str(column[label]) for column in columns.values()]] for label in next(iter(videos.values()))]
    sums = ["all", *[str(sum(column.values())) for column in columns.values()]]
    return markdown_table(["class", *columns], [*rows, sums])


def _details(scores: Mapping[str, Any]) -> list[str]:
    rows = [
        [label, *[f"{100 * row[name]:.1f}" for name in ("precision", "recall", "f1")], str(row["n"])]
        for label, row in scores["per_class"].items()
    ]
    title = f"Trained on the set {scores['trained_on']}, scored on the set {scores['scored_on']}"
    parts = [
        f"## {title}",
        f"Calibration error {scores['calibration_error']:.3f}.",
        markdown_table(["class", "precision, %", "recall, %", "F1, %", "videos"], rows),
        "\n".join(f"![{kind}]({path})" for kind, path in scores["pictures"].items()),
    ]
    if scores["model_notes"]:
        parts.append("\n".join(f"* {code(note)}" for note in scores["model_notes"]))
    return parts
