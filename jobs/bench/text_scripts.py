"""How much of written text is read, by script, size and direction: by PaddleOCR alone, and by the lite profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from bench.report import Report, show
from bench.text_cards import cards
from vemoclap_batch.cli import options as opt
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.ocr import PaddleOcr
from vemoclap_batch.extractors.paddle_models import bundled_detector, bundled_recogniser
from vemoclap_batch.media.clip import Clip

#: A text with a lower share of right characters is mutilated.
RIGHT = 0.9


def measure(folder: Path, few: bool = False) -> Report:
    """Read the cards with PaddleOCR's own pipeline, and with the extractor that is built on its models."""
    ocr = PaddleOcr(PaddleOcr.Settings(), Resources())
    readers: dict[str, Callable[[np.ndarray], str]] = {
        "before": _pipeline(ocr.settings.min_score), "after": lambda image: _read(ocr, image)
    }  # fmt: skip
    found: dict[tuple[str, str], dict[str, list[tuple[str, str]]]] = {}
    for card in cards(folder, few):
        texts = found.setdefault((card.kind, card.size), {name: [] for name in readers})
        for name, read in readers.items():
            texts[name].append((card.text, read(card.image)))
    rows = [_row(kind, size, texts) for (kind, size), texts in found.items()]
    settings = {"cards": sum(row["cards"] for row in rows), "profile": "lite", "fonts": "not trained with"}
    notes = [
        "accuracy: 1 - edit distance / characters, letters and digits alone, in one case",
        f"mutilated: cards with a text of which less than {RIGHT:.0%} is right; left out is none at all",
    ]
    return Report("text in scripts", settings, rows, _figures(rows), notes)


def _row(kind: str, size: str, texts: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    row: dict[str, Any] = {"script": kind, "size": size, "cards": len(texts["after"])}
    for name, pairs in texts.items():
        accuracies = [accuracy(truth, text) for truth, text in pairs]
        wrong = [text and share < RIGHT for (_, text), share in zip(pairs, accuracies, strict=True)]
        row[f"accuracy {name}"] = round(float(np.mean(accuracies)), 3)
        row[f"mutilated {name}"] = sum(map(bool, wrong))
    return row


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of scripts that the recogniser knows and of the others, before and after."""
    figures = {}
    for title, known in (("known", True), ("foreign", False)):
        own = [row for row in rows if (row["script"] in {"latin", "chinese"}) == known and row["size"].endswith("px")]
        count = sum(row["cards"] for row in own)
        for name in ("before", "after"):
            right = sum(row[f"accuracy {name}"] * row["cards"] for row in own) / count
            figures[f"accuracy {title} {name}"] = round(right, 4)
            figures[f"mutilated {title} {name}"] = round(sum(row[f"mutilated {name}"] for row in own) / count, 4)
    return figures


def _pipeline(min_score: float) -> Callable[[np.ndarray], str]:
    """PaddleOCR's own pipeline on the same models; lines with a lower score are dropped, as ever."""
    from paddleocr import PaddleOCR

    with TemporaryDirectory() as scratch:
        detector, recogniser = bundled_detector(Path(scratch)), bundled_recogniser(Path(scratch))
        pipeline = PaddleOCR(
            text_detection_model_name=detector.name, text_detection_model_dir=str(detector),
            text_recognition_model_name=recogniser.name, text_recognition_model_dir=str(recogniser),
            use_doc_orientation_classify=False, use_doc_unwarping=False, use_textline_orientation=False,
            text_recognition_batch_size=1, device="cpu", engine="onnxruntime",
            engine_config={"intra_op_num_threads": 1},
        )  # fmt: skip

    def read(image: np.ndarray) -> str:
        (page,) = pipeline.predict(np.ascontiguousarray(image[:, :, ::-1]))
        pairs = zip(page["rec_texts"], page["rec_scores"], strict=True)
        return " ".join(text for text, score in pairs if score >= min_score)

    return read


def _read(ocr: PaddleOcr, image: np.ndarray) -> str:
    clip = Clip("card", image[None], np.zeros(1), np.zeros(0, np.float32), 1.0)
    (result,) = ocr.extract([clip])
    if not isinstance(result, Result):
        raise RuntimeError(result.message)
    return str(result.extras["text"])


def accuracy(truth: str, text: str) -> float:
    """1 less the edit distance per character of the truth, at least 0; spaces, marks and case do not count."""
    wanted, found = ("".join(filter(str.isalnum, each.lower())) for each in (truth, text))
    row = np.arange(len(found) + 1)
    for number, character in enumerate(wanted, 1):
        change = row[:-1] + np.array([other != character for other in found], int)
        best = np.minimum(change, row[1:] + 1)
        row = np.concatenate([[number], best])
        # An insertion follows from the place before it.
        row = np.minimum.accumulate(row - np.arange(len(row))) + np.arange(len(row))
    return max(0.0, 1 - int(row[-1]) / max(1, len(wanted)))


def command(
    folder: Annotated[Path, typer.Option(help="Where the fonts' Debian packages are unpacked, and found again.")],
    quick: Annotated[bool, typer.Option("--quick", help="One size and font: shows that it works, no more.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Characters read and texts mutilated, by script, size and direction, before and after."""
    show(measure(folder, quick), as_json)
