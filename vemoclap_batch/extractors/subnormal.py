"""Subnormal weights of ONNX models: numbers so close to zero that many processors take a hundred times as long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np


@contextmanager
def without_subnormals(folder: Path, name: str = "inference.onnx") -> Iterator[Path]:
    """A folder with the same files, but the model's subnormal weights are zero; the folder itself where none are.

    PP-OCRv6's small detector has 250,000 of them, which is two thirds of its time. What a weight below 1.2e-38 adds is
    lost in rounding. onnxruntime's own option (``session.set_denormal_as_zero``) holds for the calling thread only if
    the first session of the process has it.

    Args:
        folder: of a model as PaddleOCR publishes it; without the file it is given back as it is.
        name: of the ONNX file in it.

    Raises:
        ValueError: the file is no ONNX model.
    """
    path = folder / name
    if not path.is_file():
        yield folder
        return
    model = _loaded(path)
    if not sum(_flush(tensor) for tensor in _weights(model)):
        yield folder
        return
    import onnx

    with TemporaryDirectory(prefix="vemoclap-onnx-") as scratch:
        copy = Path(scratch)
        for file in folder.iterdir():
            if file.name != name:
                (copy / file.name).symlink_to(file.absolute())
        onnx.save(model, copy / name)
        yield copy


def _loaded(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(path)
    except DecodeError as error:
        raise ValueError(f"{path} is no ONNX model ({error})") from error


def _weights(model: Any) -> Iterator[Any]:
    """Its tensors of float32."""
    from onnx import TensorProto

    yield from (tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.t.data_type == TensorProto.FLOAT:
                yield attribute.t


def _flush(tensor: Any) -> int:
    """Set subnormal numbers of a tensor to zero, in place; how many there were."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    subnormal = (values != 0) & (np.abs(values) < np.finfo(np.float32).tiny)
    count = int(subnormal.sum())
    if count:
        tensor.CopyFrom(numpy_helper.from_array(np.where(subnormal, np.float32(0), values), tensor.name))
    return count
