"""``pip install .`` in a fresh virtual environment: every file of the package is there, and the program runs.

The environment takes the libraries from this one, so that nothing is downloaded.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRACTORS = """
import json, vemoclap_batch
from vemoclap_batch.config import load_config, own_checkpoint
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.fusion.checkpoint import Checkpoint
config = load_config("lite")
features = Checkpoint.load(own_checkpoint(config)).spec.features
print(json.dumps([vemoclap_batch.__file__, list(resolve(config)), list(features)]))
"""


def run(*words, folder):
    # Without the variable by which Python would find the package in the repository.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment into which the package was installed from a copy of its sources."""
    top = tmp_path_factory.mktemp("install")
    source = top / "source"
    shutil.copytree(ROOT / "vemoclap_batch", source / "vemoclap_batch", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    venv.create(top / "venv", with_pip=False)
    [site] = (top / "venv").rglob("site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", top / "venv/bin/python", "install", *options, source, folder=top)
    return top / "venv"


def test_every_file_of_the_package_is_installed(environment):
    [package] = environment.rglob("site-packages/vemoclap_batch")

    def files(folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".pyc" and path.is_file()}

    assert files(package) == files(ROOT / "vemoclap_batch")


def test_the_program_and_the_profile_need_nothing_else(environment, tmp_path):
    said = run(environment / "bin" / "vemoclap-batch", "--help", folder=tmp_path)
    assert "  label  " in said
    file, extractors, features = json.loads(run(environment / "bin/python", "-c", EXTRACTORS, folder=tmp_path))
    assert Path(file).is_relative_to(environment)
    assert len(extractors) == 7
    assert set(features) <= set(extractors)
