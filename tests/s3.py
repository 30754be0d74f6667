"""A local S3-compatible server (moto) in threads of this process, which can be stopped and started again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.moto_api._internal import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.ports import shared

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "nobody-else-may-know",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class _Silent(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass


class Server:
    """The server, empty at first; what is stored lives until another is made in this process.

    Its port stays its own from the first start to :meth:`close`: while it is stopped, connections are refused there,
    and no other process is given it.
    """

    def __init__(self, around: Callable[[Any], Any] = lambda app: app) -> None:
        moto_api_backend.reset()
        self._app = around(_one_at_a_time(DomainDispatcherApplication(create_backend_app)))
        self._reserved = shared()
        self.port = self._reserved.getsockname()[1]
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def start(self) -> None:
        with shared(self.port) as listening:
            listening.listen(128)
            # The server takes a copy.
            self._server = make_server(
                "127.0.0.1", self.port, self._app, threaded=True, request_handler=_Silent, fd=listening.fileno()
            )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._reserved.close()


@contextmanager
def serving(bucket: str, monkeypatch: Any) -> Iterator[Any]:
    """A client of a new server with one bucket; its address and credentials are in the environment."""
    server = Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)
    yield client
    server.close()


def _one_at_a_time(app: Any) -> Any:
    """moto looks whether an object is there and then writes it: two steps, where a real store takes one."""
    alone = threading.Lock()

    def serve(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with alone:
            return list(app(environ, start_response))

    return serve


def without_conditions(app: Any) -> Any:
    """An older store, which knows no conditional uploads and ignores their headers."""

    def older(environ: dict[str, Any], start_response: Any) -> Any:
        for name in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"):
            environ.pop(name, None)
        return app(environ, start_response)

    return older
