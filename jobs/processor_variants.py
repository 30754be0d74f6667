"""Run the numeric tests as other processors would: python jobs/processor_variants.py [--variant NAME ...] [PATH ...].

The libraries choose their kernels by the processor's instruction set, and sums of float32 differ in their last bits
from one kernel to the next. Each variant forbids some instruction sets, or sets another number of threads, and runs
the tests marked ``numeric`` in a process of its own; a table at the end has a row for each. A variant whose
instructions this processor lacks is skipped. Exit status: 0 all passed, 1 a test failed, 2 wrong usage.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NoReturn
from xml.etree import ElementTree

import typer
from rich.console import Console
from rich.table import Table

from vemoclap_batch.cli.common import BROKEN, DONE, program, run_program
from vemoclap_batch.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
#: Instruction sets as torch tells them, each of which has those before it.
LEVELS = ("DEFAULT", "AVX2", "AVX512")


@dataclass(frozen=True)
class Variant:
    """Environment variables that choose kernels, and the instruction set that a processor needs for it."""

    environment: dict[str, str]
    needs: str = "DEFAULT"


#: What NumPy can do without, on any x86-64 processor.
_NUMPY_BASELINE = {
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
    "OPENBLAS_CORETYPE": "Nehalem",
}
VARIANTS = {
    "plain": Variant({}),
    "aten-default": Variant({"ATEN_CPU_CAPABILITY": "default"}),
    "aten-avx2": Variant({"ATEN_CPU_CAPABILITY": "avx2"}, "AVX2"),
    "onednn-sse41": Variant({"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "onednn-avx2": Variant({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "AVX2"),
    "onednn-avx512": Variant({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "AVX512"),
    "ct2-generic": Variant({"CT2_FORCE_CPU_ISA": "GENERIC"}),
    "ct2-avx2": Variant({"CT2_FORCE_CPU_ISA": "AVX2"}, "AVX2"),
    "ct2-avx512": Variant({"CT2_FORCE_CPU_ISA": "AVX512"}, "AVX512"),
    # The one is for Intel's processors and the other for those of others, unless it is said.
    "ct2-mkl": Variant({"CT2_USE_MKL": "1"}),
    "ct2-onednn": Variant({"CT2_USE_MKL": "0"}),
    "mkl-compatible": Variant({"MKL_CBWR": "COMPATIBLE"}),
    "numpy-baseline": Variant(_NUMPY_BASELINE),
    "one-thread": Variant({"OMP_NUM_THREADS": "1"}),
    "two-threads": Variant({"OMP_NUM_THREADS": "2"}),
    # As unlike a new processor as can be; make test runs this one.
    "oldest": Variant(
        {
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "CT2_FORCE_CPU_ISA": "GENERIC",
            "MKL_CBWR": "COMPATIBLE",
            "OMP_NUM_THREADS": "1",
            **_NUMPY_BASELINE,
        }
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What became of a variant; ``note`` says why it was skipped, or that pytest itself failed."""

    name: str
    passed: int = 0
    failed: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def is_broken(self) -> bool:
        """Whether a test failed, or none could be run."""
        return self.failed > 0 or self.note.startswith("pytest")


app = program(__doc__)


@app.command(help=__doc__)
def processor_variants(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH", help="Tests to choose from.")] = None,
    variant: Annotated[list[str] | None, typer.Option(metavar="NAME", help="May be repeated [default: all].")] = None,
    processes: Annotated[int, typer.Option(help="Processes that share the tests.")] = 2,
) -> None:
    """Run the variants and print the table."""
    if unknown := [name for name in variant or () if name not in VARIANTS]:
        raise ConfigError([f"--variant {name!r}: expected one of {', '.join(VARIANTS)}" for name in unknown])
    level = capability()
    outcomes = []
    for name in variant or VARIANTS:
        needs = VARIANTS[name].needs
        if LEVELS.index(needs) > LEVELS.index(level):
            outcomes.append(Outcome(name, note=f"skipped: this processor has no {needs}"))
            continue
        print(f"{name}: {' '.join(f'{key}={value}' for key, value in VARIANTS[name].environment.items())}", flush=True)
        outcomes.append(run(name, processes, paths or ()))
    show(outcomes)
    raise typer.Exit(BROKEN if any(outcome.is_broken for outcome in outcomes) else DONE)


def capability() -> str:
    """The newest of :data:`LEVELS` that this processor has; the oldest on one of another family."""
    import torch

    level = torch.backends.cpu.get_cpu_capability()
    return level if level in LEVELS else LEVELS[0]


def run(name: str, processes: int, paths: Sequence[str]) -> Outcome:
    """Run the numeric tests in one variant; pytest's own output goes to the terminal."""
    with TemporaryDirectory(prefix="vemoclap-variants-") as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "numeric", f"--junit-xml={report}", *paths]
        command += [f"--numprocesses={processes}", "--dist=loadfile", "--no-loadscope-reorder"]
        began = time.monotonic()
        status = subprocess.run(command, cwd=ROOT, env=os.environ | VARIANTS[name].environment, check=False).returncode
        seconds = time.monotonic() - began
        if not report.exists():
            return Outcome(name, seconds=seconds, note=f"pytest ended with {status}")
        return _outcome(name, ElementTree.parse(report).getroot(), status, seconds)


def _outcome(name: str, root: Any, status: int, seconds: float) -> Outcome:
    suites = list(root.iter("testsuite"))
    count = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    # Such as 5, where the paths hold no numeric test.
    note = f"pytest ended with {status}" if status and not failed else ""
    return Outcome(name, count["tests"] - failed - count["skipped"], failed, seconds, note)


def show(outcomes: Sequence[Outcome]) -> None:
    """One row a variant."""
    table = Table("variant", "passed", "failed", "seconds", "")
    for outcome in outcomes:
        counts = (outcome.passed, outcome.failed, f"{outcome.seconds:.0f}") if outcome.seconds else ("", "", "")
        table.add_row(outcome.name, *map(str, counts), outcome.note)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program."""
    run_program(app, arguments)


if __name__ == "__main__":
    main()
