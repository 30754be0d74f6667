"""Blocks become shards: those that come in quick succession share one, and none is left out whatever ends the run."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tiny import FRAMES_PROFILE
from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.base import Result
from vemoclap_batch.extractors.catalog import resolve
from vemoclap_batch.failure import RunBroken
from vemoclap_batch.pipeline import commit
from vemoclap_batch.pipeline.commit import Committer
from vemoclap_batch.pipeline.missing import features_table, find_work
from vemoclap_batch.pipeline.rows import with_results
from vemoclap_batch.store.store import Store

VIDEOS = pa.table({"video_id": [f"v{at}" for at in range(12)], "content_key": ["1"] * 12, "uri": ["x"] * 12})


@pytest.fixture
def spec(tmp_path):
    profile = tmp_path / "tiny.yaml"
    profile.write_text(FRAMES_PROFILE)
    return resolve(load_config(str(profile)))["clip"]


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "out"))


@pytest.fixture
def committer(store, spec):
    return make(store, spec)


def make(store, spec, **more):
    specs = {"clip": spec}
    return Committer(store, specs, find_work(store, VIDEOS, specs, 3), "r1", **more)


def block(spec, at, count=1, items=1):
    rows = VIDEOS.slice(at, count)
    result = Result(np.ones((items, 3), np.float32), np.zeros(items), np.zeros(items), {"brightness": 0.5})
    return with_results(rows, spec, [result] * count, 0.0, 0.0)


def shards(store, spec):
    """How many videos each shard has, in any order."""
    return sorted(pq.read_metadata(path).num_rows for path in features_table(store, spec).shards())


def test_the_first_block_is_committed_at_once_and_quick_ones_after_it_share_a_shard(store, spec):
    told = []
    with make(store, spec, tell=lambda *numbers: told.append(numbers)) as committer:
        for at in range(11):
            committer.add(block(spec, at))
        assert shards(store, spec) == [1, 4, 4]
    assert shards(store, spec) == [1, 2, 4, 4]
    assert told == [(1, 0), (5, 0), (9, 0), (11, 0)]


def test_slow_blocks_wait_for_nothing(committer, store, spec, monkeypatch):
    monkeypatch.setattr(commit, "_SHARD_EVERY_S", 0.0)
    for at in range(3):
        committer.add(block(spec, at))
        assert shards(store, spec) == [1] * (at + 1)


def test_neither_large_blocks_nor_large_rows_wait(committer, store, spec):
    committer.add(block(spec, 0))
    committer.add(block(spec, 1, count=4))
    assert shards(store, spec) == [1, 4]
    committer.add(block(spec, 5, items=2_000_000))
    assert shards(store, spec) == [1, 1, 4]


def test_blocks_of_another_kind_do_not_mix(committer, store, spec):
    committer.add(block(spec, 0))
    committer.add(block(spec, 1))
    committer.add(block(spec, 2).append_column("more", pa.array([1])))
    assert shards(store, spec) == [1, 1]
    committer.flush()
    assert shards(store, spec) == [1, 1, 1]


def break_off(committer, blocks):
    with committer:
        for one in blocks:
            committer.add(one)
        raise RunBroken("a model does not load")


def test_what_waits_is_committed_when_the_run_breaks_off(committer, store, spec):
    with pytest.raises(RunBroken, match="a model"):
        break_off(committer, [block(spec, 0), block(spec, 1)])
    assert shards(store, spec) == [1, 1]


def test_a_video_that_comes_twice_is_committed_once(committer, store, spec):
    with committer:
        for at in (0, 1, 1, 0):
            committer.add(block(spec, at))
    assert sorted(features_table(store, spec).read()["video_id"].to_pylist()) == ["v0", "v1"]
