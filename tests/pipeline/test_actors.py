"""What an actor does beside its model's work."""

import sys

import numpy as np
import psutil
import pyarrow as pa
import pytest

from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.pipeline.actors import ExtractActor
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
