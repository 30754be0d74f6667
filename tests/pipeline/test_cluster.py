"""A cluster that does not answer is said to be so, in seconds; one of this machine's own that fails to start, too."""

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import psutil
import pytest

from tests.clips import make_clip
from tests.waiting import wait_for
from vemoclap_batch.errors import RunBroken
from vemoclap_batch.gpus import read_gpus
from vemoclap_batch.pipeline import cluster


def test_an_address_where_nobody_answers(monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_S", 0.5)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(RunBroken, match=f"no Ray cluster answers at {address}: .*refused"):
            cluster.wait_for_answer(address)


def test_a_head_node_that_is_still_starting_is_waited_for():
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        late = threading.Timer(0.3, head.listen)
        late.start()
        cluster.wait_for_answer(f"127.0.0.1:{head.getsockname()[1]}")
        late.join()


@pytest.mark.parametrize("address", ["local", "auto", "ray://nobody.invalid:10001"])
def test_what_names_no_host_and_port_is_left_to_ray(address):
    cluster.wait_for_answer(address)


#: Starts Ray and tells which of its servers run.
START = """
import logging, sys
import psutil
from vemoclap_batch.pipeline.cluster import connected

logging.basicConfig(format="%(message)s")
with connected():
    names = [process.name() for process in psutil.Process().children(recursive=True)]
    print(*sorted(name for name in names if name in {"gcs_server", "raylet"}))
"""


def test_a_ray_whose_raylet_dies_while_it_starts_is_started_once_more():
    command = [sys.executable, "-c", START]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def raylet():
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if child.name() == "raylet":
                    return child
        return None

    wait_for(raylet).kill()
    told, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert said.splitlines()[-1].startswith("Ray did not start on this machine: ")
    assert said.rstrip().endswith("; trying once more")
    # What was left of the first is gone.
    assert told == "gcs_server raylet\n"


#: Starts Ray, has an actor answer, and tells which of Ray's programs run.
PROGRAMS = """
import os
from pathlib import Path
import psutil, ray
from vemoclap_batch.pipeline.cluster import connected

@ray.remote
class Actor:
    def parent(self):
        return os.getppid()

with connected():
    [raylet] = [process for process in psutil.Process().children() if process.name() == "raylet"]
    assert ray.get(Actor.remote().parent.remote()) == raylet.pid
    programs = {Path(word).name for child in psutil.Process().children() for word in child.cmdline() if "/ray/" in word}
    print(*sorted(programs & {"gcs_server", "raylet", "dashboard.py", "monitor.py", "log_monitor.py"}))
"""


def test_a_ray_of_ones_own_has_no_servers_that_a_run_does_not_need():
    done = subprocess.run([sys.executable, "-c", PROGRAMS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["gcs_server", "raylet"]


def test_a_ray_that_does_not_start_is_one_clear_error(tmp_path, frames_profile):
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "vemoclap_batch", "extract", make_clip(tmp_path / "clip.mp4", seconds=1)]
    command += ["-o", tmp_path / "out", "--profile", frames_profile]
    # Its folder cannot be made there.
    environment = os.environ | {"RAY_TMPDIR": str(tmp_path / "file")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Ray did not start on this machine, in two tries: [Errno 20] Not a directory" in done.stderr
    assert "try again when it is less so" in done.stderr
    assert "Traceback" not in done.stderr


#: Starts Ray with logical GPUs and tells what it knows of them.
GPUS = """
import json, sys
import ray
from vemoclap_batch.config import load_config
from vemoclap_batch.pipeline.cluster import cluster_resources, with_gpu_memory

config = load_config("paper", ["accelerator=gpu", *sys.argv[1:]])
ray.init("local", num_cpus=1, num_gpus=2, resources={"accelerator_type:H100": 1}, include_dashboard=False)
there = cluster_resources()
[node] = with_gpu_memory(there, config).nodes
print(json.dumps([node.gpus, node.gpu_type, node.gpu_memory_gb, node.count, there.can_grow]))
"""


@pytest.mark.parametrize(
    ("program", "settings", "expected"),
    [
        ("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\necho 'NVIDIA H100 80GB HBM3, 40960'\n", [], 40.0),
        ("#!/bin/sh\necho 'no devices were found'\nexit 6\n", [], None),
        ("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\n", ["pipeline.gpu_device=cpu"], None),
    ],
)
def test_a_node_is_asked_for_the_memory_of_its_gpus(tmp_path, program, settings, expected):
    """A program in place of NVIDIA's, as these GPUs are Ray's alone."""
    (tmp_path / "nvidia-smi").write_text(program)
    (tmp_path / "nvidia-smi").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-c", GPUS, *settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [2.0, "H100", expected, 1, True]


def test_what_nvidia_smi_says_is_read():
    table = "NVIDIA A100-SXM4-40GB, 40960\nTesla V100-SXM2-16GB, 16384\nNVIDIA GeForce RTX 5090, 32607\n"
    table += "NVIDIA RTX PRO 6000 Blackwell Server Edition, 97887\nNVIDIA H100 80GB HBM3, [N/A]\n\nNVIDIA GB10, 0\n"
    assert read_gpus(table) == [
        ("A100", 40.0), ("V100", 16.0), ("GeForce-RTX-5090", 32607 / 1024), ("RTX-PRO-6000", 97887 / 1024)
    ]  # fmt: skip
    assert read_gpus("") == []


def test_this_machine_is_one_node_and_does_not_grow():
    [node] = cluster.this_machine().nodes
    assert node.cpus >= 1
    assert node.memory_gb > 0
    assert not cluster.this_machine().can_grow


def test_a_ray_of_ones_own_does_not_grow(request):
    """Nor for a run inside a process that has it already."""
    own = request.getfixturevalue("cluster")
    assert not own.can_grow
    with cluster.connected() as again:
        assert again.nodes == own.nodes
        assert not again.can_grow
