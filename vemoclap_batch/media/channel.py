"""What the worker process and its owner say to each other: a length, a JSON object, then the bytes of its arrays."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

_LENGTH = struct.Struct(">I")

#: Fills a buffer completely or raises EOFError.
ReadInto = Callable[[memoryview], None]


def send(descriptor: int, message: dict[str, Any], arrays: tuple[np.ndarray, ...] = ()) -> None:
    """Write one message; the arrays cross without being copied or pickled."""
    shapes = [(array.dtype.str, array.shape) for array in arrays]
    text = json.dumps({**message, "arrays": shapes}).encode()
    _write(descriptor, memoryview(_LENGTH.pack(len(text)) + text))
    for array in arrays:
        if array.size:
            _write(descriptor, np.ascontiguousarray(array).data.cast("B"))


def receive(read_into: ReadInto) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read one message.

    Raises:
        EOFError: the other side is gone.
    """
    length = bytearray(_LENGTH.size)
    read_into(memoryview(length))
    text = bytearray(_LENGTH.unpack(length)[0])
    read_into(memoryview(text))
    message = json.loads(text)
    arrays = []
    for dtype, shape in message.pop("arrays"):
        array = np.empty(shape, dtype)
        if array.size:
            read_into(array.data.cast("B"))
        arrays.append(array)
    return message, arrays


def read_into(descriptor: int) -> ReadInto:
    """A reader that waits for as long as it takes."""

    def fill(buffer: memoryview) -> None:
        while len(buffer):
            count = os.readv(descriptor, [buffer])
            if not count:
                raise EOFError
            buffer = buffer[count:]

    return fill


def _write(descriptor: int, content: memoryview) -> None:
    while len(content):
        content = content[os.write(descriptor, content) :]
