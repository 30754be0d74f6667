"""A process that writes is killed at random moments: what it committed is there once, nothing else is."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.store.test_compaction import FOLDER, features, plain, rows
from vemoclap_batch.store.store import Store

WRITE = """
import sys
from tests.store.test_compaction import FOLDER, features, rows
from vemoclap_batch.store.store import Store

store = Store(sys.argv[1])
with store.writing("run"):
    table = features(store)
    print("begins", flush=True)
    for at in range(1000):
        table.append(rows(3 * at))
        print(at, flush=True)
        if at % 7 == 6:
            store.compact()
        if at % 20 == 19:
            store.drop(FOLDER)
            print("dropped", flush=True)
"""


@pytest.mark.parametrize("seed", range(8))
def test_a_writer_that_is_killed(tmp_path, seed):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert process.stdout.readline() == "begins\n"
    time.sleep(random.Random(seed).uniform(0.05, 1.5))
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[0].split()
    done = {int(word) for word in said[len(said) - said[::-1].index("dropped") :]} if "dropped" in said else None
    done = set(map(int, said)) if done is None else done
    store = Store(str(tmp_path))
    seen = Counter(features(store).read(["text"])["video_id"].to_pylist())
    # What was said to be done, and perhaps what was under way; or nothing, if that was the removal.
    some = {f"v{row}": 1 for at in done for row in range(3 * at, 3 * at + 3)}
    more = {f"v{row}": 1 for row in range(3 * (max(done, default=-1) + 1), 3 * (max(done, default=-1) + 2))}
    assert seen in (some, some | more) or (not seen and len(done) >= 19), (said[-3:], seen)
    with store.writing("the next run"):
        assert plain(tmp_path) == seen
        again = features(store)
        for at in range(2):
            again.append(rows(6 * at, 6))
    assert plain(tmp_path) == seen | {f"v{row}": 1 for row in range(12)}
    assert all("#" not in path.name for path in (tmp_path / FOLDER).rglob("*"))
