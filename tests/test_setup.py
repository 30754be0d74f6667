"""What the set-up promises: no libGL, one pinned version of everything, cheap imports."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the list of loaded libraries from /proc")
def test_opencv_needs_no_libgl():
    assert python("import cv2; print('libGL.so' in open('/proc/self/maps').read())") == "False"


def test_the_pinned_set_is_versions_and_hashes_only():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = [line for line in lines if not line.startswith((" ", "#"))]
    assert all(re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==\S+( ;.*)? \\$", line) for line in names)
    assert all(re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lines if line not in names)


def test_naming_the_extractors_loads_no_model_library():
    code = (
        "import sys; from vemoclap_batch.config import load_config;"
        "from vemoclap_batch.extractors.registry import resolve; resolve(load_config('lite'));"
        "print([m for m in ('torch', 'ray', 'onnxruntime', 'transformers', 'paddleocr', 'cv2') if m in sys.modules])"
    )
    assert python(code) == "[]"


def test_a_driver_that_only_extracts_loads_no_torch():
    modules = "sys, vemoclap_batch.pipeline.run, vemoclap_batch.upkeep.nightly, vemoclap_batch.upkeep.gc"
    code = f"import {modules}; print('torch' in sys.modules)"
    assert python(code) == "False"


@pytest.mark.parametrize("code", ["from vemoclap_batch.cli.app import main; main(['--help'])", "import vemoclap_batch"])
def test_help_loads_no_large_library(code):
    heavy = (
        "torch",
        "ray",
        "numpy",
        "pyarrow",
        "pydantic",
        "transformers",
        "huggingface_hub",
        "rich.console",
        "fsspec",
    )
    told = f"import atexit, sys; atexit.register(lambda: print([m for m in {heavy} if m in sys.modules])); {code}"
    assert python(told).splitlines()[-1] == "[]"
