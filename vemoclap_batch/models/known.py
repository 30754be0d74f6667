"""What the project knows of hub repositories (``known.yaml``), and which of a repository's files are wanted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from pathlib import PurePosixPath

import yaml
from pydantic import BaseModel, ConfigDict

#: Weights in order of preference: where there are some of one kind, those of the later kinds are left out.
FORMATS = ({".safetensors"}, {".bin", ".pt", ".pth", ".ckpt"}, {".onnx"}, {".pdiparams", ".pdmodel"})
WEIGHTS = frozenset().union(*FORMATS)
_BESIDE = frozenset({".json", ".txt", ".model", ".yml", ".yaml", ".csv"})
#: What a training run leaves behind.
_LEFTOVERS = frozenset({"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"})


class Known(BaseModel):
    """What is known of one repository; the fields are explained in ``known.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str = ""
    revision: str = "main"
    licence: str | None = None
    bytes: int | None = None
    files: tuple[str, ...] = ()
    sha256: dict[str, str] = {}


def known(repo: str) -> Known:
    """What is known of a repository; next to nothing of one that ``known.yaml`` does not list."""
    return _table().get(repo, Known())


@cache
def _table() -> dict[str, Known]:
    text = (resources.files("vemoclap_batch.models") / "known.yaml").read_text("utf-8")
    return {repo: Known(**fields) for repo, fields in yaml.safe_load(text).items()}


def wanted(names: Collection[str], patterns: Sequence[str] = ()) -> list[str]:
    """Which files of a repository a model needs.

    Args:
        names: all files of the repository.
        patterns: as in a shell, of what is wanted; without any, weights and what goes with them at its top.

    Returns:
        Sorted names; safetensors rather than pickles, and either rather than another framework's weights.
    """
    if patterns:
        chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    else:
        usual = WEIGHTS | _BESIDE
        chosen = [name for name in names if "/" not in name and _suffix(name) in usual and name not in _LEFTOVERS]
    best = next((kind for kind in FORMATS if any(_suffix(name) in kind for name in chosen)), WEIGHTS)
    return sorted(name for name in chosen if _suffix(name) in best or _suffix(name) not in WEIGHTS)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix
