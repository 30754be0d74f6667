"""A process that compacts a folder in a bucket is killed at each request by which it changes anything, in turn."""

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
from tests.store.test_compaction import FOLDER, SCHEMA, fill
from vemoclap_batch.store import object_lock
from vemoclap_batch.store.filesystem import files
from vemoclap_batch.store.store import Store

#: For each address a process of its own: its id, then the status that it ended with.
COMPACT = """
import os, sys
import s3fs  # once for all of them
from vemoclap_batch.store import compaction
from vemoclap_batch.store.store import Store

for address in sys.stdin:
    child = os.fork()
    if not child:
        store = Store(address.strip())
        with store.writing("run"):
            compaction.compact(store)
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
            # The marks of empty folders, which end with a slash, are nobody's.
            changes = environ["REQUEST_METHOD"] in {"PUT", "POST", "DELETE"}
            if changes and not environ["PATH_INFO"].endswith(("/", "/.lock")):
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
    server = Server(killer)
    with bucket_on(server, monkeypatch) as found:
        yield found
    server.close()


def plain(store):
    """What any Parquet reader sees."""
    found = Counter()
    for info in store.shard_files().get(FOLDER, []):
        with store.filesystem.open_input_file(info.path) as file:
            found.update(pq.read_table(file, columns=["video_id"])["video_id"].to_pylist())
    return found


def unfinished(store):
    return [info.path for info in files(store.filesystem, f"{store.root}/.journal") if info.path.endswith(".json")]


def test_a_compaction_in_a_bucket_killed_at_any_change_is_finished_by_the_next_writer(out, killer, monkeypatch):
    everything = {f"v{at}": 1 for at in range(6)}
    folders, status = [], None
    with subprocess.Popen(
        [sys.executable, "-c", COMPACT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        while status != 0:
            folders.append(f"{out}/{len(folders) + 1}")
            killer.left = 0
            fill(Store(folders[-1]), 2)
            killer.left, killer.pids = len(folders), queue.SimpleQueue()
            print(folders[-1], file=process.stdin, flush=True)
            killer.pids.put(int(process.stdout.readline()))
            status = int(process.stdout.readline())
            assert status in {0, signal.SIGKILL}
        process.stdin.close()
    # The merged shard, the journal, two deletions, copy and deletion in place of a renaming, the mark, the journal's
    # removal; the last one got through.
    assert len(folders) == 9
    waiting = 0
    # Seconds in place of minutes; S3 tells ages in whole seconds.
    monkeypatch.setattr(object_lock, "STALE_S", 1.0)
    monkeypatch.setattr(object_lock, "POLL_S", 0.2)
    monkeypatch.setattr(object_lock, "SETTLE_S", 0.2)
    for address in folders:
        store = Store(address)
        assert set(plain(store).values()) <= {1}, address
        assert Counter(store.features("asr", "f", SCHEMA).read(["run_id"])["video_id"].to_pylist()) == everything
        waiting += bool(unfinished(store))
        with store.writing("the next run"):
            assert plain(store) == everything, address
            assert not unfinished(store)
    assert waiting == 6
