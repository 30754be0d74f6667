"""Web addresses, and redirects no further than a policy lets them."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPConnection, HTTPSConnection
from typing import Any
from urllib.parse import unquote, urlsplit

from vemoclap_batch.errors import ErrorType
from vemoclap_batch.media.clip import MediaError
from vemoclap_batch.policy import Policy, is_global


def open_web(address: str, policy: Policy, silence_s: float) -> Any:
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
