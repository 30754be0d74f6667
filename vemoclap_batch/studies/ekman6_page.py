"""The page about Ekman-6: our scores beside the published ones, as Markdown and as one HTML file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vemoclap_batch.report.digest import shorten
from vemoclap_batch.store.filesystem import resolve, write_bytes_atomically

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
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;padding:.3rem .6rem;text-align:left}"
    "th{background:#f2f2f2}img{max-width:31rem;width:49%}code{background:#f2f2f2}"
)


def write_page(result: Mapping[str, Any], folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html``, which holds its pictures.

    Args:
        result: as of :func:`vemoclap_batch.studies.reproduction.reproduce`.
        folder: a local folder; the pictures that the result names lie in it.
    """
    page = as_markdown(result)
    content = {
        JSON: json.dumps(result, indent=2, ensure_ascii=False) + "\n",
        MARKDOWN: page,
        HTML: as_html(page, folder),
    }
    for name, text in content.items():
        write_bytes_atomically(*resolve(str(folder / name)), text.encode())


def as_markdown(result: Mapping[str, Any]) -> str:
    """The page; what comes from outside is quoted as code."""
    about, seeds = result["about"], len(result["about"]["seeds"])
    blacklist = _code(result["blacklist"]) if result["blacklist"] else "none"
    parts = [
        "# Ekman-6",
        f"Profile {_code(about['profile'])}, {about['frames']} frames; preset {about['preset']}; seeds "
        f"{', '.join(map(str, about['seeds']))}; d_model {about['d_model']}, {about['heads']} heads, dropout "
        f"{about['dropout']:g}; {about['workers']} worker{'s' * (about['workers'] > 1)}. Split: "
        f"{_code(result['split_source'])}. Blacklist: {blacklist}.",
        "## Accuracy beside the published figures",
        _grid(_COLUMNS, _accuracies(result)),
        f"± is the standard deviation over {seeds} seed{'s' * (seeds > 1)}; 95 % is a bootstrap interval over the test "
        "videos. Published figures are as their papers state them; their split lists cannot be matched to file names, "
        "so they are of other halves of the videos unless a split file was given here.",
    ]  # fmt: skip
    if result["notes"]:
        parts += ["## What to know", "\n".join(f"* {_code(note)}" for note in result["notes"])]
    parts += ["## Videos", _grid(["class", *_headers(result["videos"])], _videos(result["videos"]))]
    parts += ["What cleaning changes is in [analysis/analysis.md](analysis/analysis.md)."]
    for found in result["scores"]:
        parts += _details(found)
    parts += ["## Features", _features(result["scores"][0]["fingerprints"])]
    return "\n\n".join(parts) + "\n"


def _accuracies(result: Mapping[str, Any]) -> list[list[str]]:
    rows = [[name, data, data, accuracy, "", "", ""] for name, accuracy, data in PUBLISHED]
    for found in result["scores"]:
        low, high = found["accuracy_interval"]
        rows.append([
            "**vemoclap_batch**", found["trained_on"], found["scored_on"],
            f"**{_mean(found, 'accuracy')}**", f"{100 * low:.1f}–{100 * high:.1f}", _mean(found, "macro_f1"),
            str(found["n"]),
        ])  # fmt: skip
    return rows


def _mean(found: Mapping[str, Any], name: str) -> str:
    return f"{100 * found[name]:.1f} ± {100 * found[f'{name}_deviation']:.1f}"


def _headers(videos: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {split}" for name in videos for split in _splits(videos[name])]


def _splits(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    return sorted({split for row in counts.values() for split in row}, key=lambda name: (name != "train", name))


def _videos(videos: Mapping[str, Any]) -> list[list[str]]:
    labels = list(next(iter(videos.values())))
    rows = [
        [label, *[str(counts[label].get(split, 0)) for counts in videos.values() for split in _splits(counts)]]
        for label in labels
    ]
    sums = [
        str(sum(row.get(split, 0) for row in counts.values()))
        for counts in videos.values()
        for split in _splits(counts)
    ]
    return [*rows, ["all", *sums]]


def _details(found: Mapping[str, Any]) -> list[str]:
    rows = [
        [label, *[f"{100 * row[name]:.1f}" for name in ("precision", "recall", "f1")], str(row["n"])]
        for label, row in found["per_class"].items()
    ]
    title = f"Trained on the set {found['trained_on']}, scored on the set {found['scored_on']}"
    parts = [
        f"## {title}",
        f"Calibration error {found['calibration_error']:.3f}.",
        _grid(["class", "precision, %", "recall, %", "F1, %", "videos"], rows),
        "\n".join(f"![{kind}]({path})" for kind, path in found["pictures"].items()),
    ]
    if found["model_notes"]:
        parts.append("\n".join(f"* {_code(note)}" for note in found["model_notes"]))
    return parts


def _features(fingerprints: Mapping[str, str]) -> str:
    return _grid(["feature", "fingerprint"], [[name, _code(value)] for name, value in sorted(fingerprints.items())])


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    """Text from outside as Markdown that is neither markup nor more than a line."""
    return f"`{shorten(text, 400).replace('`', chr(39))}`"


def as_html(page: str, folder: Path) -> str:
    """A page of Markdown as one file: raw HTML in it stays text, and pictures below the folder are part of the file."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": True}).enable("table")
    tokens = parser.parse(page)
    for image in (child for token in tokens for child in token.children or () if child.type == "image"):
        path = folder / str(image.attrs["src"])
        image.attrs["src"] = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    body = parser.renderer.render(tokens, parser.options, {})
    title = page.splitlines()[0].removeprefix("# ")
    head = f'<meta charset="utf-8"/><meta name="viewport" content="width=device-width"/><title>{title}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>\n{body}</body></html>\n'
