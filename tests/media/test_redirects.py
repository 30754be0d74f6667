"""Web addresses: fetched, and redirects followed no further than the policy lets them."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.clips import make_clip
from vemoclap_batch.failure import ErrorType, Failure
from vemoclap_batch.media.policy import Policy
from vemoclap_batch.media.sampling import Limits
from vemoclap_batch.media.worker import DecodeWorker


@pytest.fixture
def web(tmp_path):
    """Base address of a server with a clip, and whose /to?X leads to X."""
    content = make_clip(tmp_path / "v.mp4").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/to?"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to?"))
                self.end_headers()
            elif self.path.endswith("v.mp4"):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content)
            else:
                self.send_error(404)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def decode(address, **policy):
    worker = DecodeWorker(limits=Limits(policy=Policy(**policy)))
    try:
        return worker.decode("v", address)
    finally:
        worker.close()


def test_a_web_address_is_fetched_also_through_a_redirect(web):
    for address in (f"{web}/v.mp4", f"{web}/to?/deep/v.mp4"):
        clip, _ = decode(address)
        assert len(clip.frames) == 16
    missing = decode(f"{web}/none.mp4")
    assert isinstance(missing, Failure)
    assert missing.error_type is ErrorType.NOT_FOUND


def test_a_redirect_does_not_leave_what_is_allowed(web, tmp_path):
    inner = web.replace("127.0.0.1", "localhost")
    for target in (f"{inner}/v.mp4", "http://169.254.169.254/v.mp4", f"file://{tmp_path}/v.mp4"):
        found = decode(f"{web}/to?{target}")
        assert isinstance(found, Failure)
        assert found.error_type in {ErrorType.REFUSED, ErrorType.IO}, found
        assert "redirect" in found.message.lower(), found
    inside = decode(f"{web}/open/v.mp4", roots=(f"{web}/open",))
    assert not isinstance(inside, Failure)
    outside = decode(f"{web}/to?{web}/v.mp4", roots=(f"{web}/to",))
    assert outside.error_type is ErrorType.REFUSED


def test_a_link_that_leads_out_by_now_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "v.mp4").symlink_to(make_clip(tmp_path / "v.mp4"))
    found = decode(str(tmp_path / "in" / "v.mp4"), roots=(str(tmp_path / "in"),))
    assert found.error_type is ErrorType.REFUSED
