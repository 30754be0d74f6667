"""Pickles and torch files of others, read without running anything that they name.

A pickle is a program: it names functions and says what to call them with. Here every name stands for a maker of this
module or for nothing. The makers build arrays, scalars and containers out of bytes that are in the file, so that what
is read is never much larger than the file, and what comes out holds no other types (see :func:`load`).
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

#: How a file begins that torch wrote before it took to zip archives: a pickled magic number.
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_SLACK = 1 << 16  # bytes that a file may grow by, beyond twice its size
#: Numbers and text of a fixed size; no Python objects (O), records (V) or dates, whose dtypes carry more state.
_DTYPE = re.compile(r"[<>=|]?(?:[biufc]\d{1,2}|[SU]\d{1,9}|\?)")


class _Refused(Exception):
    """The file wants something that is not on the list."""


def load(path: str | Path) -> Any:
    """Read a plain pickle or a file of ``torch.save`` (either format).

    Args:
        path: a local file.

    Returns:
        None, bool, int, float, str, bytes, numpy scalars and dtypes, and dict, list, tuple and set of them; every
        array or tensor is a plain numpy array (bfloat16 as float32), possibly read-only; devices and paths are text.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it names something else (the message says what), is broken, or would grow far beyond its size.
    """
    file = Path(path)
    size = file.stat().st_size
    budget = _Budget(2 * size + _SLACK)
    try:
        with file.open("rb") as stream:
            if zipfile.is_zipfile(stream):
                _check_archive(stream)
                return _plain(_load_torch(stream, budget), budget, {})
            stream.seek(0)
            if stream.read(len(_OLD_TORCH)) == _OLD_TORCH:
                return _plain(_load_torch(stream, budget), budget, {})
            _check_memo(stream, size)
            stream.seek(0)
            return _plain(_Unpickler(stream, budget).load(), budget, {})
    except _Refused as error:
        raise ValueError(f"{path} is refused: {error}") from error
    except Exception as error:  # Whatever broken bytes make the readers raise, running out of memory included.
        raise ValueError(f"{path} cannot be read as a pickle or torch file ({_in_short(error)})") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, budget: _Budget) -> None:
        super().__init__(stream)
        self._makers = _makers(budget)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full not in self._makers:
            raise _Refused(_names(full))
        return self._makers[full]


def _load_torch(stream: BinaryIO, budget: _Budget) -> Any:
    stream.seek(0)
    allowed: list[Any] = [(maker, name) for name, maker in _makers(budget).items()]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storages that torch itself calls deprecated
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            name = found[1]
            raise _Refused(_names(name if "." in name else f"builtins.{name}")) from error
        raise


def _names(full: str) -> str:
    return f"it names {full}, which is no array, number, text or plain container; nothing of it was run"


def _in_short(error: Exception) -> str:
    """The line of an error that says most: torch wraps its own in paragraphs of advice."""
    lines = str(error).splitlines() or [""]
    told = next((line for line in lines if "WeightsUnpickler error" in line), lines[0])
    return f"{type(error).__name__}: {told.strip()[:300]}"


# ---- what the names stand for


class _Budget:
    """Bytes that may still be made beside those in the file."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise _Refused("what it holds is far larger than the file")


class _Sealed:
    """An object whose state a pickle cannot set: of most objects it can set any attribute."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise _Refused("it sets the state of something that has none")


class _Maker(_Sealed):
    """A function that a pickle may call."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)


class _Storage(_Sealed):
    """The numbers that tensors are views of."""

    __slots__ = ("flat",)

    def __init__(self, flat: torch.Tensor) -> None:
        self.flat = flat


class _Dtype:
    """A dtype in the making. A real one would take any state, and one that lies about its fields reads any memory."""

    __slots__ = ("dtype",)
    dtype: np.dtype

    def __new__(cls, code: str | bytes = b"", *_: bool) -> _Dtype:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not _DTYPE.fullmatch(text):
            raise _Refused(f"an array of dtype {text!r}; only numbers and text are read")
        self = super().__new__(cls)
        self.dtype = np.dtype(text)
        return self

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subarray, names, fields, size, *_ = state
        if any(item is not None for item in (subarray, names, fields)) or size not in {-1, self.dtype.itemsize}:
            raise _Refused("a dtype with fields or a size that is not its own")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array or a tensor in the making: numpy's own would allocate whatever shape it is told."""

    __slots__ = ("value",)
    value: np.ndarray | torch.Tensor

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, shape, dtype, in_columns, data = state
        self.value = _numbers(data, dtype, shape, "F" if in_columns else "C")


def _numbers(data: Any, kind: Any, shape: Any, order: str = "C") -> np.ndarray:
    if not isinstance(kind, _Dtype) or not isinstance(data, bytes | bytearray):
        raise _Refused("an array that is not made of bytes")
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    expected = math.prod(sizes) * kind.dtype.itemsize
    if any(not isinstance(size, int) or size < 0 for size in sizes) or expected != len(data):
        raise _Refused(f"an array of shape {sizes} ({expected} bytes) made of {len(data)} bytes")
    if not expected:
        return np.zeros(sizes, kind.dtype)
    return np.frombuffer(data, kind.dtype).reshape(sizes, order="F" if order == "F" else "C")


def _made(value: np.ndarray | torch.Tensor) -> _Array:
    array = _Array()
    array.value = value
    return array


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise _Refused("an array of a class of its own")
    return _Array()


def _scalar(kind: Any, data: Any) -> Any:
    return _numbers(data, kind, (1,))[0]


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Array:
    if not isinstance(storage, _Storage):
        raise _Refused("a tensor without a storage")
    # as_strided refuses what lies outside the storage; torch's own way to rebuild a tensor enlarges the storage.
    return _made(torch.as_strided(storage.flat, size, stride, offset))


def _set(items: Any = ()) -> set:
    if not isinstance(items, list | tuple):
        raise _Refused("a set of something else than a list")
    return set(items)


def _no_bytes(*args: Any) -> bytes:
    # Old protocols write b"" as a call of bytes(); with a number it would allocate as many.
    if args:
        raise _Refused("bytes made of something else")
    return b""


def _ordered(*args: Any) -> dict:
    # Values come one by one; as torch does, an OrderedDict rather than a dict, since the state of one may be set.
    if args and not (len(args) == 1 and isinstance(args[0], list)):
        raise _Refused("an OrderedDict of something else than a list")
    return OrderedDict(*args)


def _path(*parts: Any) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise _Refused("a path that is no text")
    return "/".join(parts).replace("//", "/")


def _makers(budget: _Budget) -> Mapping[str, Any]:
    """Every name that a file may use, and what it stands for here."""

    def encode(text: Any, encoding: str = "") -> bytes:
        if not isinstance(text, str) or encoding not in {"latin1", "latin-1"}:
            raise _Refused(f"_codecs.encode of {type(text).__name__} to {encoding!r}")
        budget.spend(len(text))
        return text.encode("latin-1")

    def storage(data: Any) -> Any:
        if not isinstance(data, bytes):
            raise _Refused("a storage that is not made of bytes")
        budget.spend(len(data))
        found = _load_torch(io.BytesIO(data), budget)
        if not isinstance(found, torch.storage.TypedStorage):
            raise _Refused(f"a storage that is a {type(found).__name__}")
        return _Storage(torch.empty(0, dtype=found.dtype).set_(found._untyped_storage))

    makers: dict[str, Any] = {"numpy.dtype": _Dtype, "numpy.ndarray": _Array}
    for core in ("numpy.core", "numpy._core"):
        makers[f"{core}.multiarray._reconstruct"] = _Maker(_reconstruct)
        makers[f"{core}.multiarray.scalar"] = _Maker(_scalar)
        makers[f"{core}.numeric._frombuffer"] = _Maker(lambda *args: _made(_numbers(*args)))
    makers["_codecs.encode"] = _Maker(encode)
    makers["builtins.bytes"] = _Maker(_no_bytes)
    makers["builtins.set"] = _Maker(_set)
    makers["collections.OrderedDict"] = _Maker(_ordered)
    makers["torch._utils._rebuild_tensor_v2"] = _Maker(_tensor)
    makers["torch.storage._load_from_bytes"] = _Maker(storage)
    makers["torch.Size"] = _Maker(lambda sizes=(): tuple(sizes))
    makers["torch.device"] = _Maker(lambda *parts: ":".join(map(str, parts)))
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
            makers[f"{module}.{name}"] = _Maker(_path)
    return makers


# ---- before and after


def _check_archive(stream: BinaryIO) -> None:
    """Torch stores its records as they are; compressed ones may unpack to anything."""
    with zipfile.ZipFile(stream) as archive:
        packed = [item.filename for item in archive.infolist() if item.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise _Refused(f"an archive with compressed records ({packed[0]})")


def _check_memo(stream: BinaryIO, size: int) -> None:
    """The memo is as long as its largest index: ten bytes could ask for gigabytes."""
    stream.seek(0)
    for code, argument, _ in pickletools.genops(stream):
        if code.name in {"PUT", "BINPUT", "LONG_BINPUT"} and int(argument or 0) > size:
            raise _Refused(f"a memo of {argument} entries in a file of {size} bytes")


def _plain(value: Any, budget: _Budget, seen: dict[Any, Any]) -> Any:
    """The same in types that this module vouches for; ``seen`` maps what was met already, so that loops end."""
    kind = type(value)
    if value is None or kind in {bool, int, float, str, bytes}:
        return value
    if id(value) in seen:
        return seen[id(value)]
    if kind is dict or kind is OrderedDict:
        out: Any = seen.setdefault(id(value), {})
        # Not value.items(): the state of an OrderedDict may hide its methods.
        out.update((_plain(k, budget, seen), _plain(v, budget, seen)) for k, v in dict.items(value))
    elif kind is list:
        out = seen.setdefault(id(value), [])
        out.extend(_plain(item, budget, seen) for item in value)
    elif kind in {tuple, set, frozenset, torch.Size}:
        made = [_plain(item, budget, seen) for item in value]
        out = tuple(made) if issubclass(kind, tuple) else set(made)
    else:
        out = _leaf(value, budget, seen)
    seen[id(value)] = out
    return out


def _leaf(value: Any, budget: _Budget, seen: dict[Any, Any]) -> Any:
    if isinstance(value, np.generic):
        return value
    if isinstance(value, _Dtype):
        return value.dtype
    if isinstance(value, _Array):
        if not hasattr(value, "value"):
            raise _Refused("an array that was never filled")
        value = value.value
        if isinstance(value, np.ndarray):
            return value
    if isinstance(value, torch.Tensor):
        return _numpy(value, budget, seen)
    if isinstance(value, torch.device | torch.dtype):
        return str(value)
    if isinstance(value, bytearray):
        budget.spend(len(value))
        return bytes(value)
    raise _Refused(f"an object of type {type(value).__module__}.{type(value).__qualname__}")


def _numpy(tensor: torch.Tensor, budget: _Budget, seen: dict[Any, Any]) -> np.ndarray:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise _Refused("a tensor that is not an ordinary one")
    storage = tensor.untyped_storage()
    if ("storage", storage.data_ptr()) not in seen:
        seen["storage", storage.data_ptr()] = None
        budget.spend(storage.nbytes())
    if not tensor.is_contiguous() or tensor.dtype == torch.bfloat16:
        budget.spend(tensor.numel() * tensor.element_size())
    tensor = tensor.detach().contiguous()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
