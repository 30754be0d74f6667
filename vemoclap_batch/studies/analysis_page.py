"""The analysis of a data set as tables, for a terminal or a Markdown page, and the folder that it is written to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vemoclap_batch.report.digest import shorten
from vemoclap_batch.store.filesystem import resolve, write_bytes_atomically
from vemoclap_batch.studies.analysis_plots import pictures

JSON, PAGE = "analysis.json", "analysis.md"
_UNKNOWN = "–"


def write_analysis(result: Mapping[str, Any], folder: str) -> list[str]:
    """Write ``analysis.json``, ``analysis.md`` and the pictures it shows.

    Args:
        result: as of :func:`vemoclap_batch.studies.analysis.analyze`.
        folder: a local path or a URI.

    Returns:
        The names of the files.
    """
    drawn = pictures(result)
    content = {
        JSON: (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode(),
        PAGE: as_markdown(result, list(drawn)).encode(),
        **drawn,
    }
    for name, data in content.items():
        write_bytes_atomically(*resolve(f"{folder.rstrip('/')}/{name}"), data)
    return list(content)


@dataclass
class Grid:
    """A table of text: a title, the columns' names, and the rows, of which the first cell is a name."""

    title: str
    header: list[str]
    rows: list[list[str]]


def grids(result: Mapping[str, Any]) -> list[Grid]:
    """The tables of an analysis, as of :func:`vemoclap_batch.studies.analysis.analyze`."""
    found = [_classes(result), _medians(result)]
    found += [_kinds(result, name, names) for name, names in result["kinds"].items()]
    present = [_present(result, name) for name in result["tables"]]
    return found + present + ([_tests(result)] if result["tests"] else [])


def _groups(result: Mapping[str, Any]) -> dict[str, Any]:
    """The groups in the order of the columns, by what they are called."""
    groups = result["groups"]
    if "after" not in groups:
        return {"all": groups["before"]}
    return {name: groups[name] for name in ("before", "after", "removed")}


def _classes(result: Mapping[str, Any]) -> Grid:
    groups = _groups(result)
    header = ["class", *[f"{name}{part}" for name in groups for part in (" n", " share")]]
    has_removed = "removed" in groups
    rows = []
    for label in [*result["labels"], "all"]:
        row = [label]
        for group in groups.values():
            row += [str(group[label]["n"]), _percent(group[label]["share"])]
        if has_removed:
            row.append(_share(groups["removed"][label]["n"], groups["before"][label]["n"]))
        rows.append(row)
    return Grid("Class balance", header + (["removed of class"] if has_removed else []), rows)


def _medians(result: Mapping[str, Any]) -> Grid:
    groups = _groups(result)
    header = ["class", *[f"{name} {what}" for name in groups for what in ("duration", "short side")]]
    rows = []
    for label in [*result["labels"], "all"]:
        row = [label]
        for group in groups.values():
            row += [_quartiles(group[label]["duration_s"], "s"), _quartiles(group[label]["short_side"], "px")]
        rows.append(row)
    return Grid("Duration and resolution: median (quartiles)", header, rows)


def _kinds(result: Mapping[str, Any], name: str, kinds: Sequence[str]) -> Grid:
    groups = _groups(result)
    header = [name.removesuffix("s"), *[f"{group}{part}" for group in groups for part in (" n", " share")]]
    rows = []
    for at, kind in enumerate(kinds):
        row = [kind]
        for group in groups.values():
            counts = group["all"][name]
            row += [str(counts[at]), _share(counts[at], sum(counts))]
        rows.append(row)
    return Grid(name.capitalize(), header, rows)


def _present(result: Mapping[str, Any], name: str) -> Grid:
    groups = _groups(result)
    header = ["class", *[f"{group}{part}" for group in groups for part in (f" with {name}", " share")]]
    rows = []
    for label in [*result["labels"], "all"]:
        row = [label]
        for group in groups.values():
            found = group[label][name]
            row += [f"{found['present']} of {found['known']}", _share(found["present"], found["known"])]
        rows.append(row)
    return Grid(f"Videos with {name} (read from {result['tables'][name]})", header, rows)


def _tests(result: Mapping[str, Any]) -> Grid:
    rows = []
    for test in result["tests"]:
        if test["test"] is None:
            rows.append([test["what"], *[_UNKNOWN] * 5, test["why"]])
            continue
        numbers = [f"{test['statistic']:.2f}", str(test["dof"]), p_value(test["p"]), p_value(test["p_holm"])]
        how = test["test"] + (f" ({test['why']})" if test["why"] else "")
        rows.append([test["what"], *numbers, f"{test['cramers_v']:.2f}", how])
    header = ["by", "chi-square", "dof", "p", "p (Holm)", "Cramér's V", "test"]
    return Grid("Kept against removed videos", header, rows)


def p_value(p: float) -> str:
    """A p value in few digits; the smallest ones by a bound."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _share(part: int, whole: int) -> str:
    return _percent(part / whole) if whole else _UNKNOWN


def _quartiles(found: Mapping[str, Any], unit: str) -> str:
    if found["quartiles"] is None:
        return _UNKNOWN
    low, middle, high = (f"{value:.4g}" for value in found["quartiles"])
    return f"{middle} {unit} ({low}–{high})"


def as_text(grid: Grid) -> str:
    """A table in columns, for a terminal."""
    lines = [grid.header, *grid.rows]
    widths = [max(len(row[at]) for row in lines) for at in range(len(grid.header))]
    # The last column of words is not worth padding; numbers stand to the right.
    aligned = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in lines]
    return "\n".join([grid.title, *[f"  {line}".rstrip() for line in aligned]])


def as_markdown(result: Mapping[str, Any], shown: Sequence[str]) -> str:
    """The whole page, with the pictures of these names."""
    listed = result["blacklist"]
    parts = ["# What the data set looks like", summary(result)]
    parts += ["\n".join(f"* {note}" for note in result["notes"])] if result["notes"] else []
    for grid in grids(result):
        lines = [grid.header, ["---", *["---:"] * (len(grid.header) - 1)], *grid.rows]
        parts += [f"## {grid.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    parts += ["## Pictures", "\n".join(f"![{name}]({name})" for name in shown)]
    if listed and listed["unknown"]:
        names = "\n".join(f"* {_code(name)}" for name in listed["unknown"])
        parts += ["## Names in the blacklist that are no labelled video in OUT", names]
    return "\n\n".join(parts) + "\n"


def summary(result: Mapping[str, Any]) -> str:
    """How many videos there are, and how many the blacklist removes."""
    listed = result["blacklist"]
    if listed is None:
        return f"{result['videos']} labelled videos; no blacklist."
    share = _share(listed["removed"], result["videos"])
    name = shorten(listed["file"], 200)
    return (
        f"{result['videos']} labelled videos; {name} ({listed['names']} names) removes {listed['removed']} ({share})."
    )


def _code(text: str) -> str:
    """A name from outside as Markdown that is neither markup nor more than a line."""
    return f"`{shorten(text, 200).replace('`', chr(39))}`"
