"""The clips with text that a benchmark makes, and how it counts lines that are still read."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from bench.text_clips import FRAMES, _Maker, _through_h264
from bench.text_reading import _by_frame, _kept

FONT = Path(matplotlib.__file__).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"


@pytest.mark.parametrize("kind", ["subtitles", "signs", "credits", "ticker", "pages", "nothing"])
def test_a_clip_of_every_kind(kind):
    frames, lines = zip(*getattr(_Maker([FONT] * 3, seed=3), kind)(), strict=True)
    assert np.stack(frames).shape == (FRAMES, 240, 320, 3)
    assert any(lines) == (kind != "nothing")
    assert len({frame.tobytes() for frame in frames}) == FRAMES


def test_frames_come_back_through_h264(tmp_path):
    frames, _ = zip(*_Maker([FONT] * 3, seed=3).signs(), strict=True)
    clip = _through_h264(frames, tmp_path / "clip.mp4")
    assert np.abs(clip.frames.astype(int) - np.stack(frames)).mean() < 6
    assert not list(tmp_path.iterdir())


def test_lines_are_kept_in_their_frame():
    lines = [{"frame": 0, "text": "a", "note": None}, {"frame": 2, "text": None, "note": "unknown script"}]
    assert _by_frame(lines, 3) == [["a"], [], ["(unknown script)"]]
    assert _kept([["a", "a"], ["b"], []], [["a"], [], ["b", "c"]]).tolist() == [3, 1, 3]
