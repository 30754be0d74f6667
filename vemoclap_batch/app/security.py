"""Who may ask for what: hosts, tokens, other sites' pages, and how often."""

from __future__ import annotations

import hashlib
import hmac
import html
import ipaddress
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from fnmatch import fnmatch
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vemoclap_batch.app.answers import Refusal
from vemoclap_batch.app.settings import ServeSettings

COOKIE = "vemoclap_session"
#: Paths that tell nothing of anybody.
_OPEN = frozenset({"/healthz", "/login"})
#: Clients that are remembered; the rest are those that were not heard of for longest.
_CLIENTS = 10_000
_FORM = 4096
_LOGIN = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>VEMOCLAP: sign in</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:1rem/1.5 system-ui;max-width:24rem;margin:4rem auto;padding:0 1rem}}
input,button{{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin:.3rem 0}}</style></head>
<body><main><h1>VEMOCLAP</h1><form method="post" action="login"><label for="token">Access token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Sign in</button><p role="alert">{message}</p></form></main></body></html>"""


#: Where Gradio takes requests, and which of them the page needs. Others would take files past the API, fetch addresses
#: that a client names, or run functions without the queue.
_PAGE = "/gradio_api/"
_PAGE_POSTS = frozenset({"/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"})
_PAGE_REFUSED = ("/gradio_api/file", "/gradio_api/proxy", "/file=", "/proxy=")
_PAGE_BYTES = 32 * 1024


def is_wanted(method: str, path: str) -> bool:
    """Tell whether the page or the API needs a request of Gradio's."""
    if path.startswith(_PAGE) and method == "POST":
        return path.rstrip("/") in _PAGE_POSTS
    return not path.startswith(_PAGE_REFUSED) and (method != "POST" or path.startswith(("/v1/", "/login")))


def names_a_file(body: bytes) -> bool:
    """Tell whether a request to the page's functions has a file in it, which Gradio would go and fetch."""
    try:
        left = [json.loads(body)] if body else []
    except (ValueError, RecursionError):
        return True
    while left:
        item = left.pop()
        if isinstance(item, dict):
            if "path" in item or "meta" in item or "url" in item:
                return True
            left += item.values()
        elif isinstance(item, list):
            left += item
    return False


async def _small_body(request: Request) -> bytes | None:
    """Read a body; None when it is larger than the page's requests are."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _PAGE_BYTES:
            return None
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read already, and then what comes after."""
    given = False

    async def receiving() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


class RateLimit:
    """A token bucket for each client: so many at once, then so many a minute."""

    def __init__(self, per_minute: float) -> None:
        self._rate, self._most = per_minute / 60, max(1.0, per_minute / 3)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: str, now: float) -> float:
        """Count a request; returns 0, or in how many seconds one would be allowed."""
        if not self._rate:
            return 0.0
        left, at = self._buckets.pop(client, (self._most, now))
        left = min(self._most, left + (now - at) * self._rate)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate


def client_of(host: str | None) -> str:
    """Name a client by its address; of IPv6 by its network, since a client has all of one."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return host or ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Gate:
    """What every request passes first.

    On the loopback, other names than this machine's are refused: a page elsewhere could have a name of its own lead
    here. Pages of other sites may not send anything. With a token, who does not know it is sent to sign in. A client
    that sends too many videos waits.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app, self._settings = app, settings
        self._limit = RateLimit(settings.per_minute)
        self._tries = RateLimit(30)
        key = (settings.token or "").encode()
        # The cookie does not hold the token itself.
        self._session = hmac.new(key, b"vemoclap session", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # Nothing here uses any.
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        answer = self._refusal(request)
        if answer is None and scope["path"] == "/login" and self._settings.token is not None:
            answer = await self._sign_in(request)
        if answer is None and scope["method"] == "POST" and scope["path"].startswith(_PAGE):
            body = await _small_body(request)
            if body is None or names_a_file(body):
                answer = _refused(413, "that is more than the page sends")
            receive = _again(body or b"", receive)
        await (answer or self._app)(scope, receive, _with_headers(send))

    def _refusal(self, request: Request) -> Response | None:
        path, sends = request.url.path, request.method not in {"GET", "HEAD", "OPTIONS"}
        refusal = self._of_place(request, path, sends) or self._of_stranger(request, path, sends)
        if refusal is None and sends and path.startswith("/v1/"):
            client = client_of(request.client.host if request.client else None)
            if wait_s := self._limit.wait_s(client, time.monotonic()):
                message = "that is a lot of videos at once; try again in a moment"
                return _refused(429, message, wait_s)
        return refusal

    def _of_place(self, request: Request, path: str, sends: bool) -> Response | None:
        if self._settings.is_loopback and not _is_here(request.headers.get("host", ""), self._settings.names):
            return PlainTextResponse("this server answers to localhost alone", 421)
        if sends and _is_of_another_site(request, self._settings.names):
            return _refused(403, "pages of other sites may not send anything")
        return None if is_wanted(request.method, path) else _refused(404, "there is nothing here")

    def _of_stranger(self, request: Request, path: str, sends: bool) -> Response | None:
        if self._settings.token is not None and path not in _OPEN and not self._is_known(request):
            wants_page = "text/html" in request.headers.get("accept", "") and not sends
            if wants_page:
                return RedirectResponse(f"{request.scope.get('root_path', '')}/login", 303)
            return _refused(401, "an access token is needed")
        return None

    def _is_known(self, request: Request) -> bool:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(given.strip()):
            return True
        try:
            cookie = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._session.encode())

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._settings.token or "").encode())

    async def _sign_in(self, request: Request) -> Response:
        if request.method != "POST":
            return HTMLResponse(_LOGIN.format(message=""))
        client = client_of(request.client.host if request.client else None)
        if wait_s := self._tries.wait_s(client, time.monotonic()):
            return HTMLResponse(_LOGIN.format(message=f"Too many tries; wait {wait_s:.0f} s."), 429)
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _FORM:
                return _refused(413, "that is no token")
        token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        if not self._is_token(token.strip()):
            return HTMLResponse(_LOGIN.format(message=html.escape("This is not the access token.")), 401)
        answer = RedirectResponse(f"{request.scope.get('root_path', '')}/", 303)
        answer.set_cookie(
            COOKIE, self._session, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/"
        )
        return answer


def _refused(status: int, message: str, retry_after_s: float | None = None) -> Response:
    return Refusal(status, "refused", message, retry_after_s)


def _is_here(host: str, names: Sequence[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return _is_one_of(name, names) or name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_one_of(host: str, names: Sequence[str]) -> bool:
    return any(fnmatch(host, name.lower()) for name in names)


def _is_of_another_site(request: Request, names: Sequence[str]) -> bool:
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return True
    origin = request.headers.get("origin")
    if origin is None or urlsplit(origin).netloc == request.headers.get("host"):
        return False
    return not _is_one_of(urlsplit(origin).hostname or "", names)


def _with_headers(send: Send) -> Send:
    """Have a browser take every answer for what it says it is, and show none inside another site's page."""
    added = [
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"content-security-policy", b"frame-ancestors 'self'; object-src 'none'; base-uri 'self'"),
    ]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            message = {**message, "headers": [*message["headers"], *[each for each in added if each[0] not in there]]}
        await send(message)

    return sending
