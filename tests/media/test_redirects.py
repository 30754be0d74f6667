"""Web addresses: fetched, and redirects followed no further than the policy lets them."""

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.clips import make_clip
from vemoclap_batch.errors import ConfigError, ErrorType, Failure
from vemoclap_batch.media.address import local_copy
from vemoclap_batch.media.clip import MediaError
from vemoclap_batch.media.sampling import Limits
from vemoclap_batch.media.worker import DecodeWorker
from vemoclap_batch.policy import Policy
from vemoclap_batch.sources.manifest import read_sources


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


@pytest.mark.parametrize("name", ["v.mp4", "list.csv"])
def test_a_source_does_not_lead_into_the_inner_network_either(web, name):
    inner = web.replace("127.0.0.1", "localhost")
    with pytest.raises(ConfigError, match=r"/to' may not be read: a redirect to .*, a host of the inner network"):
        read_sources([f"{web}/to?{inner}/{name}"])
    source = f"{web}/to?/deep/v.mp4"
    assert read_sources([source]).rows["uri"].to_pylist() == [source]


@pytest.mark.parametrize("proxy", [False, True])
def test_a_name_that_means_another_host_by_the_time_of_the_connection(web, monkeypatch, proxy):
    """Its owner calls it a public one while the redirect is looked at; through a proxy, that one looks it up."""
    monkeypatch.setattr("vemoclap_batch.policy.is_public", lambda host: True)
    if proxy:
        monkeypatch.setenv("http_proxy", web)
        monkeypatch.delenv("no_proxy", raising=False)
        with local_copy("http://videos.example.org/to?http://other.example.org/v.mp4") as path:
            assert os.path.getsize(path) > 1000
        return
    inner = web.replace("127.0.0.1", "localhost")
    with pytest.raises(MediaError, match="led to 'localhost', a host of the inner network") as refused:
        local_copy(f"{web}/to?{inner}/v.mp4").__enter__()
    assert refused.value.failure.error_type is ErrorType.REFUSED


@pytest.mark.skipif(sys.platform != "linux", reason="the open file is found by /proc")
def test_a_link_that_is_changed_after_it_was_looked_at_leads_nowhere_else(tmp_path):
    folder, link = tmp_path / "in", tmp_path / "in" / "link.mp4"
    folder.mkdir()
    inside, outside = make_clip(folder / "v.mp4"), make_clip(tmp_path / "v.mp4", seconds=2)

    class Changing(Policy):
        def refusal(self, address):
            try:
                return super().refusal(address)
            finally:
                link.unlink()
                link.symlink_to(leads_to.pop())

    for then, refused in (([outside, outside], True), ([outside, inside], False)):
        link.unlink(missing_ok=True)
        link.symlink_to(inside)
        leads_to = then
        limits = Limits(policy=Changing(roots=(str(folder),)))
        if refused:
            with pytest.raises(MediaError, match="outside"):
                local_copy(str(link), limits=limits).__enter__()
        else:
            with local_copy(str(link), limits=limits) as path:
                assert Path(path).read_bytes() == inside.read_bytes()


def test_a_link_that_leads_out_by_now_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "v.mp4").symlink_to(make_clip(tmp_path / "v.mp4"))
    found = decode(str(tmp_path / "in" / "v.mp4"), roots=(str(tmp_path / "in"),))
    assert found.error_type is ErrorType.REFUSED
    clip, _ = decode(str(tmp_path / "in" / "v.mp4"), roots=(str(tmp_path),))
    assert len(clip.frames) == 16
