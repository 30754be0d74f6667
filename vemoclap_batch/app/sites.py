"""Videos of sites that yt-dlp knows, fetched by a process whose only way out is a proxy that the guard rules."""

from __future__ import annotations

import json
import os
import selectors
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from vemoclap_batch.app.guard import SILENCE_S, Bounds, Guard
from vemoclap_batch.errors import ErrorType
from vemoclap_batch.media.clip import MediaError

_HEAD = 1 << 16
_BLOCK = 1 << 16


def is_available() -> bool:
    """Tell whether yt-dlp is installed (the extra ``web``)."""
    return find_spec("yt_dlp") is not None


def fetch_from_site(url: str, to: Path, guard: Guard, bounds: Bounds) -> str:
    """Fetch the video of a page.

    Args:
        url: of the page.
        to: the file to make.
        guard: opens every connection that this causes.
        bounds: of the whole.

    Returns:
        The video's title; empty where the site says none.

    Raises:
        MediaError: REFUSED, NOT_FOUND, TIMEOUT or IO.
    """
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".site-") as folder, _proxy(guard) as proxy:
        request = {"url": url, "folder": folder, "proxy": proxy.port, "size": bounds.size}
        answer = _run(request, bounds.seconds)
        if proxy.refused:
            raise MediaError(ErrorType.REFUSED, proxy.refused[0])
        if "error" in answer:
            message = str(answer["error"])
            kind = ErrorType.REFUSED if "more than" in message or "too large" in message else ErrorType.IO
            raise MediaError(kind, f"no video could be fetched from this page: {message}")
        path = Path(folder, os.path.basename(answer["file"]))
        if path.is_symlink() or path.stat().st_size > bounds.size:
            raise MediaError(ErrorType.REFUSED, f"the video has more than {bounds.size / 1e6:.0f} MB")
        path.replace(to)
        return str(answer["title"])


def _run(request: dict[str, Any], seconds: float) -> dict[str, Any]:
    # Nothing of this process's environment that yt-dlp would take for settings, cookies or credentials.
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "vemoclap_batch.app.site_worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=request["folder"],
        env={**kept, "HOME": request["folder"], "YTDLP_NO_PLUGINS": "1"},
    )  # fmt: skip
    try:
        out, _ = process.communicate(json.dumps(request).encode(), timeout=seconds)
        answer = json.loads(out)
    except subprocess.TimeoutExpired as error:
        raise MediaError(ErrorType.TIMEOUT, f"the site gave no video within {seconds:g} s") from error
    except ValueError as error:
        raise MediaError(ErrorType.IO, "no video could be fetched from this page") from error
    finally:
        process.kill()
        process.wait()
    return answer if isinstance(answer, dict) else {"error": "no answer"}


class _Proxy(socketserver.ThreadingTCPServer):
    """A proxy of HTTP for this machine alone, every connection of which the guard opens."""

    daemon_threads = True

    def __init__(self, guard: Guard) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.guard = guard
        self.refused: list[str] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke off is the client's affair."""


class _Handler(socketserver.BaseRequestHandler):
    server: _Proxy

    def handle(self) -> None:
        self.request.settimeout(SILENCE_S)
        head = self._head()
        line, _, headers = head.partition(b"\r\n")
        method, target, version = line.decode("latin-1").split(" ", 2)
        host, port, path = _target(method, target)
        try:
            there = self.server.guard.connect(host, port)
        except MediaError as error:
            if error.failure.error_type is ErrorType.REFUSED:
                self.server.refused.append(error.failure.message)
            self.request.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with there:
            if method == "CONNECT":
                self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                # One request a connection, which goes to this host whatever the next one says.
                kept = [
                    each for each in headers.split(b"\r\n") if not each.lower().startswith((b"proxy-", b"connection:"))
                ]
                start = f"{method} {path} {version}\r\nConnection: close\r\n".encode("latin-1")
                there.sendall(start + b"\r\n".join(kept))
            _relay(self.request, there)

    def _head(self) -> bytes:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self.request.recv(_BLOCK)
            if not piece or len(head) > _HEAD:
                raise ConnectionError
            head += piece
        return head


def _target(method: str, target: str) -> tuple[str, int, str]:
    if method == "CONNECT":
        host, _, port = target.rpartition(":")
        return host.strip("[]"), int(port), ""
    parts = urlsplit(target)
    if parts.scheme != "http" or not parts.hostname:
        raise ConnectionError
    return parts.hostname, parts.port or 80, urlunsplit(("", "", parts.path or "/", parts.query, ""))


def _relay(client: socket.socket, there: socket.socket) -> None:
    """Pass on what comes, until either side ends or both are silent."""
    other = {client: there, there: client}
    with selectors.DefaultSelector() as selector, suppress(OSError):
        for each in other:
            selector.register(each, selectors.EVENT_READ)
        deadline = time.monotonic() + SILENCE_S
        while time.monotonic() < deadline:
            for key, _ in selector.select(SILENCE_S):
                source = key.fileobj
                assert isinstance(source, socket.socket)
                piece = source.recv(_BLOCK)
                if not piece:
                    return
                other[source].sendall(piece)
                deadline = time.monotonic() + SILENCE_S


@contextmanager
def _proxy(guard: Guard) -> Iterator[_Proxy]:
    with _Proxy(guard) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.1,), name="proxy of links", daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
