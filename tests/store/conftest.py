import contextlib
import uuid

import boto3
import pytest

from tests.s3 import Server, without_conditions


@pytest.fixture(scope="session")
def s3_server():
    server = Server()
    yield server
    server.close()


@contextlib.contextmanager
def bucket_on(server, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    yield f"s3://{name}/some/out"


@pytest.fixture
def s3_out(s3_server, monkeypatch):
    """An output folder on a local S3-compatible server."""
    with bucket_on(s3_server, monkeypatch) as out:
        yield out


@pytest.fixture
def older_s3_out(monkeypatch):
    """The same on a server that ignores conditions."""
    server = Server(without_conditions)
    with bucket_on(server, monkeypatch) as out:
        yield out
    server.close()
