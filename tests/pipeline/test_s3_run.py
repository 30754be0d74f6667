"""label, from videos in a bucket to tables in it: addresses with spaces, credentials from the environment alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest

from tests.clips import make_clip
from tests.s3 import serving
from tests.tiny import tiny_checkpoint


@pytest.fixture
def bucket(monkeypatch):
    with serving("videos", monkeypatch) as client:
        yield client


#: The command once for each line of input; its Ray workers have the credentials too, as ray job submit does it.
PROGRAM = """
import sys
from vemoclap_batch.cli.app import main
from vemoclap_batch.pipeline.cluster import connected

with connected():
    for _ in sys.stdin:
        try:
            main(sys.argv[1:])
        except SystemExit as end:
            print(end.code, flush=True)
"""


@pytest.fixture
def label(bucket, frames_profile, tmp_path, address):
    """Labels what is in the bucket, by a model that is in it: the command's summary."""
    for path in Path(tiny_checkpoint(tmp_path / "model", ["clip"])).iterdir():
        bucket.upload_file(str(path), "videos", f"models/the tiny one/{path.name}")
    command = [sys.executable, "-c", PROGRAM, "label", "s3://videos/incoming", "-o", "s3://videos/labelled set"]
    command += ["--profile", frames_profile, "--model", "s3://videos/models/the tiny one", "--json"]
    as_submitted = json.dumps(
        {"runtime_env": {"env_vars": {n: v for n, v in os.environ.items() if n.startswith("AWS_")}}}
    )
    environment = {**os.environ, "RAY_ADDRESS": address, "RAY_JOB_CONFIG_JSON_ENV_VAR": as_submitted}
    said, errors = [], tmp_path / "errors.txt"

    def once():
        print(file=process.stdin, flush=True)
        for line in process.stdout:
            if line == "3\n":  # the exit status, after the summary
                return json.loads(said[-1])
            said.append(line)
        raise AssertionError(errors.read_text())

    with errors.open("w") as file, subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
    ) as process:  # fmt: skip
        yield once
        process.stdin.close()
        assert process.wait(60) == 0
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert not any(word in "".join(said) + errors.read_text() for word in ("AWS", secret))
    for item in bucket.list_objects_v2(Bucket="videos", Prefix="labelled set/")["Contents"]:
        assert secret.encode() not in bucket.get_object(Bucket="videos", Key=item["Key"])["Body"].read()


def read(table):
    store = pafs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"])
    shards = store.get_file_info(pafs.FileSelector(f"videos/labelled set/{table}", recursive=True))
    paths = [info.path for info in shards if info.base_name.startswith("part-")]
    return ds.dataset(paths, filesystem=store).to_table().sort_by("video_id").to_pylist()


def test_videos_and_tables_in_a_bucket(bucket, label, tmp_path):
    # A name is no address: nothing in it is decoded, and what follows ? are no settings of the connection.
    names = ["a clip é.mp4", "deeper/other.mp4", "x%2e%2e%20?endpoint_override=127.0.0.1:9&scheme=http#.mp4"]
    for name in names:
        bucket.upload_file(str(make_clip(tmp_path / "clip.mp4", seconds=1)), "videos", f"incoming/{name}")
    bucket.put_object(Bucket="videos", Key="incoming/broken.mp4", Body=b"no video")
    bucket.put_object(Bucket="videos", Key="incoming/readme.txt", Body=b"no video either")

    first = label()
    assert first["counts"] == {"videos": 4, "done": 3, "skipped": 0, "failed": 1}
    predictions = read("predictions")
    assert [row["uri"] for row in predictions] == [f"s3://videos/incoming/{name}" for name in names]
    assert all(row["missing"] == [] and row["confidence"] > 0 for row in predictions)
    assert [row["error_type"] for row in read("errors")] == ["not_media"]
    assert [(row["width"], row["has_audio"]) for row in read("videos")] == [(64, True)] * 3

    # By its ETag a video is known again, and one that was replaced is done again.
    bucket.upload_file(str(make_clip(tmp_path / "clip.mp4", seconds=2)), "videos", "incoming/deeper/other.mp4")
    second = label()
    assert second["counts"] == {"videos": 4, "done": 1, "skipped": 2, "failed": 1}
    assert len(read("predictions")) == 4
