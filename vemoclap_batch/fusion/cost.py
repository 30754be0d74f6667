"""What a classifier costs: its parameters, operations, memory and time, measured on random features, on the CPU."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.data import Examples, to_tensors
from vemoclap_batch.fusion.model import FusionSpec, build

BATCH = 32
#: How often each batch is classified for the median of its time, after a few times that are not counted.
REPEATS, WARM_UP = 20, 3
_MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """What one classifier costs on one thread.

    Attributes:
        parameters: how many numbers are learnt.
        flops: floating-point operations that classify one video: two for a multiplication and its addition, of matrix
            products alone.
        predict_mib: most memory that torch holds at a time while it classifies a batch of 32: weights, the batch and
            what comes of it, in MiB. Python and the libraries themselves are not in it.
        train_mib: the same for a training step of 32: gradients and Adam's two moments too.
        one_ms: a video classified alone, normalising included, in ms; the median of some times.
        batch_ms: the same for each video of a batch of 32.
    """

    parameters: int
    flops: int
    predict_mib: float
    train_mib: float
    one_ms: float
    batch_ms: float

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain values."""
        return asdict(self)


def measure(spec: FusionSpec) -> Cost:
    """Measure a classifier of this shape; weights and features are random, sequences as long as it takes.

    Times depend on what else the machine does; the rest is the same every time.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = build(spec).eval()
        checkpoint = Checkpoint(model)
        return Cost(
            parameters=sum(x.numel() for x in model.parameters()),
            flops=_flops(checkpoint),
            predict_mib=_peak(lambda: _predict(spec)),
            train_mib=_peak(lambda: _step(spec)),
            one_ms=_seconds(checkpoint, 1) * 1e3,
            batch_ms=_seconds(checkpoint, BATCH) / BATCH * 1e3,
        )


def _examples(spec: FusionSpec, n: int) -> Examples:
    rng = np.random.default_rng(0)
    features = {
        name: [rng.normal(size=(feature.length, feature.width)).astype(np.float32) for _ in range(n)]
        for name, feature in spec.features.items()
    }
    return Examples([str(row) for row in range(n)], features, np.zeros(n, np.int64))


def _flops(checkpoint: Checkpoint) -> int:
    batch = to_tensors(_examples(checkpoint.spec, 1), checkpoint.spec)
    # With gradients: without them torch runs an encoder layer as one operation of which the counter knows nothing.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        checkpoint.model(batch)
    return counter.get_total_flops()


def _seconds(checkpoint: Checkpoint, n: int) -> float:
    """Median time in which ``n`` videos' features become probabilities."""
    examples, taken = _examples(checkpoint.spec, n), []
    for _ in range(WARM_UP + REPEATS):
        began = time.perf_counter()
        checkpoint.probabilities(examples)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[WARM_UP:]))


def _predict(spec: FusionSpec) -> None:
    model = build(spec).eval()
    with torch.inference_mode():
        model(_random_batch(spec))


def _step(spec: FusionSpec) -> None:
    model = build(spec).train()
    optimiser = torch.optim.Adam(model.parameters())
    nn.functional.cross_entropy(model(_random_batch(spec)), torch.zeros(BATCH, dtype=torch.int64)).backward()
    optimiser.step()


def _random_batch(spec: FusionSpec) -> dict[str, torch.Tensor]:
    # Made by torch, whose memory is what is counted.
    return {name: torch.randn(BATCH, feature.length, feature.width) for name, feature in spec.features.items()}


def _peak(work: Callable[[], None]) -> float:
    """Most memory in MiB that torch's allocator had given out at a time during some work."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text("utf-8"))["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]") / _MIB
