"""Clusters of several nodes, simulated on this machine: GPUs of several nodes, nodes that join and nodes that leave."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.clips import make_clip
from tests.pipeline.test_run import read, stems
from tests.tiny import NODES_PROFILE
from tests.waiting import wait_for

COUNT = 24


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for at in range(COUNT):
        make_clip(folder / f"clip{at:02}.mp4", seconds=1)
    return folder


@pytest.fixture
def nodes():
    """A cluster whose head has neither CPUs nor GPUs, as one that an autoscaler has still to fill."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "nodes.yaml"
    path.write_text(NODES_PROFILE.replace("CALLS", str(tmp_path / "calls.txt")))
    (tmp_path / "calls.txt").touch()
    return path


@contextlib.contextmanager
def extracting(clips, out, profile, address, *settings):
    """A run as a process of its own, whose driver is on the head."""
    overrides = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "vemoclap_batch", "extract", clips, "-o", out, "--profile", profile]
    process = subprocess.Popen(
        [*map(str, command), "--address", address, *overrides],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def actors(profile):
    """What the extractors noted: (what, video or nothing, node, GPU, process)."""
    lines = (profile.parent / "calls.txt").read_text().splitlines()
    return [words for line in lines if len(words := tuple(line.split(" "))) == 5]


def finished(process):
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return stderr


def check_all_there(out):
    for table in ("videos", "features/clip", "features/asr", "features/asr_sentiment"):
        assert stems(out, table) == [f"clip{at:02}" for at in range(COUNT)], table
    assert read(out, "errors") is None


def test_every_gpu_of_every_node_is_used_and_each_actor_keeps_the_one_that_ray_gave_it(
    clips, nodes, profile, tmp_path
):  # fmt: skip
    nodes.add_node(num_cpus=2, num_gpus=2)
    nodes.add_node(num_cpus=1, num_gpus=1)
    nodes.wait_for_nodes()
    settings = ["pipeline.chains_per_gpu=2", "extractors.asr.delay_s=0.3"]
    with extracting(clips, tmp_path / "out", profile, nodes.address, *settings) as process:
        stderr = finished(process)
    check_all_there(tmp_path / "out")
    assert "6 × gpu chain (asr)" in stderr
    loaded = {(node, gpu, pid) for what, _, node, gpu, pid in actors(profile) if what == "load-asr"}
    assert len(loaded) == 6
    assert sorted(len({gpu for n, gpu, _ in loaded if n == node}) for node in {node for node, *_ in loaded}) == [1, 2]
    # After the work as when it was loaded, whatever other libraries of the chain do.
    for what, _, node, gpu, pid in actors(profile):
        if what == "asr":
            assert (node, gpu, pid) in loaded
        elif what == "clip":
            assert gpu == ""


def test_a_run_begins_on_an_empty_cluster_and_uses_what_joins_and_survives_what_leaves(
    clips, nodes, profile, tmp_path
):  # fmt: skip
    settings = ["pipeline.cpu_chains=4", "accelerator=cpu", "extractors.clip.delay_s=1", "pipeline.block_videos=1"]
    with extracting(clips, tmp_path / "out", profile, nodes.address, *settings) as process:
        wait_for(lambda: "videos to do" in process.stderr.readline())
        first = nodes.add_node(num_cpus=1)
        where = lambda: {node for what, _, node, _, _ in actors(profile) if what == "clip"}  # noqa: E731
        wait_for(lambda: len(where()) == 1)
        second = nodes.add_node(num_cpus=2)
        wait_for(lambda: len(where()) == 2)
        before = [video for what, video, *_ in actors(profile) if what == "clip"]
        nodes.remove_node(first, allow_graceful=False)
        finished(process)
    assert second.unique_id
    check_all_there(tmp_path / "out")
    # Done twice: no more than what the lost node held.
    again = [video for what, video, *_ in actors(profile) if what == "clip"]
    assert len(before) < COUNT
    assert len(again) <= COUNT + 3
    assert Path(tmp_path / "out").exists()
