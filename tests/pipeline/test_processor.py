"""The processor in datasets of others: the example of its page, columns that stay, failures that end nothing."""

import re
from pathlib import Path

import pytest
import ray

from tests.clips import make_clip, speech
from vemoclap_batch import build_processor, load_config

pytestmark = pytest.mark.usefixtures("cluster")

PAGE = Path(__file__).parents[2] / "docs" / "processor.md"


def test_the_example_of_the_page_runs(tmp_path, capsys):
    sound, rate = speech()
    clip = make_clip(tmp_path / "two cities.mp4", seconds=4, audio=sound[: 4 * rate], audio_rate=rate)
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code.count("/videos/two cities.mp4") == 1
    exec(compile(code.replace("/videos/two cities.mp4", str(clip)), str(PAGE), "exec"), {})
    label, text, sizes = capsys.readouterr().out.strip().splitlines()[-3:]
    assert label.startswith("anger 4")
    assert len(text.split()) > 3
    assert text.endswith("None")
    assert sizes == "8 frames, 1280 numbers each"


def test_all_videos_of_one_large_block_come_with_their_columns_and_failures(tmp_path, tiny_profile):
    names = [f"clip{at}" for at in range(6)]
    for name in names:
        make_clip(tmp_path / f"{name}.mp4", seconds=1)
    make_clip(tmp_path / "crash.mp4", seconds=1)
    (tmp_path / "text.mp4").write_text("not a video at all")
    rows = [{"uri": str(tmp_path / f"{name}.mp4"), "number": at} for at, name in enumerate([*names, "crash", "text"])]
    # One block: it is divided for the actors.
    dataset = build_processor(load_config(tiny_profile))(ray.data.from_items(rows, override_num_blocks=1))
    found = {row["number"]: row for row in dataset.take_all()}
    assert sorted(found) == list(range(8))
    for at in range(6):
        row = found[at]
        assert row["video_id"].startswith(f"clip{at}-")
        assert (row["decoded"]["error_type"], row["clip"]["error_type"]) == (None, None)
        assert len(row["clip"]["feature"]) == 10
        assert row["asr"]["text"].startswith("level")
        assert row["asr_sentiment"]["feature"][0][0] == len(row["asr"]["text"])
        assert not {"frames", "waveform"} & row.keys()
    assert found[6]["clip"]["error_type"] == "worker_died"
    assert found[6]["asr"]["error_type"] is None
    assert found[7]["decoded"]["error_type"] == "not_media"
    assert found[7]["clip"] is None


def test_what_is_wanted_of_each_video_may_be_said(tmp_path, tiny_profile):
    make_clip(tmp_path / "a.mp4", seconds=1)
    dataset = ray.data.from_items([{"uri": str(tmp_path / "a.mp4"), "wanted": ["asr"]}])
    [row] = build_processor(load_config(tiny_profile))(dataset).take_all()
    assert row["asr"]["text"].startswith("level")
    assert row["clip"] is row["asr_sentiment"] is None


def test_the_context_of_others_stays_as_it_is(tmp_path, tiny_profile):
    before = ray.data.DataContext.get_current().copy()
    make_clip(tmp_path / "a.mp4", seconds=1)
    build_processor(load_config(tiny_profile))(ray.data.from_items([{"uri": str(tmp_path / "a.mp4")}]))
    after = ray.data.DataContext.get_current()
    assert after.execution_options == before.execution_options
    assert after.target_max_block_size == before.target_max_block_size
    assert after.enable_progress_bars == before.enable_progress_bars
