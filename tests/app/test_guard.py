import socket

import pytest

from tests.serving import site
from vemoclap_batch.app.guard import Bounds, Guard, check, fetch
from vemoclap_batch.errors import ErrorType
from vemoclap_batch.media.clip import MediaError
from vemoclap_batch.policy import is_open_internet

INSIDE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "0.0.0.0",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "198.18.0.1", "::1", "::", "fe80::1", "fd00:ec2::254",
    "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::1",
    "2002:7f00:1::1", "2002:808:808::1", "2001:0:7f00:1::", "fe80::1%eth0",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_of_the_inner_network_are_refused(address):
    assert not is_open_internet(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111"])
def test_those_of_the_open_internet_are_not(address):
    assert is_open_internet(address)


def test_a_name_with_one_inner_address_is_refused():
    guard = Guard(lookup=lambda host, port: ["93.184.216.34", "127.0.0.1"])
    with pytest.raises(MediaError, match="no host of the public internet"):
        guard.addresses("both.example", 80)


def test_a_name_is_looked_up_once_and_that_very_address_is_connected_to(monkeypatch):
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    connected = []

    def connect(address, timeout):
        connected.append(address)
        raise OSError("not in a test")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(MediaError, match="does not answer"):
        Guard(lookup=lambda host, port: next(answers)).connect("rebinds.example", 80)
    assert connected == [("93.184.216.34", 80)]
    assert next(answers) == ["127.0.0.1"]  # which nobody asked for


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/a", "gopher://host", "http://", "/etc/passwd", "http://me:secret@host/a",
     "http://me@host/", "http://host:99999/", "http://host/a\nb", "javascript:alert(1)", "http://[::1"],
)  # fmt: skip
def test_what_is_no_link_is_refused(url):
    with pytest.raises(MediaError) as refused:
        check(url)
    assert refused.value.failure.error_type is ErrorType.REFUSED


def kind(url, tmp_path, guard, size=1000, seconds=20.0):
    with pytest.raises(MediaError) as failed:
        fetch(url, tmp_path / "file", guard, Bounds(size, seconds))
    return failed.value.failure


def test_fetching(tmp_path):
    with site() as there, site() as inside:
        guard = Guard({there.host})
        there.pages |= {
            "/a.mp4": (200, {"Content-Type": "video/mp4"}, b"x" * 900),
            "/to": (302, {"Location": "/a.mp4"}, b""),
            "/in": (302, {"Location": f"{inside.url}/secret"}, b""),
            "/metadata": (301, {"Location": "http://169.254.169.254/latest/meta-data/"}, b""),
            "/file": (302, {"Location": "file:///etc/passwd"}, b""),
            "/mapped": (307, {"Location": f"http://[::ffff:127.0.0.1]:{inside.server_address[1]}/secret"}, b""),
            "/decimal": (307, {"Location": f"http://2130706433:{inside.server_address[1]}/secret"}, b""),
            "/loop": (302, {"Location": "/loop"}, b""),
            "/large": (200, {"Content-Length": "1000000000"}, b""),
            "/endless": (200, {}, lambda: b"y" * 400),
            "/short": (200, {"Content-Length": "500"}, b"half"),
            "/empty": (200, {}, b""),
            "/error": (500, {}, b"no"),
        }
        answer = fetch(f"{there.url}/to", tmp_path / "file", guard, Bounds(1000))
        assert (answer.url, answer.content_type, answer.size) == (f"{there.url}/a.mp4", "video/mp4", 900)
        assert (tmp_path / "file").read_bytes() == b"x" * 900

        for path in ("in", "metadata", "file", "mapped", "decimal", "loop", "large", "endless"):
            found = kind(f"{there.url}/{path}", tmp_path, guard)
            assert found.error_type is ErrorType.REFUSED, (path, found)
        assert inside.asked == []
        assert kind(f"{there.url}/endless", tmp_path, guard, 10**9, 0.5).error_type is ErrorType.TIMEOUT
        assert kind(f"{there.url}/empty", tmp_path, guard).error_type is ErrorType.EMPTY
        assert kind(f"{there.url}/none", tmp_path, guard).error_type is ErrorType.NOT_FOUND
        assert kind(f"{there.url}/error", tmp_path, guard).error_type is ErrorType.IO

        def nobody(*_):
            raise socket.gaierror

        unknown = kind("http://no-such-host.invalid/", tmp_path, Guard(lookup=nobody))
        assert unknown.error_type is ErrorType.NOT_FOUND
        # An environment's proxy would connect to whatever it likes.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("http_proxy", inside.url)
            fetch(f"{there.url}/a.mp4", tmp_path / "file", guard, Bounds(1000))
        assert inside.asked == []
