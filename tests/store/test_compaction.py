"""Many small data files become few large ones; nothing is lost and nothing is seen twice."""

import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from vemoclap_batch.store import maintenance, schemas
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


def features(store):
    return store.features("asr", "f", SCHEMA)


def fill(store, shards=6):
    table = features(store)
    for at in range(shards):
        table.append(rows(3 * at))
    return table


def plain(root, folder=FOLDER):
    """What any Parquet reader sees, which knows nothing of Delta."""
    paths = [str(path) for path in Path(root, folder).glob("*.parquet")]
    return Counter(ds.dataset(paths).to_table(["video_id"])["video_id"].to_pylist()) if paths else Counter()


def compact(store):
    with store.writing("run"):
        return store.compact()


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    return Store(str(tmp_path / "out") if request.param == "local" else request.getfixturevalue("s3_out"))


def test_small_shards_become_one_with_the_same_rows(store):
    table = fill(store)
    before = table.read().sort_by("video_id")
    [done] = compact(store)
    assert (done.table, done.shards_before, done.shards_after, done.rows) == (FOLDER, 6, 1, 18)
    assert table.read().sort_by("video_id").equals(before)
    assert table.append(rows(15, 6)) == 3
    for path in table.shards():
        with store.filesystem.open_input_file(path) as file:
            assert pq.read_schema(file).field("feature").metadata[b"width"] == b"2"
    # The large one and the new small one; then there is nothing to do.
    assert compact(store)[0].shards_after == 1
    assert compact(store)[0] == compact(store)[0]
    [size] = store.sizes()
    assert (size.table, size.rows, size.shards) == (FOLDER, 21, 1)


def test_what_was_compacted_is_gone_at_once(tmp_path):
    store = Store(str(tmp_path))
    fill(store)
    compact(store)
    assert plain(tmp_path) == {f"v{at}": 1 for at in range(18)}
    assert len(list((tmp_path / FOLDER).glob("*.parquet*"))) == 1


def test_shards_are_filled_up_to_the_target_and_rows_come_in_groups(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    table = fill(store, 4)
    monkeypatch.setattr(maintenance, "TARGET_BYTES", 3 * Path(table.shards()[0]).stat().st_size)
    monkeypatch.setattr("vemoclap_batch.store.table._ROW_GROUP_ROWS", 2)
    before = table.shards()
    [done] = compact(store)
    assert (done.shards_before, done.shards_after, done.rows) == (4, 2, 12)
    # A file that is left over stays as it was.
    groups = [pq.read_metadata(path) for path in table.shards() if path not in before]
    assert max(data.row_group(at).num_rows for data in groups for at in range(data.num_row_groups)) == 2
    assert Counter(table.read(["text"], of=None)["video_id"].to_pylist()) == {f"v{at}": 1 for at in range(12)}


def test_a_column_that_came_later_is_null_in_what_was_before(tmp_path):
    store = Store(str(tmp_path))
    older = pa.schema([field for field in SCHEMA if field.name != "text"])
    for first in (50, 60):
        store.features("asr", "f", older).append(rows(first).select(older.names))
    assert fill(store, 2).read(["text"])["text"].null_count == 6
    assert compact(store)[0].shards_after == 1
    found = features(store).read(["text"])
    assert Counter(found["text"].to_pylist()) == {"x": 6, None: 6}


def test_a_table_that_is_dropped_is_gone_whole(store):
    table = fill(store)
    store.describe_features("asr", "f", {"space": "s"})
    with store.writing("run"):
        store.drop(FOLDER)
    assert table.read().num_rows == 0
    assert store.fingerprints("asr") == {}
    assert table.append(rows(0)) == 3


def test_a_reader_sees_every_row_once_all_the_time(tmp_path):
    store = Store(str(tmp_path))
    fill(store, 60)
    wrong, reads, ended = [], 0, threading.Event()

    def read():
        nonlocal reads
        table = features(Store(str(tmp_path)))
        while not ended.is_set():
            found = Counter(table.read(["text"])["video_id"].to_pylist())
            if len(found) < 180 or set(found.values()) != {1}:
                wrong.append(found)
            reads += 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        table = features(store)
        for at in range(5):
            assert compact(store)[0].shards_after == 1
            table.append(rows(1000 + 3 * at))
    finally:
        ended.set()
        reader.join()
    assert reads
    assert not wrong


def test_rows_whose_file_somebody_deleted_are_missing_and_can_be_made_again(tmp_path):
    store = Store(str(tmp_path))
    table = fill(store, 3)
    Path(table.shards()[0]).unlink()
    with store.writing("the next run"):
        assert features(store).read().num_rows == 6
        assert features(store).append(rows(0, 9)) == 3
    assert plain(tmp_path) == {f"v{at}": 1 for at in range(9)}
