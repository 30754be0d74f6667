"""A trained classifier on disk: a folder with ``model.safetensors`` and ``model.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vemoclap_batch.config import ConfigError
from vemoclap_batch.fusion.data import Examples, to_tensors
from vemoclap_batch.fusion.model import AttentionClassifier, FusionSpec

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


@dataclass
class Checkpoint:
    """A classifier and what must be known to use it.

    Attributes:
        temperature: logits are divided by it, so that the probabilities are calibrated; 1 when not fitted.
        fingerprints: per feature, of the extractors whose output it was trained on.
        card: how it was trained and what it scores, for a reader.
    """

    model: AttentionClassifier
    temperature: float = 1.0
    fingerprints: dict[str, list[str]] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> FusionSpec:
        """The shape of the classifier."""
        return self.model.spec

    def save(self, folder: str | Path, half: bool = False) -> None:
        """Write the checkpoint; ``half`` stores float16 weights (read back as float32)."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        dtype = torch.float16 if half else torch.float32
        state = {name: x.detach().cpu().to(dtype).contiguous() for name, x in self.model.state_dict().items()}
        save_file(state, path / WEIGHTS)
        description = {
            "spec": self.spec.model_dump(mode="json"),
            "temperature": self.temperature,
            "fingerprints": self.fingerprints,
            "card": self.card,
        }
        (path / DESCRIPTION).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Checkpoint:
        """Read a checkpoint, in evaluation mode.

        Raises:
            ConfigError: the folder holds no checkpoint, or a broken one.
        """
        path = Path(folder)
        try:
            description = json.loads((path / DESCRIPTION).read_text("utf-8"))
            model = AttentionClassifier(FusionSpec.model_validate(description["spec"]))
            state = {name: x.float() for name, x in load_file(path / WEIGHTS).items()}
            model.load_state_dict(state)
        except FileNotFoundError as error:
            raise ConfigError([f"model {str(folder)!r}: {error.filename} is not there"]) from error
        except (ValueError, KeyError, RuntimeError, ValidationError, SafetensorError) as error:
            raise ConfigError([f"model {str(folder)!r} is not a checkpoint: {error}"]) from error
        return cls(model.eval(), description["temperature"], description["fingerprints"], description.get("card", {}))

    @torch.inference_mode()
    def probabilities(self, examples: Examples, batch: int = 256) -> np.ndarray:
        """Calibrated probabilities float64 [n, labels]."""
        self.model.eval()
        parts = [
            self._softmax(to_tensors(examples.subset(range(start, min(start + batch, len(examples)))), self.spec))
            for start in range(0, len(examples), batch)
        ]
        return torch.cat(parts).numpy() if parts else np.zeros((0, len(self.spec.labels)))

    def _softmax(self, features: Mapping[str, Tensor]) -> Tensor:
        return torch.softmax(self.model(features).double() / self.temperature, dim=-1)


def digest(folder: str | Path) -> str:
    """A hash of the checkpoint's weights and shape: two with the same digest predict the same."""
    path = Path(folder)
    description = json.loads((path / DESCRIPTION).read_text("utf-8"))
    shape = json.dumps([description["spec"], description["temperature"]], sort_keys=True)
    return hashlib.sha256((path / WEIGHTS).read_bytes() + shape.encode()).hexdigest()[:12]


def check_spaces(checkpoint: Checkpoint, spaces: Mapping[str, str | None], names: Sequence[str]) -> None:
    """Refuse features that the classifier was not trained on.

    Raises:
        ConfigError: a feature is not there, or lies in another space than the classifier's; both are named.
    """
    mistakes = []
    for name in names:
        wanted = checkpoint.spec.features[name].space
        if name not in spaces:
            mistakes.append(f"feature {name!r}: the model needs it (space {wanted}), and there is none")
        elif wanted is not None and spaces[name] != wanted:
            mistakes.append(f"feature {name!r}: the model was trained on space {wanted}, this is {spaces[name]}")
    if mistakes:
        raise ConfigError(mistakes)
