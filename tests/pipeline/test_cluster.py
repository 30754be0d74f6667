"""A cluster that does not answer is said to be so, in seconds; one of this machine's own that fails to start, too."""

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
