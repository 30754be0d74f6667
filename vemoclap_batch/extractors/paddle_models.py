"""PaddleOCR's models: those that the rapidocr wheel carries, those in folders, and the engines that run them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from vemoclap_batch.extractors.subnormal import without_subnormals

#: Of rapidocr: a model that finds lines and one that reads them.
DETECTOR, RECOGNISER = "PP-OCRv6_small_det", "PP-OCRv6_small_rec"
#: PaddleOCR's names of the engines that run its models.
ONNX, PADDLE = "onnxruntime", "paddle_static"
#: The files of a model folder, beside inference.yml; any one group of them will do.
_FILES: dict[str, list[tuple[str, ...]]] = {
    ONNX: [("inference.onnx",)],
    PADDLE: [("inference.json", "inference.pdiparams"), ("inference.pdmodel", "inference.pdiparams")],
}
#: Optional packages of PaddleX that are of no use here, and the package through which it downloads models.
_NOT_FOR_TEXT, _DOWNLOADS = {"matplotlib", "scikit-image", "scikit-learn"}, "modelscope"
#: How PaddleOCR's pipeline finds lines: thresholds of pixels and boxes, and by how much a box is enlarged.
_FINDING = {"limit_side_len": 64, "limit_type": "min", "thresh": 0.3, "box_thresh": 0.6, "unclip_ratio": 1.5}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """What runs a model.

    Attributes:
        name: ``onnxruntime`` or ``paddle_static``.
        device: as PaddleOCR names it, see :func:`device_of`.
        threads: CPU threads.
    """

    name: str = ONNX
    device: str = "cpu"
    threads: int = 1

    def detector(self, folder: Path) -> Any:
        """PaddleOCR's ``TextDetection`` of a folder as PaddleOCR publishes it.

        Raises:
            ValueError: it is not a model that the engine can run.
        """
        with _only_for_text():
            from paddleocr import TextDetection
        with self._runnable(folder) as ready:
            return TextDetection(**_FINDING, **self._options(ready))

    def recogniser(self, folder: Path) -> Any:
        """PaddleOCR's ``TextRecognition`` of such a folder.

        Raises:
            ValueError: it is not a model that the engine can run.
        """
        with _only_for_text():
            from paddleocr import TextRecognition
        with self._runnable(folder) as ready:
            return TextRecognition(**self._options(ready))

    def _runnable(self, folder: Path) -> AbstractContextManager[Path]:
        """The folder that PaddleOCR is to read."""
        return without_subnormals(folder) if self.name == ONNX else nullcontext(folder)

    def _options(self, folder: Path) -> dict[str, Any]:
        os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
        logging.getLogger("paddlex").setLevel(logging.WARNING)
        model = {"model_name": _model_name(folder, self.name), "model_dir": str(folder)}
        run = {"engine": self.name, "device": self.device}
        if self.name == ONNX:
            # Memory is reserved for what a frame needs, not in the pattern of the largest one so far.
            memory = {"enable_mem_pattern": False}
            return {**model, **run, "engine_config": {"intra_op_num_threads": self.threads, **memory}}
        # oneDNN, the default, crashes in paddlepaddle 3.3.
        return {**model, **run, "enable_mkldnn": False, "cpu_threads": self.threads}


def crops(frame: Any, polygons: Sequence[Any]) -> list[Any]:
    """What each of PaddleOCR's polygons [4, 2] shows of a frame, upright, or turned left if it is higher than wide."""
    with _only_for_text():
        from paddlex.inference.pipelines.components import CropByPolys
    return list(CropByPolys(det_box_type="quad")(frame, polygons))


def sorted_boxes(polygons: Sequence[Any]) -> list[Any]:
    """Polygons from top to bottom and, where less than 10 pixels apart in height, from left to right."""
    with _only_for_text():
        from paddlex.inference.pipelines.components import SortQuadBoxes
    return list(SortQuadBoxes()(polygons))


@contextmanager
def _only_for_text() -> Iterator[None]:
    """Import PaddleOCR as it is where only what it requires is installed, and without what downloads models.

    PaddleX, which it is built on, imports matplotlib, scikit-learn and scikit-image where it finds them, for charts and
    tables; its modelscope imports torch.distributed and transformers. That takes 2 s and 150 MiB of every process that
    reads text.
    """
    find_version = metadata.version

    def version(distribution_name: str) -> str:
        if distribution_name in _NOT_FOR_TEXT:
            raise metadata.PackageNotFoundError(distribution_name)
        return find_version(distribution_name)

    metadata.version = version
    # PaddleX wants the name, and uses it only to download a model.
    stand_in = ModuleType(_DOWNLOADS)
    absent = sys.modules.setdefault(_DOWNLOADS, stand_in) is stand_in
    try:
        yield
    finally:
        metadata.version = find_version
        if absent:
            del sys.modules[_DOWNLOADS]


def installed_engine() -> str:
    """The engine for models in either format: Paddle's own where it is installed, else onnxruntime."""
    return PADDLE if util.find_spec("paddle") else ONNX


def engine_of(folder: Path, preferred: str) -> str:
    """The engine for the model in a folder: the preferred one, unless only the other can run its files."""
    able = [name for name in _FILES if _has_files(folder, name)]
    return preferred if preferred in able or not able else able[0]


def device_of(engine: str, device: str) -> str:
    """A torch device as PaddleOCR names it; the CPU, with a warning, where the engine is installed without GPUs."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return "cpu"
    if engine == ONNX:
        import onnxruntime

        knows_gpus = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    else:
        import paddle

        knows_gpus = paddle.device.is_compiled_with_cuda()
    if knows_gpus:
        return f"gpu:{index or 0}"
    package = "onnxruntime-gpu" if engine == ONNX else "paddlepaddle-gpu"
    _log.warning("text is read on the CPU: %s is installed without GPUs (%s is the one with them)", engine, package)
    return "cpu"


def _model_name(folder: Path, engine: str) -> str:
    """The name of the model in a folder, which PaddleOCR has to be told.

    Raises:
        ValueError: it is not a model that the engine can run.
    """
    description = folder / "inference.yml"
    if not description.is_file():
        raise ValueError(f"{folder} has no inference.yml: expected the folder of a PaddleOCR model")
    if not _has_files(folder, engine):
        wanted = " or ".join(" + ".join(names) for names in _FILES[engine])
        raise ValueError(f"{folder}: the engine {engine} needs {wanted} there; choose the other by the setting engine")
    return _described(description)["Global"]["model_name"]


def _has_files(folder: Path, engine: str) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in _FILES[engine])


def model_characters(folder: Path) -> list[str]:
    """The characters that a model which reads lines can write.

    Raises:
        ValueError: the folder describes no such model.
    """
    described = _described(folder / "inference.yml")
    characters = described.get("PostProcess", {}).get("character_dict")
    if not characters:
        raise ValueError(f"{folder}: its inference.yml has no character_dict; expected a model that reads lines")
    return list(characters)


def _described(description: Path) -> dict[str, Any]:
    # PyYAML's own loader takes a second for the list of characters.
    return yaml.load(description.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def bundled_detector(parent: Path) -> Path:
    """The bundled model that finds lines, in a new folder."""
    normalise = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "scale": "1./255.", "order": "hwc"}
    steps: list[dict[str, Any]] = [
        {"DetResizeForTest": {"resize_long": 960}},
        {"NormalizeImage": normalise},
        {"ToCHWImage": None},
    ]
    decoding = {"name": "DBPostProcess", "thresh": 0.3, "box_thresh": 0.6, "max_candidates": 1000, "unclip_ratio": 1.5}
    return _model_folder(parent, DETECTOR, steps, decoding)


def bundled_recogniser(parent: Path) -> Path:
    """The bundled model that reads lines, in a new folder."""
    characters = bundled_characters()
    # PaddleX makes a list of it. As one string, 18,708 characters are read in a hundredth of the time.
    joined = "".join(characters)
    decoding = {"name": "CTCLabelDecode", "character_dict": joined if len(joined) == len(characters) else characters}
    return _model_folder(parent, RECOGNISER, [{"RecResizeImg": {"image_shape": [3, 48, 320]}}], decoding)


def bundled_characters() -> list[str]:
    """The characters of the bundled model that reads lines."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # It is opened for its metadata alone.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(_bundled(RECOGNISER)), options, providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map["character"].removesuffix("\n").split("\n")


def _model_folder(parent: Path, name: str, steps: Sequence[dict[str, Any]], decoding: dict[str, Any]) -> Path:
    """A folder as PaddleOCR wants it: the model, and what to do before and after it."""
    folder = parent / name
    folder.mkdir()
    (folder / "inference.onnx").symlink_to(_bundled(name))
    read = {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}}
    description = {
        "Global": {"model_name": name},
        "PreProcess": {"transform_ops": [read, *steps]},
        "PostProcess": decoding,
    }
    (folder / "inference.yml").write_text(yaml.safe_dump(description, allow_unicode=True), encoding="utf-8")
    return folder


def _bundled(name: str) -> Path:
    """The ONNX file of a model inside the rapidocr package.

    Raises:
        FileNotFoundError: this version of rapidocr carries another model.
    """
    import rapidocr

    # PP-OCRv6_small_det is PP-OCRv6_det_small there.
    series, size, kind = name.split("_")
    path = Path(rapidocr.__file__).parent / "models" / f"{series}_{kind}_{size}.onnx"
    if not path.is_file():
        raise FileNotFoundError(f"the rapidocr package carries no {path.name}; install the version that is pinned")
    return path
