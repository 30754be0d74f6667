"""A run that stands still on too small a cluster is given up; one that gets on, or has enough, is not."""

import math
import threading
import time
from dataclasses import replace

import pytest

from tests.waiting import wait_for
from vemoclap_batch.errors import RunBroken
from vemoclap_batch.pipeline.cluster import Cluster, capacity_monitor, cluster_resources
from vemoclap_batch.pipeline.plan import Plan, StagePlan
from vemoclap_batch.shutdown import stoppable

STAGE = StagePlan("clip", ("clip",), 3, 0.5, 0.25, 1, 1.0, 1.0)


def plan(actors=3):
    return Plan((STAGE, replace(STAGE, actors=actors, gpus=0.0)), Cluster(4, 1, 8))


def test_what_is_lacking_is_said_in_words():
    assert plan().lacks(Cluster(3.0, 0.75, 0)) is None
    assert plan().lacks(Cluster(2, 0.75, 0)) == "2 of the 3 CPUs"
    assert plan().lacks(Cluster(2.5, 0, 0)) == "2.5 of the 3 CPUs and 0 of the 0.75 GPUs"


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
    small = Watched(Plan((replace(STAGE, actors=1, gpus=0.0),), cluster_resources()))
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
