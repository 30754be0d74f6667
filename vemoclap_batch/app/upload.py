"""A request's body, read piece by piece: files go to disk while they come, and no more of them than is allowed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from starlette.requests import ClientDisconnect, Request

from vemoclap_batch.app.taken import Refused, Upload, shown_name

#: A client that sends nothing for so long is given up, and so is one that takes so long in all.
SILENCE_S, WHOLE_S = 30.0, 3600.0
#: Bytes of a form beside its file: boundaries, headers, the link.
_BESIDE = 64 * 1024
_LINK = 8192
_CALLBACKS = (
    "end",
    "part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "headers_finished",
)  # fmt: skip
ACCEPTED = "send a video as the form field 'file', or a link as 'url'"


async def read_request(request: Request, folder: Path, max_bytes: int) -> Upload | str:
    """Read what a request brings.

    Args:
        request: of the API: a form, or JSON with ``url``.
        folder: where the file goes.
        max_bytes: of the file.

    Returns:
        The file, or the link.

    Raises:
        Refused: too large (413), too slow (408), no room on the disk (507), or no such form (400, 415).
    """
    media_type, _, _ = request.headers.get("content-type", "").partition(";")
    media_type = media_type.strip().lower()
    is_form = media_type == "multipart/form-data"
    limit = max_bytes + _BESIDE if is_form else _LINK
    declared = request.headers.get("content-length", "")
    if declared and (not declared.isdecimal() or int(declared) > limit):
        raise too_large(max_bytes) if is_form else Refused(413, "the link is too long")
    if is_form:
        return await _Form(request, folder, max_bytes).read()
    if media_type not in {"application/json", "application/x-www-form-urlencoded"}:
        raise Refused(415, f"{ACCEPTED}: the request has neither")
    body = b""
    async for piece in _pieces(request):
        body += piece
        if len(body) > limit:
            raise Refused(413, "the link is too long")
    return _link(body, is_json=media_type == "application/json")


def too_large(max_bytes: int) -> Refused:
    """Say that a file is too large."""
    return Refused(413, f"the file is larger than {max_bytes / 1e6:g} MB, which is the most that is taken")


def _link(body: bytes, is_json: bool) -> str:
    try:
        if is_json:
            given = json.loads(body)
            url = given.get("url") if isinstance(given, dict) else None
        else:
            url = parse_qs(body.decode()).get("url", [None])[0]
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"{ACCEPTED}: {error}") from error
    if not isinstance(url, str) or not url.strip():
        raise Refused(400, ACCEPTED)
    return url


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes.

    Raises:
        Refused: it comes too slowly.
    """
    deadline = time.monotonic() + WHOLE_S
    stream = request.stream()
    while True:
        try:
            yield await asyncio.wait_for(anext(stream), min(SILENCE_S, max(0.0, deadline - time.monotonic())))
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise Refused(408, "the upload came to a stop; try again", "timeout") from error


class _Form:
    """Reads ``multipart/form-data``: one part ``file`` or ``url``; other parts are passed over."""

    def __init__(self, request: Request, folder: Path, max_bytes: int) -> None:
        self._request, self._max_bytes = request, max_bytes
        # The name is ours, whatever the client calls the file.
        self._path = folder / f"part-{secrets.token_hex(16)}"
        self._file: IO[bytes] | None = None
        self._digest, self._size = hashlib.sha256(), 0
        self._name: str | None = None
        self._is_whole = False
        self._link: bytearray | None = None
        self._field, self._header, self._value, self._part = "", b"", b"", Message()
        if shutil.disk_usage(folder).free < 2 * max_bytes:
            raise Refused(507, "the server has no room for more files at the moment", "io")

    async def read(self) -> Upload | str:
        """Read it to the end; nothing is left behind unless a file came whole."""
        whole = False
        try:
            await self._parse()
            if self._file is not None and self._name is not None:
                self._file.close()
                if not self._size:
                    raise Refused(422, f"{shown(self._name)} is empty (0 bytes)", "empty")
                whole = True
                return Upload(self._path, self._name, self._digest.hexdigest(), self._size)
            if self._link is not None and self._link.strip():
                return self._link.decode("utf-8", "replace")
            raise Refused(400, ACCEPTED)
        finally:
            if self._file is not None:
                self._file.close()
            if not whole:
                self._path.unlink(missing_ok=True)

    async def _parse(self) -> None:
        message = Message()
        message["content-type"] = self._request.headers["content-type"]
        boundary = message.get_param("boundary")
        if not isinstance(boundary, str) or not boundary or len(boundary) > 200:
            raise Refused(400, "the form has no boundary")
        callbacks: Any = {f"on_{name}": getattr(self, f"_{name}") for name in _CALLBACKS}
        parser = MultipartParser(boundary.encode("latin-1", "replace"), callbacks)
        ended = False
        came = 0
        try:
            async for piece in _pieces(self._request):
                came += len(piece)
                if came > self._max_bytes + _BESIDE:
                    raise too_large(self._max_bytes)
                # Writing to the disk is fast enough for the loop, as the pieces are small.
                parser.write(piece)
            parser.finalize()
            if not self._is_whole:
                raise Refused(400, "the upload broke off")
            ended = True
        except FormParserError as error:
            raise Refused(400, f"this is no form: {error}") from error
        except ClientDisconnect as error:
            raise Refused(400, "the upload broke off") from error
        except OSError as error:
            raise Refused(507, f"the file cannot be stored: {os.strerror(error.errno or 0)}", "io") from error
        finally:
            if not ended:
                self._name = None

    def _end(self) -> None:
        self._is_whole = True

    def _part_begin(self) -> None:
        self._field, self._header, self._value, self._part = "", b"", b"", Message()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._part["content-disposition"] = (
                self._value.decode("utf-8", "replace").replace("\r", "").replace("\n", "")
            )
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        field: Any = self._part.get_param("name", "", "content-disposition")
        name = self._part.get_filename()
        self._field = str(field)
        if self._field == "file" and name is not None:
            if self._file is not None:
                raise Refused(400, "one file at a time, please")
            self._name = name
            self._file = self._path.open("xb")
        elif self._field == "url" and self._link is None:
            self._link = bytearray()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if self._field == "file" and self._file is not None:
            self._size += len(piece)
            if self._size > self._max_bytes:
                raise too_large(self._max_bytes)
            self._digest.update(piece)
            self._file.write(piece)
        elif self._field == "url" and self._link is not None:
            self._link += piece
            if len(self._link) > _LINK:
                raise Refused(413, "the link is too long")

    def _part_end(self) -> None:
        self._field = ""


def shown(name: str) -> str:
    """Return a file's name for a message."""
    return repr(shown_name(name))
