import subprocess
import sys
from importlib.metadata import requires

import numpy as np
import pyarrow as pa
import skimage.data
from packaging.requirements import Requirement

from tests.extractors.conftest import broken_clip, frames_clip, written
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Result
from vemoclap_batch.extractors.paddle_models import _NOT_FOR_TEXT


def test_reads_lines_with_their_place(ocr):
    clip = frames_clip(written(), written("Hello World 2024", "second line"))
    (result,) = ocr.extract([clip])
    first, second = result.extras["lines"]
    assert (first["text"], second["text"]) == ("Hello World 2024", "second line")
    assert (first["frame"], first["time_s"]) == (1, 0.75)
    assert first["score"] > 0.9
    polygon = np.array(first["polygon"])
    assert polygon.shape == (4, 2)
    assert 30 < polygon[:, 0].min() < 45
    assert 55 < polygon[:, 1].min() < 75
    assert result.extras["text"] == "hello world 2024 second line"
    assert result.feature.shape == (0, 0)
    pa.array([result.extras["lines"]], ocr.columns["lines"])


def test_unique_texts_in_order(ocr):
    frames = [written(text) for text in ("Good morning", "Good night", "Good morning", "GOOD NIGHT")]
    (result,) = ocr.extract([frames_clip(*frames)])
    assert [line["frame"] for line in result.extras["lines"]] == [0, 1, 2, 3]
    assert result.extras["text"] == "good morning. good night"


def test_a_scanned_page(ocr):
    page = np.stack([skimage.data.page()] * 3, -1)
    (result,) = ocr.extract([frames_clip(page)])
    assert result.extras["lines"][0]["text"] == "Region-based segmentation"
    assert "the markers are found at the two extreme parts of the" in result.extras["text"]


def test_a_still_image_is_read_once(ocr, monkeypatch):
    noise = np.random.default_rng(0).integers(-3, 4, (5, 360, 640, 3))
    still = written("Nothing moves here").astype(int)
    clip = frames_clip(*np.clip(still + noise, 0, 255).astype(np.uint8))
    read = []
    reader = ocr.reader
    monkeypatch.setattr(ocr, "reader", lambda image, before: read.append(image) or reader(image, before))
    (result,) = ocr.extract([clip])
    assert len(read) == 1
    assert [line["frame"] for line in result.extras["lines"]] == [0, 1, 2, 3, 4]
    assert [line["time_s"] for line in result.extras["lines"]] == list(clip.frame_times)
    assert result.extras["text"] == "nothing moves here"


def test_unsure_readings_are_dropped(ocr):
    assert ocr._is_trusted("Hello", 0.9)
    assert not ocr._is_trusted("Hello", 0.7)
    assert not ocr._is_trusted("F", 0.9)
    assert ocr._is_trusted("嗯", 0.99)
    assert not ocr._is_trusted("……", 0.99)


def test_images_without_text(ocr, astronaut):
    clips = [frames_clip(skimage.data.chelsea()), frames_clip(skimage.data.coffee()), frames_clip(astronaut)]
    cat, coffee, _ = ocr.extract(clips)
    for result in (cat, coffee):
        assert result.extras == {"lines": [], "text": ""}


def test_batching_changes_nothing(ocr):
    clips = [
        frames_clip(written("one"), written("a much longer line of text", "two")),
        frames_clip(),
        frames_clip(written("three", size=(320, 240))),
    ]
    for result, clip in zip(ocr.extract(clips), clips, strict=True):
        (alone,) = ocr.extract([clip])
        assert result.extras == alone.extras


def test_nothing_to_read(ocr):
    assert ocr.extract([]) == []
    (result,) = ocr.extract([frames_clip()])
    assert result.extras == {"lines": [], "text": ""}


def test_a_broken_clip_fails_alone(ocr):
    good, bad, other = ocr.extract(
        [frames_clip(written("all is well")), broken_clip(), frames_clip(written("all is well"))]
    )
    assert isinstance(bad, Failure)
    assert isinstance(good, Result)
    assert good.extras == other.extras
    assert good.extras["text"] == "all is well"


ALONE = """
import sys
from importlib.metadata import version

from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.ocr import PaddleOcr

PaddleOcr(PaddleOcr.Settings(), Resources())
loaded = {"matplotlib", "modelscope", "sklearn", "skimage", "torch", "transformers"} & sys.modules.keys()
assert not loaded, loaded
assert version("matplotlib") and version("scikit-learn")
from transformers import AutoModel
from transformers.utils import is_torch_available, is_torch_greater_or_equal

assert is_torch_available() and is_torch_greater_or_equal("2.6")
AutoModel.from_pretrained
"""


def test_what_is_kept_from_paddlex_is_not_required():
    # paddleocr requires paddlex[ocr-core].
    needs = [Requirement(line) for line in requires("paddlex")]
    required = {need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": "ocr-core"})}
    assert {"pyclipper", "pandas"} <= required
    assert not required & _NOT_FOR_TEXT


def test_a_process_that_reads_text_loads_nothing_else_and_can_still_do_so():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
