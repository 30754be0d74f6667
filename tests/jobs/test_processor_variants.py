"""The numeric tests under other kernels: what passed and failed in each variant, what this processor cannot run."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import here

ROOT = Path(__file__).parents[2]
TESTS = """
import os
import pytest

@pytest.mark.numeric
def test_of_one_processor():
    assert os.environ.get("ATEN_CPU_CAPABILITY") != "default"

@pytest.mark.numeric
def test_of_any():
    pass

def test_that_is_no_matter_of_kernels():
    raise AssertionError
"""


@pytest.fixture
def job(monkeypatch):
    """The job as a module of this process."""
    monkeypatch.syspath_prepend(ROOT / "jobs")
    return importlib.import_module("processor_variants")


def cells(printed):
    """The rows of the table, by their first cell."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    return {name: rest for name, *rest in rows}


def test_a_failure_in_one_variant_is_counted_there(job, tmp_path):
    (tmp_path / "test_numbers.py").write_text(TESTS)
    given = ["--processes", "1", str(tmp_path / "test_numbers.py")]
    done = here(job.main, "--variant", "plain", "--variant", "aten-default", *given)
    assert done.returncode == 1
    found = cells(done.stdout)
    assert (found["plain"][:2], found["aten-default"][:2]) == (["2", "0"], ["1", "1"])


def test_where_there_is_no_numeric_test_nothing_has_passed(job, tmp_path):
    (tmp_path / "test_none.py").write_text("def test_it(): pass")
    done = here(job.main, "--variant", "plain", "--processes", 1, tmp_path / "test_none.py")
    assert done.returncode == 1
    assert cells(done.stdout)["plain"][-1] == "pytest ended with 5"


def test_what_the_processor_lacks_is_skipped():
    # As torch on an older one says.
    command = [sys.executable, ROOT / "jobs" / "processor_variants.py", "--variant", "ct2-avx512"]
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default", "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "skipped: this processor has no AVX512" in done.stdout


def test_a_wrong_name_is_wrong_usage(job):
    done = here(job.main, "--variant", "nosuch")
    assert done.returncode == 2
    assert "nosuch" in done.stderr
