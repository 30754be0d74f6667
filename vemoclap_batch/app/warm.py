"""Chains that stay loaded: the actors of a batch run, without a dataset around them."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vemoclap_batch.config import Config
from vemoclap_batch.errors import RunBroken
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.pipeline.chain import ChainActor, ChainOptions
from vemoclap_batch.pipeline.plan import make_plan
from vemoclap_batch.pipeline.processor import chain_options
from vemoclap_batch.pipeline.quarantine import Block, Quarantine
from vemoclap_batch.pipeline.stages import Plan, StagePlan

_GIB = 1024**3
#: As of a batch run without end: no stage is planned smaller for want of work.
_MANY = 1_000_000


class WarmChain(ChainActor):
    """The chain of a batch run, called for one video at a time."""

    def run(self, rows: pa.Table) -> pa.Table:
        """Do what a batch run has it do to a block."""
        return self(rows)

    def ready(self) -> bool:
        """Answer once the models are loaded."""
        return True


class WatchedQuarantine(Quarantine):
    """A quarantine that also tells what is being done to a video."""

    def __init__(self, driver: str | None = None) -> None:
        super().__init__(driver)
        self._doing: dict[str, tuple[str, list[str]]] = {}

    def begin(self, stage: str, keys: Sequence[str], alone: bool, block: Block | None = None) -> list[int] | None:
        """Note what is begun of a video; else as :class:`Quarantine`."""
        for key in keys:
            # A chunk of a long video has the video's key, and more.
            name = "\0".join(key.split("\0")[:2])
            if name in self._doing:
                self._doing[name] = (stage, [*dict.fromkeys([*self._doing[name][1], stage])])
        return super().begin(stage, keys, alone, block)

    def watch(self, key: str) -> None:
        """Begin to note what is done to a video."""
        self._doing[key] = ("", [])

    def unwatch(self, key: str) -> None:
        """Forget it."""
        self._doing.pop(key, None)

    def doing(self) -> dict[str, tuple[str, list[str]]]:
        """Return for each video that is watched what was begun last, and all that was begun."""
        return dict(self._doing)


def plan_warm(config: Config, specs: Mapping[str, Spec], cluster: Any) -> Plan:
    """Plan chains for a stream of videos.

    Raises:
        ConfigError: the cluster has no room for them.
    """
    return make_plan(config, specs, dict.fromkeys(specs, _MANY), _MANY, cluster)


class Chains:
    """The pools of equal chains of all stages, each chain with one video at a time.

    Attributes:
        slots: videos that the widest pool works on at a time.
    """

    def __init__(self, config: Config, specs: Mapping[str, Spec], plan: Plan, quarantine: Any, driver: str) -> None:
        """Start the actors; they load their models by themselves."""
        self.quarantine = quarantine
        options = chain_options(config, specs, plan, driver)
        self._pools = [
            _Pool([_start(stage, each, config, specs, quarantine) for _ in range(max(stage.actors, 1))])
            for stage, each in zip(plan.stages, options, strict=True)
        ]
        self.slots = max(len(pool.actors) for pool in self._pools)

    def wait_until_ready(self) -> None:
        """Wait until every chain has its models.

        Raises:
            RunBroken: one does not load.
        """
        try:
            ray.get([actor.ready.remote() for pool in self._pools for actor in pool.actors])
        except RayError as error:
            raise RunBroken(str(error).strip().splitlines()[-1]) from error

    async def run(self, rows: pa.Table, key: str) -> pa.Table:
        """Run one video through all stages.

        Raises:
            RayError: a chain could not be started again.
        """
        await self.quarantine.watch.remote(key)
        try:
            for pool in self._pools:
                async with pool.chain() as actor:
                    rows = await actor.run.remote(rows)
            return rows
        finally:
            self.quarantine.unwatch.remote(key)

    async def alive(self) -> int:
        """Count the chains that answer, or are at work."""
        return sum([await pool.alive() for pool in self._pools])

    @property
    def count(self) -> int:
        """Chains of all stages."""
        return sum(len(pool.actors) for pool in self._pools)


class _Pool:
    def __init__(self, actors: list[Any]) -> None:
        self.actors = actors
        self._free = list(range(len(actors)))
        self._some_free = asyncio.Condition()

    def chain(self) -> _Taken:
        return _Taken(self)

    async def take(self) -> int:
        async with self._some_free:
            await self._some_free.wait_for(lambda: self._free)
            return heapq.heappop(self._free)

    async def give(self, at: int) -> None:
        async with self._some_free:
            heapq.heappush(self._free, at)
            self._some_free.notify()

    async def alive(self) -> int:
        """Those at work count: an actor answers nothing else meanwhile."""
        free = [self.actors[at] for at in self._free]
        answers = [asyncio.wrap_future(actor.ready.remote().future()) for actor in free]
        done = (await asyncio.wait(answers, timeout=2.0))[0] if answers else set()
        return len(self.actors) - len(free) + sum(answer.exception() is None for answer in done)


class _Taken:
    def __init__(self, pool: _Pool) -> None:
        self._pool, self._at = pool, -1

    async def __aenter__(self) -> Any:
        self._at = await self._pool.take()
        return self._pool.actors[self._at]

    async def __aexit__(self, *_: object) -> None:
        await self._pool.give(self._at)


def _start(stage: StagePlan, options: ChainOptions, config: Config, specs: Mapping[str, Spec], quarantine: Any) -> Any:
    restarts = config.pipeline.max_actor_restarts
    actor = ray.remote(WarmChain).options(
        num_cpus=stage.cpus, num_gpus=stage.gpus, memory=int(stage.memory_gb * _GIB),
        # As in a batch run: the quarantine gives a video up that ends its process twice, whatever Ray would do.
        max_restarts=restarts, max_task_retries=restarts,
    )  # fmt: skip
    return actor.remote(options, dict(specs), config, quarantine)


@contextmanager
def watched_quarantine(driver: str) -> Iterator[Any]:
    """Start the quarantine of a server on its own node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    quarantine: Any = ray.remote(num_cpus=0)(WatchedQuarantine).options(scheduling_strategy=here).remote(driver)
    try:
        yield quarantine
    finally:
        ray.kill(quarantine)
