"""The pools fit the cluster, follow the work, and what cannot fit is said at once."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.pipeline.cluster import Cluster
from vemoclap_batch.pipeline.plan import block_size, make_plan, pools

CONFIG = load_config("lite")
SPECS = resolve(CONFIG)
ALL = dict.fromkeys(SPECS, 100)


def plan(cluster, wanted=ALL, config=CONFIG, videos=50, **more):
    return make_plan(config, resolve(config), wanted, videos, cluster, **more)


@settings(max_examples=50)
@given(cpus=st.integers(1, 256), videos=st.integers(1, 10_000), memory=st.floats(12, 2000))
def test_the_pools_leave_room_whatever_the_cluster(cpus, videos, memory):
    made = plan(Cluster(cpus, 0, memory), videos=videos)
    assert sum(stage.actors * stage.cpus for stage in made.stages) <= cpus * 0.86
    assert sum(stage.actors * stage.memory_gb for stage in made.stages) <= memory
    assert all(1 <= stage.actors <= math.ceil(videos / made.block_videos) and stage.cpus > 0 for stage in made.stages)


def test_the_order_drops_frames_first_then_audio():
    names = [stage.name for stage in plan(Cluster(2, 0, 20)).stages]
    assert names == ["decode", "clip", "face_emotion", "ocr", "beats", "asr", "asr_sentiment+ocr_sentiment"]


def test_extractors_with_one_model_share_a_pool():
    assert [[spec.name for spec in group] for group in pools(SPECS)][-1] == ["asr_sentiment", "ocr_sentiment"]


def test_the_heaviest_stage_gets_the_most_actors():
    stages = {stage.name: stage.actors for stage in plan(Cluster(64, 0, 500), videos=1000).stages}
    assert max(stages, key=stages.get) == "asr"


def test_only_what_is_wanted_is_planned():
    made = plan(Cluster(2, 0, 20), wanted={"asr_sentiment": 5})
    assert [stage.name for stage in made.stages] == ["asr_sentiment"]


def test_measured_costs_go_before_the_profiles():
    slow = plan(Cluster(2, 0, 20), measured={"ocr": 100.0})
    assert next(stage.seconds for stage in slow.stages if stage.name == "ocr") == 100 * 100.0


def test_what_does_not_fit_is_named_all_at_once():
    wide = ["extractors.asr.pool.gpus=2", "extractors.clip.pool.memory_gb=500", "extractors.ocr.pool.threads=9"]
    config = load_config("lite", ["accelerator=gpu", *wide])
    with pytest.raises(ConfigError) as caught:
        plan(Cluster(2, 1, 20), config=config)
    text = "\n".join(caught.value.mistakes)
    assert "want 2 GPUs (asr 2); the cluster has 1" in text
    assert "GiB of memory" in text
    assert "clip 500" in text
    assert "ocr wants 9 threads" in text


def test_few_videos_are_spread_over_blocks():
    fours = load_config("lite", ["pipeline.block_videos=4"])
    assert block_size(8, fours, 2) == 1
    assert block_size(17, fours, 2) == 2
    assert block_size(10_000, fours, 2) == 4


def test_only_for_a_gpu_videos_are_batched_unless_told():
    assert block_size(10_000, load_config("lite", ["accelerator=cpu"]), 2) == 1
    assert block_size(10_000, load_config("lite", ["accelerator=gpu"]), 2) == 4
