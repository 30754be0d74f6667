"""Text in frames: PaddleOCR, by default on the PP-OCRv6 ONNX models that the rapidocr wheel carries."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from pydantic import Field

from vemoclap_batch.extractors.base import FRAMES, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.media.clip import Clip

#: Of rapidocr: a model that finds lines and one that reads them.
DETECTOR, RECOGNISER = "PP-OCRv6_small_det", "PP-OCRv6_small_rec"
#: Two frames show the same when no square of this many pixels a side, wherever it lies, differs by more than this on
#: average (of 255). A full stop in the smallest legible print changes such a square by 12 or more; the noise of
#: encoding leaves a still picture under it.
SQUARE, SAME = 4, 8
#: PaddleOCR's names of the engines that run its models.
ONNX, PADDLE = "onnxruntime", "paddle_static"
#: The files of a model folder, beside inference.yml; any one group of them will do.
_FILES: dict[str, list[tuple[str, ...]]] = {
    ONNX: [("inference.onnx",)],
    PADDLE: [("inference.json", "inference.pdiparams"), ("inference.pdmodel", "inference.pdiparams")],
}

#: Optional packages of PaddleX that are of no use here, and the package through which it downloads models.
_NOT_FOR_TEXT, _DOWNLOADS = {"matplotlib", "scikit-image", "scikit-learn"}, "modelscope"

LINE = pa.struct(
    {
        "frame": pa.int32(),
        "time_s": pa.float64(),
        "text": pa.string(),
        "score": pa.float32(),
        "polygon": pa.list_(pa.list_(pa.float32())),
    }
)

_log = logging.getLogger(__name__)


class OcrSettings(ExtractorSettings):
    """Settings of :class:`PaddleOcr`."""

    min_score: float = Field(0.8, ge=0, le=1, description="lines with a lower score are dropped")
    min_score_short: float = Field(0.95, ge=0, le=1, description="the same for lines of a single letter or digit")


class PaddleOcr(Extractor):
    """Column ``lines``: every line of text of every frame; column ``text``: the texts of the frames, each once."""

    name = "paddleocr"
    Settings = OcrSettings
    inputs = (FRAMES,)
    columns = {"lines": pa.list_(LINE), "text": pa.string()}
    detections = "lines"
    package = "rapidocr"
    settings: OcrSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        # PaddleOCR reads the models while the object is made, from folders that are not needed after.
        with tempfile.TemporaryDirectory(prefix="vemoclap-ocr-") as scratch:
            self._ocr = self._reader(Path(scratch))

    def _reader(self, scratch: Path) -> Any:
        """The PaddleOCR object; ``scratch`` is a folder that exists until it is made."""
        models = bundled_detector(scratch), bundled_recogniser(scratch)
        return paddle_reader(*models, ONNX, "cpu", self.resources.threads)

    @classmethod
    def weights(cls, settings: Any) -> str:
        """The version of the package that carries the models, and their names."""
        return f"{super().weights(settings)} {DETECTOR} {RECOGNISER}"

    def _extract(self, clips: Sequence[Clip]) -> list[Result]:
        return [ocr_result(clip, frames) for clip, frames in zip(clips, self._lines(clips), strict=True)]

    def _lines(self, clips: Sequence[Clip]) -> list[list[list[dict[str, Any]]]]:
        """The lines of each frame of each clip; of frames that look the same, only the first is read."""
        originals = [_originals(clip.frames) for clip in clips]
        pages = self._read(
            [clip.frames[at] for clip, sources in zip(clips, originals, strict=True) for at in sorted(set(sources))]
        )
        lines = []
        for sources in originals:
            read = {at: next(pages) for at in sorted(set(sources))}
            lines.append([read[at] for at in sources])
        return lines

    def _read(self, frames: Sequence[np.ndarray]) -> Iterator[list[dict[str, Any]]]:
        """The lines of each frame uint8 [h, w, 3], in reading order."""
        # PaddleOCR takes BGR.
        for page in self._ocr.predict_iter([np.ascontiguousarray(frame[:, :, ::-1]) for frame in frames]):
            yield [
                {"text": text.strip(), "score": float(score), "polygon": np.asarray(polygon, np.float32).tolist()}
                for text, score, polygon in zip(page["rec_texts"], page["rec_scores"], page["rec_polys"], strict=True)
                if self._is_trusted(text, score)
            ]

    def _is_trusted(self, text: str, score: float) -> bool:
        """Whether a line is kept; what is read where there is no text is short and has a low score."""
        letters = sum(character.isalnum() for character in text)
        if letters == 0:
            return False
        return score >= (self.settings.min_score if letters > 1 else self.settings.min_score_short)


def _originals(frames: np.ndarray) -> list[int]:
    """For each frame, the number of the frame that shows the same: itself, or the last one that differed.

    Frames are compared with the one that will be read in their place, so a slow fade is noticed.
    """
    sources: list[int] = []
    for number in range(len(frames)):
        same = number > 0 and _largest_difference(frames[sources[-1]], frames[number]) <= SAME
        sources.append(sources[-1] if same else number)
    return sources


def _largest_difference(first: np.ndarray, second: np.ndarray) -> int:
    """The mean absolute difference of the square in which two frames uint8 [h, w, 3] differ most."""
    import cv2

    difference = cv2.absdiff(first, second).max(2)  # the strongest channel, as red on black is text too
    return int(cv2.blur(difference, (SQUARE, SQUARE)).max())


def ocr_result(clip: Clip, frames: Sequence[Sequence[dict[str, Any]]], **extras: Any) -> Result:
    """The result of a clip from the lines of each of its frames; ``extras`` are further columns, or replace some."""
    lines = [
        {"frame": number, "time_s": float(clip.frame_times[number]), **line}
        for number, of_frame in enumerate(frames)
        for line in of_frame
    ]
    return Result(extras={"lines": lines, "text": ". ".join(unique_texts(frames)), **extras})


def unique_texts(frames: Iterable[Sequence[dict[str, Any]]]) -> dict[str, int]:
    """The different texts of frames (in lower case), each with the first frame that shows it."""
    first: dict[str, int] = {}
    for number, lines in enumerate(frames):
        if lines:
            first.setdefault(" ".join(line["text"] for line in lines).lower(), number)
    return first


def paddle_reader(detector: Path, recogniser: Path, engine: str, device: str, threads: int) -> Any:
    """A PaddleOCR that finds and reads lines of text, and does not turn or flatten the image.

    The models are folders as PaddleOCR publishes them; engine (``onnxruntime`` or ``paddle_static``) and device
    (``cpu``, ``gpu:0``) are called as it calls them.
    """
    os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
    with _only_for_text():
        from paddleocr import PaddleOCR

    logging.getLogger("paddlex").setLevel(logging.WARNING)
    if engine == ONNX:
        # Arenas would keep the memory of the largest frame for good: 90 MiB.
        memory = {"enable_cpu_mem_arena": False, "enable_mem_pattern": False}
        options: dict[str, Any] = {"engine_config": {"intra_op_num_threads": threads, **memory}}
    else:
        # oneDNN, the default, crashes in paddlepaddle 3.3.
        options = {"enable_mkldnn": False, "cpu_threads": threads}
    return PaddleOCR(
        text_detection_model_name=_model_name(detector, engine),
        text_detection_model_dir=str(detector),
        text_recognition_model_name=_model_name(recogniser, engine),
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
    if not any(all((folder / name).is_file() for name in names) for names in _FILES[engine]):
        wanted = " or ".join(" + ".join(names) for names in _FILES[engine])
        raise ValueError(f"{folder}: the engine {engine} needs {wanted} there; choose the other by the setting engine")
    # The list of characters takes PyYAML's own loader a second.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(description.read_text(encoding="utf-8"), loader)["Global"]["model_name"]


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
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # It is opened for its metadata alone.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(_bundled(RECOGNISER)), options, providers=["CPUExecutionProvider"])
    characters = session.get_modelmeta().custom_metadata_map["character"].removesuffix("\n").split("\n")
    # PaddleX makes a list of it. As one string, 18,708 characters are read in a hundredth of the time.
    joined = "".join(characters)
    decoding = {"name": "CTCLabelDecode", "character_dict": joined if len(joined) == len(characters) else characters}
    return _model_folder(parent, RECOGNISER, [{"RecResizeImg": {"image_shape": [3, 48, 320]}}], decoding)


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
