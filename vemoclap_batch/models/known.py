"""What the project knows of hub repositories (``known.yaml``), and which of a repository's files are wanted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from posixpath import splitext

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

#: Weights in order of preference: where there are some of one kind, those of the later kinds are left out.
FORMATS = ({".safetensors"}, {".bin", ".pt", ".pth", ".ckpt"}, {".onnx"}, {".pdiparams", ".pdmodel"})
WEIGHTS = frozenset().union(*FORMATS)
#: Settings and vocabularies.
_BESIDE = {".json", ".txt", ".model", ".yml", ".yaml", ".csv"}
#: What decides an output, and so is part of fingerprints; those of before .ckpt files were known stay as they are.
SUFFIXES = (WEIGHTS | _BESIDE) - {".ckpt"}
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
    """What is known of a repository; the defaults of one that ``known.yaml`` does not list."""
    return known_models().get(repo, Known())


@cache
def known_models() -> dict[str, Known]:
    """Everything in ``known.yaml``, by repository."""
    text = (resources.files("vemoclap_batch.models") / "known.yaml").read_text("utf-8")
    return TypeAdapter(dict[str, Known]).validate_python(yaml.safe_load(text))


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
        chosen = [name for name in names if "/" not in name and splitext(name)[1] in usual and name not in _LEFTOVERS]
    suffixes = {splitext(name)[1] for name in chosen}
    unwanted = WEIGHTS - next((kind for kind in FORMATS if kind & suffixes), set())
    return sorted(name for name in chosen if splitext(name)[1] not in unwanted)
