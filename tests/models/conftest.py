"""A hub on this machine, and the commands against it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.models.server import Hub, Repo
from tests.models.weights import profile
from vemoclap_batch.cli.models import app as models_app

REFERENCE = "hf:lab/faces"
WEIGHTS = bytes(range(256)) * 8000
FILES = {
    "config.json": b'{"width": 768}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "tf_model.h5": b"of another framework",
    "model.onnx": b"another format",
    "onnx/model.onnx": b"another format",
    "training_args.bin": b"another pickle",
    "README.md": b"# Faces",
    ".gitattributes": b"",
}


@dataclass
class Outcome:
    """How a command ended; ``last`` is the object that ends its output."""

    status: int
    out: str
    err: str
    error: BaseException | None

    @property
    def last(self):
        return json.loads(self.out.splitlines()[-1])


@dataclass
class Lab:
    """One profile, one models folder."""

    profile: Path
    folder: Path

    def use(self, **extractors):
        """Let the profile have these extractors with their settings."""
        self.profile.write_text(profile(**extractors))

    def __call__(self, command, *arguments):
        """Run ``models COMMAND`` on them."""
        own = ["--profile", str(self.profile), "--models-dir", str(self.folder), "--json"]
        done = CliRunner().invoke(models_app, [command, *own, *arguments])
        error = None if isinstance(done.exception, SystemExit) else done.exception
        return Outcome(done.exit_code, done.stdout, done.stderr, error)

    @property
    def manifest(self):
        return json.loads((self.folder / "models.json").read_text())["models"]


@pytest.fixture
def hub(monkeypatch):
    """A hub with one repository, the one that HF_ENDPOINT names."""
    from huggingface_hub import constants

    server = Hub()
    server.repos["lab/faces"] = Repo(dict(FILES))
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # Extractors that were loaded before this test forbid their process, and its children, to ask a hub.
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    # The library reads these when it is imported, which other tests may have had happen with other values.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A profile with one model of the hub's, and a models folder that is not there yet."""
    monkeypatch.setenv("VEMOCLAP_MODELS", str(tmp_path / "default"))
    found = Lab(tmp_path / "own.yaml", tmp_path / "models")
    found.use(faces={"model": REFERENCE})
    return found
