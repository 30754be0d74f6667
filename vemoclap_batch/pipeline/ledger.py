"""Which videos an actor holds, noted before it touches them, so that one which kills its actor is found out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vemoclap_batch.failure import ErrorType, Failure

T = TypeVar("T")
#: A video that was unfinished this often (once with its batch, once alone) is not tried again in this run.
MAX_UNFINISHED = 2


class Ledger:
    """Counts, per stage, how often a video was begun and not finished. Holds only what is under way or was lost."""

    def __init__(self) -> None:
        self._unfinished: Counter[tuple[str, str]] = Counter()
        self._stopped = False

    def stop(self) -> None:
        """From now on nothing is begun."""
        self._stopped = True

    def begin(self, stage: str, keys: Sequence[str], alone: bool) -> list[int] | None:
        """Note that a batch, or one video alone, is begun; returns the counts before, or None once stopped.

        A batch that was lost before is not counted again: its videos are to be begun alone.
        """
        if self._stopped:
            return None
        before = [self._unfinished[stage, key] for key in keys]
        if alone or not any(before):
            self._unfinished.update((stage, key) for key in keys)
        return before

    def finish(self, stage: str, keys: Sequence[str], alone: bool) -> None:
        """Take back what :meth:`begin` noted; the loss of an earlier batch stays noted."""
        for key in keys:
            self._unfinished[stage, key] -= 1
            if not alone or self._unfinished[stage, key] <= 0:
                del self._unfinished[stage, key]


def guarded(
    ledger: Any, stage: str, keys: Sequence[str], run: Callable[[Sequence[int]], list[T]]
) -> list[T | Failure | None]:
    """Run a batch under the ledger's eye; once the run is to stop, every result is None and nothing is run.

    A first try runs the whole batch. When an actor died on it, Ray replays it here: then each video is run alone, and
    one that is unfinished for the second time becomes a failure in place of a third death.

    Args:
        ledger: handle of the run's :class:`Ledger`.
        stage: name of the stage.
        keys: one per video of the batch.
        run: computes the results of the videos at some positions of the batch.
    """
    if not keys:
        return []
    before = ray.get(ledger.begin.remote(stage, list(keys), alone=False))
    if before is None:
        return [None] * len(keys)
    if not any(before):
        results: list[T | Failure | None] = list(run(range(len(keys))))
        ray.get(ledger.finish.remote(stage, list(keys), alone=False))
        return results
    redone: list[T | Failure | None] = []
    for at, key in enumerate(keys):
        redone.append(_alone(ledger, stage, key, partial(run, [at])))
    return redone


@contextmanager
def open_ledger() -> Iterator[Any]:
    """A ledger for one run, beside the driver, so that no other node's death takes it along."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    ledger: Any = ray.remote(num_cpus=0)(Ledger).options(scheduling_strategy=here).remote()
    try:
        yield ledger
    finally:
        # Stages that hold its handle outlive the run, and would keep its process.
        ray.kill(ledger)


def _alone(ledger: Any, stage: str, key: str, run: Callable[[], Sequence[T]]) -> T | Failure | None:
    counts = ray.get(ledger.begin.remote(stage, [key], alone=True))
    if counts is None:
        return None
    [before] = counts
    if before >= MAX_UNFINISHED:
        message = f"the {stage} process died {before} times while it worked on this video"
        return Failure(ErrorType.WORKER_DIED, message)
    [result] = run()
    ray.get(ledger.finish.remote(stage, [key], alone=True))
    return result
