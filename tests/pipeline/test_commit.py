"""Group commit: what is added is committed once, in few commits, whatever interrupts it."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from bench.rows import Blocks, manifest
from tests.s3 import Server
from tests.store.conftest import bucket_on
from tests.tiny import PROFILE
from tests.waiting import wait_for
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import RunBroken
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.pipeline.commit import BLOCK_BYTES, Committer
from vemoclap_batch.pipeline.pending import features_table, find_pending
from vemoclap_batch.store.store import Store

VIDEOS = manifest(2000)
LONG_S = 1000.0


class Work:
    """A store, and finished rows for it."""

    def __init__(self, address, profile):
        self.specs = resolve(load_config(str(profile)))
        self.address, self.blocks = address, Blocks(self.specs, tiny=True)

    def of(self, sizes, first=0):
        return self.blocks.of(VIDEOS.slice(first), sizes)

    def committer(self, **bounds):
        store = Store(self.address)
        return Committer(store, self.specs, find_pending(store, VIDEOS, self.specs, 3), "run", **bounds)

    def tables(self):
        store = Store(self.address)
        return [store.videos(), *(features_table(store, spec) for spec in self.specs.values())]

    def committed(self):
        """How often each video is in each table."""
        return [Counter(table.read(["run_id"])["video_id"].to_pylist()) for table in self.tables()]

    def files(self):
        return max(len(table.shards()) for table in self.tables())


def videos(first, last):
    return Counter(VIDEOS["video_id"][first:last].to_pylist())


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(PROFILE)
    return path


@pytest.fixture
def work(tmp_path, profile):
    return Work(str(tmp_path / "out"), profile)


@pytest.mark.parametrize("seed", range(6))
def test_all_rows_are_committed_once_in_few_files(work, seed):
    rng = random.Random(seed)
    sizes = [rng.choice([1, 3, 16, 64]) for _ in range(40)]
    rows = rng.choice([1, 50, 200, 10_000])
    with work.committer(every_s=LONG_S, rows=rows) as committer:
        for block in work.of(sizes):
            committer.add(block)
    assert work.committed() == [videos(0, sum(sizes))] * len(work.tables())
    assert (committer.arrived, committer.totals.videos) == (sum(sizes), sum(sizes))
    # The first rows, those for which there were enough, the last.
    assert work.files() <= 2 + sum(sizes) // rows
    stages = committer.totals.stages
    assert stages.keys() == {"decode", *work.specs}
    assert {(stage.items, stage.failed) for stage in stages.values()} == {(sum(sizes), 0)}


def test_a_table_gets_one_file_an_interval(work):
    with work.committer(every_s=0.25) as committer:
        began = time.monotonic()
        for block in work.of([1] * 1000):
            committer.add(block)
            time.sleep(0.001)
        took_s = time.monotonic() - began
    assert work.committed()[0] == videos(0, 1000)
    # The first rows, those of each interval, the last.
    assert 3 <= work.files() <= 2 + took_s / 0.25


def test_a_group_has_no_more_bytes_than_it_may(work):
    blocks = list(work.of([8] * 60))
    size = max(block.nbytes for block in blocks) + BLOCK_BYTES
    with work.committer(every_s=LONG_S, size=4 * size) as committer:
        for block in blocks:
            committer.add(block)
    assert work.committed()[0] == videos(0, 480)
    # A group may be larger by its last block; the first is less, and so may be the last.
    assert 480 / 8 / 5 <= work.files() <= 2 + 480 / 8 / 3


def test_the_first_rows_are_committed_at_once_and_all_that_come_after_a_flush(work):
    blocks = work.of([2] * 10)
    with work.committer(every_s=LONG_S) as committer:
        committer.add(next(blocks))
        wait_for(lambda: committer.totals.videos)
        assert work.committed()[0] == videos(0, 2)
        for _ in range(3):
            committer.add(next(blocks))
        assert (committer.arrived, committer.totals.videos) == (8, 2)
        committer.flush()
        wait_for(lambda: committer.totals.videos == 8)
        for count in (10, 12):
            committer.add(next(blocks))
            wait_for(lambda count=count: committer.totals.videos == count)
    assert work.committed()[-1] == videos(0, 12)


def test_what_failed_is_counted_when_it_arrives_and_when_it_is_committed(work):
    blocks = list(work.of([5] * 4))
    for number in (0, 2):
        kind = blocks[number].schema.field("clip").type
        failure = {"error_type": "model", "message": "m", "seconds": 0.0, "ready_at": 1.0}
        failed = pa.array([failure, None, *blocks[number]["clip"][2:].to_pylist()], kind)
        blocks[number] = blocks[number].set_column(blocks[number].schema.get_field_index("clip"), "clip", failed)
    with work.committer(every_s=LONG_S) as committer:
        for block in blocks:
            committer.add(block)
        assert (committer.arrived, committer.failed) == (20, 2)
    assert (committer.totals.videos, committer.totals.failed_videos) == (20, 2)
    assert (committer.totals.stages["clip"].items, committer.totals.stages["clip"].failed) == (16, 2)
    log = Store(work.address).errors().read()
    assert sorted(log["video_id"].to_pylist()) == [VIDEOS["video_id"][at].as_py() for at in (0, 10)]
    assert set(log["attempts"].to_pylist()) == {1}


def test_without_rows_nothing_is_written(work):
    with work.committer():
        pass
    assert work.committed() == [Counter()] * len(work.tables())


def test_an_error_of_something_else_keeps_what_was_added(work):
    def run():
        with work.committer(every_s=LONG_S) as committer:
            for block in work.of([1] * 20):
                committer.add(block)
            raise RunBroken("a model does not load")

    with pytest.raises(RunBroken, match="does not load"):
        run()
    assert work.committed() == [videos(0, 20)] * len(work.tables())


def test_after_a_commit_that_failed_nothing_is_committed(work):
    blocks = work.of([1] * 10_000)
    committer = work.committer(every_s=0.01)
    broken = Path(work.tables()[-1].folder)
    found = []

    def add_until_it_is_said():
        for block in blocks:
            committer.add(block)

    def run():
        with committer:
            committer.add(next(blocks))
            wait_for(lambda: committer.totals.videos)
            shutil.rmtree(broken)
            broken.touch()
            with pytest.raises(RunBroken, match=f"cannot .* {broken}"):
                add_until_it_is_said()
            broken.unlink()
            found.extend(work.committed())
            with pytest.raises(RunBroken, match=f"cannot .* {broken}"):
                committer.add(next(blocks))

    with pytest.raises(RunBroken, match=f"cannot .* {broken}"):
        run()
    assert work.committed() == found
    # Of the group that failed, the other tables have their rows.
    assert found[0] == found[1]
    assert not found[-1]


class Interrupted(Exception):
    """Raised by a signal's handler."""


@pytest.fixture
def interrupting(monkeypatch):
    """SIGALRM raises, as it does in a run whose grace is over."""

    def handler(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("interrupting")
@pytest.mark.parametrize("seed", range(12))
def test_a_signal_that_raises_while_rows_are_added(work, seed):
    """At a random moment; small bounds make ``add`` wait now and then."""
    taken = 0
    blocks = list(work.of([1] * 1500))

    def run():
        nonlocal taken
        with work.committer(every_s=0.01, rows=7, size=3 * BLOCK_BYTES) as committer:
            signal.setitimer(signal.ITIMER_REAL, random.Random(seed).uniform(0.001, 0.5))
            for block in blocks:
                committer.add(block)
                taken += 1
            signal.pause()

    with pytest.raises(Interrupted):
        run()
    # The block that it was at is there or not.
    assert work.committed() in [[videos(0, count)] * len(work.tables()) for count in (taken, taken + 1)]


class Gate:
    """Stands before a server, and lets no data file of a table pass while it is shut."""

    def __init__(self):
        self.open, self.waiting = threading.Event(), threading.Event()
        self.open.set()

    def __call__(self, app):
        def serve(environ, start_response):
            if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith(".parquet"):
                if not self.open.is_set():
                    self.waiting.set()
                self.open.wait()
            return app(environ, start_response)

        return serve

    def shut(self):
        self.waiting.clear()
        self.open.clear()


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def remote(gate, profile, monkeypatch):
    """Work for a store behind a gate."""
    server = Server(gate)
    with bucket_on(server, monkeypatch) as out:
        yield Work(out, profile)
    gate.open.set()
    server.close()


def test_as_much_as_a_group_may_wait_behind_a_slow_commit(remote, gate):
    blocks = list(remote.of([4] * 40))
    size = sum(block.nbytes + BLOCK_BYTES for block in blocks[:10])
    with remote.committer(every_s=LONG_S, size=size) as committer:
        gate.shut()
        committer.add(blocks[0])
        wait_for(gate.waiting.is_set)
        adding = threading.Thread(target=lambda: [committer.add(block) for block in blocks[1:]])
        adding.start()
        # One block more than fits, which is the one that waits.
        wait_for(lambda: committer.arrived >= 40)
        adding.join(0.3)
        assert adding.is_alive()
        assert committer.arrived <= 4 * (1 + 12)
        gate.open.set()
        adding.join()
    assert remote.committed() == [videos(0, 160)] * len(remote.tables())


@pytest.mark.usefixtures("interrupting")
def test_a_signal_that_raises_while_the_last_group_is_committed(remote, gate):
    """What is under way is finished before the folder is given back; what waits behind it is not begun."""
    blocks = remote.of([1] * 20)
    told = []

    def close():
        with remote.committer(every_s=LONG_S, rows=4) as committer:
            committer.add(next(blocks))
            wait_for(lambda: committer.totals.videos == 1)
            gate.shut()
            for block in blocks:
                committer.add(block)
            wait_for(gate.waiting.is_set)
            threading.Thread(target=interrupt).start()

    def interrupt():
        for _ in range(2):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
            threading.Event().wait(0.2)
        told.append("open")
        gate.open.set()

    with pytest.raises(Interrupted):
        close()
    assert told == ["open"]
    committed = remote.committed()
    assert committed == [videos(0, sum(committed[0].values()))] * len(remote.tables())
    assert 5 <= sum(committed[0].values()) < 20


#: For each line a process of its own, which commits what is missing of so many videos.
DRIVERS = """
import os, sys, time
import deltalake  # once for all of them
from tests.pipeline.test_commit import VIDEOS, Work
from vemoclap_batch.pipeline.commit import Committer
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.store.store import Store

def commit(out, profile, count, every_s, rows):
    work, store = Work(out, profile), Store(out)
    with store.writing("run"):
        pending = find_pending(store, VIDEOS.slice(0, int(count)), work.specs, 3)
        print(os.getpid(), flush=True)
        with Committer(store, work.specs, pending, "run", every_s=float(every_s), rows=int(rows)) as committer:
            for block in work.blocks.of(pending.rows, [1] * pending.rows.num_rows):
                committer.add(block)
                time.sleep(0.002)
                if committer.totals.videos and float(every_s) > 100:
                    print("committed", flush=True)
                    time.sleep(1000)

for line in sys.stdin:
    child = os.fork()
    if not child:
        commit(*line.split())
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture
def drive(work, profile):
    """Has a driver of so many videos, with such bounds, begin; returns its id."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:  # fmt: skip

        def begin(*arguments):
            print(work.address, profile, *arguments, file=process.stdin, flush=True)
            return int(process.stdout.readline())

        begin.hear = lambda: process.stdout.readline().strip()
        yield begin
        process.stdin.close()


def check_after_a_kill(work, last):
    """No video is twice in a table, none with features lacks a row of its own; returns how many cells there are."""
    committed = work.committed()
    for counts in committed:
        assert set(counts.values()) <= {1}
        assert counts.keys() <= videos(0, last).keys()
        assert counts.keys() <= committed[0].keys()
    return sum(map(len, committed))


@pytest.mark.parametrize("seed", range(3))
def test_a_driver_killed_at_random_again_and_again_gets_through(work, drive, seed):
    rng, before = random.Random(seed), 0
    for _ in range(8):
        driver = drive(150, 0.02, 5)
        time.sleep(rng.uniform(0, 0.25))
        with suppress(ProcessLookupError):
            os.kill(driver, signal.SIGKILL)
        assert drive.hear() in {"0", str(int(signal.SIGKILL))}
        now = check_after_a_kill(work, 150)
        assert now >= before
        before = now
    drive(150, 0.02, 5)
    assert drive.hear() == "0"
    assert work.committed() == [videos(0, 150)] * len(work.tables())


def test_a_driver_killed_after_each_first_commit_gets_on(work, drive):
    """With the bounds of a usual run: only the first rows are committed so soon."""
    done = [0]
    for _ in range(6):
        driver = drive(2000, 600, 10_000)
        assert drive.hear() == "committed"
        os.kill(driver, signal.SIGKILL)
        assert drive.hear() == str(int(signal.SIGKILL))
        done.append(check_after_a_kill(work, 2000))
    assert all(after > before for before, after in pairwise(done))
