"""An address becomes a local file that the decoders can open."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from vemoclap_batch.failure import ErrorType, Failure, without_password
from vemoclap_batch.media.error import Beat, MediaError, no_beat
from vemoclap_batch.media.sampling import Limits

#: What has to come for a sign of life; a server that sends a byte now and then gives none.
_BLOCK = 1 << 20
_HTTP_TIMEOUT_S = 60.0


@contextmanager
def local_copy(address: str, beat: Beat = no_beat, limits: Limits | None = None) -> Iterator[str]:
    """A path from which the file at an address can be read, for as long as the context lasts.

    A local file is checked and stays where it is. A remote one is streamed to a temporary file, which on Linux has no
    name from the start: whatever kills this process, nothing is left behind.

    Args:
        address: a local path or a URI.
        beat: called as the work goes on.
        limits: how much may be fetched, for how long, and what may be read; the policy is asked again here, where
            links lead to what they lead to now.

    Raises:
        MediaError: NOT_FOUND, EMPTY, REFUSED, TIMEOUT or IO; it names a missing package where the address's scheme
            needs one.
    """
    limits = limits or Limits()
    if (refusal := limits.policy.refusal(address)) is not None:
        raise MediaError(ErrorType.REFUSED, f"{without_password(address)} may not be read: {refusal}")
    if "://" in address and not address.lower().startswith("file://"):
        with _fetched(address, beat, limits) as path:
            yield path
        return
    # As the policy took it: nothing is expanded.
    path = os.path.abspath(address[len("file://") :] if "://" in address else address)
    _check(path)
    yield path


def _check(path: str) -> None:
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise MediaError(ErrorType.IO, f"{path} is not a regular file")
        with open(path, "rb") as stream:
            empty = not stream.read(1)
    except FileNotFoundError as error:
        raise MediaError(ErrorType.NOT_FOUND, f"{path} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name.
        raise MediaError(ErrorType.IO, f"{path} cannot be opened: {getattr(error, 'strerror', error)}") from error
    if empty:
        raise MediaError(ErrorType.EMPTY, f"{path} is empty (0 bytes)")


@contextmanager
def _fetched(address: str, beat: Beat, limits: Limits) -> Iterator[str]:
    with _nameless_file() as (copy, path):
        if _fetch(address, copy, beat, limits) == 0:
            raise MediaError(ErrorType.EMPTY, f"{address} is empty (0 bytes)")
        copy.flush()
        yield path


def _fetch(address: str, copy: IO[bytes], beat: Beat, limits: Limits) -> int:
    """Copy what is at an address, block by block; returns how many bytes there were."""
    deadline = time.monotonic() + limits.fetch_timeout_s
    size = 0
    with _opened(address, limits) as source:
        # What has come by now, of a server that sends little at a time: the time is looked at after each piece.
        while piece := source.read1(_BLOCK):
            copy.write(piece)
            size, before = size + len(piece), size
            if size // _BLOCK > before // _BLOCK:
                beat()
            if size > limits.max_fetch_gb * 2**30:
                raise MediaError(ErrorType.REFUSED, f"{address} has more than {limits.max_fetch_gb:g} GiB")
            if time.monotonic() > deadline:
                raise MediaError(ErrorType.TIMEOUT, _too_slow(address, limits, size))
        # The web client takes a connection that breaks off for the end.
        if left := getattr(source, "length", None):
            raise MediaError(ErrorType.IO, f"{address} ended {left} bytes early")
    return size


def _too_slow(address: str, limits: Limits, size: int) -> str:
    return f"{address} was not fetched within {limits.fetch_timeout_s:g} s, of which {size / 2**20:.1f} MiB came"


@contextmanager
def _nameless_file() -> Iterator[tuple[IO[bytes], str]]:
    if sys.platform == "linux":
        with tempfile.TemporaryFile(prefix="vemoclap-") as copy:
            yield copy, f"/proc/self/fd/{copy.fileno()}"
        return
    with tempfile.NamedTemporaryFile(prefix="vemoclap-") as copy:
        yield copy, copy.name


@contextmanager
def _opened(address: str, limits: Limits) -> Iterator[Any]:
    try:
        web = address.startswith(("http://", "https://"))
        with _open_http(address, limits) if web else _open(address) as source:
            yield source
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError(ErrorType.NOT_FOUND, f"{address} does not exist") from error
    # Each store has exceptions of its own that share no base class; all of them mean that it could not be read.
    except Exception as error:
        message = f"{address} cannot be read: {Failure.of(error).message}"
        raise MediaError(ErrorType.IO, message) from error


def _open(address: str) -> Any:
    # Here, because it imports pyarrow and fsspec, which a worker that reads local files never needs.
    from vemoclap_batch.store.filesystem import resolve_object

    filesystem, path = resolve_object(address)
    return filesystem.open_input_stream(path)


def _open_http(address: str, limits: Limits) -> Any:
    """A web page's bytes, redirects followed as far as the policy lets them."""
    import urllib.error
    import urllib.request

    policy, silence_s = limits.policy, min(_HTTP_TIMEOUT_S, limits.fetch_timeout_s)

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if (refusal := policy.refusal_of_redirect(req.full_url, newurl)) is not None:
                raise MediaError(ErrorType.REFUSED, f"{address} may not be read: {refusal}")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    try:
        return urllib.request.build_opener(Redirects).open(address, timeout=silence_s)
    except urllib.error.HTTPError as error:
        if error.code in {404, 410}:
            raise FileNotFoundError(address) from error
        raise
