"""The report of a benchmark and its machine, and how alternatives are timed against each other."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from vemoclap_batch import __version__
from vemoclap_batch.cli.common import print_json

_VERSIONS = (
    "av", "ctranslate2", "daft", "decord", "faster-whisper", "numpy", "onnxruntime", "open-clip-torch", "paddleocr",
    "pyarrow", "ray", "torch", "transformers", "ultralytics",
)  # fmt: skip
#: These change how many threads the libraries take, behind the back of any setting.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Report:
    """The result of one benchmark.

    Attributes:
        benchmark: its name.
        settings: what was measured on what, threads among them.
        rows: the table; all rows have the same columns.
        figures: what follows from the table, each made in this one run.
        notes: what a reader of the figures has to know.
    """

    benchmark: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    figures: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report and the machine as plain values."""
        return {**asdict(self), "machine": machine()}


def show(report: Report, as_json: bool) -> None:
    """Print a report as a table and lines below it; the object of ``--json`` has its figures at the top too."""
    content = report.as_dict()
    # A log takes lines of any length.
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    table = Table(title=content["benchmark"], title_justify="left")
    for name, value in content["rows"][0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in content["rows"]:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)
    machine = content["machine"]
    lines = [f"{name}: {value}" for name, value in content["figures"].items()]
    lines += [
        f"measured: {_listed(content['settings'])}",
        f"on: {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, load {machine['load']}",
        f"threads: {_listed(machine['threads']) or 'nothing in the environment'}",
        f"with: {_listed(machine['versions'])}",
        *content["notes"],
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False)
    print_json({**content, **content["figures"]}, as_json)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Cores, memory, how busy it was in the last minute, and versions of what was measured."""
    return {
        "cores": cores(),
        "cpu": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "threads": {name: os.environ[name] for name in _THREADS if name in os.environ},
        "versions": {"python": platform.python_version(), "vemoclap-batch": __version__, **_versions()},
    }


def in_turn(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median of the seconds that each way takes.

    One after the other, then all again, so that a machine which is slower for a while is so for all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    installed = {}
    for name in _VERSIONS:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed
