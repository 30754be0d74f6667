"""How the tables' Parquet files are encoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa


def encoding(schema: pa.Schema) -> dict[str, Any]:
    """Options of pyarrow's Parquet writers: zstd, and dictionaries for everything but floating-point numbers.

    Those of features hardly ever repeat: a dictionary of them takes twenty times the time, several times the memory
    and more disk than the numbers themselves.
    """
    leaves = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
    return {
        "compression": "zstd",
        "use_dictionary": [path for path, kind in leaves if not pa.types.is_floating(kind)],
    }


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """The columns of plain values that a column is stored as, as Parquet names them."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path, kind
