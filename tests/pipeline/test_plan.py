"""The chains of a plan have a place each, follow the work, and what cannot be placed is said at once."""

import itertools
import math
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vemoclap_batch.cli.plan import dry_run
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.registry import resolve, resolve_for_plan
from vemoclap_batch.pipeline.cluster import Cluster, Node
from vemoclap_batch.pipeline.plan import make_plan, measured_costs
from vemoclap_batch.pipeline.stages import Plan, StagePlan, chains, object_store_bytes, split_over_gpus
from vemoclap_batch.store.store import Store

CONFIG = load_config("lite", ["accelerator=cpu"])
SPECS = resolve(CONFIG)
ALL = dict.fromkeys(SPECS, 100)
PAPER = load_config("paper", ["accelerator=gpu"])
#: Their weights are not on this machine.
PAPER_SPECS, _ = resolve_for_plan(PAPER)
MEDIA = ("decode", "clip", "face_emotion", "ocr", "beats", "asr")


def plan(cluster, videos=100, wanted=None, **more):
    return make_plan(CONFIG, SPECS, wanted or dict.fromkeys(SPECS, videos), videos, cluster, **more)


def paper(cluster, *changes, videos=100_000, **more):
    config = load_config("paper", ["accelerator=gpu", *changes])
    specs, _ = resolve_for_plan(config)
    return make_plan(config, specs, dict.fromkeys(specs, videos), videos, cluster, **more)


def names(found):
    return [(stage.name, stage.extractors) for stage in found]


# Which extractors run together.


def test_without_gpus_there_is_one_chain_of_all():
    assert names(chains(SPECS, ALL)) == [("cpu chain", (*MEDIA, "asr_sentiment", "ocr_sentiment"))]


def test_only_what_is_wanted_is_in_a_chain_and_texts_need_no_decoding():
    assert names(chains(SPECS, {"asr_sentiment": 5, "asr": 0})) == [("cpu chain", ("asr_sentiment",))]
    assert chains(SPECS, {}) == []
    assert plan(Cluster((Node(2, 0, 20),)), 0, wanted={"asr": 0}).stages == ()


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


def test_decoding_is_on_a_cpu_also_where_all_extractors_are_on_gpus():
    names_ = [*MEDIA[1:], "asr_sentiment", "ocr_sentiment"]
    config = load_config("lite", ["accelerator=gpu", *(f"extractors.{x}.resources.gpu=true" for x in names_)])
    assert names(chains(resolve(config), ALL)) == [("cpu chain", ("decode",)), ("gpu chain", tuple(names_))]


@pytest.mark.parametrize("profile", ["lite", "paper"])
def test_every_extractor_is_in_one_chain_after_what_it_reads(profile):
    specs = SPECS if profile == "lite" else PAPER_SPECS
    for wanted in itertools.product([0, 3], repeat=len(specs)):
        found = [name for chain in chains(specs, dict(zip(specs, wanted, strict=True))) for name in chain.extractors]
        assert sorted(set(found) - {"decode"}) == sorted(name for name, n in zip(specs, wanted, strict=True) if n)
        assert len(found) == len(set(found))
        for name in found:
            reads = specs[name].reads if name != "decode" else ()
            assert all(found.index(source) < found.index(name) for source in reads if source in found)


# Chains on CPUs.


@pytest.mark.parametrize(("node", "videos", "expected"), [
    (Node(2, 0, 20), 100, (2, 1)),
    (Node(2, 0, 3), 100, (1, 2)),  # memory for one chain
    (Node(16, 0, 100), 3, (3, 5)),  # fewer videos than cores
    (Node(16, 0, 100), 1, (1, 8)),
    (Node(16, 0, 100, count=3), 10_000, (48, 1)),
    (Node(0, 0, 100), 1, None),
    (Node(2, 0, 1), 100, None),
])  # fmt: skip
def test_every_core_has_work(node, videos, expected):
    if expected is None:
        with pytest.raises(ConfigError, match="no node has room for a cpu chain"):
            plan(Cluster((node,)), videos)
        return
    [stage] = plan(Cluster((node,)), videos).stages
    assert (stage.actors, stage.threads) == expected
    assert stage.asked == stage.actors


def test_settings_bound_the_chains():
    few = CONFIG.model_copy(update={"pipeline": CONFIG.pipeline.model_copy(update={"cpu_chains": 2})})
    [stage] = make_plan(few, SPECS, ALL, 100, Cluster((Node(8, 0, 100),))).stages
    assert (stage.actors, stage.threads, stage.cpus) == (2, 4, 4.0)
    made = paper(Cluster((Node(16, 2, 200, 80),)), "pipeline.chains_per_gpu=2", "pipeline.block_videos=5")
    assert (made.stages[1].actors, made.stages[1].gpus, made.block_videos) == (4, 0.5, 5)


def test_measured_costs_are_of_the_same_kind_of_device():
    two = Cluster((Node(2, 0, 20),))
    base, slow = (plan(two, measured=measured) for measured in ({}, {"cpu": {"ocr": 100.0}}))
    assert slow.stages[0].costs == base.stages[0].costs | {"ocr": 100 * 100.0}
    assert slow.seconds == pytest.approx(base.seconds + 100 * (100 - 0.46) / 2)
    assert plan(two, measured={"gpu H100 1/4": {"ocr": 100.0}}) == base

    one = Cluster((Node(16, 1, 200, 80, gpu_type="H100"),))
    fourth = {"gpu H100 1/4": dict.fromkeys([n for n, s in PAPER_SPECS.items() if s.resources.gpu], 2.0)}
    # A chain takes 2 s for each of 7 extractors; four of them share the GPU.
    found = paper(one, "pipeline.chains_per_gpu=4", videos=1000, measured=fourth)
    assert found.gpu_seconds == pytest.approx(1000 * 7 * 2.0 / 4)
    assert found.devices()["asr"] == {"device": "gpu H100 1/4", "threads": 1}
    assert found.devices()["ocr"]["device"] == "cpu"
    other = Cluster((Node(16, 1, 200, 80, gpu_type="A100"),))
    assert paper(other, "pipeline.chains_per_gpu=4", videos=1000, measured=fourth).gpu_seconds < 1000


def test_what_runs_measured_is_kept_apart_by_device(tmp_path):
    store = Store(str(tmp_path))
    ocr = SPECS["ocr"].fingerprint
    runs = {
        # As version 0.1 wrote it.
        "1": {"ocr": {"items": 9, "failed": 1, "seconds": 20.0}, "decode": {"items": 1, "failed": 0, "seconds": 3.0}},
        "2": {"ocr": {"items": 10, "failed": 0, "seconds": 12.0, "device": "cpu", "threads": 2}},
        "3": {"ocr": {"items": 10, "failed": 0, "seconds": 5.0, "device": "gpu H100 1/2", "threads": 1}},
        "4": {"ocr": {"items": 1, "failed": 0, "seconds": 99.0, "device": "cpu", "threads": 1}},
    }
    for name, stages in runs.items():
        fingerprint = "another" if name == "4" else ocr
        store.write_json(f"runs/{name}.json", {"stages": stages, "fingerprints": {"ocr": fingerprint}})
    # Twelve seconds with two threads are twenty of one.
    expected = {"cpu": {"ocr": 2.0, "decode": 3.0}, "gpu H100 1/2": {"ocr": 0.5}}
    assert measured_costs(store, {"ocr": ocr}) == {device: pytest.approx(costs) for device, costs in expected.items()}


# Chains on GPUs.


def test_all_gpus_are_held_by_equal_chains():
    made = paper(Cluster((Node(64, 8, 360, 80, count=8),)))
    cpu, gpu = made.stages
    assert (gpu.actors, gpu.gpus, gpu.cpus, gpu.torch_device(PAPER)) == (256, 0.25, 0.0, "cuda")
    assert made.gpus == 64
    assert 0 < made.gpus_used <= 64
    assert cpu.torch_device(PAPER) == "cpu"
    assert made.block_videos >= 16


@pytest.mark.parametrize(("memory_gb", "gpus", "groups", "share"), [
    (80, 4, 1, 0.25), (24, 4, 1, 1.0), (30, 4, 1, 0.5), (36.9, 1, 1, 0.3333), (8, 4, 2, 1.0), (6, 4, 3, 1.0)
])  # fmt: skip
def test_so_many_chains_share_a_gpu_as_its_memory_holds(memory_gb, gpus, groups, share):
    made = paper(Cluster((Node(32, gpus, 400, memory_gb),)))
    on_gpu = [stage for stage in made.stages if stage.gpus]
    assert len(on_gpu) == groups
    assert {stage.gpus for stage in on_gpu} == {share}
    assert made.gpus == pytest.approx(gpus, rel=1e-3)
    for stage in on_gpu:
        assert stage.chains_per_gpu * stage.gpu_memory_gb <= 0.9 * memory_gb


def test_groups_get_gpus_by_their_work():
    made = paper(Cluster((Node(32, 16, 200, 8),)))
    counts = {stage.costliest: stage.actors for stage in made.stages if stage.gpus}
    # asr takes about two thirds of the time.
    assert counts == {"face_emotion": 5, "asr": 11}


def test_the_smallest_gpu_decides_and_one_of_unknown_size_holds_one_chain():
    mixed = Cluster((Node(32, 4, 200, 80), Node(32, 4, 200, 24)))
    assert paper(mixed).stages[1].gpus == 1.0
    unknown = paper(Cluster((Node(32, 4, 200, 80), Node(32, 4, 200))))
    assert unknown.stages[1].gpus == 1.0
    assert any("pipeline.gpu_memory_gb" in note for note in unknown.notes)
    told = paper(Cluster((Node(32, 4, 400),)), "pipeline.gpu_memory_gb=80")
    assert told.stages == paper(Cluster((Node(32, 4, 400, 80),))).stages
    assert told.stages[1].gpus == 0.25


def test_few_videos_have_a_gpu_each():
    made = paper(Cluster((Node(32, 4, 200, 80),)), videos=3)
    assert (made.stages[1].actors, made.stages[1].gpus) == (3, 1.0)


def test_a_cluster_of_too_few_or_too_small_gpus_is_refused_with_what_would_help():
    with pytest.raises(
        ConfigError, match=r"clip, .* run on GPUs, and the cluster has none; with --set accelerator=cpu"
    ):
        paper(Cluster((Node(32, 0, 200),)))
    with pytest.raises(ConfigError, match=r"asr takes 4; extractors.asr.resources.gpu=false runs it on the CPUs"):
        paper(Cluster((Node(32, 4, 200, 4),)))
    with pytest.raises(ConfigError, match=r"take 2 GPUs of 8 GiB, and the cluster has 1; extractors.NAME"):
        paper(Cluster((Node(32, 1, 200, 8),)))
    with pytest.raises(ConfigError, match=r"no node has room for a cpu chain \(decode, ocr\) beside those on GPUs"):
        paper(Cluster((Node(32, 1, 8, 80),)))


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 2.5, 3.0, 4.5]), min_size=7, max_size=7), st.floats(4.6, 20))
def test_models_are_divided_over_the_fewest_gpus(sizes, capacity):
    on_gpu = [name for name, spec in PAPER_SPECS.items() if spec.resources.gpu]
    order = [
        name
        for chain in chains(PAPER_SPECS, dict.fromkeys(PAPER_SPECS, 1))
        if chain.on_gpu
        for name in chain.extractors
    ]
    specs = dict(PAPER_SPECS)
    for name, size in zip(on_gpu, sizes, strict=True):
        specs[name] = replace(specs[name], resources=specs[name].resources.model_copy(update={"gpu_memory_gb": size}))
    shared = max(specs[name].resources.gpu_memory_gb for name in ("asr_sentiment", "ocr_sentiment"))
    of = {name: specs[name].resources.gpu_memory_gb for name in on_gpu if "sentiment" not in name} | {
        "sentiment": shared
    }

    def fits(group_of):
        sums = [sum(of[name] for name, group in group_of.items() if group == number) for number in range(6)]
        reads = {"sentiment": ["asr"], "caption": ["face_emotion"]}
        return max(sums) <= capacity and all(
            group_of[source] <= group_of[name] for name, sources in reads.items() for source in sources
        )

    fewest = next(
        count
        for count in range(1, 7)
        if any(fits(dict(zip(of, groups, strict=True))) for groups in itertools.product(range(count), repeat=len(of)))
    )
    groups = split_over_gpus(order, specs, capacity)
    assert len(groups) == fewest
    assert sorted(name for group in groups for name in group) == sorted(on_gpu)


# Places.

NODES = st.builds(
    Node, st.sampled_from([1, 2, 3, 8, 30]), st.sampled_from([0, 0, 1, 2, 3, 8]), st.sampled_from([4, 16, 60, 200]),
    st.sampled_from([6, 8, 16, 24, 40, 80]), st.integers(1, 2),
)  # fmt: skip


@settings(max_examples=150)
@given(
    st.lists(NODES, min_size=1, max_size=3),
    st.sampled_from([1, 3, 30, 3000]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_every_actor_has_a_place_in_whatever_order_ray_places_them(nodes, videos, texts_on_cpus, rng):
    cluster = Cluster(tuple(nodes))
    changes = [f"extractors.{name}_sentiment.resources.gpu=false" for name in ("asr", "ocr") if texts_on_cpus]
    try:
        made = paper(cluster, *changes, videos=videos)
    except ConfigError:
        return
    free = [[node.cpus, node.gpus, node.memory_gb] for node in nodes for _ in range(node.count)]
    several = sum(bool(stage.gpus) for stage in made.stages)
    actors = [stage for stage in made.stages for _ in range(stage.actors)]
    rng.shuffle(actors)
    for stage in actors:
        takes = (stage.cpus, stage.gpus, stage.memory_gb)
        places = [node for node in free if all(h >= n - 1e-6 for h, n in zip(node, takes, strict=True))]
        assert places, (stage.name, made)
        place = rng.choice(places)
        place[:] = [has - need for has, need in zip(place, takes, strict=True)]
    assert several <= cluster.gpus
    assert all(1 <= stage.actors == stage.asked <= videos for stage in made.stages)
    placed = [count for counts in made.places() for count in counts.values()]
    assert sum(placed) == len(actors)
    assert made.lacks(cluster) is None


# Growth.


def test_more_is_asked_for_where_nodes_may_join():
    nodes = (Node(8, 0, 60),)
    grown, fixed = plan(Cluster(nodes, can_grow=True), 10_000), plan(Cluster(nodes), 10_000)
    assert (fixed.stages[0].actors, fixed.stages[0].asked) == (8, 8)
    # Ten thousand videos of 4.6 s are 46,000 s: 77 chains have ten minutes each.
    assert (grown.stages[0].actors, grown.stages[0].asked) == (8, math.ceil(fixed.stages[0].seconds / 600))
    assert plan(Cluster(nodes, can_grow=True), 100).stages[0].asked == 8
    assert plan(Cluster(nodes, can_grow=True), 10**6).stages[0].asked == 256
    assert grown.seconds == fixed.seconds


@pytest.mark.parametrize("nodes", [(), (Node(0, 0, 8),), (Node(16, 0, 100),), (Node(0, 4, 60, 80),)])
def test_a_run_can_begin_on_a_cluster_that_is_still_empty(nodes):
    made = paper(Cluster(nodes, can_grow=True), videos=1_000_000)
    cpu, gpu = made.stages
    assert cpu.asked == 256
    # So many GPU chains as the others feed: 269 ms of one against 2.7 s of the other.
    assert 1 < gpu.asked < cpu.asked
    assert made.lacks(made.cluster) is not None
    assert sum(made.block_sizes(1000)) == 1000
    assert made.seconds > 0


def test_no_more_than_the_first_gpus_are_asked_for_where_models_take_several():
    made = paper(Cluster((), can_grow=True), "pipeline.gpu_memory_gb=8", videos=1_000_000)
    assert [stage.asked for stage in made.stages[1:]] == [1, 1]
    assert any("divided over several GPUs" in note for note in made.notes)


# Blocks.


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
        assert size <= max(1, math.ceil(left / (2 * chains)))
        assert size <= 2 * before
        left -= size
    if videos > 20 * chains * most:
        assert max(sizes) == most


def test_blocks_go_by_the_chains_of_the_bottleneck():
    cpu = StagePlan("cpu chain", ("decode",), 16, 16, 1.0, 0.0, 1, 1.0, 0.0, 100.0)
    gpu = StagePlan("gpu chain", ("asr",), 4, 4, 0.0, 0.25, 1, 1.0, 1.0, 100.0)
    # Of 320 videos those for sixteen chains would be small to the end.
    sizes = Plan((cpu, gpu), Cluster(()), 16).block_sizes(320)
    assert sizes[:12] == [1] * 4 + [2] * 4 + [4] * 4
    assert sizes.count(16) >= 8
    assert sizes == Plan((gpu,), Cluster(()), 16).block_sizes(320)
    slow = replace(cpu, seconds=1000.0)
    assert Plan((slow, gpu), Cluster(()), 16).block_sizes(320) == Plan((slow,), Cluster(()), 16).block_sizes(320)


def test_a_task_lasts_some_seconds():
    assert plan(Cluster((Node(8, 0, 100),)), 10_000).block_videos == 1  # 4.6 s a video
    quick = {"cpu": dict.fromkeys([*SPECS, "decode"], 0.01)}
    assert plan(Cluster((Node(8, 0, 100),)), 10_000, measured=quick).block_videos == math.ceil(3.5 / 0.08)
    instant = {"cpu": dict.fromkeys([*SPECS, "decode"], 0.0)}
    assert plan(Cluster((Node(8, 0, 100),)), 10_000, measured=instant).block_videos == 64


def test_blocks_of_decoded_videos_fill_half_of_the_object_store_at_most():
    # A video between stages: 16 frames of 360x640, two minutes of sound, 1 MiB.
    video_bytes = 16 * 3 * 360 * 640 + 120 * 16_000 * 2 + 2**20
    assert paper(Cluster((Node(64, 8, 360, 80),))).video_bytes == video_bytes
    assert plan(Cluster((Node(64, 0, 360),))).video_bytes == 2**20
    tight = paper(Cluster((Node(64, 8, 360, 80),)), "sampling.frames=32")
    assert tight.block_videos < 16
    takes = tight.object_store_bytes
    block_bytes = tight.block_videos * (video_bytes + 16 * 3 * 360 * 640)
    assert takes == object_store_bytes([stage.asked for stage in tight.stages], block_bytes)
    store = tight.cluster.object_store_gb * 2**30 / 2
    assert takes <= store < takes * (tight.block_videos + 1) / tight.block_videos


def test_the_object_store_holds_what_ray_charges():
    # Two operators; the second works on two blocks a chain, and as many wait from each chain before it.
    assert object_store_bytes([8, 4], 10) == 2 * (2 * (4 + 8)) * 10
    assert object_store_bytes([8], 10) == 1 * 16 * 10
    assert object_store_bytes([], 10) == 0


# Before a run.


def test_a_dry_run_needs_no_weights(tmp_path):
    videos = pa.table({name: pa.array(["a", "b"]) for name in ("video_id", "content_key", "uri")})
    cluster = Cluster((Node(64, 8, 360, 80),))
    made, found = dry_run(videos, str(tmp_path), load_config("paper"), cluster, 1000)
    assert found["videos_to_do"] == 1000
    assert {cells["missing"] for cells in found["cells"].values()} == {2}
    assert made.gpus == 8
    assert "what OUT has of extractors whose weights are not on this machine counts as missing" in found["notes"]
    without, _ = dry_run(videos, None, load_config("paper"), Cluster((Node(64, 0, 360),)))
    assert [stage.gpus for stage in without.stages] == [0.0]
