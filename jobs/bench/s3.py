"""A local S3-compatible server (moto) in a process of its own, which waits before each PUT, as a real one does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

BUCKET = "bench"
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def serving(put_s: float) -> Iterator[str]:
    """Serve a new bucket, with the environment in which it is found; yields the address of an output folder in it.

    Args:
        put_s: how long a PUT waits before anything is done.
    """
    import boto3

    code = "import sys; from bench.s3 import serve; serve(float(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-c", code, str(put_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            port = server.stdout.readline().strip() if server.stdout else ""
            with patch.dict(os.environ, {**_CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}):
                boto3.client("s3").create_bucket(Bucket=BUCKET)
                yield f"s3://{BUCKET}/out"
        finally:
            server.kill()


def serve(put_s: float) -> None:
    """Serve until killed; prints the port first."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            pass

    app = DomainDispatcherApplication(create_backend_app)

    def slow(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["REQUEST_METHOD"] == "PUT":
            time.sleep(put_s)
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, slow, threaded=True, request_handler=Silent)
    print(server.port, flush=True)
    server.serve_forever()
