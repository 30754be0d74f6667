"""The analysis of a data set as tables, for a terminal or a Markdown page, and the folder that it is written to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vemoclap_batch.report.digest import shorten
from vemoclap_batch.report.pages import as_json, code, markdown_table, write_files
from vemoclap_batch.studies.analysis_plots import plots

JSON, PAGE = "analysis.json", "analysis.md"
_UNKNOWN = "–"


def write_analysis(result: Mapping[str, Any], folder: str) -> list[str]:
    """Write ``analysis.json``, ``analysis.md`` and the plots it shows to a local path or a URI; returns their names."""
    drawn = plots(result)
    files: dict[str, str | bytes] = {JSON: as_json(result), PAGE: as_markdown(result, list(drawn)), **drawn}
    write_files(folder, files)
    return list(files)


@dataclass
class Grid:
    """A table of text: a title, the columns' names, and the rows, of which the first cell is a name."""

    title: str
    header: list[str]
    rows: list[list[str]]


Cell = Callable[[Mapping[str, Any], str], str]


def grids(result: Mapping[str, Any]) -> list[Grid]:
    """The tables of an analysis, as of :func:`vemoclap_batch.studies.analysis.analyze`."""
    labels = {"class": [*result["labels"], "all"]}
    counts: dict[str, Cell] = {
        "n": lambda group, label: str(group[label]["n"]),
        "share": lambda group, label: _percent(group[label]["share"]),
    }
    medians: dict[str, Cell] = {
        "duration": lambda group, label: _quartiles(group[label]["duration_s"], "s"),
        "short side": lambda group, label: _quartiles(group[label]["short_side"], "px"),
    }
    classes = _by_group(result, "Class balance", labels, counts)
    groups = result["groups"]
    if "removed" in groups:
        classes.header.append("removed of class")
        for row in classes.rows:
            row.append(_share(groups["removed"][row[0]]["n"], groups["before"][row[0]]["n"]))
    made = [classes, _by_group(result, "Duration and resolution: median (quartiles)", labels, medians)]
    made += [_kinds(result, name, kinds) for name, kinds in result["kinds"].items()]
    for name, source in result["tables"].items():
        title = f"Videos with {name} (read from {source})"
        made.append(_by_group(result, title, labels, _presence(name)))
    return made + ([_tests(result)] if result["tests"] else [])


def _by_group(
    result: Mapping[str, Any], title: str, rows: Mapping[str, Sequence[str]], columns: Mapping[str, Cell]
) -> Grid:
    """A table with the same columns for all videos or, with a blacklist, before, after and removed.

    ``rows`` are their names by the name of the first column; ``columns`` what each shows of a group and a row.
    """
    groups = result["groups"]
    shown = groups if len(groups) > 1 else {"all": groups["before"]}
    [(first, names)] = rows.items()
    header = [first, *[f"{group} {column}" for group in shown for column in columns]]
    cells = [[show(group, name) for group in shown.values() for show in columns.values()] for name in names]
    return Grid(title, header, [[name, *row] for name, row in zip(names, cells, strict=True)])


def _kinds(result: Mapping[str, Any], name: str, kinds: Sequence[str]) -> Grid:
    columns: dict[str, Cell] = {
        "n": lambda group, kind: str(group["all"][name][kinds.index(kind)]),
        "share": lambda group, kind: _share(group["all"][name][kinds.index(kind)], sum(group["all"][name])),
    }
    return _by_group(result, name.capitalize(), {name.removesuffix("s"): kinds}, columns)


def _presence(name: str) -> dict[str, Cell]:
    return {
        f"with {name}": lambda group, label: f"{group[label][name]['present']} of {group[label][name]['known']}",
        "share": lambda group, label: _share(group[label][name]["present"], group[label][name]["known"]),
    }


def _tests(result: Mapping[str, Any]) -> Grid:
    rows = []
    for test in result["tests"]:
        if test["test"] is None:
            rows.append([test["what"], *[_UNKNOWN] * 5, test["why"]])
            continue
        numbers = [f"{test['statistic']:.2f}", str(test["dof"]), _p_value(test["p"]), _p_value(test["p_holm"])]
        how = test["test"] + (f" ({test['why']})" if test["why"] else "")
        rows.append([test["what"], *numbers, f"{test['cramers_v']:.2f}", how])
    header = ["by", "chi-square", "dof", "p", "p (Holm)", "Cramér's V", "test"]
    return Grid("Kept against removed videos", header, rows)


def _p_value(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _share(part: int, whole: int) -> str:
    return _percent(part / whole) if whole else _UNKNOWN


def _quartiles(spread: Mapping[str, Any], unit: str) -> str:
    if spread["quartiles"] is None:
        return _UNKNOWN
    low, middle, high = (f"{value:.4g}" for value in spread["quartiles"])
    return f"{middle} {unit} ({low}–{high})"


def as_text(grid: Grid) -> str:
    """A table in columns, for a terminal."""
    lines = [grid.header, *grid.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in lines]
    return "\n".join([grid.title, *[f"  {line}".rstrip() for line in aligned]])


def as_markdown(result: Mapping[str, Any], shown: Sequence[str]) -> str:
    """The whole page, with the plots of these names."""
    parts = ["# What the data set looks like", summary(result)]
    parts += ["\n".join(f"* {note}" for note in result["notes"])] if result["notes"] else []
    for grid in grids(result):
        parts += [f"## {grid.title}", markdown_table(grid.header, grid.rows, numbers=True)]
    parts += ["## Pictures", "\n".join(f"![{name}]({name})" for name in shown)]
    if result["blacklist"] and result["blacklist"]["unknown"]:
        names = "\n".join(f"* {code(name)}" for name in result["blacklist"]["unknown"])
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
