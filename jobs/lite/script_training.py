"""Training of the lite profile's script classifier on drawn lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lite.script_lines import LineMaker, Words
from vemoclap_batch.networks.script import HEIGHT, ORIENTATIONS, SCRIPTS

BATCH = 64
PEAK_RATE = 3e-3
SMOOTHING = 0.02
#: What the project's recogniser of the lite profile reads; all else is foreign to it.
READ = ("latin", "chinese", "digits", "nothing")


class ScriptNet(nn.Module):
    """Convolutions that take 32 rows to one and eight columns to one, a mean and a maximum over the rest, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _convolution(1, 16, 3, 2),
            _convolution(16, 32, 3, 2),
            _convolution(32, 64, 3, 2),
            _convolution(64, 96, 3, (2, 1)),
            _convolution(96, 128, (2, 1), 1, padding=0),
        )
        self.along = nn.ModuleList([_convolution(128, 128, (1, 3), 1, padding=(0, 1)) for _ in range(2)])
        self.dropout = nn.Dropout(0.2)
        self.scripts = nn.Linear(256, len(SCRIPTS))
        self.orientations = nn.Linear(256, len(ORIENTATIONS))

    def forward(self, lines: torch.Tensor, widths: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of lines [B, 1, 32, w]: [B, 16] and [B, 4]; ``widths`` [B] are those of lines that were padded."""
        features = self.trunk(lines)  # [B, 128, 1, w / 8]
        for layer in self.along:
            features = features + layer(features)
        features = features.squeeze(2)  # [B, 128, w / 8]
        if widths is None:
            pooled = torch.cat([features.mean(2), features.amax(2)], 1)
        else:
            counts = (widths / 8).ceil()[:, None]
            there = torch.arange(features.shape[2])[None] < counts  # [B, w / 8]
            kept = features * there[:, None]
            pooled = torch.cat([kept.sum(2) / counts, kept.amax(2)], 1)  # features are never below zero
        pooled = self.dropout(pooled)
        return self.scripts(pooled), self.orientations(pooled)


class _Probabilities(nn.Module):
    """The network as it is exported: probabilities in place of logits."""

    def __init__(self, net: ScriptNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scripts, orientations = self.net(line)
        return scripts.softmax(1), orientations.softmax(1)


def _convolution(inside: int, outside: int, size: Any, stride: Any, padding: Any = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, size, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


@dataclass
class Lines:
    """Drawn lines: images uint8 [32, width] each, and the places of their classes, int64 [n]."""

    images: list[np.ndarray]
    scripts: torch.Tensor
    orientations: torch.Tensor

    def __len__(self) -> int:
        """Number of lines."""
        return len(self.images)


def draw_lines(fonts: Sequence[Path], words: Words, characters: set[str], count: int, seed: int) -> Lines:
    """Draw ``count`` lines, see :class:`LineMaker`."""
    drawn = list(islice(LineMaker(fonts, words, characters, seed), count))
    scripts, orientations = [line.script for line in drawn], [line.orientation for line in drawn]
    return Lines([line.image for line in drawn], torch.tensor(scripts), torch.tensor(orientations))


def train_script_net(
    train: Lines, validation: Lines, *, epochs: int, seed: int = 0, progress: Callable[[str], None] = print
) -> ScriptNet:
    """Train for some passes over the lines; ``progress`` is told of the validation after each."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    net = ScriptNet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), PEAK_RATE, weight_decay=0.01)
    steps = epochs * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for epoch in range(epochs):
        net.train()
        total = 0.0
        for batch in _batches(train, random):
            lines, widths = _stacked([train.images[at] for at in batch], random)
            with torch.autocast("cpu", torch.bfloat16):
                scripts, orientations = net(lines, widths)
            loss = F.cross_entropy(scripts.float(), train.scripts[batch], label_smoothing=SMOOTHING)
            loss = loss + 0.5 * F.cross_entropy(orientations.float(), train.orientations[batch], ignore_index=-1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(batch) / len(train)
        progress(f"epoch {epoch + 1}/{epochs} loss {total:.4f} {measure(net, validation)['accuracy']}")
    return net.eval()


def _batches(lines: Lines, random: np.random.Generator) -> list[list[int]]:
    """Lines of about the same width together, the batches in random order."""
    # A little noise, so that a line has other companions in every pass.
    order = np.argsort([image.shape[1] * random.uniform(0.9, 1.1) for image in lines.images])
    batches = [order[start : start + BATCH].tolist() for start in range(0, len(order), BATCH)]
    return [batches[at] for at in random.permutation(len(batches))]


def _stacked(
    images: Sequence[np.ndarray], random: np.random.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised images padded to the widest, float32 [B, 1, 32, w], and their widths; random ones are negated."""
    widths = [image.shape[1] for image in images]
    stacked = np.zeros((len(images), 1, HEIGHT, max(widths)), np.float32)
    for at, image in enumerate(images):
        values = image.astype(np.float32) - image.mean()
        sign = -1.0 if random is not None and random.random() < 0.5 else 1.0
        stacked[at, 0, :, : widths[at]] = sign * values / max(float(values.std()), 8.0)
    return torch.from_numpy(stacked).contiguous(memory_format=torch.channels_last), torch.tensor(widths)


@torch.inference_mode()
def measure(net: ScriptNet, lines: Lines, sure: float = 0.9) -> dict[str, Any]:
    """Accuracy of scripts and orientations, recall of each script, and what happens at a threshold.

    Returns:
        ``accuracy`` (script, orientation), ``recall`` by script, ``lost``: the share of lines that the recogniser reads
        and that are taken for foreign ones with at least that probability, ``caught``: the same of foreign lines.
    """
    net.eval()
    scripts, orientations = np.zeros((len(lines), len(SCRIPTS))), np.zeros((len(lines), len(ORIENTATIONS)))
    order = np.argsort([image.shape[1] for image in lines.images])
    for batch in np.array_split(order, max(1, len(order) // BATCH)):
        stacked, widths = _stacked([lines.images[at] for at in batch])
        logits = net(stacked, widths)
        scripts[batch], orientations[batch] = (each.softmax(1).numpy() for each in logits)
    truth, turned = lines.scripts.numpy(), lines.orientations.numpy()
    right = scripts.argmax(1) == truth
    there = turned >= 0
    read = [SCRIPTS.index(name) for name in READ]
    foreign, own = 1 - scripts[:, read].sum(1), np.isin(truth, read)
    return {
        "accuracy": {
            "script": round(float(right.mean()), 4),
            "orientation": round(float((orientations.argmax(1) == turned)[there].mean()), 4),
        },
        "recall": {SCRIPTS[at]: round(float(right[truth == at].mean()), 3) for at in np.unique(truth)},
        "lost": round(float((foreign[own] >= sure).mean()), 4),
        "caught": {
            SCRIPTS[at]: round(float((foreign[truth == at] >= sure).mean()), 3)
            for at in np.unique(truth) if at not in read
        },
    }  # fmt: skip


def export(net: ScriptNet, path: Path) -> None:
    """Write the network as ONNX, with its classes as metadata."""
    import onnx

    torch.onnx.export(
        _Probabilities(net).eval(), (torch.zeros(1, 1, HEIGHT, 160),), str(path), dynamo=False,
        input_names=["line"], output_names=["scripts", "orientations"], dynamic_axes={"line": {0: "lines", 3: "width"}},
        opset_version=17,
    )  # fmt: skip
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {"scripts": ",".join(SCRIPTS), "orientations": ",".join(ORIENTATIONS)})
    onnx.save(model, str(path))
