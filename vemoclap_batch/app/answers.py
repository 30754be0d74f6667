"""Answers to requests that are not taken."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

#: How long what is left of a body is still read, slowly, so that the client has time to read the answer.
_LINGER_S, _PAUSE_S = 2.0, 0.05


class Refusal(JSONResponse):
    """Says why a request is not taken, and ends its connection: else its body would be read to the end, if it has one.

    A connection that is closed at once, with bytes on it that nobody has read, often loses the answer, too.
    """

    def __init__(self, status: int, error_type: str, message: str, retry_after_s: float | None = None) -> None:
        headers = {"Connection": "close"}
        if retry_after_s is not None:
            headers["Retry-After"] = str(math.ceil(retry_after_s))
        super().__init__({"error": {"error_type": error_type, "message": message}}, status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, then read on for a while."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if scope["method"] not in {"GET", "HEAD", "DELETE"}:
            with suppress(TimeoutError):
                await _read_on(receive)
        await send({"type": "http.response.body", "body": b""})


async def _read_on(receive: Receive) -> None:
    end = time.monotonic() + _LINGER_S
    while (left := end - time.monotonic()) > 0:
        message = await asyncio.wait_for(receive(), left)
        if message["type"] != "http.request" or not message.get("more_body"):
            return
        await asyncio.sleep(_PAUSE_S)
