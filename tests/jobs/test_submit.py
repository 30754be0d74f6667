"""A real head node with its dashboard and token authentication: a job is submitted, followed and read; a node dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow.dataset as ds
import pytest

from tests.clips import make_clip
from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def node(*arguments):
    """A Ray node of its own processes, which end with it."""
    environment = {**os.environ, **TOKEN, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [RAY, "start", "--block", "--disable-usage-stats", *arguments],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        mine = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for each in mine:
            each.kill()
        psutil.wait_procs(mine)
        process.wait()


@pytest.fixture(scope="module")
def head():
    """Address of the head and of its dashboard."""
    gcs, dashboard = free_port(), free_port()
    # A short path: sockets lie in it.
    with (
        tempfile.TemporaryDirectory(prefix="vb") as scratch,
        node(
            "--head", f"--port={gcs}", f"--dashboard-port={dashboard}", "--include-dashboard=true", "--num-cpus=2",
            f"--temp-dir={scratch}", "--object-store-memory=300000000", f"--ray-client-server-port={free_port()}",
        ),
    ):  # fmt: skip
        wait_for(lambda: answers(dashboard))
        yield f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def committed(out, table="features/clip"):
    shards = list((Path(out) / table).rglob("part-*.parquet"))
    return sorted(ds.dataset(shards).to_table(columns=["video_id"])["video_id"].to_pylist()) if shards else []


def submit(dashboard, *entrypoint, token=True):
    environment = {**os.environ, **(TOKEN if token else {"RAY_AUTH_MODE": "disabled"}), "RAY_ADDRESS": dashboard}
    command = [RAY, "job", "submit", "--runtime-env", "cluster/runtime-env.yaml", "--", *map(str, entrypoint)]
    return subprocess.run(command, env=environment, cwd=ROOT, text=True, capture_output=True, check=False, timeout=300)


def test_a_submitted_job(head, tmp_path, tiny_profile):
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    for at in range(4):
        make_clip(clips / f"clip{at}.mp4", seconds=1)
    (clips / "broken.mp4").write_bytes(b"no video")
    model = tiny_checkpoint(tmp_path / "model")
    job = [sys.executable, "jobs/label.py", clips, "-o", out, "--profile", tiny_profile, "--model", model]
    done = submit(head[1], *job)
    assert "{" in done.stdout, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    summary = next(json.loads(line) for line in reversed(lines) if line.startswith("{"))
    assert summary["counts"] == {"videos": 5, "done": 4, "skipped": 0, "failed": 1}, done.stdout
    # The log names the run and the video that failed; Ray hands on that the job did not exit with 0.
    assert done.returncode != 0
    assert f"run {summary['run_id']}" in done.stdout
    assert "broken.mp4" in done.stdout
    assert len(committed(out)) == len(committed(out, "predictions")) == 4
    # Whoever has no token gets nowhere.
    refused = submit(head[1], *job, token=False)
    assert refused.returncode != 0
    assert "token authentication is enabled" in refused.stderr


def test_a_node_that_dies_half_way(head, tmp_path, tiny_profile):
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    for at in range(12):
        make_clip(clips / f"clip{at}.mp4", seconds=1)
    with node(f"--address={head[0]}", "--num-cpus=2", "--object-store-memory=300000000") as worker:
        wait_for(lambda: "raylet" in names(worker))
        command = [
            sys.executable, "-m", "vemoclap_batch", "extract", clips, "-o", out, "--profile", tiny_profile,
            "--address", head[0], "--set", "pipeline.block_videos=1", "--set", "extractors.clip.delay_s=0.5",
            "--set", "extractors.clip.pool.actors=2",
        ]  # fmt: skip
        run = subprocess.Popen(command, env={**os.environ, **TOKEN}, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: len(committed(out)) >= 2 or run.poll() is not None)
        for each in psutil.Process(worker.pid).children(recursive=True):
            each.send_signal(signal.SIGKILL)
        # As any cluster manager does. Pools are sized once, so what lay on the dead node may not fit the others.
        with node(f"--address={head[0]}", "--num-cpus=2", "--object-store-memory=300000000"):
            said = run.communicate(timeout=240)[1]
    assert run.returncode == 0, said
    assert len(committed(out)) == len(set(committed(out))) == 12


def names(process):
    return " ".join(child.name() for child in psutil.Process(process.pid).children(recursive=True))
