"""An address becomes a local file that the decoders can open."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from vemoclap_batch.failure import ErrorType, Failure, without_password
from vemoclap_batch.media.error import Beat, MediaError, no_beat
from vemoclap_batch.media.policy import ANYWHERE, Policy

_BLOCK = 1 << 20
#: Of a remote file: one that never ends would fill the disk that all workers share.
MAX_BYTES = 64 << 30
_HTTP_TIMEOUT_S = 60.0


@contextmanager
def local_copy(address: str, beat: Beat = no_beat, policy: Policy = ANYWHERE) -> Iterator[str]:
    """A path from which the file at an address can be read, for as long as the context lasts.

    A local file is checked and stays where it is. A remote one is streamed to a temporary file, which on Linux has no
    name from the start: whatever kills this process, nothing is left behind.

    Args:
        address: a local path or a URI.
        beat: called as the work goes on.
        policy: what may be read; asked again here, where links lead to what they lead to now.

    Raises:
        MediaError: NOT_FOUND, EMPTY, REFUSED or IO; it names a missing package where the address's scheme needs one.
    """
    if (refusal := policy.refusal(address)) is not None:
        raise MediaError(ErrorType.REFUSED, f"{without_password(address)} may not be read: {refusal}")
    if "://" in address and not address.lower().startswith("file://"):
        with _fetched(address, beat, policy) as path:
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
def _fetched(address: str, beat: Beat, policy: Policy) -> Iterator[str]:
    with _nameless_file() as (copy, path):
        with _opened(address, policy) as source:
            while block := source.read(_BLOCK):
                beat()
                copy.write(block)
                if copy.tell() > MAX_BYTES:
                    raise MediaError(ErrorType.REFUSED, f"{address} has more than {MAX_BYTES >> 30} GiB")
        if copy.tell() == 0:
            raise MediaError(ErrorType.EMPTY, f"{address} is empty (0 bytes)")
        copy.flush()
        yield path


@contextmanager
def _nameless_file() -> Iterator[tuple[IO[bytes], str]]:
    if sys.platform == "linux":
        with tempfile.TemporaryFile(prefix="vemoclap-") as copy:
            yield copy, f"/proc/self/fd/{copy.fileno()}"
        return
    with tempfile.NamedTemporaryFile(prefix="vemoclap-") as copy:
        yield copy, copy.name


@contextmanager
def _opened(address: str, policy: Policy) -> Iterator[Any]:
    try:
        with _open_http(address, policy) if address.startswith(("http://", "https://")) else _open(address) as source:
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


def _open_http(address: str, policy: Policy) -> Any:
    """A web page's bytes, redirects followed as far as the policy lets them."""
    import urllib.error
    import urllib.request

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if (refusal := policy.refusal_of_redirect(req.full_url, newurl)) is not None:
                raise MediaError(ErrorType.REFUSED, f"{address} may not be read: {refusal}")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    try:
        return urllib.request.build_opener(Redirects).open(address, timeout=_HTTP_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code in {404, 410}:
            raise FileNotFoundError(address) from error
        raise
