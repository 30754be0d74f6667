"""Many small shards become few large ones; nothing is lost and nothing is seen twice, whenever it is killed."""

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vemoclap_batch.store import compaction, schemas
from vemoclap_batch.store.store import Store

SCHEMA = schemas.features(False, {"text": pa.string()}, 2)
FOLDER = "features/asr/f"


def rows(first, count=3, text="x"):
    ids = [f"v{at}" for at in range(first, first + count)]
    return pa.table(
        {
            "video_id": ids, "content_key": ["c"] * count, "run_id": ["r"] * count,
            "feature": [[[1.0, float(at)]] for at in range(first, first + count)], "text": [text] * count,
        }
    ).cast(SCHEMA)  # fmt: skip


def fill(store, shards=6):
    table = store.features("asr", "f", SCHEMA)
    for at in range(shards):
        table.append(rows(3 * at))
    return table


def plain(root, folder=FOLDER):
    """What any Parquet reader sees."""
    return Counter(
        name
        for path in Path(root, folder).glob("part-*.parquet")
        for name in pq.read_table(path)["video_id"].to_pylist()
    )


def compact(store):
    with store.writing("run"):
        return compaction.compact(store)


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}")


def test_small_shards_become_one_with_the_same_rows(store):
    table = fill(store)
    before = table.read().sort_by("video_id")
    [done] = compact(store)
    assert (done.table, done.shards_before, done.shards_after, done.rows) == (FOLDER, 6, 1, 18)
    assert table.read().sort_by("video_id").equals(before)
    assert table.append(rows(15, 6)) == 3
    [path] = [info.path for info in store.shard_files()[FOLDER]][:1]
    with store.filesystem.open_input_file(path) as file:
        assert pq.read_schema(file).metadata[b"width"] == b"2"
    # The large one and the new small one; then there is nothing to do.
    assert compact(store)[0].shards_after == 1
    assert compact(store)[0] == compact(store)[0]
    assert sum(1 for info in store.shard_files()[FOLDER]) == 1


def test_shards_are_filled_up_to_the_target_and_large_ones_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "TARGET_ROWS", 8)
    monkeypatch.setattr(compaction, "_ROW_GROUP_BYTES", 1)
    store = Store(str(tmp_path))
    table = fill(store, 7)
    table.append(rows(100, 5))
    [done] = compact(store)
    assert (done.shards_before, done.rows) == (8, 26)
    counts = sorted(pq.read_metadata(path).num_rows for path in (tmp_path / FOLDER).glob("part-*"))
    assert counts == [3, 5, 6, 6, 6]
    assert set(plain(tmp_path).values()) == {1}


def test_shards_of_another_schema_are_not_mixed(tmp_path):
    store = Store(str(tmp_path))
    fill(store, 2)
    older = pa.schema([field for field in SCHEMA if field.name != "text"])
    for first in (50, 60):
        store.features("asr", "f", older).append(rows(first).select(older.names))
    assert compact(store)[0].shards_after == 2
    found = store.features("asr", "f", SCHEMA).read(["text"])
    assert Counter(found["text"].to_pylist()) == {"x": 6, None: 6}


def test_a_table_that_is_dropped_is_gone_whole(store):
    table = fill(store)
    store.describe_features("asr", "f", {"space": "s"})
    with store.writing("run"):
        compaction.drop(store, FOLDER)
    assert table.read().num_rows == 0
    assert store.fingerprints("asr") == {}
    assert table.append(rows(0)) == 3


def test_a_reader_sees_every_row_once_all_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "TARGET_ROWS", 12)
    store = Store(str(tmp_path))
    fill(store, 60)
    wrong, reads, ended = [], 0, threading.Event()

    def read():
        nonlocal reads
        table = Store(str(tmp_path)).features("asr", "f", SCHEMA)
        while not ended.is_set():
            found = Counter(table.read(["text"])["video_id"].to_pylist())
            if len(found) != 180 or set(found.values()) != {1}:
                wrong.append(found)
            reads += 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert compact(store)[0].shards_after == 15
    finally:
        ended.set()
        reader.join()
    assert reads
    assert not wrong


# Each child is killed at the k-th change that it makes to the folder, for every k until one gets through.
KILL = """
import os, shutil, signal, sys
from pathlib import Path
from vemoclap_batch.store import compaction
from vemoclap_batch.store.store import Store

source, top, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
compaction.TARGET_ROWS = 9

def die_at(number, root):
    left = [number]
    def hook(event, arguments):
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        writes = event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]
        if (changes or writes) and str(arguments[0]).startswith(str(root)):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

number = 0
while True:
    number += 1
    root = top / f"{number:03}"
    shutil.copytree(source, root)
    child = os.fork()
    if not child:
        store = Store(str(root))
        with store.writing("run"):
            die_at(number, root)
            compaction.compact(store) if what == "compact" else compaction.drop(store, what)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def killed(tmp_path, what):
    """Folders left by processes that were killed at each moment in turn; the last one got through."""
    top = tmp_path / "killed"
    top.mkdir()
    subprocess.run([sys.executable, "-c", KILL, str(tmp_path / "out"), str(top), what], check=True)
    return sorted(top.iterdir())


def test_a_compaction_killed_at_any_moment_is_finished_by_the_next_writer(tmp_path):
    store = Store(str(tmp_path / "out"))
    fill(store, 5)
    everything = {f"v{at}": 1 for at in range(15)}
    folders = killed(tmp_path, "compact")
    # Two merges, each: write, journal, deletions, a renaming, the mark, the journal's removal.
    assert len(folders) > 15
    waiting = 0
    for root in folders:
        store = Store(str(root))
        assert set(plain(root).values()) == {1}, root
        assert Counter(store.features("asr", "f", SCHEMA).read()["video_id"].to_pylist()) == everything, root
        waiting += bool(list((root / ".journal").glob("*.json")))
        with store.writing("the next run"):
            assert plain(root) == everything, root
            assert not list((root / ".journal").glob("[!.]*.json")), root
            assert store.features("asr", "f", SCHEMA).append(rows(0, 20)) == 5
        compact(store)
        assert plain(root) == everything | {f"v{at}": 1 for at in range(15, 20)}, root
    assert waiting > 4


def test_a_removal_killed_at_any_moment_is_all_or_nothing(tmp_path):
    store = Store(str(tmp_path / "out"))
    fill(store, 3)
    store.describe_features("asr", "f", {"space": "s"})
    seen = set()
    for root in killed(tmp_path, FOLDER):
        store = Store(str(root))
        there = store.features("asr", "f", SCHEMA).read().num_rows
        assert there in {0, 9}
        seen.add(there)
        with store.writing("the next run"):
            assert store.features("asr", "f", SCHEMA).read().num_rows == there
            assert bool(store.fingerprints("asr")) == bool(there) == (root / FOLDER).exists()
    assert seen == {0, 9}
