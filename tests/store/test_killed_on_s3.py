"""A process that changes a folder in a bucket is killed at each request by which it changes anything, in turn."""

import os
import queue
import signal
import subprocess
import sys
from collections import Counter

import pyarrow.parquet as pq
import pytest

from tests.s3 import Server
from tests.store.conftest import bucket_on
from tests.store.old_folders import OLD, put_old
from tests.store.test_compaction import FOLDER, features, fill, rows
from vemoclap_batch.store import object_lock
from vemoclap_batch.store.filesystem import files
from vemoclap_batch.store.store import Store

#: For each address a process of its own: its id, then the status that it ended with.
CHILDREN = """
import os, sys
import s3fs, deltalake, obstore  # once for all of them
from tests.store.test_compaction import FOLDER, features, rows
from vemoclap_batch.store.store import Store

for address in sys.stdin:
    child = os.fork()
    if not child:
        store = Store(address.strip())
        with store.writing("run"):
            {work}
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Killer:
    """Stands before a server: kills a process when its n-th change arrives, which is not made any more."""

    def __init__(self):
        self.left, self.pids = 0, queue.SimpleQueue()

    def __call__(self, app):
        def serve(environ, start_response):
            # The marks of empty folders, which end with a slash, are nobody's; the lock is deleted by POST.
            changes = environ["REQUEST_METHOD"] in {"PUT", "DELETE"}
            if changes and "/.lock" not in environ["PATH_INFO"] and not environ["PATH_INFO"].endswith("/"):
                self.left -= 1
                if self.left == 0:
                    os.kill(self.pids.get(timeout=60), signal.SIGKILL)
                    start_response("503 Service Unavailable", [])
                    return [b""]
            return app(environ, start_response)

        return serve


@pytest.fixture
def killer():
    return Killer()


@pytest.fixture
def out(killer, monkeypatch):
    # Seconds in place of minutes; S3 tells ages in whole seconds.
    monkeypatch.setattr(object_lock, "STALE_S", 1.0)
    monkeypatch.setattr(object_lock, "POLL_S", 0.2)
    monkeypatch.setattr(object_lock, "SETTLE_S", 0.2)
    server = Server(killer)
    with bucket_on(server, monkeypatch) as found:
        yield found
    server.close()


def killed(out, killer, prepare, work):
    """Folders left by processes that were killed at each change in turn; the last one got through."""
    folders, status = [], None
    with subprocess.Popen(
        [sys.executable, "-c", CHILDREN.format(work=work)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:  # fmt: skip
        while status != 0:
            folders.append(f"{out}/{len(folders) + 1}")
            killer.left = 0
            prepare(folders[-1])
            killer.left, killer.pids = len(folders), queue.SimpleQueue()
            print(folders[-1], file=process.stdin, flush=True)
            killer.pids.put(int(process.stdout.readline()))
            status = int(process.stdout.readline())
            assert status in {0, signal.SIGKILL}
        killer.left = 0
        process.stdin.close()
    return folders


def plain(store, folder=FOLDER):
    """What any Parquet reader sees, which knows nothing of Delta."""
    found = Counter()
    for info in files(store.filesystem, f"{store.root}/{folder}"):
        if info.path.endswith(".parquet"):
            with store.filesystem.open_input_file(info.path) as file:
                found.update(pq.read_table(file, columns=["video_id"])["video_id"].to_pylist())
    return found


def test_a_commit_killed_at_any_change_is_made_or_not_and_made_by_the_next_run(out, killer):
    folders = killed(
        out, killer, lambda address: fill(Store(address), 1),
        "store.features('asr', 'g', rows(0).schema).append(rows(0)), features(store).append(rows(0, 6))",
    )  # fmt: skip
    # The log of the new table; the data file and the commit, twice; the last one got through.
    assert len(folders) == 6
    seen = Counter()
    for address in folders:
        store = Store(address)
        seen[features(store).read().num_rows] += 1
        with store.writing("the next run"):
            new = store.features("asr", "g", rows(0).schema)
            assert (new.append(rows(0)), features(store).append(rows(0, 6))) in {(3, 3), (0, 3), (0, 0)}
        assert plain(store) == {f"v{at}": 1 for at in range(6)}, address
        assert plain(store, "features/asr/g") == {f"v{at}": 1 for at in range(3)}, address
    assert seen == {3: 5, 6: 1}


def test_a_compaction_killed_at_any_change_is_finished_by_the_next_writer(out, killer):
    everything = {f"v{at}": 1 for at in range(6)}
    folders = killed(out, killer, lambda address: fill(Store(address), 2), "store.compact()")
    # The merged file, the commit, two deletions; the last one got through.
    assert len(folders) == 5
    for address in folders:
        store = Store(address)
        assert Counter(features(store).read(["run_id"])["video_id"].to_pylist()) == everything
        with store.writing("the next run"):
            assert plain(store) == everything, address


def test_a_removal_killed_at_any_change_is_all_or_nothing(out, killer):
    def prepare(address):
        store = Store(address)
        fill(store, 2)
        store.describe_features("asr", "f", {"space": "s"})

    seen = set()
    folders = killed(out, killer, prepare, "store.drop(FOLDER)")
    assert len(folders) > 6
    for address in folders:
        store = Store(address)
        there = features(store).read().num_rows
        seen.add(there)
        with store.writing("the next run"):
            assert features(store).read().num_rows == there in {0, 6}
            assert bool(store.fingerprints("asr")) == bool(there) == bool(plain(store)), address
            left = files(store.filesystem, f"{store.root}/{FOLDER}", recursive=True)
            assert bool(there) == bool([info.path for info in left if info.size]), address
    assert seen == {0, 6}


def test_an_upgrade_killed_at_any_change_is_finished_by_the_next_writer(out, killer):
    folders = killed(out, killer, put_old, "pass")
    assert len(folders) > 8
    for address in folders:
        store = Store(address)
        with store.writing("the next run"):
            for folder, expected in OLD.items():
                assert plain(store, folder) == expected, (address, folder)
                found = store.table(folder).read()["video_id"].to_pylist()
                assert Counter(found) == expected, (address, folder)
