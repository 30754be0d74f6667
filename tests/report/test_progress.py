"""What a run says is left, by a clock of its own."""

import heapq
import io
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from vemoclap_batch.pipeline.cluster import Cluster, Node
from vemoclap_batch.pipeline.stages import Plan, StagePlan
from vemoclap_batch.report import progress
from vemoclap_batch.report.progress import Pace, tracking


def arrivals(sizes, actors, startup_s, video_s, rng):
    """When blocks are done that actors take in order, by time: (seconds, videos)."""
    free = [startup_s + rng.uniform(0, video_s) for _ in range(actors)]
    heapq.heapify(free)
    done = []
    for size in sizes:
        end = heapq.heappop(free) + sum(rng.uniform(0.5, 1.5) * video_s for _ in range(size))
        heapq.heappush(free, end)
        done.append((end, size))
    return sorted(done)


def planned(videos, actors, most):
    stage = StagePlan("cpu chain", ("decode", "clip"), actors, actors, 1.0, 0.0, 1, 0.5, 0.0, 1.0)
    return Plan((stage,), Cluster((Node(actors, 0, 64),)), most).block_sizes(videos)


@given(st.integers(2, 64), st.integers(1, 64), st.integers(15, 40), st.booleans(), st.floats(0.3, 30), st.integers(0))
@example(2, 1, 30, True, 1.5, 0)
@example(64, 64, 15, False, 1.5, 0)
def test_after_a_third_of_the_work_it_is_known_what_is_left(actors, most, rounds, is_planned, video_s, seed):
    """With blocks as the plan makes them, or all equal; each actor has many."""
    total = max(rounds * actors * most, 60)
    sizes = planned(total, actors, most) if is_planned else [min(most, total - at) for at in range(0, total, most)]
    done, pace, said = 0, Pace(), None
    came = arrivals(sizes, actors, 20.0, video_s, random.Random(seed))
    end_s = came[-1][0]
    for now, size in came:
        done += size
        pace.update(done, now)
        if done >= total / 3 and said is None:
            said = pace.left_s(total, now) / (end_s - now)
    assert 0.7 <= said <= 1.3
    assert pace.left_s(total, end_s) is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 100)), max_size=50), st.floats(0, 1e6))
def test_whatever_comes_time_is_left_while_items_are(updates, later_s):
    pace, now, done = Pace(), 1e9, 0
    total = sum(items for _, items in updates) + 1
    for after_s, items in updates:
        now, done = now + after_s, done + items
        pace.update(done, now)
    left_s = pace.left_s(total, now + later_s)
    assert left_s is None or left_s > 0


def test_what_was_done_before_says_nothing_of_the_pace():
    pace = Pace()
    for done in range(5001, 5101):
        pace.update(done, 10.0 * done)
    assert pace.left_s(6000, 51_000.0) == pytest.approx(9000)
    # It gets less while nothing more is done, down to what one takes.
    assert pace.left_s(6000, 51_500.0) == pytest.approx(8500)
    assert pace.left_s(6000, 99_000.0) == pytest.approx(10)


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def work(clock, tracker):
    """A minute of start-up, then an item every ten seconds."""
    clock.now += 60
    for done in range(1, 8):
        tracker.update(done, 1)
        clock.now += 10


def test_lines(clock, capsys):
    with tracking("videos", 7) as tracker:
        work(clock, tracker)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "videos: 1/7 done, 1 failed, 60 s"
    assert lines[2] == "videos: 3/7 done, 1 failed, 80 s, about 40 s left"
    assert lines[-1] == "videos: 7/7 done, 1 failed, 120 s"
    assert len(lines) == 7


def test_the_bar(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=shown, force_terminal=True, width=120))
    with tracking("videos", 7) as tracker:
        assert "-:--:--" in _drawn(tracker, shown)
        clock.now += 60
        for done in (1, 2, 3):
            clock.now += 10
            tracker.update(done, 1)
        drawn = _drawn(tracker, shown)
        assert "3/7" in drawn
        assert "1 failed" in drawn
        assert "0:00:40" in drawn
        clock.now += 5
        assert "0:00:35" in _drawn(tracker, shown)


def _drawn(tracker, shown):
    shown.truncate(0)
    tracker._bar.refresh()
    return shown.getvalue()
