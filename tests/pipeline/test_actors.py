"""What an actor does beside its model's work."""

import sys

import numpy as np
import psutil
import pyarrow as pa
import pytest

from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.pipeline.actors import ExtractActor, with_media
from vemoclap_batch.pipeline.quarantine import start_quarantine


@pytest.mark.usefixtures("cluster")
@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux can be asked to")
def test_memory_that_is_free_goes_back_to_the_system_after_a_block(frames_profile):
    specs = resolve(load_config(str(frames_profile)))
    nothing_to_do = pa.table({
        "video_id": ["v"], "content_key": ["1"], "uri": ["v"], "wanted": pa.array([[]], pa.list_(pa.string())),
    })  # fmt: skip

    def megabytes():
        return psutil.Process().memory_info().rss / 2**20

    with start_quarantine() as quarantine:
        actor = ExtractActor(list(specs), specs, 1, "cpu", quarantine, timeout_s=60)
        before = megabytes()
        # Too small to be mapped one by one, and the last one keeps the others' place from being given back.
        pieces = [np.ones(60_000, np.uint8) for _ in range(4000)]
        del pieces[:-1]
        assert megabytes() > before + 150
        list(actor(nothing_to_do))
        assert megabytes() < before + 80


SHARED = """
extractors:
  asr: {class: "tests.tiny:TinySound"}
  asr_sentiment: {class: "tests.tiny:TinyText", input: asr, calls: "CALLS"}
  asr_topic: {class: "tests.tiny:TinyText", input: asr, calls: "CALLS"}
"""


@pytest.mark.usefixtures("cluster")
def test_an_actor_runs_its_extractors_in_order_and_loads_a_model_that_two_share_once(tmp_path):
    calls, profile = tmp_path / "calls.txt", tmp_path / "shared.yaml"
    profile.write_text(SHARED.replace("CALLS", str(calls)))
    specs = resolve(load_config(str(profile)))
    row = pa.table({"video_id": ["v"], "content_key": ["1"], "uri": ["v"], "wanted": [list(specs)]})
    clip = Clip("v", np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0), np.full(16_000, 0.5, np.float32), 1.0)
    with start_quarantine() as quarantine:
        actor = ExtractActor(list(specs), specs, 1, "cpu", quarantine, timeout_s=60, drop=["frames", "waveform"])
        [result] = actor(with_media(row, (clip, MediaInfo(1.0, has_audio=True)), 0.0))
    assert result.column_names == [*row.column_names, "decoded", *specs]
    assert result["asr"][0]["text"].as_py() == "level 0.5000"
    # The length of that text, by both of its readers.
    assert [result[name][0]["feature"].as_py() for name in ("asr_sentiment", "asr_topic")] == [[[12.0, 1.0]]] * 2
    assert calls.read_text().splitlines() == ["load text", "text 1", "text 1"]
