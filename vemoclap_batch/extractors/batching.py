"""Full batches through a network that may run out of memory."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import TypeVar

Item = TypeVar("Item")
Text = TypeVar("Text", bound=Sized)
Output = TypeVar("Output")
Network = Callable[[Sequence[Item]], Iterable[Output]]


class Batches:
    """Runs a network over any number of items, ``size`` at a time; running out of memory halves the size for good.

    Use one object for each network: a size that fitted once fits the next items too.
    """

    def __init__(self, size: int) -> None:
        """Start with batches of ``size`` items."""
        self.size = size

    @classmethod
    def for_device(cls, device: str, cpu: int, gpu: int) -> Batches:
        """Batches of ``cpu`` items on the CPU, of ``gpu`` items elsewhere."""
        return cls(cpu if device == "cpu" else gpu)

    def run(self, network: Network[Item, Output], items: Sequence[Item]) -> list[Output]:
        """The network's output for each item, in order.

        Raises:
            Exception: whatever the network raises, unless it ran out of memory with more than one item.
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
                _release(error)
        return outputs

    def run_groups(self, network: Network[Item, Output], groups: Iterable[Iterable[Item]]) -> list[list[Output]]:
        """:meth:`run` on the items of all groups (the frames of each clip, say): the outputs of each group."""
        lists = [list(group) for group in groups]
        outputs = iter(self.run(network, [item for group in lists for item in group]))
        return [list(itertools.islice(outputs, len(group))) for group in lists]

    def run_by_length(self, network: Network[Text, Output], items: Sequence[Text]) -> list[Output]:
        """:meth:`run` with items of about the same length together, so that little of a batch is padding."""
        order = sorted(range(len(items)), key=lambda at: len(items[at]))
        outputs = dict(zip(order, self.run(network, [items[at] for at in order]), strict=True))
        return [outputs[at] for at in range(len(items))]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch, CTranslate2 or onnxruntime says that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in message for words in ("out of memory", "failed to allocate", "can't allocate memory")
    )


def _release(error: BaseException) -> None:
    """Free what a failed batch held: the frames of its traceback, and torch's cache on the GPU."""
    error.__traceback__ = None
    # Importing torch for a network that is not torch's would take memory of its own.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
