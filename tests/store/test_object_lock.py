"""The lock on an object store, and a store that is out of reach, against a local S3-compatible server."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import boto3
import pyarrow as pa
import pytest

from vemoclap_batch.failure import RunBroken
from vemoclap_batch.store import compaction, object_lock, patience, schemas
from vemoclap_batch.store.lock import Busy, LockLost, writer
from vemoclap_batch.store.store import Store

SCHEMA = schemas.features(False, {}, 1)
HOLD = """
import sys
from tests.store.test_object_lock import rows, table
from vemoclap_batch.store import object_lock
from vemoclap_batch.store.lock import LockLost
from vemoclap_batch.store.store import Store

object_lock.BEAT_S, object_lock.FRESH_S = 0.3, 1.0
store = Store(sys.argv[1])
with store.writing("the-other-run"):
    print("held", flush=True)
    sys.stdin.readline()
    try:
        print(table(store).append(rows("late")), flush=True)
    except LockLost as error:
        print("lost:", error, flush=True)
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    # Seconds in place of minutes; S3 tells ages in whole seconds.
    monkeypatch.setattr(object_lock, "BEAT_S", 0.3)
    monkeypatch.setattr(object_lock, "FRESH_S", 1.0)
    monkeypatch.setattr(object_lock, "STALE_S", 2.0)
    monkeypatch.setattr(object_lock, "POLL_S", 0.2)


def rows(*ids):
    row = {"content_key": "c", "run_id": "r", "feature": [[1.0]]}
    return pa.Table.from_pylist([row | {"video_id": name} for name in ids], schema=SCHEMA)


def table(store):
    return store.features("clip", "f", SCHEMA)


def ids(out):
    return Counter(table(Store(out)).read(["run_id"])["video_id"].to_pylist())


def objects(out):
    bucket = out.split("/")[2]
    return [item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])]


@pytest.fixture
def holder(s3_out):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, s3_out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_told_who_holds_it_for_as_long_as_that_one_lives(s3_out, holder):
    until = time.monotonic() + 3
    while time.monotonic() < until:
        with (
            pytest.raises(Busy, match=rf"held by run the-other-run \(process {holder.pid} on .*heard of \d s ago"),
            writer(s3_out, "r", wait=False),
        ):
            raise AssertionError("two writers")
    assert holder.communicate("\n")[0] == "1\n"
    with writer(s3_out, "r", wait=False):
        assert "some/out/.lock" in objects(s3_out)
    assert "some/out/.lock" not in objects(s3_out)
    assert ids(s3_out) == {"late": 1}


def test_a_waiting_run_takes_over_from_one_that_was_killed(s3_out, holder, caplog, monkeypatch):
    monkeypatch.setattr(object_lock, "STALE_S", 6.0)
    caplog.set_level(logging.WARNING)
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with writer(s3_out, "r"):
        # Not before the store's clock says so; it tells whole seconds.
        assert 4 < time.monotonic() - began < 20
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "is held by run the-other-run" in said
    assert "waiting for it to end" in said
    assert "taking" in said


def test_a_run_that_was_asleep_writes_nothing_after_another_took_over(s3_out, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    store = Store(s3_out)
    with store.writing("the-waiting-run") as lock:
        table(store).append(rows("a"))
        os.kill(holder.pid, signal.SIGCONT)
        said = holder.communicate("\n")[0]
        assert said.startswith("lost: the lock of s3://")
        assert "the-waiting-run" in said
        # It has not given back what was no longer its own.
        lock._renew()
        with pytest.raises(Busy, match="the-waiting-run"), writer(s3_out, "r", wait=False):
            pass
    assert ids(s3_out) == {"a": 1}


def test_a_deleted_lock_is_lost(s3_out):
    store = Store(s3_out)
    with store.writing("r") as lock:
        boto3.client("s3").delete_object(Bucket=s3_out.split("/")[2], Key="some/out/.lock")
        with pytest.raises(LockLost, match="deleted"):
            lock._renew()
        with pytest.raises(LockLost):
            table(store).append(rows("a"))
    assert not ids(s3_out)


def test_of_many_that_start_at_once_one_gets_it(s3_out):
    got, gate = [], threading.Barrier(6)

    def start(number):
        gate.wait()
        try:
            with writer(s3_out, f"r{number}", wait=False):
                got.append(number)
                gate.wait(30)
        except Busy:
            gate.wait(30)

    threads = [threading.Thread(target=start, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_a_store_that_ignores_conditions_is_told(older_s3_out, caplog):
    with writer(older_s3_out, "r"), writer(older_s3_out, "q", wait=False):
        assert "ignores conditions" in caplog.text


def test_a_commit_waits_for_a_store_that_is_out_of_reach(s3_out, s3_server):
    store = Store(s3_out)
    with store.writing("r"):
        table(store).append(rows("a"))
        s3_server.stop()
        back = threading.Timer(4, s3_server.start)
        back.start()
        began = time.monotonic()
        assert table(store).append(rows("a", "b")) == 1
        assert time.monotonic() - began > 3
        back.join()
        assert table(store).append(rows("b", "c")) == 1
    assert ids(s3_out) == {"a": 1, "b": 1, "c": 1}


def test_a_store_that_stays_out_of_reach_ends_the_run(s3_out, s3_server, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 2.0)
    store = Store(s3_out)
    done = table(store)
    done.append(rows("a"))
    s3_server.stop()
    try:
        with pytest.raises(RunBroken, match=r"cannot write to bucket-.*features/clip/f"):
            done.append(rows("b"))
    finally:
        s3_server.start()
    assert ids(s3_out) == {"a": 1}
    assert done.append(rows("b")) == 1


def test_a_bucket_that_is_not_there_is_said_at_once(s3_out):
    began = time.monotonic()
    with pytest.raises(RunBroken, match="no-such-bucket-"), writer("s3://no-such-bucket-here/out", "r"):
        pass
    assert time.monotonic() - began < 20


def test_compaction_on_an_object_store(s3_out):
    store = Store(s3_out)
    for name in "abcd":
        table(store).append(rows(name))
    with store.writing("r"):
        assert compaction.compact(store)[0].shards_after == 1
    assert ids(s3_out) == dict.fromkeys("abcd", 1)
    assert [key.split("/")[-1][:5] for key in objects(s3_out) if "/features/" in key and key[-1] != "/"] == ["part-"]
