"""Our graph on simulated nodes, with extractors that sleep; how well it did is not asked: the machine may be busy."""

import json
import os
import subprocess
import sys

import pytest

from bench import scale
from bench.scale import Task, Went
from bench.sleeping import SleepingDecoder, sent_bytes, sleeping_config
from tests.conftest import ROOT
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.pipeline.rows import to_int16

ONE, TWO = ("node", 1), ("node", 2)


def went(*tasks):
    return Went([Task(*task) for task in tasks], full=10, wall_s=0, driver_cpu_s=0, actors=0)


def test_fill_and_drain_do_not_count():
    found = went(
        (ONE, 0, 1, 1), (ONE, 1, 11, 10), (ONE, 11, 21, 10), (ONE, 21, 22, 1),
        (TWO, 4, 6, 2), (TWO, 6, 16, 10), (TWO, 18, 28, 10),
    )  # fmt: skip
    # The second chain began its first full block at 6, the first one ended its last at 21.
    assert found.steady() == (6, 21)
    assert found.videos_per_s() == pytest.approx((5 + 10 + 10 + 3) / 15)
    assert found.busy() == pytest.approx((15 + 13) / 30)


def test_a_chain_without_a_full_block_leaves_nothing_to_say():
    with pytest.raises(RuntimeError, match="some chain had no full block"):
        went((ONE, 0, 10, 10), (TWO, 0, 1, 1)).steady()


def test_chains_that_share_a_gpu_take_turns():
    def seconds(chains):
        return sum(entry.settings["seconds"] for entry in sleeping_config(chains).extractors.values())

    assert seconds(1) <= seconds(2) < seconds(4) < 4 * seconds(1)
    assert sleeping_config(1, slower=2).decode.cost.per_video_s == 2 * sleeping_config(1).decode.cost.per_video_s


def test_the_plan_knows_the_size_of_what_travels():
    config = sleeping_config(1)
    decoder = SleepingDecoder(Sampling(**config.sampling.model_dump()), Limits(), slower=0)
    [(clip, _)] = decoder.chunks("id", "uri")
    assert clip.frames.nbytes + to_int16(clip.waveform).nbytes == sent_bytes(config.sampling)


def test_clusters_are_measured_and_a_node_joins():
    # A process of its own: it ends the Ray that it is connected to, which would be the tests'.
    command = [sys.executable, scale.__file__, "--gpus", "1", "2", "--slower", "0.05", "--block-videos", "4", "--json"]
    # By its path, as a user does: nothing but the script itself says where its package lies.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["efficiency"].keys() == {"1", "2"}
    assert found["efficiency"]["1"] == 1
    assert found["efficiency"]["2"] > 0
    assert found["driver_cpu_s_per_block"] > 0
    assert found["joined_node_used_s"] > 0
    assert [row["gpus"] for row in found["rows"]] == [1, 2]
