"""Reading from a bucket that is away for a while: it is waited for, whatever is read."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.store.test_compaction import features, fill
from vemoclap_batch.errors import RunBroken
from vemoclap_batch.store import retry
from vemoclap_batch.store.filesystem import resolve
from vemoclap_batch.store.store import Store

#: Longer than the clients of the bucket try by themselves.
AWAY_S = 8.0
RUNS = [{"run_id": "first"}]


def filled(address):
    """A store with two data files and a run."""
    store = Store(address)
    fill(store, 2)
    store.describe_features("asr", "f", {"space": None})
    store.write_json("runs/first.json", RUNS[0])
    return store


@pytest.mark.parametrize("name", ["out", "labelled set"])
def test_a_bucket_that_is_away_for_a_while(s3_out, s3_server, name):
    store = filled(f"{s3_out}/{name}")
    shards = features(store).shards()
    readings = {
        "exists": (store.exists, True),
        "a file": (partial(store.read_json, "runs/first.json"), RUNS[0]),
        "no such file": (partial(store.read_json, "runs/none.json"), None),
        "fingerprints": (partial(store.fingerprints, "asr"), {"f": {"space": None}}),
        "runs": (store.runs, RUNS),
        "sizes": (lambda: [size.rows for size in store.sizes()], [6]),
        "shards": (features(store).shards, shards),
        "rows": (lambda: features(store).read().num_rows, 6),
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
    monkeypatch.setattr(retry, "RETRY_S", 1.0)
    store = filled(s3_out)
    s3_server.stop()
    try:
        with pytest.raises(RunBroken, match=r"cannot look for s3://bucket-\w+/some/out: "):
            store.exists()
        with pytest.raises(RunBroken, match=r"cannot look for s3://bucket-\w+/some/out/runs/first.json: "):
            store.read_json("runs/first.json")
        with pytest.raises(RunBroken, match=r"cannot read bucket-\w+/some/out/features/asr/f: Connection refused"):
            features(store).read()
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
