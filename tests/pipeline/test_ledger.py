"""The ledger's arithmetic: who is begun alone, and who is given up."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.pipeline.ledger import MAX_UNFINISHED, Ledger


class Death(Exception):
    """Stands for the process: what comes after it does not happen."""


def replay_until_done(keys, poison):
    """Follow the protocol of guarded() on one batch, dying on every poisonous video, as Ray replays it."""
    ledger, deaths, runs = Ledger(), 0, Counter()

    def run(key):
        runs[key] += 1
        if key in poison:
            raise Death

    def attempt():
        before = ledger.begin("s", keys, alone=False)
        if not any(before):
            for key in keys:
                run(key)
            ledger.finish("s", keys, alone=False)
            return list(keys)
        done = []
        for key in keys:
            [unfinished] = ledger.begin("s", [key], alone=True)
            if unfinished < MAX_UNFINISHED:
                run(key)
                ledger.finish("s", [key], alone=True)
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
    ledger = Ledger()
    ledger.begin("s", ["a", "b"], alone=False)
    ledger.finish("s", ["a", "b"], alone=False)
    assert not +ledger._unfinished
