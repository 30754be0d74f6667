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
    code = "import sys, vemoclap_batch.pipeline.run, vemoclap_batch.upkeep.status; print('torch' in sys.modules)"
    assert python(code) == "False"


def test_imports_go_down_only():
    floors = [
        {"config", "failure", "store", "media", "networks", "hub"},
        {"fusion", "manifest", "listing", "report", "extractors", "ekman6", "blacklist", "mutants", "fuzz"},
        {"pipeline", "lite", "bench"},
        {"cli", "cli_common", "cli_analysis", "cli_import", "cli_models", "cli_train", "cli_upkeep", "demo"},
    ]
    floor_of = {name: level for level, names in enumerate(floors) for name in names}
    wrong = []
    for path in (ROOT / "vemoclap_batch").rglob("*.py"):
        own = path.relative_to(ROOT / "vemoclap_batch").parts[0].removesuffix(".py")
        for line in path.read_text().splitlines():
            found = re.match(r"\s*from vemoclap_batch\.(\w+)", line)
            if found and own in floor_of and floor_of[found[1]] > floor_of[own]:
                wrong.append(f"{path.name}: {line.strip()}")
            if re.match(r"\s*(import|from) ray\b", line) and own != "pipeline":
                wrong.append(f"{path.name}: {line.strip()}")
    assert wrong == []
