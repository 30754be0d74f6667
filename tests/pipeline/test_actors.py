"""What an actor does beside its model's work."""

import sys

import numpy as np
import psutil
import pyarrow as pa
import pytest

from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.pipeline.actors import ExtractStage
from vemoclap_batch.pipeline.quarantine import open_ledger


@pytest.mark.usefixtures("cluster")
@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux can be asked to")
def test_memory_that_is_free_goes_back_to_the_system_after_a_block(frames_profile):
    specs = list(resolve(load_config(str(frames_profile))).values())
    nothing_to_do = pa.table({
        "video_id": ["v"], "content_key": ["1"], "uri": ["v"], "wanted": pa.array([[]], pa.list_(pa.string())),
    })  # fmt: skip

    def megabytes():
        return psutil.Process().memory_info().rss / 2**20

    with open_ledger() as ledger:
        stage = ExtractStage(specs, Resources(), ledger, timeout_s=60)
        before = megabytes()
        # Too small to be mapped one by one, and the last one keeps the others' place from being given back.
        pieces = [np.ones(60_000, np.uint8) for _ in range(4000)]
        del pieces[:-1]
        assert megabytes() > before + 150
        list(stage(nothing_to_do))
        assert megabytes() < before + 80
