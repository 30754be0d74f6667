"""Text in the picture: PaddleOCR on the PP-OCRv6 ONNX models that the rapidocr wheel carries."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from pydantic import Field

from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import FRAMES, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.paddle_reader import ONNX, paddle_reader
from vemoclap_batch.media.clip import Clip

DETECTOR, RECOGNISER = "PP-OCRv6_small_det", "PP-OCRv6_small_rec"
#: Two frames are the same picture when no square of this many pixels a side, wherever it lies, differs by more than
#: this on average (of 255). A full stop in the smallest legible print changes such a square by 12 or more; the noise
#: of encoding leaves a still picture under it.
SQUARE, SAME = 4, 8

LINE = pa.struct(
    [
        ("frame", pa.int32()),
        ("time_s", pa.float64()),
        ("text", pa.string()),
        ("score", pa.float32()),
        ("polygon", pa.list_(pa.list_(pa.float32()))),
    ]
)


class OcrSettings(ExtractorSettings):
    """Settings of :class:`PaddleOcr`."""

    min_score: float = Field(0.8, ge=0, le=1, description="lines read less surely are dropped")
    min_score_short: float = Field(0.95, ge=0, le=1, description="the same for lines of a single letter or digit")


class PaddleOcr(Extractor):
    """Column ``lines``: every line of text of every frame; column ``text``: the texts of the frames, each once."""

    name = "paddleocr"
    Settings = OcrSettings
    inputs = (FRAMES,)
    columns = {"lines": pa.list_(LINE), "text": pa.string()}
    detections = "lines"
    settings: OcrSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        # The models are read while the object is made; the folders that PaddleOCR wants them in are not needed after.
        with tempfile.TemporaryDirectory(prefix="vemoclap-ocr-") as scratch:
            self._ocr = self._reader(Path(scratch))

    def _reader(self, scratch: Path) -> Any:
        """The PaddleOCR object; ``scratch`` is a folder that is there until it is made."""
        return paddle_reader(
            bundled_detector(scratch), bundled_recogniser(scratch), ONNX, "cpu", self.resources.threads
        )

    @classmethod
    def weights(cls, settings: ExtractorSettings) -> str:
        """The version of the package that carries the models."""
        return f"rapidocr {version('rapidocr')} {DETECTOR} {RECOGNISER}"

    def _extract(self, clips: Sequence[Clip]) -> list[Result | Failure]:
        """Read the frames of all clips, but those that look like the frame before only once."""
        originals = [_originals(clip.frames) for clip in clips]
        # PaddleOCR takes BGR.
        pictures = [
            np.ascontiguousarray(clip.frames[number][:, :, ::-1])
            for clip, sources in zip(clips, originals, strict=True)
            for number in sorted(set(sources))
        ]
        pages = iter(self._read(pictures))
        results: list[Result | Failure] = []
        for clip, sources in zip(clips, originals, strict=True):
            read = {number: next(pages) for number in sorted(set(sources))}
            frames = [read[number] for number in sources]
            results.append(_result(clip, frames))
        return results

    def _read(self, pictures: list[np.ndarray]) -> list[list[dict[str, Any]]]:
        """The lines of each picture in reading order."""
        return [
            [
                {"text": text.strip(), "score": float(score), "polygon": np.asarray(polygon, np.float32).tolist()}
                for text, score, polygon in zip(page["rec_texts"], page["rec_scores"], page["rec_polys"], strict=True)
                if self._is_trusted(text, score)
            ]
            for page in (self._ocr.predict_iter(pictures) if pictures else ())
        ]

    def _is_trusted(self, text: str, score: float) -> bool:
        """Whether a line is to be kept; in pictures without text, what is read is short and unsure."""
        letters = sum(character.isalnum() for character in text)
        if letters == 0:
            return False
        return score >= (self.settings.min_score if letters > 1 else self.settings.min_score_short)


def _originals(frames: np.ndarray) -> list[int]:
    """For each frame, the number of the frame that shows the same picture: itself, or the last one that differed.

    Frames are compared with the one that will be read in their place, so a slow fade cannot creep past.
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


def _result(clip: Clip, frames: Sequence[Sequence[dict[str, Any]]]) -> Result:
    """The result of a clip from the lines of each of its frames."""
    lines = [
        {"frame": number, "time_s": float(clip.frame_times[number]), **line}
        for number, found in enumerate(frames)
        for line in found
    ]
    texts = (" ".join(line["text"] for line in found).lower() for found in frames)
    return Result(
        np.zeros((0, 0), np.float32), extras={"lines": lines, "text": ". ".join(_unique(filter(None, texts)))}
    )


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def bundled_detector(parent: Path) -> Path:
    """The bundled model that finds lines, in a new folder."""
    normalise = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "scale": "1./255.", "order": "hwc"}
    steps: list[dict[str, Any]] = [
        {"DetResizeForTest": {"resize_long": 960}},
        {"NormalizeImage": normalise},
        {"ToCHWImage": None},
    ]
    decoding = {
        "name": "DBPostProcess",
        "thresh": 0.3,
        "box_thresh": 0.6,
        "max_candidates": 1000,
        "unclip_ratio": 1.5,
    }
    return _model_folder(parent, DETECTOR, steps, decoding)


def bundled_recogniser(parent: Path) -> Path:
    """The bundled model that reads lines, in a new folder."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(_bundled(RECOGNISER)), providers=["CPUExecutionProvider"])
    characters = session.get_modelmeta().custom_metadata_map["character"].removesuffix("\n").split("\n")
    decoding = {"name": "CTCLabelDecode", "character_dict": characters}
    return _model_folder(parent, RECOGNISER, [{"RecResizeImg": {"image_shape": [3, 48, 320]}}], decoding)


def _model_folder(parent: Path, name: str, steps: list[dict[str, Any]], decoding: dict[str, Any]) -> Path:
    """A folder as PaddleOCR wants it: the model, and what to do before and after it."""
    folder = parent / name
    folder.mkdir()
    (folder / "inference.onnx").symlink_to(_bundled(name))
    read = {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}}
    spec = {
        "Global": {"model_name": name},
        "PreProcess": {"transform_ops": [read, *steps]},
        "PostProcess": decoding,
    }
    (folder / "inference.yml").write_text(yaml.safe_dump(spec, allow_unicode=True), encoding="utf-8")
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
