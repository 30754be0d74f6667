"""A trained classifier on disk: a folder with ``model.safetensors`` and ``model.json``; and the state of a training."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.data import CHUNK, Data, chunks, to_tensors
from vemoclap_batch.fusion.description import DESCRIPTION, WEIGHTS, describe
from vemoclap_batch.fusion.model import Classifier, build
from vemoclap_batch.fusion.prediction_sets import PredictionSets
from vemoclap_batch.fusion.spec import FusionSpec
from vemoclap_batch.store.folder import Folder

STATE = "training.pt"
#: Which videos trained a checkpoint and which chose its step.
VIDEOS = "videos.parquet"


@dataclass
class Checkpoint:
    """A classifier and what must be known to use it.

    Attributes:
        temperature: logits are divided by it, so that the probabilities are calibrated; 1 when not fitted.
        fingerprints: per feature, of the extractors whose output it was trained on.
        card: how it was trained and what it scores, for a reader.
        sets: which labels belong to the set of a prediction; None where there were no examples to fit them on.
    """

    model: Classifier
    temperature: float = 1.0
    fingerprints: dict[str, list[str]] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    sets: PredictionSets | None = None

    @property
    def spec(self) -> FusionSpec:
        """The shape of the classifier."""
        return self.model.spec

    def save(self, folder: str | Path, half: bool = False) -> None:
        """Write the checkpoint; ``half`` stores float16 weights (read back as float32).

        Each of the two files is replaced atomically, the description last.
        """
        place = Folder(folder)
        dtype = torch.float16 if half else torch.float32
        state = {name: x.detach().cpu().to(dtype).contiguous() for name, x in self.model.state_dict().items()}
        place.write(WEIGHTS, to_bytes(state))
        description = {
            "spec": self.spec.model_dump(mode="json"),
            "temperature": self.temperature,
            "fingerprints": self.fingerprints,
            "card": self.card,
        }
        if self.sets:
            description["sets"] = self.sets.model_dump(mode="json")
        place.write(DESCRIPTION, (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, folder: str | Path) -> Checkpoint:
        """Read a checkpoint, in evaluation mode.

        Raises:
            ConfigError: the folder holds no checkpoint, or a broken one.
        """
        described = describe(folder)
        try:
            model = build(described.spec)
            model.load_state_dict({name: x.float() for name, x in from_bytes(Folder(folder).read(WEIGHTS)).items()})
        except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ConfigError([f"model {str(folder)!r} is not a checkpoint: {error}"]) from error
        card, fingerprints = dict(described.card), dict(described.fingerprints)
        return cls(model.eval(), described.temperature, fingerprints, card, described.sets)

    def fit_sets(self, examples: Data) -> None:
        """Fit the prediction sets on labelled examples that did not train it; there are none without examples."""
        if len(examples):
            self.sets = PredictionSets.fit(self.probabilities(examples), examples.labels, self.spec.labels)

    @torch.inference_mode()
    def probabilities(self, examples: Data, batch: int = CHUNK) -> np.ndarray:
        """Calibrated probabilities float64 [n, labels]."""
        self.model.eval()
        device = next(self.model.parameters()).device
        parts = [torch.zeros(0, len(self.spec.labels), dtype=torch.float64)]
        for rows in chunks(len(examples), batch):
            features = to_tensors(examples.subset(rows), self.spec)
            logits = self.model({name: x.to(device) for name, x in features.items()})
            parts.append(torch.softmax(logits.cpu().double() / self.temperature, dim=-1))
        return torch.cat(parts).numpy()


class TrainingState:
    """The progress of a training, in one file of ``torch.save`` that is replaced atomically every few seconds."""

    def __init__(self, folder: Folder, identity: str, every_s: float = 30.0) -> None:
        """Point at a file in a folder, which need not exist yet.

        Args:
            folder: where it is.
            identity: of the training; the state of another one is not loaded.
            every_s: least seconds between two saves.
        """
        self.folder, self.identity, self.every_s = folder, identity, every_s
        self._saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved_at >= self.every_s

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file by a nested dict of tensors, numbers and text."""
        content = io.BytesIO()
        torch.save({"identity": self.identity, "state": dict(state)}, content)
        self.folder.write(STATE, content.getvalue())
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None when nothing was, or by another training.

        Raises:
            ConfigError: the file is damaged.
        """
        if not self.folder.has(STATE):
            return None
        try:
            saved = torch.load(io.BytesIO(self.folder.read(STATE)), map_location="cpu", weights_only=True)
            return saved["state"] if saved["identity"] == self.identity else None
        except (RuntimeError, UnpicklingError, EOFError, ValueError, KeyError, TypeError) as error:
            where = f"{self.folder.address}/{STATE}"
            reason = str(error).partition("\n")[0]
            raise ConfigError([f"{where!r} is damaged ({reason}): delete it to train from the start"]) from error


def used_videos(folder: str) -> dict[str, str]:
    """Video id → ``train`` or ``validation``, of a checkpoint; empty when it does not say."""
    place = Folder(folder)
    if not place.has(VIDEOS):
        return {}
    rows = pq.read_table(pa.BufferReader(place.read(VIDEOS)))
    return dict(zip(rows["video_id"].to_pylist(), rows["used"].to_pylist(), strict=True))
