"""Which videos an actor holds, noted before it touches them, so that one which kills its actor is found out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import ray

from vemoclap_batch.failure import ErrorType, Failure

T = TypeVar("T")
#: A video that was unfinished this often (once with its batch, once alone) is not tried again in this run.
MAX_UNFINISHED = 2


class Ledger:
    """Counts, per stage, how often a video was begun and not finished. Holds only what is under way or was lost."""

    def __init__(self) -> None:
        self._unfinished: Counter[tuple[str, str]] = Counter()

    def begin(self, stage: str, keys: Sequence[str], alone: bool) -> list[int]:
        """Note that a batch, or one video alone, is begun; returns the counts before.

        A batch that was lost before is not counted again: its videos are to be begun alone.
        """
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


def guarded(ledger: Any, stage: str, keys: Sequence[str], run: Callable[[Sequence[int]], list[T]]) -> list[T | Failure]:
    """Run a batch under the ledger's eye.

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
    if not any(before):
        results: list[T | Failure] = list(run(range(len(keys))))
        ray.get(ledger.finish.remote(stage, list(keys), alone=False))
        return results
    redone: list[T | Failure] = []
    for at, key in enumerate(keys):
        redone.append(_alone(ledger, stage, key, partial(run, [at])))
    return redone


def _alone(ledger: Any, stage: str, key: str, run: Callable[[], Sequence[T]]) -> T | Failure:
    [before] = ray.get(ledger.begin.remote(stage, [key], alone=True))
    if before >= MAX_UNFINISHED:
        message = f"the {stage} process died {before} times while it worked on this video"
        return Failure(ErrorType.WORKER_DIED, message)
    [result] = run()
    ray.get(ledger.finish.remote(stage, [key], alone=True))
    return result
