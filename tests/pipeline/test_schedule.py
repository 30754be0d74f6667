"""When groups of rows are due, by a clock of the test's own."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.pipeline.commit import FIRST_S, Schedule


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 64), st.integers(0, 1000)), min_size=1, max_size=200),
    st.floats(0.1, 90), st.integers(1, 500), st.integers(1, 5000),
)  # fmt: skip
def test_when_groups_are_due(arrivals, every_s, most_rows, most_bytes):
    """Each arrival is so many seconds after the one before."""
    schedule = Schedule(every_s, most_rows, most_bytes)
    now, groups, waiting = 0.0, [], []

    def is_full():
        return schedule.is_full(sum(rows for _, rows, _ in waiting), sum(size for *_, size in waiting))

    def commit(at):
        groups.append((at, is_full(), list(waiting)))
        waiting.clear()
        schedule.begin(at)

    for after_s, rows, size in arrivals:
        due = now + schedule.left_s(now)
        if waiting and due <= now + after_s:
            commit(due)
        now += after_s
        waiting.append((now, rows, size))
        if is_full() or schedule.left_s(now) == 0:
            commit(now)
    if waiting:
        commit(now + schedule.left_s(now))
    assert sum(len(group) for *_, group in groups) == len(arrivals)
    # The first rows at once; no later ones wait longer than that.
    assert groups[0][0] == groups[0][2][0][0]
    assert all(at - group[0][0] <= every_s * (1 + 1e-9) for at, _, group in groups)
    for number, ((before, *_), (at, full, group)) in enumerate(pairwise(groups)):
        assert sum(rows for _, rows, _ in group[:-1]) < most_rows
        assert sum(size for *_, size in group[:-1]) < most_bytes
        # Ten seconds after the first, then twenty, forty and so on, if there is not enough before.
        assert full or at - before >= min(FIRST_S * 2**number, every_s) * (1 - 1e-9)
