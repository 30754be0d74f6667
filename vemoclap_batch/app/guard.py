"""Connections that strangers' links may cause: a name is looked up once, and that very address is connected to."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

from vemoclap_batch.errors import ErrorType, without_password
from vemoclap_batch.media.clip import MediaError
from vemoclap_batch.policy import is_open_internet

#: How long a server may take to accept a connection, and to say anything.
CONNECT_S, SILENCE_S = 10.0, 20.0
MAX_REDIRECTS = 5
_BLOCK = 1 << 16
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AGENT = "vemoclap-batch"

#: Looks a host name up; returns IP addresses.
Lookup = Callable[[str, int], list[str]]


def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host, by the system's resolver."""
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


@dataclass(frozen=True)
class Guard:
    """Says where links may lead, and connects there.

    A host is looked up once. If any of its addresses is not one of the open internet, it is refused: who owns the name
    chooses which one is tried. Then one of these very addresses is connected to, so that a second look-up cannot say
    something else. No proxy of the environment is used.

    Attributes:
        hosts: ``host`` or ``host:port`` of the inner network that the operator lets links name.
        lookup: the resolver.
    """

    hosts: Collection[str] = ()
    lookup: Lookup = field(default=look_up)

    def addresses(self, host: str, port: int) -> list[str]:
        """Look a host up.

        Raises:
            MediaError: NOT_FOUND for a name that nobody knows, REFUSED for one of the inner network.
        """
        try:
            found = self.lookup(host, port)
        except (OSError, UnicodeError) as error:
            raise MediaError(ErrorType.NOT_FOUND, f"there is no host {host!r}") from error
        allowed = {host, f"{host}:{port}"} & set(self.hosts)
        if not found or not (allowed or all(map(is_open_internet, found))):
            message = f"{host!r} may not be read: it is no host of the public internet"
            raise MediaError(ErrorType.REFUSED, message)
        return found

    def connect(self, host: str, port: int, timeout_s: float = CONNECT_S) -> socket.socket:
        """Connect to a host.

        Raises:
            MediaError: as :meth:`addresses`; IO where it does not answer.
        """
        reason: OSError | None = None
        for address in self.addresses(host, port):
            try:
                return socket.create_connection((address, port), timeout=timeout_s)
            except OSError as error:
                reason = error
        raise MediaError(ErrorType.IO, f"{host!r} does not answer: {reason}")


@dataclass(frozen=True)
class Bounds:
    """What fetching one link may take.

    Attributes:
        size: bytes.
        seconds: all in all, redirects included.
    """

    size: int
    seconds: float = 600.0


@dataclass(frozen=True)
class Answer:
    """What a server sent: where it came from in the end, its type and how many bytes there were."""

    url: str
    content_type: str
    size: int


def fetch(url: str, to: Path, guard: Guard, bounds: Bounds, progress: Callable[[int], None] | None = None) -> Answer:
    """Fetch a link to a file, following redirects as far as the guard lets them lead.

    Args:
        url: ``http`` or ``https``.
        to: the file, which is made or replaced.
        guard: opens every connection.
        bounds: of the whole.
        progress: called with the bytes that have come; what it raises ends the fetching.

    Raises:
        MediaError: REFUSED (also for too much of it), NOT_FOUND, EMPTY, TIMEOUT or IO.
    """
    deadline = time.monotonic() + bounds.seconds
    for _ in range(MAX_REDIRECTS + 1):
        check(url)
        connection = _connection(url, guard)
        try:
            answer = _ask(connection, url, deadline)
            if answer.status in _REDIRECTS and (target := answer.getheader("Location")):
                url = urljoin(url, target)
                continue
            _check_status(url, answer)
            with to.open("wb") as stream:
                size = _copy(answer, connection, stream, url, bounds, deadline, progress)
            return Answer(url, answer.headers.get_content_type(), size)
        except TimeoutError as error:
            raise MediaError(ErrorType.TIMEOUT, f"{_shown(url)} was not fetched in time") from error
        except (OSError, http.client.HTTPException) as error:
            raise MediaError(
                ErrorType.IO, f"{_shown(url)} cannot be fetched: {error or type(error).__name__}"
            ) from error
        finally:
            connection.close()
    raise MediaError(ErrorType.REFUSED, f"{_shown(url)} leads on more than {MAX_REDIRECTS} times")


def check(url: str) -> None:
    """See that a link is one that can be fetched at all.

    Raises:
        MediaError: REFUSED, with what is wrong.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise MediaError(ErrorType.REFUSED, f"this is no link: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise MediaError(ErrorType.REFUSED, "only links that begin with http:// or https:// are taken")
    if without_password(url) != url or parts.username is not None:
        raise MediaError(ErrorType.REFUSED, "a link may not hold a password")
    if port == 0 or not url.isprintable() or " " in url or len(url) > 4000:
        raise MediaError(ErrorType.REFUSED, "this is no link: it has a space, a control character, or is too long")


def _connection(url: str, guard: Guard) -> http.client.HTTPConnection:
    """A connection of http.client that is open already, to an address that the guard has chosen."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    plain = guard.connect(host, port)
    plain.settimeout(SILENCE_S)
    connection = http.client.HTTPConnection(host, port, timeout=SILENCE_S)
    try:
        secure = parts.scheme == "https"
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
    except OSError as error:
        plain.close()
        raise MediaError(ErrorType.IO, f"{host!r} cannot be trusted or does not answer: {error}") from error
    return connection


def _ask(connection: http.client.HTTPConnection, url: str, deadline: float) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    connection.sock.settimeout(max(0.1, min(SILENCE_S, deadline - time.monotonic())))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # Compressed answers would have to be bounded twice.
    headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity", "Connection": "close"}
    if parts.port is not None or parts.netloc:
        headers["Host"] = parts.netloc
    connection.request("GET", _ascii(path), headers=headers)
    return connection.getresponse()


def _ascii(path: str) -> str:
    from urllib.parse import quote

    return quote(path, safe="/%:=&?~#+!$,;'@()*[]")


def _check_status(url: str, answer: http.client.HTTPResponse) -> None:
    if answer.status in {404, 410}:
        raise MediaError(ErrorType.NOT_FOUND, f"{_shown(url)} does not exist")
    if answer.status != 200:
        raise MediaError(ErrorType.IO, f"{_shown(url)} cannot be fetched: the server answers {answer.status}")


def _copy(
    answer: http.client.HTTPResponse, connection: http.client.HTTPConnection, stream: IO[bytes], url: str,
    bounds: Bounds, deadline: float, progress: Callable[[int], None] | None,
) -> int:  # fmt: skip
    too_much = MediaError(ErrorType.REFUSED, f"{_shown(url)} has more than {bounds.size / 1e6:.0f} MB")
    if (answer.length or 0) > bounds.size:
        raise too_much
    size = 0
    # What has come by now, of a server that sends little at a time: the time is checked after each piece.
    while piece := answer.read1(_BLOCK):
        size += len(piece)
        if size > bounds.size:
            raise too_much
        stream.write(piece)
        if progress:
            progress(size)
        if time.monotonic() > deadline:
            raise TimeoutError
    if answer.length:  # The client takes a connection that breaks off for the end.
        raise MediaError(ErrorType.IO, f"{_shown(url)} ended {answer.length} bytes early")
    if not size:
        raise MediaError(ErrorType.EMPTY, f"{_shown(url)} is empty (0 bytes)")
    return size


def _shown(url: str) -> str:
    """A link for a message: what follows the question mark is often a signature."""
    return without_password(url.partition("?")[0].partition("#")[0])
