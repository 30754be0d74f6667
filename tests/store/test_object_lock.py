"""The lock on an object store, and a store that is out of reach, against a local S3-compatible server."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import boto3
import pyarrow as pa
import pytest

from tests.s3 import Server
from tests.store.conftest import bucket_on
from tests.waiting import wait_for
from vemoclap_batch.errors import Busy, LockLost, RunBroken
from vemoclap_batch.store import object_lock, retry, schemas
from vemoclap_batch.store.lock import writer
from vemoclap_batch.store.store import Store

SCHEMA = schemas.features(False, {}, 1)
HOLD = """
import sys
from tests.store.test_object_lock import rows, table
from vemoclap_batch.errors import LockLost
from vemoclap_batch.store import object_lock
from vemoclap_batch.store.store import Store

object_lock.HEARTBEAT_S, object_lock.FRESH_S = 0.3, 1.0
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
    # Seconds in place of minutes. A heartbeat may come late on a busy machine, so nobody is taken for dead here
    # unless a test says when.
    monkeypatch.setattr(object_lock, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr(object_lock, "FRESH_S", 1.0)
    monkeypatch.setattr(object_lock, "STALE_S", 600.0)
    monkeypatch.setattr(object_lock, "POLL_S", 0.2)
    monkeypatch.setattr(object_lock, "SETTLE_S", 0.2)


@pytest.fixture(autouse=True)
def _own_temporary_files(tmp_path, monkeypatch):
    """Lock files of processes of this test alone; its processes take the folder from the environment."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def process_files():
    return list(Path(tempfile.gettempdir()).glob("vemoclap-lock-*"))


def rows(*ids):
    row = {"content_key": "c", "run_id": "r", "feature": [[1.0]]}
    return pa.Table.from_pylist([row | {"video_id": name} for name in ids], schema=SCHEMA)


def table(store):
    return store.features("clip", "f", SCHEMA)


def ids(out):
    return Counter(table(Store(out)).read(["run_id"])["video_id"].to_pylist())


def of_another_machine(out, **changes):
    """Let the lock that lies there, renewed now, be that of a machine of another name."""
    where = {"Bucket": out.split("/")[2], "Key": "some/out/.lock"}
    client = boto3.client("s3")
    holder = json.loads(client.get_object(**where)["Body"].read())
    client.put_object(**where, Body=json.dumps(holder | {"host": "elsewhere"} | changes).encode())


def version(out):
    """Of the lock that lies there: another after each heartbeat."""
    return boto3.client("s3").head_object(Bucket=out.split("/")[2], Key="some/out/.lock")["ETag"]


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
    for _ in range(5):
        before = version(s3_out)
        with (
            pytest.raises(Busy, match=rf"held by run the-other-run \(process {holder.pid} on .*heard of \d+ s ago"),
            writer(s3_out, "r", wait=False),
        ):
            raise AssertionError("two writers")
        wait_for(lambda before=before: version(s3_out) != before)
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
    of_another_machine(s3_out)
    with writer(s3_out, "r"):
        # Not before the store's clock says so; it tells whole seconds.
        assert time.monotonic() - began > 4
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "is held by run the-other-run" in said
    assert "waiting for it to end" in said
    assert "taking" in said


def test_a_holder_of_this_machine_that_is_killed_frees_it_at_once(s3_out, holder, caplog):
    holder.kill()
    holder.wait()
    with writer(s3_out, "r", wait=False):
        assert f"(process {holder.pid} on" in caplog.text
        assert f"has died: taking {s3_out} over" in caplog.text
        assert len(process_files()) == 1  # its own
    assert not process_files()


def test_one_of_this_machine_that_is_stopped_is_not_dead(s3_out, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    with pytest.raises(Busy), writer(s3_out, "r", wait=False):
        pass
    os.kill(holder.pid, signal.SIGCONT)
    assert holder.communicate("\n")[0] == "1\n"


def test_one_of_another_machine_may_live_though_nothing_is_known_of_it_here(s3_out, holder):
    holder.kill()
    holder.wait()
    of_another_machine(s3_out)
    with pytest.raises(Busy, match="on elsewhere"), writer(s3_out, "r", wait=False):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the clock that goes on has no name of its own elsewhere")
def test_a_machine_that_wakes_looks_at_the_lock_before_it_writes(s3_out, monkeypatch):
    store = Store(s3_out)
    # No heartbeat finds out before it.
    monkeypatch.setattr(object_lock, "HEARTBEAT_S", 600.0)
    monkeypatch.setattr(object_lock, "FRESH_S", 600.0)
    with store.writing("r") as lock:
        boto3.client("s3").delete_object(Bucket=s3_out.split("/")[2], Key="some/out/.lock")
        lock.check()  # It was renewed a moment ago.
        # What the kernel's clock tells after a sleep, during which time.monotonic() stood still.
        told = time.clock_gettime
        monkeypatch.setattr(time, "clock_gettime", lambda clock: told(clock) + 3600 * (clock == time.CLOCK_BOOTTIME))
        with pytest.raises(LockLost, match="deleted"):
            table(store).append(rows("a"))


def test_a_run_that_was_asleep_writes_nothing_after_another_took_over(s3_out, holder, monkeypatch):
    monkeypatch.setattr(object_lock, "STALE_S", 2.0)
    os.kill(holder.pid, signal.SIGSTOP)
    store = Store(s3_out)
    with store.writing("the-waiting-run") as lock:
        monkeypatch.setattr(object_lock, "STALE_S", 600.0)
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
                gate.wait(300)
        except Busy:
            gate.wait(300)

    threads = [threading.Thread(target=start, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def refuses(*methods):
    """A store that knows no If-Match in some requests, and says so."""

    def around(app):
        def serve(environ, start_response):
            if environ["REQUEST_METHOD"] in methods and "HTTP_IF_MATCH" in environ:
                start_response("501 Not Implemented", [("Content-Type", "application/xml")])
                return [b"<Error><Code>NotImplemented</Code><Message>If-Match is not known</Message></Error>"]
            return app(environ, start_response)

        return serve

    return around


@contextmanager
def bucket(around, monkeypatch):
    server = Server(around)
    with bucket_on(server, monkeypatch) as out:
        yield out
    server.close()


def test_a_store_on_which_no_lock_can_be_renewed_is_refused(monkeypatch, caplog):
    with bucket(refuses("PUT"), monkeypatch) as out:
        refused = f"cannot lock {out}: .*501 Not Implemented.*If-Match is not known"
        with pytest.raises(RunBroken, match=refused), writer(out, "r"):
            pass
        assert not objects(out)
        assert not process_files()
        assert "trying again" not in caplog.text


def test_a_store_that_knows_no_conditional_deletion_keeps_a_lock(monkeypatch, caplog):
    with bucket(refuses("DELETE"), monkeypatch) as out:
        with writer(out, "r") as lock:
            with pytest.raises(Busy), writer(out, "q", wait=False):
                pass
            lock._renew()
        assert not objects(out)
        with writer(out, "r"):
            of_another_machine(out, holder="another")  # which has taken over
        assert objects(out) == ["some/out/.lock"]
        assert "was not given back" in caplog.text


class Strange:
    """A server whose answers to renewals are no S3 for a while: what comes is not what any client expects."""

    def __init__(self):
        self.left = 0

    def __call__(self, app):
        def serve(environ, start_response):
            if self.left and environ["REQUEST_METHOD"] == "PUT" and "HTTP_IF_MATCH" in environ:
                self.left -= 1
                start_response("200 OK", [])  # and no ETag
                return [b""]
            return app(environ, start_response)

        return serve


def test_the_heartbeat_goes_on_whatever_a_server_answers(monkeypatch, caplog):
    strange = Strange()
    with bucket(strange, monkeypatch) as out, writer(out, "r") as lock:
        strange.left = 3
        wait_for(lambda: strange.left == 0)
        renewed = lock._renewed
        wait_for(lambda: lock._renewed > renewed)
        assert "was not renewed: Generic S3 error: " in caplog.text
        assert lock._heartbeat.is_alive()
        lock.check()
        with pytest.raises(Busy, match=r"heard of \d+ s ago"), writer(out, "q", wait=False):
            pass


def test_a_lock_that_somebody_wrote_over_is_no_ones(s3_out, monkeypatch):
    where = {"Bucket": s3_out.split("/")[2], "Key": "some/out/.lock"}
    for content in (b"not json", b"[]", b"{}", b""):
        boto3.client("s3").put_object(**where, Body=content)
        with pytest.raises(Busy, match=r"held by run \?"), writer(s3_out, "r", wait=False):
            pass
    monkeypatch.setattr(object_lock, "STALE_S", 2.0)
    with writer(s3_out, "r") as lock:
        boto3.client("s3").put_object(**where, Body=b"not json")
        with pytest.raises(LockLost, match=r"taken over by run \?"):
            lock._renew()


def test_the_lock_lies_where_the_tables_do(s3_out, s3_server, monkeypatch):
    bucket, there = s3_out.split("/")[2], f"endpoint_override=127.0.0.1%3A{s3_server.port}&scheme=http"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    here = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{s3_server.port}")
    for address, folder in [
        (f"s3://{bucket}/a%20b?{there}&region=us-east-1", "a b"),
        (f"s3://{bucket}/c?{there}", "c"),
        (f"s3://{bucket}?{there}", ""),
    ]:
        store = Store(address)
        with store.writing("r", wait=False):
            table(store).append(rows("a"))
            keys = [item["Key"] for item in here.list_objects_v2(Bucket=bucket, Prefix=folder)["Contents"]]
            assert f"{folder}/.lock".lstrip("/") in keys
            assert any(key.startswith(f"{folder}/features/clip/f/part-".lstrip("/")) for key in keys)


def test_a_question_mark_that_says_nothing_of_the_connection_is_part_of_the_name(s3_out):
    with Store(f"{s3_out}?a=b").writing("r"):
        assert objects(s3_out) == ["some/out?a=b/.lock"]


def test_a_store_that_ignores_conditions_is_told(older_s3_out, caplog):
    with writer(older_s3_out, "r"), writer(older_s3_out, "q", wait=False):
        assert "ignores conditions" in caplog.text


def test_a_commit_waits_for_a_store_that_is_out_of_reach(s3_out, s3_server):
    store = Store(s3_out)
    with store.writing("r"):
        table(store).append(rows("a"))
        s3_server.stop()
        began = time.monotonic()
        back = threading.Timer(4, s3_server.start)
        back.start()
        assert table(store).append(rows("a", "b")) == 1
        assert time.monotonic() - began > 3
        back.join()
        assert table(store).append(rows("b", "c")) == 1
    assert ids(s3_out) == {"a": 1, "b": 1, "c": 1}


def test_a_store_that_stays_out_of_reach_ends_the_run(s3_out, s3_server, monkeypatch):
    monkeypatch.setattr(retry, "RETRY_S", 2.0)
    store = Store(s3_out)
    done = table(store)
    done.append(rows("a"))
    s3_server.stop()
    try:
        with pytest.raises(RunBroken, match=r"cannot read bucket-.*features/clip/f: Connection refused"):
            done.append(rows("b"))
    finally:
        s3_server.start()
    assert ids(s3_out) == {"a": 1}
    assert done.append(rows("b")) == 1


@pytest.mark.usefixtures("s3_out")
def test_a_bucket_that_is_not_there_is_said_at_once(caplog):
    with pytest.raises(RunBroken, match="no-such-bucket-"), writer("s3://no-such-bucket-here/out", "r"):
        pass
    assert "trying again" not in caplog.text


def test_compaction_on_an_object_store(s3_out):
    store = Store(s3_out)
    for name in "abcd":
        table(store).append(rows(name))
    with store.writing("r"):
        assert store.compact()[0].shards_after == 1
    assert ids(s3_out) == dict.fromkeys("abcd", 1)
    assert [key.split("/")[-1][:5] for key in objects(s3_out) if "/features/" in key and key.endswith(".parquet")] == [
        "part-"
    ]
