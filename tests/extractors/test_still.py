"""What stays the same is not read again; what differs by a full stop is."""

import numpy as np
import pytest
import skimage.data

from tests.extractors.conftest import frames_clip, written
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.ocr import PaddleOcr
from vemoclap_batch.extractors.still import is_there, originals, shows_same
from vemoclap_batch.extractors.text_lines import Recogniser


@pytest.mark.parametrize("texts", [("room 101", "room 107"), ("I can", "I can."), ("won", "wom"), ("cat", "cot")])
@pytest.mark.parametrize("font", [10, 14])
def test_small_text_that_changes_is_another_image(texts, font):
    frames = np.stack([written(text, font=font) for text in texts])
    assert originals(frames) == [0, 1]


def test_a_slow_fade_does_not_creep_past():
    frames = np.stack([np.full((64, 64, 3), 2 * step, np.uint8) for step in range(8)])
    assert originals(frames) == [0, 0, 0, 0, 0, 5, 5, 5]


@pytest.mark.parametrize("row", [0, 3, 45, 200, 359])
def test_a_spot_in_any_row_is_seen(row):
    first = np.full((360, 640, 3), 100, np.uint8)
    second = first.copy()
    second[row, 300:304] = 255
    assert not shows_same(first, second)
    second[row, 300:304] = 105
    assert shows_same(first, second)


def test_what_moved_is_found_where_it_is():
    picture = skimage.data.coffee()
    piece = picture[100:140, 200:300]
    assert is_there(piece, picture, (202, 98, 302, 138))
    assert not is_there(piece, picture, (210, 100, 310, 140))
    assert not is_there(picture[:40, :100], picture, (-20, -20, 10, 10))
    changed = piece.copy()
    changed[20:24, 50:54] = 255 - changed[20:24, 50:54]
    assert not is_there(changed, picture, (200, 100, 300, 140))


def counted(ocr, monkeypatch):
    """The images that the recogniser is given."""
    seen, read = [], Recogniser.__call__
    monkeypatch.setattr(Recogniser, "__call__", lambda self, image: seen.append(image) or read(self, image))
    return seen


def moving(*lines, at, size=24):
    """Lines over a picture whose lower half moves."""
    frame = written(*lines, font=size).copy()
    frame[200:] = skimage.data.coffee()[10 * at : 10 * at + 160, :600][:, np.arange(640) % 600]
    return frame


def test_a_line_that_stays_while_something_else_moves_is_read_once(ocr, monkeypatch):
    seen = counted(ocr, monkeypatch)
    frames = [moving("Nothing moves here", at=at) for at in range(4)]
    (result,) = ocr.extract([frames_clip(*frames)])
    assert [line["text"] for line in result.extras["lines"] if line["frame"] == 3] == ["Nothing moves here"]
    assert result.extras["text"] == "nothing moves here"
    assert sum(1 for image in seen if image.shape[1] > 100) == 1


@pytest.mark.parametrize("texts", [("See you at 10", "See you at 16"), ("It is so", "It is so."), ("Go", "Go!")])
def test_a_line_that_changes_a_little_is_read_again(ocr, texts):
    frames = [moving(text, at=at, size=16) for at, text in enumerate(texts)]
    (result,) = ocr.extract([frames_clip(*frames)])
    (alone,) = ocr.extract([frames_clip(frames[1])])
    assert [line["text"] for line in result.extras["lines"] if line["frame"] == 1] == [
        line["text"] for line in alone.extras["lines"]
    ]


def test_lines_that_scroll_are_read_once(ocr, monkeypatch):
    seen = counted(ocr, monkeypatch)
    page = written("Directed by", "Anna Lindqvist", "Written by", font=24, size=(640, 500))
    (result,) = ocr.extract([frames_clip(*[page[offset : offset + 360] for offset in (0, 20, 40)])])
    assert result.extras["text"] == "directed by anna lindqvist written by"
    assert [line["frame"] for line in result.extras["lines"]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    tops = [min(y for _, y in line["polygon"]) for line in result.extras["lines"]]
    assert 15 < tops[0] - tops[3] < 25
    assert len(seen) == 3


def test_lines_of_another_clip_are_not_taken_over(ocr):
    still = frames_clip(written("the same line"))
    first, second = ocr.extract([still, still])
    assert first.extras == second.extras


def test_without_keeping_every_line_is_read(monkeypatch):
    ocr = PaddleOcr(PaddleOcr.Settings(keep_lines=False), Resources())
    seen = counted(ocr, monkeypatch)
    ocr.extract([frames_clip(moving("Nothing moves here", at=0), moving("Nothing moves here", at=1))])
    assert sum(1 for image in seen if image.shape[1] > 100) == 2
