"""Networks of torch that onnxruntime runs on CPUs: for EfficientNet's small convolutions, in a third of the time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def exported(network: torch.nn.Module, example: torch.Tensor, threads: int) -> Callable[[np.ndarray], list[np.ndarray]]:
    """The same network as a function of arrays.

    Its outputs differ from torch's as those of another batch size do, by about a millionth of the largest.

    Args:
        network: in eval mode, on the CPU, with one argument.
        example: an input of it; other inputs may differ in their first dimension.
        threads: CPU threads.

    Returns:
        A function of one array to a list of the outputs.
    """
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Memory is reserved for what a batch needs, not in the pattern of the largest one so far.
    options.enable_mem_pattern = False
    with TemporaryDirectory(prefix="vemoclap-onnx-") as scratch, warnings.catch_warnings(), torch.inference_mode():
        path = str(Path(scratch) / "network.onnx")
        # The other exporter needs two more packages and several seconds.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (example,), path, dynamo=False, opset_version=17, input_names=["input"],
            dynamic_axes={"input": {0: "items"}},
        )  # fmt: skip
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda array: session.run(None, {"input": array})
