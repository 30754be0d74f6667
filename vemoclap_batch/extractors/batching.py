"""Full batches through a network that may run out of memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Output = TypeVar("Output")


class Batches:
    """Runs a network over any number of items, so many at a time; too little memory halves that for good.

    One object a network: what was learnt about its memory holds for the next batches too.
    """

    def __init__(self, size: int) -> None:
        """Start with batches of ``size`` items."""
        self.size = size

    def run(self, network: Callable[[Sequence[Item]], Iterable[Output]], items: Sequence[Item]) -> list[Output]:
        """The network's outputs, one an item, in order.

        Raises:
            Exception: whatever the network raises, unless it is too little memory for more than one item.
        """
        outputs: list[Output] = []
        while len(outputs) < len(items):
            batch = items[len(outputs) : len(outputs) + self.size]
            try:
                outputs.extend(network(batch))
            except Exception as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
                self.size = max(1, len(batch) // 2)
                release(error)
        return outputs


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, CTranslate2 or onnxruntime (or Python's own) says that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("out of memory", "failed to allocate", "can't allocate memory")
    )


def release(error: BaseException) -> None:
    """Let go of what a failed batch held: the frames of its traceback, and torch's cache on the GPU."""
    error.__traceback__ = None
    # Where the network is not torch's there is nothing to empty, and importing it would take memory of its own.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def autocast(device: str, precision: str) -> Any:
    """The torch context that computes in ``precision`` (float32, float16 or bfloat16) on a device."""
    import torch

    return torch.autocast(device.partition(":")[0], getattr(torch, precision), enabled=precision != "float32")
