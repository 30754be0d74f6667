"""Reading from a bucket that is away for a while: it is waited for, whatever is read."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.store.test_compaction import FOLDER, SCHEMA, fill
from vemoclap_batch.errors import RunBroken
from vemoclap_batch.store import compaction, patience
from vemoclap_batch.store.filesystem import resolve
from vemoclap_batch.store.journal import Entry
from vemoclap_batch.store.store import Store

#: Longer than the clients of the bucket try by themselves.
AWAY_S = 8.0
RUNS = [{"run_id": "first"}]


def filled(address):
    """A store with two shards, a run and a replacement under way in another table."""
    store = Store(address)
    fill(store, 2)
    store.describe_features("asr", "f", {"space": None})
    store.write_json("runs/first.json", RUNS[0])
    store.write_json(".journal/one.json", {"folder": "videos", "old": []})
    return store


@pytest.mark.parametrize("name", ["out", "labelled set"])
def test_a_bucket_that_is_away_for_a_while(s3_out, s3_server, name):
    store = filled(f"{s3_out}/{name}")
    shards = store.shard_files()[FOLDER]
    readings = {
        "exists": (store.exists, True),
        "a file": (partial(store.read_json, "runs/first.json"), RUNS[0]),
        "no such file": (partial(store.read_json, "runs/none.json"), None),
        "fingerprints": (partial(store.fingerprints, "asr"), {"f": {"space": None}}),
        "runs": (store.runs, RUNS),
        "sizes": (lambda: [size.rows for size in compaction.table_sizes(store)], [6]),
        "shards": (store.features("asr", "f", SCHEMA).shards, [info.path for info in shards]),
        "the journal": (partial(store.journal._read, "one.json"), Entry("videos", [])),
        "headers": (lambda: [shard.rows for shard in compaction._inspect(store.filesystem, shards)], [3, 3]),
    }
    s3_server.stop()
    back = threading.Timer(AWAY_S, s3_server.start)
    back.start()
    try:
        with ThreadPoolExecutor(len(readings)) as pool:
            answers = {what: pool.submit(reading) for what, (reading, _) in readings.items()}
        assert {what: answer.result() for what, answer in answers.items()} == {
            what: expected for what, (_, expected) in readings.items()
        }
    finally:
        back.join()


def test_one_that_stays_away_is_said(s3_out, s3_server, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 1.0)
    store = filled(s3_out)
    s3_server.stop()
    try:
        with pytest.raises(RunBroken, match=r"cannot look for bucket-\w+/some/out: "):
            store.exists()
        with pytest.raises(RunBroken, match=r"cannot read bucket-\w+/some/out/runs/first.json: "):
            store.read_json("runs/first.json")
    finally:
        s3_server.start()


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("s3://bucket/a%20b", "bucket/a b"),
        ("s3://bucket/a b/", "bucket/a b"),
        ("s3://bucket/100% é#1", "bucket/100% é#1"),
        ("s3://bucket/a?region=eu-west-1", "bucket/a"),
        ("s3://bucket/a?b=c", "bucket/a?b=c"),
    ],
)
def test_a_name_that_is_no_uri_is_taken_as_it_is_by_the_same_client(s3_out, address, path):
    filesystem, found = resolve(address)
    assert (filesystem.type_name, found.rstrip("/")) == ("s3", path)
