"""The chains of a plan have a place each, follow the work, and what cannot be placed is said at once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.pipeline.cluster import Cluster, Node
from vemoclap_batch.pipeline.plan import make_plan
from vemoclap_batch.pipeline.stages import Plan, StagePlan, chains

CONFIG = load_config("lite")
SPECS = resolve(CONFIG)
ALL = dict.fromkeys(SPECS, 100)


def plan(cluster, wanted=ALL, config=CONFIG, videos=100, **more):
    return make_plan(config, resolve(config), wanted, videos, cluster, **more)


def names(found):
    return [(chain.name, chain.extractors) for chain in found]


def test_without_gpus_there_is_one_chain_of_all():
    media = ("decode", "clip", "face_emotion", "ocr", "beats", "asr")
    assert names(chains(SPECS, ALL)) == [("cpu chain", (*media, "asr_sentiment", "ocr_sentiment"))]


def test_only_what_is_wanted_is_in_a_chain_and_texts_need_no_decoding():
    assert names(chains(SPECS, {"asr_sentiment": 5, "asr": 0})) == [("cpu chain", ("asr_sentiment",))]
    assert chains(SPECS, {}) == []


def test_what_reads_from_a_gpu_comes_after_it():
    config = load_config("lite", ["accelerator=gpu", *(f"extractors.{x}.resources.gpu=true" for x in ("asr", "clip"))])
    assert names(chains(resolve(config), ALL)) == [
        ("cpu chain", ("decode", "face_emotion", "ocr", "beats", "ocr_sentiment")),
        ("gpu chain", ("clip", "asr")),
        ("text chain", ("asr_sentiment",)),
    ]
    # Texts that are in the store already do not wait for a GPU.
    [(_, first), (_, second)] = names(chains(resolve(config), ALL | {"asr": 0}))
    assert (first[-2:], second) == (("asr_sentiment", "ocr_sentiment"), ("clip",))


@settings(max_examples=200)
@given(videos=st.integers(0, 5000), chains=st.integers(1, 300), most=st.integers(1, 64))
def test_blocks_are_single_at_first_and_small_at_the_end(videos, chains, most):
    stage = StagePlan("cpu chain", ("decode",), chains, chains, 1.0, 0.0, 1, 1.0, 0.0, 1.0)
    sizes = Plan((stage,), Cluster(()), most).block_sizes(videos)
    assert sum(sizes) == videos
    assert all(1 <= size <= most for size in sizes)
    assert set(sizes[:chains]) <= {1}
    left = videos
    for before, size in zip([1, *sizes], sizes, strict=False):
        assert size <= max(1, -(-left // (2 * chains)))
        assert size <= 2 * before
        left -= size


@pytest.mark.parametrize(("node", "videos", "expected"), [
    (Node(2, 0, 20), 100, (2, 1)),
    (Node(16, 0, 100), 3, (3, 5)),  # fewer videos than cores
    (Node(16, 0, 100), 1, (1, 8)),
])  # fmt: skip
def test_every_core_has_work(node, videos, expected):
    [stage] = plan(Cluster((node,)), dict.fromkeys(SPECS, videos), videos=videos).stages
    assert (stage.actors, stage.threads) == expected
    assert stage.asked == stage.actors
