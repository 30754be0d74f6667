"""The plan command: clusters that are not there, models that are not here, and what feeds what in words."""

import json
import re

import pytest

from vemoclap_batch.cli.app import main
from vemoclap_batch.cli.plan import read_cluster
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.pipeline.cluster import Cluster, Node

EIGHT = "cpus=512,gpus=64,memory_gb=4096,gpu_memory_gb=80,nodes=8"


@pytest.fixture
def planned(tmp_path, capsys):
    """Runs the command for a source that is there; returns the exit status, the lines and what --json says."""
    (tmp_path / "clip.mp4").write_bytes(b"x")

    def run(*options):
        with pytest.raises(SystemExit) as ended:
            main(["plan", str(tmp_path / "clip.mp4"), "--json", *options])
        said = capsys.readouterr()
        lines = said.out.splitlines()
        return ended.value.code, said.err.splitlines() or lines[:-1], json.loads(lines[-1]) if lines else None

    return run


def test_all_gpus_of_a_cluster_are_held_and_what_keeps_them_waiting_is_said(planned):
    many = ["--cluster", EIGHT, "--videos", "100000", "--price-gpu-hour", "2.5"]
    code, lines, found = planned("--profile", "paper", *many)
    plan = found["plan"]
    assert code == 0
    assert found["videos_to_do"] == 100_000
    assert plan["gpus_held"] == 64
    assert 0 < plan["gpus_used"] <= 64
    assert plan["cluster"]["cpus"] == 512
    assert {stage["name"]: stage["actors"] * stage["gpus"] for stage in plan["stages"]}["gpu chain"] == 64
    assert plan["expected_gpu_hours"] == pytest.approx(64 * plan["expected_seconds"] / 3600)
    assert found["expected_cost"] == pytest.approx(2.5 * plan["expected_gpu_hours"], abs=0.01)
    text = "\n".join(lines)
    assert re.search(
        r"^8 nodes, each with 64 CPUs, 8 GPUs of 80 GiB, 358 GiB for actors: 256 × gpu chain, ", text, re.M
    )
    assert re.search(r"^256 × gpu chain, 4 a GPU, each with [\d.]+ of 80 GiB of its memory: clip, ", text, re.M)
    [fed] = [line for line in lines if line.startswith("512 cores feed ")]
    assert fed == plan["feeds"]
    assert re.fullmatch(
        r"512 cores feed [\d.]+ GPUs of 64: ocr is the bottleneck; \d+ more cores a GPU would keep all busy", fed
    )
    assert any(line.startswith(f"{plan['expected_gpu_hours']:.2f} GPU-hours at 2.5 cost ") for line in lines)
    assert "assumed: what OUT has of extractors whose weights are not on this machine counts as missing" in lines


def test_so_many_more_cores_do_keep_all_gpus_busy(planned):
    def fed(cores):
        cluster = f"cpus={8 * cores},gpus=8,memory_gb=40000,gpu_memory_gb=80"
        return planned("--profile", "paper", "--videos", "100000", "--cluster", cluster)[2]["plan"]

    before = fed(8)
    more = int(re.search(r"(\d+) more cores", before["feeds"])[1])
    assert before["bottleneck"] == "cpu chain"
    assert before["gpus_fed"] < 8
    after = fed(8 + more + 1)
    assert after["bottleneck"] == "gpu chain"
    assert after["gpus_fed"] >= 8
    assert after["feeds"].endswith("GPUs and there are 8: asr on the GPUs is the bottleneck")
    assert after["gpus_used"] == pytest.approx(8)


def test_without_gpus_the_costliest_extractor_is_named(planned):
    code, lines, found = planned("--cluster", "cpus=4", "--cluster", "cpus=16,nodes=2", "--videos", "1000")
    assert (code, found["plan"]["gpus_held"], found["plan"]["gpus_fed"]) == (0, 0, None)
    assert re.fullmatch(r"the bottleneck is asr: \d\d% of the CPUs' time", found["plan"]["feeds"])
    assert [stage["actors"] for stage in found["plan"]["stages"]] == [20]
    assert "assumed: a node has 4 GiB of memory a CPU, where memory_gb does not say" in lines


def test_a_plan_of_this_machine_says_what_its_figures_are_from(planned):
    code, lines, found = planned("--set", "accelerator=cpu")
    assert code == 0
    assert (found["videos"], found["videos_to_do"], found["costs_from"]) == (1, 1, "the profile's figures")
    assert found["cells"]["clip"] == {"done": 0, "missing": 1, "given_up": 0}
    [stage] = found["plan"]["stages"]
    assert stage["actors"] == 1
    assert any(line.startswith("1 of 1 videos to do: about ") for line in lines)


def test_a_cluster_is_read_node_kind_by_node_kind():
    assert read_cluster([EIGHT, "cpus=96, memory_gb=100 ,nodes=3,gpus=3,gpu_type=L4"]) == Cluster(
        (Node(64, 8, 512 * 0.7, 80, 8), Node(32, 1, 100 / 3 * 0.7, None, 3, "L4"))
    )


def test_every_mistake_of_a_cluster_is_named(planned):
    options = [
        "cpus=0,gpu=3,memory_gb=x,cpus=2",
        "gpus=1.5,nodes=2",
        "cpus=9,gpus=3,nodes=2",
        "cpus=2,gpu_memory_gb=80",
    ]
    code, mistakes, _ = planned(*(word for option in options for word in ("--cluster", option)))
    assert code == 2
    assert [mistake.removeprefix("error: --cluster ") for mistake in mistakes] == [
        "'cpus=0,gpu=3,memory_gb=x,cpus=2': cpus=0: expected a whole number, at least 1",
        "'cpus=0,gpu=3,memory_gb=x,cpus=2': 'gpu=3' is none of cpus=, gpus=, memory_gb=, gpu_memory_gb=, nodes=, "
        "gpu_type=",
        "'cpus=0,gpu=3,memory_gb=x,cpus=2': memory_gb=x: expected a number of GiB, at least 0.1",
        "'cpus=0,gpu=3,memory_gb=x,cpus=2': cpus is given twice",
        "'gpus=1.5,nodes=2': gpus=1.5: expected a whole number, at least 0",
        "'gpus=1.5,nodes=2': cpus is missing, such as cpus=64",
        "'cpus=9,gpus=3,nodes=2': cpus=9 cannot be divided among 2 equal nodes; give --cluster for each kind",
        "'cpus=9,gpus=3,nodes=2': gpus=3 cannot be divided among 2 equal nodes; give --cluster for each kind",
        "'cpus=2,gpu_memory_gb=80': gpu_memory_gb and gpu_type are of gpus, of which there are none",
    ]
    with pytest.raises(ConfigError, match="is none of"):
        read_cluster([""])


@pytest.mark.parametrize("option", [["--videos", "0"], ["--price-gpu-hour", "-1"]])
def test_numbers_out_of_range_are_refused(planned, option):
    assert planned(*option)[0] == 2
