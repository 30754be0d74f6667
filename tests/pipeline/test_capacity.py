"""A run that stands still on too small a cluster is given up; one that gets on, or has enough, is not."""

import math
import threading
import time
from dataclasses import replace

import pytest

from tests.waiting import wait_for
from vemoclap_batch.errors import RunBroken
from vemoclap_batch.pipeline.cluster import Cluster, Node, capacity_monitor, cluster_resources
from vemoclap_batch.pipeline.stages import Plan, StagePlan
from vemoclap_batch.shutdown import stoppable

CPU = StagePlan("cpu chain", ("decode", "ocr"), 3, 3, 2.0, 0.0, 2, 1.0, 0.0, 1.0)
GPU = StagePlan("gpu chain", ("clip",), 2, 8, 0.0, 0.5, 1, 3.0, 5.0, 1.0)


def plan(cpus=2.0):
    return Plan((replace(CPU, cpus=cpus), GPU), Cluster((Node(4, 1, 8),)))


def test_what_one_chain_of_every_stage_lacks_is_said_in_words():
    assert plan().lacks(Cluster((Node(2, 0, 1), Node(0, 0.5, 3)))) is None
    assert plan().lacks(Cluster((Node(1, 1, 8),))) == "only 1 of the 2 CPUs that a chain of every stage takes"
    lacking = "0 of the 2 CPUs and 0 of the 0.5 GPUs and 0 of the 4 GiB of memory"
    assert plan().lacks(Cluster((), can_grow=True)) == f"only {lacking} that a chain of every stage takes"
    # There is enough in all, and in no one place.
    apart = Cluster((Node(1, 0, 8, count=2), Node(0, 1, 2)))
    takes = "no node with the 0 CPUs, 0.5 GPUs and 3 GiB of memory that a gpu chain takes"
    assert plan().lacks(apart) == takes
    takes = "no node with the 2 CPUs, 0 GPUs and 1 GiB of memory that a cpu chain takes"
    assert plan().lacks(Cluster((Node(1, 0, 8, count=2), Node(0, 1, 3)))) == takes


class Watched:
    """Counts how often a plan is compared with the cluster; at first that may fail, as by a silent head."""

    def __init__(self, plan, fails_at_first=False):
        self.looks, self._plan, self._fails_at_first = 0, plan, fails_at_first

    def lacks(self, now):
        self.looks += 1
        if self.looks == 1 and self._fails_at_first:
            raise ConnectionError("nobody there")
        return self._plan.lacks(now)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("actors", "advances", "given_up"), [(1000, False, True), (1000, True, False)])
def test_a_run_that_gets_on_is_let_go_on(actors, advances, given_up):
    said, began, watched = [], time.monotonic(), Watched(plan(actors))
    # However late a look is, a run that gets on has done so since.
    with capacity_monitor(watched.lacks, 0.4, lambda: math.inf if advances else began, said.append):
        wait_for(lambda: said if given_up else watched.looks > 8)
    assert len(said) == given_up
    assert not said or said[0].startswith("it stood still for 0.4 s: the cluster has only ")


@pytest.mark.usefixtures("cluster")
def test_a_cluster_that_does_not_answer_is_looked_at_again(caplog):
    said, began = [], time.monotonic()
    with capacity_monitor(Watched(plan(1000), fails_at_first=True).lacks, 0.4, lambda: began, said.append):
        wait_for(lambda: said)
    assert "the cluster does not say what it has: nobody there" in caplog.text
    assert len(said) == 1


def test_a_cluster_that_is_large_enough_may_be_slow(cluster):
    said = []
    small = Watched(Plan((replace(CPU, cpus=1.0, memory_gb=0.1),), cluster_resources()))
    with capacity_monitor(small.lacks, 0.2, lambda: 0.0, said.append):
        wait_for(lambda: small.looks > 12)
    assert said == []


@pytest.mark.usefixtures("cluster")
def test_a_main_thread_that_waits_is_reached():
    began = time.monotonic()
    with (
        pytest.raises(RunBroken, match="it stood still"),
        stoppable() as stop,
        capacity_monitor(plan(1000).lacks, 0.4, lambda: began, lambda why: stop.abort(RunBroken(why))),
    ):
        # As Ray Data waits for the next block.
        threading.Event().wait(300)
