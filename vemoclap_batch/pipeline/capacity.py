"""A cluster that has lost nodes for good: Ray waits without end for actors that no longer fit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vemoclap_batch.pipeline.cluster import cluster_resources
from vemoclap_batch.pipeline.plan import Cluster, Plan

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 15.0
_TOLERANCE = 1e-6


def lacks(plan: Plan, now: Cluster) -> str | None:
    """What the plan's actors need and the cluster does not have, in words; None if it has enough."""
    needed = {
        "CPUs": (sum(stage.actors * stage.cpus for stage in plan.stages), now.cpus),
        "GPUs": (sum(stage.actors * stage.gpus for stage in plan.stages), now.gpus),
    }
    short = [f"{has:g} of the {wants:g} {name}" for name, (wants, has) in needed.items() if has < wants - _TOLERANCE]
    return " and ".join(short) or None


@contextmanager
def watching(
    plan: Plan, patience_s: float, advanced_at: Callable[[], float], give_up: Callable[[str], None]
) -> Iterator[None]:
    """Look now and then whether the cluster still holds a run's actors; with fewer of them it may go on all the same.

    Args:
        plan: of the run.
        patience_s: seconds that it may stand still without enough nodes, in which others may take their place.
        advanced_at: when it last got on, by the monotonic clock.
        give_up: called once, from a thread, with what the matter is.
    """
    done = threading.Event()

    def look() -> None:
        since: float | None = None
        while not done.wait(min(_LOOK_EVERY_S, patience_s / 4)):
            try:
                short = lacks(plan, cluster_resources())
            # Ray has many for a head node that does not answer; the next look may go well.
            except Exception as error:
                log.warning("the cluster does not say what it has: %s", error)
                continue
            if short is None:
                since = None
                continue
            since = max(time.monotonic() if since is None else since, advanced_at())
            if time.monotonic() - since >= patience_s:
                give_up(f"it stood still for {patience_s:g} s: the cluster has only {short} that its actors take")
                return

    thread = threading.Thread(target=look, name="watch the cluster", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
