"""The quarantine's arithmetic: who is begun alone, and who is given up."""

from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.errors import ErrorType
from vemoclap_batch.pipeline.quarantine import (
    MAX_UNFINISHED,
    SPARE_LOSSES,
    Quarantine,
    block_of,
    guarded,
    holding,
    start_quarantine,
)


class Death(Exception):
    """Stands for the process: what comes after it does not happen."""


def replay_until_done(keys, poison):
    """Follow the protocol of guarded() on one batch, dying on every poisonous video, as Ray replays it."""
    quarantine, deaths, runs = Quarantine(), 0, Counter()

    def run(key):
        runs[key] += 1
        if key in poison:
            raise Death

    def attempt():
        before = quarantine.begin("s", keys, alone=False)
        if not any(before):
            for key in keys:
                run(key)
            quarantine.finish("s", keys, alone=False)
            return list(keys)
        done = []
        for key in keys:
            [unfinished] = quarantine.begin("s", [key], alone=True)
            if unfinished < MAX_UNFINISHED:
                run(key)
                quarantine.finish("s", [key], alone=True)
                done.append(key)
        return done

    while True:
        try:
            return attempt(), deaths, runs
        except Death:
            deaths += 1


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_poison_is_isolated_in_bounded_deaths_and_the_others_are_done(case):
    n, poison = case
    keys = [str(at) for at in range(n)]
    done, deaths, runs = replay_until_done(keys, {str(at) for at in poison})
    assert done == [key for key in keys if int(key) not in poison]
    assert deaths <= len(poison) + 1
    assert all(runs[str(at)] <= MAX_UNFINISHED for at in poison)


def test_nothing_is_kept_of_what_went_well():
    quarantine = Quarantine()
    quarantine.begin("s", ["a", "b"], alone=False)
    quarantine.finish("s", ["a", "b"], alone=False)
    assert not +quarantine._unfinished


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("given_on", [False, True])
def test_a_block_that_is_lost_between_its_videos_work_is_given_up_in_the_end(given_on):
    keys, outcomes = ["a", "b"], []
    with start_quarantine() as quarantine:
        for _ in range(len(keys) + SPARE_LOSSES):
            with suppress(Death), holding(quarantine, "s", keys) as lost:
                outcomes.append(lost)
                if not given_on:
                    raise Death
        with holding(quarantine, "s", keys) as lost:
            assert outcomes == [None] * len(outcomes)
            assert (lost is None) == given_on
            assert given_on or (lost.error_type, "died 5 times" in lost.message) == (ErrorType.WORKER_DIED, True)
        with holding(quarantine, "s", keys) as lost:
            assert lost is None


@pytest.mark.usefixtures("cluster")
def test_a_block_is_not_given_up_for_what_its_videos_work_kills():
    keys = ["a", "b"]

    def die(_):
        raise Death

    with start_quarantine() as quarantine:
        # As many extractors of one chain each kill it once.
        for extractor in range(len(keys) + SPARE_LOSSES + 1):
            with suppress(Death), holding(quarantine, "s", keys) as lost:
                assert lost is None
                guarded(quarantine, f"extractor {extractor}", keys, die, block_of("s", keys))
        with holding(quarantine, "s", keys) as lost:
            assert lost is None
            assert guarded(quarantine, "another", keys, list, block_of("s", keys)) == [0, 1]
