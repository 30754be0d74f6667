"""PaddleOCR from folders of models: which engine runs them, and where, is up to what is installed and the device."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata, util
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import yaml

ONNX, PADDLE = "onnxruntime", "paddle_static"
#: The files of a model folder, beside inference.yml; any one group of them will do.
_FILES: dict[str, list[tuple[str, ...]]] = {
    ONNX: [("inference.onnx",)],
    PADDLE: [("inference.json", "inference.pdiparams"), ("inference.pdmodel", "inference.pdiparams")],
}
_PADDLE_PACKAGES = ("paddlepaddle", "paddlepaddle-gpu")

_log = logging.getLogger(__name__)


def paddle_reader(detector: Path, recogniser: Path, engine: str, device: str, threads: int) -> Any:
    """A PaddleOCR that finds and reads lines of text, and does not turn or flatten the picture.

    Args:
        detector: a folder as PaddleOCR publishes it; needed while the object is made, not after.
        recogniser: likewise.
        engine: ``onnxruntime`` or ``paddle_static``.
        device: ``cpu``, or as PaddleOCR names a GPU: ``gpu:0``.
        threads: of the CPU.
    """
    os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
    from transformers.utils import get_torch_version, is_torch_available

    # Both keep their answer; what is asked for the first time while torch is hidden would stay wrong.
    _ = is_torch_available(), get_torch_version()
    with _unseen("torch"):
        from paddleocr import PaddleOCR

    logging.getLogger("paddlex").setLevel(logging.WARNING)
    if engine == ONNX:
        options: dict[str, Any] = {"engine_config": {"intra_op_num_threads": threads}}
    else:
        # oneDNN, the default, crashes in paddlepaddle 3.3.
        options = {"enable_mkldnn": False, "cpu_threads": threads}
    return PaddleOCR(
        text_detection_model_name=_name(detector, engine),
        text_detection_model_dir=str(detector),
        text_recognition_model_name=_name(recogniser, engine),
        text_recognition_model_dir=str(recogniser),
        use_doc_orientation_classify=False,
        use_doc_unwarping=False,
        use_textline_orientation=False,
        # One at a time: padding to the widest line of a batch changes what is read, and a CPU gains nothing.
        text_recognition_batch_size=1,
        device=device,
        engine=engine,
        **options,
    )


@contextmanager
def _unseen(hidden: str) -> Iterator[None]:
    """Let a package that is looked for seem absent.

    Among what PaddleOCR imports is modelscope, which imports torch where it is installed, to name a logger after the
    process' rank. That takes 3 s and 480 MiB of every process that reads text, and serves nothing there.
    """
    find_spec = util.find_spec

    def look_for(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == hidden else find_spec(name, package)

    util.find_spec = look_for
    try:
        yield
    finally:
        util.find_spec = find_spec


def installed_engine() -> str:
    """The engine for models in Paddle's format or ONNX: Paddle's own where it is installed."""
    for name in _PADDLE_PACKAGES:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return PADDLE
    return ONNX


def device_of(engine: str, device: str) -> str:
    """The device as PaddleOCR names it; the CPU, with a warning, where the engine is installed without GPUs.

    Args:
        engine: ``onnxruntime`` or ``paddle_static``.
        device: as torch names it: ``cpu``, ``cuda`` or ``cuda:1``.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return "cpu"
    if _knows_gpus(engine):
        return f"gpu:{index or 0}"
    package = "onnxruntime-gpu" if engine == ONNX else "paddlepaddle-gpu"
    _log.warning("text is read on the CPU: %s is installed without GPUs (%s is the one with them)", engine, package)
    return "cpu"


def _knows_gpus(engine: str) -> bool:
    if engine == ONNX:
        import onnxruntime

        return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    import paddle

    return bool(paddle.device.is_compiled_with_cuda())


def _name(folder: Path, engine: str) -> str:
    """What the model in a folder calls itself; PaddleOCR wants to be told.

    Raises:
        ValueError: it is not a model that the engine can run.
    """
    described = folder / "inference.yml"
    if not described.is_file():
        raise ValueError(f"{folder} has no inference.yml: expected the folder of a PaddleOCR model")
    groups = _FILES[engine]
    if not any(all((folder / name).is_file() for name in names) for names in groups):
        wanted = " or ".join(" + ".join(names) for names in groups)
        raise ValueError(f"{folder}: the engine {engine} needs {wanted} there; choose the other by the setting engine")
    return yaml.safe_load(described.read_text(encoding="utf-8"))["Global"]["model_name"]
