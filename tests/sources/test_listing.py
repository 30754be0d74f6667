"""Listing what lies elsewhere: a store that is out of reach for a while, refuses, or has nothing there; times."""

import datetime
import os
import threading

import boto3
import fsspec
import pyarrow.fs as pafs
import pytest
import s3fs
from fsspec.implementations.arrow import ArrowFSWrapper

from tests.s3 import Server
from tests.waiting import wait_for
from vemoclap_batch.errors import ConfigError, RunBroken
from vemoclap_batch.sources import listing
from vemoclap_batch.sources import manifest as M
from vemoclap_batch.store import retry


@pytest.fixture
def server(monkeypatch):
    """A server with the bucket ``videos`` and a clip in it."""
    server = Server()
    # One try per request: several take ten seconds.
    for name, value in {**server.environment, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="videos")
    client.put_object(Bucket="videos", Key="incoming/a.mp4", Body=b"1")
    client.put_object(Bucket="videos", Key="lists/all.csv", Body=b"uri\ns3://videos/incoming/a.mp4\n")
    yield server
    server.close()
    s3fs.S3FileSystem.clear_instance_cache()


SOURCES = ["s3://videos/incoming", "s3://videos/incoming/*.mp4", "s3://videos/lists/all.csv"]


@pytest.mark.parametrize("source", SOURCES[:2])
def test_a_store_that_is_out_of_reach_for_a_while_is_waited_for(server, caplog, source):
    server.stop()

    def come_back():
        try:
            wait_for(lambda: "trying again" in caplog.text, seconds=120)
        finally:
            server.start()

    back = threading.Thread(target=come_back)
    back.start()
    try:
        found = M.read_sources([source])
    finally:
        back.join()
    assert found.rows["uri"].to_pylist() == ["s3://videos/incoming/a.mp4"]
    assert "trying again" in caplog.text


def test_a_store_that_stays_out_of_reach_breaks_the_run(server, monkeypatch):
    monkeypatch.setattr(retry, "RETRY_S", 1.0)
    server.stop()
    try:
        for source in SOURCES[::2]:
            with pytest.raises(RunBroken, match=rf"cannot .* '{source}'"):
                M.read_sources([source])
    finally:
        server.start()


def test_who_has_no_credentials_is_told_at_once(server, monkeypatch, caplog):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(RunBroken, match=r"cannot list 's3://videos/incoming': .*credentials"):
        M.read_sources(["s3://videos/incoming"])
    assert "trying again" not in caplog.text


def test_a_prefix_without_objects_may_be_empty_and_a_bucket_that_is_not_there_may_not(server):
    for empty in ("s3://videos/none", "s3://videos/incoming/*.mkv"):
        assert M.read_sources([empty, SOURCES[0]], may_be_empty=True).empty == [empty]
        with pytest.raises(ConfigError, match="no such file or folder"):
            M.read_sources([empty])
    for wrong in ("s3://nowhere", "s3://nowhere/none", "s3://nowhere/*.mp4", "memory://none"):
        with pytest.raises(ConfigError, match="no such file or folder"):
            M.read_sources([wrong], may_be_empty=True)
    with pytest.raises(ConfigError, match="cannot be read as a manifest"):
        M.read_sources(["s3://videos/lists/none.csv"], may_be_empty=True)


class Disk(ArrowFSWrapper):
    """This machine's disk by the adapter that HDFS has."""

    protocol = "disk"

    def __init__(self, **options):
        super().__init__(fs=pafs.LocalFileSystem(), **options)


def test_when_files_elsewhere_were_changed(tmp_path):
    fsspec.register_implementation("disk", Disk, clobber=True)
    (tmp_path / "a.mp4").write_bytes(b"1")
    os.utime(tmp_path / "a.mp4", (1000.5, 1000.5))
    there, gone = f"disk://{tmp_path}/a.mp4", f"disk://{tmp_path}/b.mp4"
    assert listing.changed_at([there, gone, f"disk://{tmp_path}/c/d.mp4"]) == {
        there: 1000.5, gone: None, f"disk://{tmp_path}/c/d.mp4": None,
    }  # fmt: skip
    [key] = listing.content_keys([there])
    assert key == f"1-{datetime.datetime.fromtimestamp(1000.5, datetime.UTC)}"
    # What shows whole files only, or no times, says nothing.
    assert listing.changed_at(["s3://b/a.mp4", "https://h/a.mp4", str(tmp_path / "a.mp4")]) == {}
    fsspec.filesystem("memory").pipe("/times/a.mp4", b"1")
    assert listing.changed_at(["memory:///times/a.mp4"]) == {"memory:///times/a.mp4": 0.0}


def test_of_a_file_that_is_gone_and_of_a_manifests_own_the_key_stays(tmp_path):
    changed, gone = str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")
    (tmp_path / "a.mp4").write_bytes(b"12")
    now = listing.local_content_key(changed)
    uris = [changed, changed, changed, changed, gone, "https://h/a.mp4"]
    before = ["1-1700000000000000000", listing.ABSENT, "version 7", now, "1-1700000000000000000", "unknown"]
    assert listing.current_content_keys(uris, before) == [now, now, "version 7", now, before[4], "unknown"]
