"""Reads pickles and torch files of others without running anything that they name.

A pickle names functions and says what to call them with. Each name is looked up in an allow-list whose entries build
arrays, numbers and text out of bytes in the file; any other name is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import posixpath
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

#: First bytes of a file that torch wrote before it used zip archives: a pickled magic number.
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_SLACK = 1 << 16  # bytes that may be read beyond three times the file's size
#: Numbers and text of a fixed size; no Python objects (O), records (V) or dates, whose dtypes have more state.
_DTYPE = re.compile(r"[<>=|]?(?:[biufc]\d{1,2}|[SU][1-9]\d{0,8}|\?)")


class _Refused(Exception):
    """The file asks for something that is not allowed."""


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
    budget = _Budget(3 * size + _SLACK)
    try:
        with file.open("rb") as stream:
            is_old_torch = stream.read(len(_OLD_TORCH)) == _OLD_TORCH
            is_torch = is_old_torch or zipfile.is_zipfile(stream)
            stream.seek(0)
            content = _load_torch(stream, budget) if is_torch else _load_pickle(stream, size, budget)
            return _plain(content, budget, {})
    except _Refused as error:
        raise ValueError(f"{path} is refused: {error}") from error
    except Exception as error:  # Whatever broken bytes make the readers raise, running out of memory included.
        lines = str(error).splitlines() or [""]
        line = next((line for line in lines if "WeightsUnpickler error" in line), lines[0])
        reason = f"{type(error).__name__}: {line.strip()[:300]}"
        raise ValueError(f"{path} cannot be read as a pickle or torch file ({reason})") from error


def _load_torch(stream: BinaryIO, budget: _Budget) -> Any:
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            if packed := [item.filename for item in archive.infolist() if item.compress_type != zipfile.ZIP_STORED]:
                # Torch stores its records as they are; compressed ones may unpack to anything.
                raise _Refused(f"an archive with compressed records ({packed[0]})")
    stream.seek(0)
    allowed: list[Any] = [(function, name) for name, function in _allow_list(budget).items()]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about storages, which torch itself calls deprecated
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if match := re.search(r"GLOBAL (\S+)", str(error)):
            raise _not_allowed(match[1] if "." in match[1] else f"builtins.{match[1]}") from error
        raise


def _not_allowed(name: str) -> _Refused:
    return _Refused(f"it names {name}, which is no array, number, text or plain container; nothing of it was run")


def _load_pickle(stream: BinaryIO, size: int, budget: _Budget) -> Any:
    # The memo is as long as its largest index: ten bytes could ask for gigabytes.
    for code, argument, _ in pickletools.genops(stream):
        if code.name in {"PUT", "BINPUT", "LONG_BINPUT"} and int(argument or 0) > size:
            raise _Refused(f"a memo of {argument} entries in a file of {size} bytes")
    stream.seek(0)
    return _Unpickler(stream, budget).load()


class _Budget:
    """Bytes that may still be made out of the file."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise _Refused("what it holds is far larger than the file")


# ---- the unpickler of plain pickles, and the names that it and torch's may look up


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, budget: _Budget) -> None:
        super().__init__(stream)
        self._allowed = _allow_list(budget)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"  # as Python 2 called it
        if full not in self._allowed:
            raise _not_allowed(full)
        return self._allowed[full]


class _Sealed:
    """A function that a pickle may call, or a value; a pickle could set attributes of a bare one."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, *args: Any) -> Any:
        return self.value(*args)

    def __setstate__(self, state: object) -> None:
        raise _Refused("it sets the state of something that has none")


class _Dtype:
    """Stands for ``numpy.dtype``, which takes any state: one that lies about its fields reads any memory."""

    __slots__ = ("value",)

    def __init__(self, code: str | bytes = b"", *_: bool) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not _DTYPE.fullmatch(text):
            raise _Refused(f"an array of dtype {text!r}; only numbers and text are read")
        self.value = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subarray, names, fields, size, *_ = state
        if any(item is not None for item in (subarray, names, fields)) or size not in {-1, self.value.itemsize}:
            raise _Refused("a dtype with fields or a size that is not its own")
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands for ``numpy.ndarray``, which allocates any shape."""

    __slots__ = ("value",)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, shape, dtype, is_fortran, data = state
        self.value = _array(data, dtype, shape, "F" if is_fortran else "C").value


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> _Sealed:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise _Refused("an array that is not made of bytes")
    return _Sealed(np.ndarray(shape, dtype.value, data, order=order))  # refuses a shape of more bytes than there are


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Sealed:
    # as_strided refuses what lies outside the storage; torch's own way to rebuild a tensor enlarges the storage.
    return _Sealed(torch.as_strided(storage.value, size, stride, offset))


def _allow_list(budget: _Budget) -> dict[str, Any]:
    """Every name that a file may use, and what it stands for."""

    def encode(text: str, encoding: str = "") -> bytes:
        if not isinstance(text, str) or encoding not in {"latin1", "latin-1"}:
            raise _Refused(f"_codecs.encode of {type(text).__name__} to {encoding!r}")
        budget.spend(len(text))
        return text.encode("latin-1")

    def scalar(dtype: Any, data: bytes) -> Any:
        budget.spend(len(data))
        return _array(data, dtype, ()).value[()]

    def make_set(items: list) -> set:
        budget.spend(len(items))
        return set(items)

    def storage(data: bytes) -> _Sealed:
        budget.spend(len(data))
        loaded = _load_torch(io.BytesIO(data), budget)
        if not isinstance(loaded, torch.storage.TypedStorage):
            raise _Refused(f"a storage that is a {type(loaded).__name__}")
        return _Sealed(torch.empty(0, dtype=loaded.dtype).set_(loaded._untyped_storage))

    def texts(parts: tuple[Any, ...]) -> list[str]:
        if not all(type(part) in {str, int} for part in parts):
            raise _Refused("a path or device that is no text")
        budget.spend(sum(len(str(part)) for part in parts))
        return [str(part) for part in parts]

    allowed: dict[str, Any] = {"numpy.dtype": _Dtype, "numpy.ndarray": _Array}
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray._reconstruct"] = _Sealed(lambda *_: _Array())
        allowed[f"{core}.multiarray.scalar"] = _Sealed(scalar)
        allowed[f"{core}.numeric._frombuffer"] = _Sealed(_array)
    allowed["_codecs.encode"] = _Sealed(encode)
    allowed["builtins.bytes"] = _Sealed(lambda: b"")  # as old protocols write b""
    allowed["builtins.set"] = _Sealed(make_set)
    allowed["collections.OrderedDict"] = _Sealed(lambda: OrderedDict({}))
    allowed["torch._utils._rebuild_tensor_v2"] = _Sealed(_tensor)
    allowed["torch.storage._load_from_bytes"] = _Sealed(storage)
    allowed["torch.Size"] = _Sealed(lambda sizes: sizes)
    allowed["torch.device"] = _Sealed(lambda *parts: ":".join(texts(parts)))
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
            allowed[f"{module}.{name}"] = _Sealed(lambda *parts: posixpath.join("", *texts(parts)))
    return allowed


# ---- what was read, in plain types


def _plain(value: Any, budget: _Budget, seen: dict[int, Any]) -> Any:
    """The same in plain types; ``seen`` maps the id of each object met to its copy, so that loops end."""
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
        items = [_plain(item, budget, seen) for item in value]
        out = tuple(items) if issubclass(kind, tuple) else set(items)
    else:
        out = _leaf(value.value if kind in {_Sealed, _Array, _Dtype} else value, budget)
    seen[id(value)] = out
    return out


def _leaf(value: Any, budget: _Budget) -> Any:
    if isinstance(value, np.generic | np.dtype):
        return value
    if isinstance(value, torch.device | torch.dtype):
        return str(value)
    if isinstance(value, np.ndarray):
        budget.spend(value.nbytes)
        return value
    if isinstance(value, torch.Tensor):
        budget.spend(value.numel() * value.element_size())  # not the storage's size: a view may repeat its items
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    raise _Refused(f"an object of type {type(value).__module__}.{type(value).__qualname__}")
