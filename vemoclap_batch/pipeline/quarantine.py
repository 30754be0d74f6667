"""The quarantine: notes which videos an actor holds before it touches them, to isolate one that kills its actor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vemoclap_batch import lifetime
from vemoclap_batch.errors import ErrorType, Failure

T = TypeVar("T")
#: A block that an actor holds: a stage, and the key of its first video.
Block = tuple[str, str]
#: A video that was unfinished this often (once with its batch, once alone) is not tried again in this run.
MAX_UNFINISHED = 2
#: A block is given up when it was lost this many times more than it has videos, each of which may kill an actor.
SPARE_LOSSES = 3
#: An actor that died this often in a row while its model loaded is not started again.
MAX_LOADS = 3


class Quarantine:
    """A small actor that counts, per stage, how often a video was begun and not finished.

    Blocks and the loading of models are counted likewise, as stages of their own. What went well is forgotten.
    """

    def __init__(self, driver: str | None = None) -> None:
        """Begin with nothing noted; ends with the driver at an address, see :mod:`vemoclap_batch.lifetime`."""
        if driver is not None:
            lifetime.die_with(driver)
        self._unfinished: Counter[tuple[str, str]] = Counter()
        self._stopped = False

    def stop(self) -> None:
        """From now on nothing is begun."""
        self._stopped = True

    def begin(self, stage: str, keys: Sequence[str], alone: bool, block: Block | None = None) -> list[int] | None:
        """Note that a batch, or one video alone, is begun; returns the counts before, or None once stopped.

        A batch that was lost before is not counted again: its videos are to be begun alone. Until it is finished, its
        block is not held: what dies then died of its videos.
        """
        if self._stopped:
            return None
        if block is not None:
            self._unfinished[block] -= 1
        before = [self._unfinished[stage, key] for key in keys]
        if alone or not any(before):
            self._unfinished.update((stage, key) for key in keys)
        return before

    def finish(self, stage: str, keys: Sequence[str], alone: bool, block: Block | None = None) -> None:
        """Forget what :meth:`begin` noted; for a video alone, the loss of an earlier batch stays noted."""
        if block is not None:
            self._unfinished[block] += 1
        for key in keys:
            self._unfinished[stage, key] -= 1
            if not alone or self._unfinished[stage, key] <= 0:
                del self._unfinished[stage, key]


def guarded(
    quarantine: Any, stage: str, keys: Sequence[str], run: Callable[[Sequence[int]], Sequence[T | Failure | None]],
    block: Block | None = None,
) -> list[T | Failure | None]:  # fmt: skip
    """Run a batch so that a video which kills the process fails alone.

    A first try runs the whole batch. When an actor died on it, Ray replays it here: then each video is run alone, and
    one that is unfinished for the second time becomes a failure in place of a third death. Once the run is to stop,
    nothing is run and every result is None.

    Args:
        quarantine: handle of the run's :class:`Quarantine`.
        stage: its name.
        keys: one per video of the batch.
        run: computes the results of the videos at some positions of the batch.
        block: what :func:`holding` holds meanwhile.
    """
    if not keys:
        return []
    unfinished = ray.get(quarantine.begin.remote(stage, list(keys), alone=False, block=block))
    if unfinished is None:
        return [None] * len(keys)
    if any(unfinished):
        results = [_run_alone(quarantine, stage, key, partial(run, [at])) for at, key in enumerate(keys)]
        ray.get(quarantine.finish.remote(stage, [], alone=True, block=block))
        return results
    results = list(run(range(len(keys))))
    ray.get(quarantine.finish.remote(stage, list(keys), alone=False, block=block))
    return results


def _run_alone(
    quarantine: Any, stage: str, key: str, run: Callable[[], Sequence[T | Failure | None]]
) -> T | Failure | None:
    counts = ray.get(quarantine.begin.remote(stage, [key], alone=True))
    if counts is None:
        return None
    [unfinished] = counts
    if unfinished >= MAX_UNFINISHED:
        message = f"the {stage} process died, or took too long, {unfinished} times while it worked on this video"
        return Failure(ErrorType.WORKER_DIED, message)
    [result] = run()
    ray.get(quarantine.finish.remote(stage, [key], alone=True))
    return result


@contextmanager
def holding(quarantine: Any, stage: str, keys: Sequence[str]) -> Iterator[Failure | None]:
    """Hold a block until its results are handed over; yields a failure for all its videos once it was lost too often.

    :func:`guarded` isolates a video that kills its actor. This bounds the deaths between the videos' own work, as when
    a table of results takes more memory than there is. The keys are those of the block's videos.
    """
    block = block_of(stage, keys)
    losses = _losses(quarantine, block[0], block[1:])
    message = f"the {stage} process died {losses} times while it held this video"
    yield Failure(ErrorType.WORKER_DIED, message) if losses >= len(keys) + SPARE_LOSSES else None
    ray.get(quarantine.finish.remote(block[0], block[1:], alone=False))


def block_of(stage: str, keys: Sequence[str]) -> Block:
    """Name a block of a stage by its first video."""
    return f"{stage} blocks", keys[0]


@contextmanager
def loading(quarantine: Any, stage: str) -> Iterator[None]:
    """Bound how often Ray restarts an actor whose process dies while it loads its models.

    Raises:
        RuntimeError: it died too often in a row.
    """
    actor = [ray.get_runtime_context().get_actor_id() or ""]
    losses = _losses(quarantine, f"{stage} loads", actor)
    if losses >= MAX_LOADS:
        raise RuntimeError(f"the {stage} process died {losses} times while it loaded its model")
    try:
        yield
    finally:  # An exception is no death.
        ray.get(quarantine.finish.remote(f"{stage} loads", actor, alone=False))


def _losses(quarantine: Any, stage: str, keys: Sequence[str]) -> int:
    """Begin a block, or the loading of a model; returns how often it was lost before."""
    counts = ray.get(quarantine.begin.remote(stage, list(keys), alone=True))
    return counts[0] if counts else 0


def create_quarantine(driver: str | None = None) -> Any:
    """Start a quarantine on the driver's node, so that it survives the loss of any other; it ends with its handle.

    Args:
        driver: the driver's address, see :mod:`vemoclap_batch.lifetime`.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(Quarantine).options(scheduling_strategy=here).remote(driver)


@contextmanager
def start_quarantine(driver: str | None = None) -> Iterator[Any]:
    """Start the quarantine of one run."""
    quarantine = create_quarantine(driver)
    try:
        yield quarantine
    finally:
        # Actors that hold its handle outlive the run and would keep its process alive.
        ray.kill(quarantine)
