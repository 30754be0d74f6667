"""label, from videos in a bucket to tables in it: addresses with spaces, credentials from the environment alone."""

import json
import os
import subprocess
import sys

import boto3
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest

from tests.clips import make_clip
from tests.s3 import Server
from tests.tiny import tiny_checkpoint


@pytest.fixture
def bucket(monkeypatch):
    """A client of a server with the bucket ``videos``; its address and credentials are in the environment."""
    server = Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="videos")
    yield client
    server.stop()


def label(profile, model):
    command = [
        sys.executable, "-m", "vemoclap_batch", "label", "s3://videos/incoming", "-o", "s3://videos/labelled set",
        "--profile", profile, "--model", model, "--json",
    ]  # fmt: skip
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 3, done.stderr
    assert "AWS" not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def read(table):
    store = pafs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"])
    shards = store.get_file_info(pafs.FileSelector(f"videos/labelled set/{table}", recursive=True))
    paths = [info.path for info in shards if info.base_name.startswith("part-")]
    return ds.dataset(paths, filesystem=store).to_table().sort_by("video_id").to_pylist()


def test_videos_and_tables_in_a_bucket(bucket, tmp_path, tiny_profile):
    names = ["a clip é.mp4", "deeper/other.mp4"]
    for name in names:
        bucket.upload_file(str(make_clip(tmp_path / "clip.mp4", seconds=1)), "videos", f"incoming/{name}")
    bucket.put_object(Bucket="videos", Key="incoming/broken.mp4", Body=b"no video")
    bucket.put_object(Bucket="videos", Key="incoming/readme.txt", Body=b"no video either")
    model = tiny_checkpoint(tmp_path / "model")

    first = label(tiny_profile, model)
    assert first["counts"] == {"videos": 3, "done": 2, "skipped": 0, "failed": 1}
    predictions = read("predictions")
    assert [row["uri"] for row in predictions] == [f"s3://videos/incoming/{name}" for name in names]
    assert all(row["missing"] == [] and row["confidence"] > 0 for row in predictions)
    assert [row["error_type"] for row in read("errors")] == ["not_media"]
    assert [(row["width"], row["has_audio"]) for row in read("videos")] == [(64, True)] * 2

    # By its ETag a video is known again, and one that was replaced is done again.
    bucket.upload_file(str(make_clip(tmp_path / "clip.mp4", seconds=2)), "videos", "incoming/deeper/other.mp4")
    second = label(tiny_profile, model)
    assert second["counts"] == {"videos": 3, "done": 1, "skipped": 1, "failed": 1}
    assert len(read("predictions")) == 3
