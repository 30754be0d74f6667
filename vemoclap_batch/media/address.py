"""An address becomes a local file that the decoders can open."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from vemoclap_batch.errors import ErrorType, Failure, without_password
from vemoclap_batch.media.clip import Heartbeat, MediaError, no_heartbeat
from vemoclap_batch.media.sampling import Limits
from vemoclap_batch.policy import Policy, is_global

#: What has to come for a heartbeat; a server that sends a byte now and then gives none.
_BLOCK = 1 << 20
_HTTP_TIMEOUT_S = 60.0


@contextmanager
def local_copy(address: str, heartbeat: Heartbeat = no_heartbeat, limits: Limits | None = None) -> Iterator[str]:
    """A path from which the file at an address can be read, for as long as the context lasts.

    A local file stays where it is. A remote one is streamed to a temporary file, which on Linux has no name: whatever
    kills this process, nothing is left behind.

    Args:
        address: a local path or a URI.
        heartbeat: called as the work goes on.
        limits: how much may be fetched, for how long, and what may be read; the policy is asked again here, where
            links lead to what they lead to now.

    Raises:
        MediaError: NOT_FOUND, EMPTY, REFUSED, TIMEOUT or IO; it names a missing package where the address's scheme
            needs one.
    """
    limits = limits or Limits()
    if (refusal := limits.policy.refusal(address)) is not None:
        raise MediaError(ErrorType.REFUSED, f"{without_password(address)} may not be read: {refusal}")
    with ExitStack() as stack:
        if "://" not in address or address.lower().startswith("file://"):
            # As the policy took it: nothing is expanded.
            path = os.path.abspath(address[len("file://") :] if "://" in address else address)
            yield _opened_file(path, limits.policy, stack)
            return
        if sys.platform == "linux":
            copy = stack.enter_context(tempfile.TemporaryFile(prefix="vemoclap-"))
            path = f"/proc/self/fd/{copy.fileno()}"
        else:
            copy = stack.enter_context(tempfile.NamedTemporaryFile(prefix="vemoclap-"))
            path = copy.name
        if _fetch(address, copy, heartbeat, limits) == 0:
            raise MediaError(ErrorType.EMPTY, f"{address} is empty (0 bytes)")
        copy.flush()
        yield path


def _opened_file(path: str, policy: Policy, stack: ExitStack) -> str:
    """A path to a local file, which is open; where there are roots, one that no change of a link leads out of them."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise MediaError(ErrorType.IO, f"{path} is not a regular file")
        stream = stack.enter_context(open(path, "rb"))  # noqa: SIM115 - the stack closes it.
        empty = not stream.read(1)
    except FileNotFoundError as error:
        raise MediaError(ErrorType.NOT_FOUND, f"{path} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name.
        raise MediaError(ErrorType.IO, f"{path} cannot be opened: {getattr(error, 'strerror', error)}") from error
    if empty:
        raise MediaError(ErrorType.EMPTY, f"{path} is empty (0 bytes)")
    if not policy.roots or sys.platform != "linux":
        return path
    held = f"/proc/self/fd/{stream.fileno()}"
    if (refusal := policy.refusal(os.path.realpath(held))) is not None:
        raise MediaError(ErrorType.REFUSED, f"{path} may not be read: {refusal}")
    return held


def _fetch(address: str, copy: IO[bytes], heartbeat: Heartbeat, limits: Limits) -> int:
    """Copy what is at an address, block by block; returns how many bytes there were."""
    deadline = time.monotonic() + limits.fetch_timeout_s
    size = 0
    with _opened(address, limits) as source:
        # What has come by now, of a server that sends little at a time: the time is checked after each piece.
        while piece := source.read1(_BLOCK):
            copy.write(piece)
            size, before = size + len(piece), size
            if size // _BLOCK > before // _BLOCK:
                heartbeat()
            if size > limits.max_fetch_gb * 2**30:
                raise MediaError(ErrorType.REFUSED, f"{address} has more than {limits.max_fetch_gb:g} GiB")
            if time.monotonic() > deadline:
                cause = f"{limits.fetch_timeout_s:g} s, of which {size / 2**20:.1f} MiB came"
                raise MediaError(ErrorType.TIMEOUT, f"{address} was not fetched within {cause}")
        # The web client takes a connection that breaks off for the end.
        if left := getattr(source, "length", None):
            raise MediaError(ErrorType.IO, f"{address} ended {left} bytes early")
    return size


@contextmanager
def _opened(address: str, limits: Limits) -> Iterator[Any]:
    try:
        with _open(address, limits) as source:
            yield source
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError(ErrorType.NOT_FOUND, f"{address} does not exist") from error
    # Each store has exceptions of its own that share no base class; all of them mean that it could not be read.
    except Exception as error:
        message = f"{address} cannot be read: {Failure.of(error).message}"
        raise MediaError(ErrorType.IO, message) from error


def _open(address: str, limits: Limits) -> Any:
    if address.startswith(("http://", "https://")):
        return _open_web(address, limits.policy, min(_HTTP_TIMEOUT_S, limits.fetch_timeout_s))
    # Imported here, because a worker that reads local files needs neither pyarrow nor fsspec.
    from vemoclap_batch.store.filesystem import resolve_object

    filesystem, path = resolve_object(address)
    return filesystem.open_input_stream(path)


def _open_web(address: str, policy: Policy, silence_s: float) -> Any:
    """What a web server answers, as a file; redirects are followed as far as the policy lets them.

    A name that another host's redirect leads to is looked up twice, and its owner may say something else the second
    time: before anything is asked of it, the address is checked that the connection has.

    Args:
        address: ``http`` or ``https``.
        policy: where redirects may lead.
        silence_s: how long the server may say nothing.

    Raises:
        MediaError: REFUSED, for a redirect.
        FileNotFoundError: the server says that it has no such thing.
        OSError: no answer, or another one than that.
    """
    # Imported here, because a worker that reads local files needs no web client.
    import urllib.error
    import urllib.request
    from http.client import HTTPConnection, HTTPSConnection

    def refused(why: str) -> MediaError:
        return MediaError(ErrorType.REFUSED, f"{address} may not be read: {why}")

    def connection(plain: type[HTTPConnection], request: urllib.request.Request) -> type[HTTPConnection]:
        asked = urlsplit(request.full_url)
        through_a_proxy = request.host != unquote(asked.netloc)
        if asked.hostname == urlsplit(address).hostname or through_a_proxy:
            return plain

        class Public(plain):  # type: ignore[misc,valid-type]
            def connect(self) -> None:
                super().connect()
                if not is_global(self.sock.getpeername()[0]):
                    self.close()
                    raise refused(f"a redirect led to {asked.hostname!r}, a host of the inner network")

        return Public

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if (refusal := policy.refusal_of_redirect(req.full_url, newurl)) is not None:
                raise refused(refusal)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: Any) -> Any:
            return self.do_open(connection(HTTPConnection, req), req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: Any) -> Any:
            return self.do_open(connection(HTTPSConnection, req), req)

    try:
        return urllib.request.build_opener(Redirects, Http, Https).open(address, timeout=silence_s)
    except urllib.error.HTTPError as error:
        if error.code in {404, 410}:
            raise FileNotFoundError(address) from error
        raise
