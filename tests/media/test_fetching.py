"""Remote files that never end, hardly come or break off, from a real server."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from tests.clips import make_clip
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError, ErrorType
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.media.sampling import Limits
from vemoclap_batch.media.worker import DecodeWorker
from vemoclap_batch.pipeline.chain import limits

#: Path → bytes that come at a time, and how long the server rests then.
STREAMS = {"/radio": (bytes(1 << 20), 0.02), "/drip": (b"x", 0.1)}


@pytest.fixture
def web(tmp_path):
    """Base address of a server of streams without an end, and of a clip that breaks off."""
    clip = make_clip(tmp_path / "v.mp4").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            if self.path == "/cut.mp4":
                self.send_header("Content-Length", str(len(clip)))
            self.end_headers()
            if self.path == "/cut.mp4":
                self.wfile.write(clip[:-100])
                return
            content, rest_s = STREAMS[self.path]
            try:
                while True:
                    self.wfile.write(content)
                    time.sleep(rest_s)
            except OSError:
                self.close_connection = True

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_without_an_end_costs_its_time_and_no_worker(web, stream, tmp_path):
    with DecodeWorker(limits=Limits(fetch_timeout_s=1.5)) as worker:
        worker.decode("v", str(make_clip(tmp_path / "v.mp4")))
        pid, began = worker.pid, time.monotonic()
        failure = worker.decode("v", f"{web}{stream}")
        assert time.monotonic() - began > 1.4
        assert failure.error_type is ErrorType.TIMEOUT
        assert failure.message.startswith(f"{web}{stream} was not fetched within 1.5 s")
        assert worker.pid == pid


def test_a_drip_is_no_heartbeat(web):
    with DecodeWorker(limits=Limits(timeout_s=3)) as worker:
        failure = worker.decode("v", f"{web}/drip")
    assert failure.error_type is ErrorType.TIMEOUT
    assert "no progress" in failure.message


def test_a_file_that_is_too_large_is_refused(web, failure_of):
    limits = Limits(max_fetch_gb=1 / 64)
    failure = failure_of(f"{web}/radio", limits=limits)
    assert failure.error_type is ErrorType.REFUSED
    assert failure.message == f"{web}/radio has more than 0.015625 GiB"
    with fsspec.open("memory://bucket/large.mp4", "wb") as target:
        target.write(bytes(17 << 20))
    assert failure_of("memory://bucket/large.mp4", limits=limits).error_type is ErrorType.REFUSED


def test_a_file_that_breaks_off_is_not_taken_for_whole(web, failure_of):
    failure = failure_of(f"{web}/cut.mp4")
    assert failure.error_type is ErrorType.IO
    assert failure.message == f"{web}/cut.mp4 ended 100 bytes early"


def test_the_settings_are_checked_and_change_no_fingerprint():
    with pytest.raises(ConfigError) as caught:
        load_config("lite", ["decode.fetch_timeout_s=0", "decode.max_fetch_gb=-1"])
    assert [mistake.split(" = ")[0] for mistake in caught.value.mistakes] == [
        "decode.fetch_timeout_s", "decode.max_fetch_gb",
    ]  # fmt: skip
    base, other = resolve(load_config("lite")), resolve(load_config("lite", ["decode.fetch_timeout_s=9"]))
    assert {name: spec.fingerprint for name, spec in base.items()} == {
        name: spec.fingerprint for name, spec in other.items()
    }


def test_the_settings_reach_the_worker():
    chosen = limits(load_config("lite", ["decode.fetch_timeout_s=9", "decode.max_fetch_gb=0.5"]))
    assert (chosen.fetch_timeout_s, chosen.max_fetch_gb) == (9, 0.5)
