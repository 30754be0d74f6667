"""Which videos an actor holds, noted before it touches them, so that one which kills its actor is found out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vemoclap_batch.errors import ErrorType, Failure

T = TypeVar("T")
#: A video that was unfinished this often (once with its batch, once alone) is not tried again in this run.
MAX_UNFINISHED = 2
#: How much oftener than it has videos, each of which may be poison, a block may be lost before it is given up.
SPARE_LOSSES = 3
#: An actor that died this often in a row while its model loaded is not started again.
MAX_LOADS = 3


class Ledger:
    """Counts, per stage, how often a video was begun and not finished. Holds only what is under way or was lost.

    The same is counted of blocks and of the loading of models, which may kill an actor, too.
    """

    def __init__(self) -> None:
        self._unfinished: Counter[tuple[str, str]] = Counter()
        self._held: Counter[tuple[str, str]] = Counter()
        self._stopped = False

    def enter(self, what: str, name: str) -> int:
        """Note that an actor has a block, or loads its model; returns how often that was lost before."""
        self._held[what, name] += 1
        return self._held[what, name] - 1

    def leave(self, what: str, name: str) -> None:
        """Take back all that :meth:`enter` noted of it: it went well."""
        del self._held[what, name]

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
    ledger: Any, stage: str, keys: Sequence[str], run: Callable[[Sequence[int]], Sequence[T | Failure | None]]
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
def holding(ledger: Any, stage: str, keys: Sequence[str]) -> Iterator[Failure | None]:
    """Hold a block until it was given on, with the failure of all its videos once it was lost too often.

    Poison is found by :func:`guarded`; this bounds the deaths of actors between the videos' own work, as when a table
    of results takes more memory than there is.

    Args:
        ledger: handle of the run's :class:`Ledger`.
        stage: name of the stage.
        keys: one per video of the block.
    """
    if not keys:
        yield None
        return
    losses = ray.get(ledger.enter.remote(stage, keys[0]))
    message = f"the {stage} process died {losses} times while it held this video"
    yield Failure(ErrorType.WORKER_DIED, message) if losses >= len(keys) + SPARE_LOSSES else None
    ray.get(ledger.leave.remote(stage, keys[0]))


@contextmanager
def loading(ledger: Any, stage: str) -> Iterator[None]:
    """Load a model in an actor, which Ray would otherwise start again and again when that kills it.

    Raises:
        RuntimeError: it died too often in a row.
    """
    actor = ray.get_runtime_context().get_actor_id()
    losses = ray.get(ledger.enter.remote(f"{stage} loads", actor))
    if losses >= MAX_LOADS:
        raise RuntimeError(f"the {stage} process died {losses} times while it loaded its model")
    try:
        yield
    finally:  # An exception is no death.
        ray.get(ledger.leave.remote(f"{stage} loads", actor))


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


def _alone(ledger: Any, stage: str, key: str, run: Callable[[], Sequence[T | Failure | None]]) -> T | Failure | None:
    counts = ray.get(ledger.begin.remote(stage, [key], alone=True))
    if counts is None:
        return None
    [before] = counts
    if before >= MAX_UNFINISHED:
        message = f"the {stage} process died, or took too long, {before} times while it worked on this video"
        return Failure(ErrorType.WORKER_DIED, message)
    [result] = run()
    ray.get(ledger.finish.remote(stage, [key], alone=True))
    return result
