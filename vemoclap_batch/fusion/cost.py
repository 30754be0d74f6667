"""What a classifier costs: its parameters, operations, memory and time, measured on random features, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.data import Examples
from vemoclap_batch.fusion.model import build
from vemoclap_batch.fusion.spec import FusionSpec

BATCH = 32
_MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """What one classifier costs on one thread.

    Attributes:
        parameters: how many numbers are learnt.
        flops: floating-point operations that classify one video: two for a multiplication and its addition, of matrix
            products alone.
        predict_mib: most memory in MiB that torch's allocator holds while it classifies a batch of 32.
        train_mib: the same for a training step of 32, with gradients and Adam's two moments.
        one_ms: median time in ms in which a video is classified alone, normalising included.
        batch_ms: the same for each video of a batch of 32.
    """

    parameters: int
    flops: int
    predict_mib: float
    train_mib: float
    one_ms: float
    batch_ms: float


def measure(spec: FusionSpec) -> Cost:
    """Measure a classifier of this shape; weights and features are random, sequences as long as it takes.

    Times depend on what else the machine does; the rest is the same every time.
    """

    def predict() -> None:
        model = build(spec).eval()
        with torch.inference_mode():
            model(_batch(spec, BATCH))

    def step() -> None:
        model = build(spec).train()
        optimizer = torch.optim.Adam(model.parameters())
        nn.functional.cross_entropy(model(_batch(spec, BATCH)), torch.zeros(BATCH, dtype=torch.int64)).backward()
        optimizer.step()

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = build(spec).eval()
        # With gradients: without them torch runs an encoder layer as one operation, which the counter does not know.
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            model(_batch(spec, 1))
        return Cost(
            parameters=sum(x.numel() for x in model.parameters()),
            flops=counter.get_total_flops(),
            predict_mib=_peak(predict),
            train_mib=_peak(step),
            one_ms=_seconds(Checkpoint(model), 1) * 1e3,
            batch_ms=_seconds(Checkpoint(model), BATCH) / BATCH * 1e3,
        )


def _batch(spec: FusionSpec, n: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(n, feature.length, feature.width) for name, feature in spec.features.items()}


def _seconds(checkpoint: Checkpoint, n: int) -> float:
    """Median time in which ``n`` videos' features become probabilities."""
    features = {name: list(x.numpy()) for name, x in _batch(checkpoint.spec, n).items()}
    examples = Examples([str(row) for row in range(n)], features, np.zeros(n, np.int64))
    timer = Timer("checkpoint.probabilities(examples)", globals={"checkpoint": checkpoint, "examples": examples})
    return timer.blocked_autorange(min_run_time=0.2).median


def _peak(work: Callable[[], None]) -> float:
    """Most memory in MiB that torch's allocator had given out at a time during some work."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text("utf-8"))["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]") / _MIB
