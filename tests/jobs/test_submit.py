"""A real head node with its dashboard and token authentication: a job is submitted, followed and read; nodes die."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.dataset as ds
import pytest

from tests.clips import make_clip, pattern, sine
from tests.commands import telling
from tests.pipeline.faulty import held, held_profile
from tests.pipeline.test_faults import check_same, failures, here, read
from tests.ports import shared
from tests.tiny import FRAMES_PROFILE, tiny_checkpoint
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
SIZE = ("--num-cpus=2", "--object-store-memory=150000000")
#: In what ``ray start`` prints.
ADDRESSES = re.compile(r"--address='(?P<gcs>[\w.:]+)'.*RAY_API_SERVER_ADDRESS='(?P<dashboard>[\w.:/]+)'", re.DOTALL)
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}


@dataclass
class Head:
    """Addresses of a head node and of its dashboard, and where its files lie."""

    gcs: str
    dashboard: str
    scratch: Path


@contextmanager
def node(*arguments, says=subprocess.DEVNULL):
    """A Ray node of its own processes, which end with it; its servers choose their ports themselves."""
    environment = {**os.environ, **TOKEN, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        # The session's own Ray may have the usual port.
        [RAY, "start", "--block", "--disable-usage-stats", "--dashboard-agent-listen-port=0", *arguments],
        env=environment, stdout=says, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):  # It may have ended by itself.
            mine = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for each in mine:
                each.kill()
            psutil.wait_procs(mine)
        process.wait()


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """One with two CPUs and 150 MB for objects."""
    said = tmp_path_factory.mktemp("head") / "said.txt"
    # A short path: sockets lie in it.
    with (
        tempfile.TemporaryDirectory(prefix="vb") as scratch,
        said.open("w") as says,
        shared() as for_clients,
        node(
            "--head", "--port=0", f"--ray-client-server-port={for_clients.getsockname()[1]}", "--dashboard-port=0",
            "--include-dashboard=true", f"--temp-dir={scratch}", *SIZE, says=says,
        ) as process,
    ):  # fmt: skip
        # It tells its addresses once it runs.
        found = wait_for(lambda: ADDRESSES.search(said.read_text()) or process.poll() is not None, every=0.2)
        assert found is not True, said.read_text()
        yield Head(found["gcs"], found["dashboard"], Path(scratch))


def committed(out, table="features/clip"):
    shards = list((Path(out) / table).rglob("part-*.parquet"))
    return sorted(ds.dataset(shards).to_table(columns=["video_id"])["video_id"].to_pylist()) if shards else []


def job(dashboard, *words, token=True):
    """Run ``ray job`` against a head."""
    environment = {**os.environ, **(TOKEN if token else {"RAY_AUTH_MODE": "disabled"}), "RAY_ADDRESS": dashboard}
    command = [RAY, "job", *map(str, words)]
    return subprocess.run(command, env=environment, cwd=ROOT, text=True, capture_output=True, check=False, timeout=300)


def submit(dashboard, *entrypoint, token=True, options=()):
    end = time.monotonic() + 300
    while True:
        done = job(
            dashboard, "submit", "--runtime-env", "cluster/runtime-env.yaml", *options, "--", *entrypoint, token=token
        )
        # The head takes requests a while before it can start jobs.
        if "No available agent to submit job" not in done.stderr or time.monotonic() > end:
            return done
        time.sleep(0.5)


def test_a_submitted_job(head, tmp_path, tiny_profile):
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    for at in range(4):
        make_clip(clips / f"clip{at}.mp4", seconds=1)
    (clips / "broken.mp4").write_bytes(b"no video")
    model = tiny_checkpoint(tmp_path / "model")
    label = [sys.executable, "jobs/label.py", clips, "-o", out, "--profile", tiny_profile, "--model", model]
    done = submit(head.dashboard, *label, options=["--submission-id=label"])
    assert "{" in done.stdout, done.stdout + done.stderr
    summary = json.loads(log(head, "label")[-1])
    assert summary["counts"] == {"videos": 5, "done": 4, "skipped": 0, "failed": 1}, done.stdout
    # The log names the run and the video that failed; Ray hands on that the job did not exit with 0.
    assert done.returncode != 0
    assert f"run {summary['run_id']}" in done.stdout
    assert "broken.mp4" in done.stdout
    assert len(committed(out)) == len(committed(out, "predictions")) == 4
    # Whoever has no token gets nowhere.
    refused = submit(head.dashboard, *label, token=False)
    assert refused.returncode != 0
    assert "token authentication is enabled" in refused.stderr


def log(head, name):
    """The lines of a job's log, which holds both of its streams."""
    return [line for line in job(head.dashboard, "logs", name).stdout.splitlines() if line.strip()]


def test_a_job_that_is_stopped_commits_what_is_under_way(head, tmp_path):
    clips, out, calls = tmp_path / "clips", tmp_path / "out", tmp_path / "calls.txt"
    clips.mkdir()
    for at in range(12):
        make_clip(clips / f"clip{at}.mp4", seconds=1)
    (tmp_path / "hold").touch()
    arguments = [clips, "-o", out, "--profile", held_profile(tmp_path)]
    extract = telling(tmp_path / "told", "jobs/extract.py", *arguments)
    told = f"{sys.executable} -c 'import vemoclap_batch; print(vemoclap_batch.__file__)' && exec {shlex.join(extract)}"
    submit(head.dashboard, "bash", "-c", told, options=["--no-wait", "--submission-id=stopped"])
    wait_for(lambda: (len(committed(out)), held(calls)) == (2, True), every=0.2)
    with ThreadPoolExecutor(1) as pool:
        # Without the waiting time of cluster/runtime-env.yaml, Ray would kill it after 3 s.
        stopped = pool.submit(job, head.dashboard, "stop", "stopped")
        try:
            wait_for((tmp_path / "told").exists)
        finally:
            (tmp_path / "hold").unlink()
        stopped.result()
    said = log(head, "stopped")
    summary = json.loads(said[-1])
    # The code that was sent along goes before what the node has.
    assert any(line.startswith(f"{head.scratch}/") and line.endswith("vemoclap_batch/__init__.py") for line in said)
    kept = committed(out)
    assert (summary["stopped"], summary["counts"]["done"]) == (True, len(kept))
    assert len(kept) == 3
    assert sorted(line.split()[1] for line in calls.read_text().splitlines() if line.startswith("frames")) == kept


def test_a_slow_extractor_holds_decoding_up_and_nothing_is_spilled(head, tmp_path, frames_profile):
    """The short videos are more than twice as much as the object store holds, the parts of the long one more too."""
    clips = tmp_path / "clips"
    clips.mkdir()
    pictures, options = list(pattern(32, (640, 360))), {"preset": "ultrafast"}
    first = make_clip(clips / "clip.mp4", frames=pictures, fps=16, options=options)
    for at in range(17):
        shutil.copy(first, clips / f"clip{at}.mp4")
    make_clip(clips / "long.mp4", frames=pictures * 9, fps=16, options=options)
    command = [
        sys.executable, "-m", "vemoclap_batch", "extract", clips, "-o", tmp_path / "out", "--profile", frames_profile,
        "--address", head.gcs, "--set", "extractors.clip.delay_s=0.1", "--set", "sampling.every_s=0.0625",
    ]  # fmt: skip
    run = subprocess.Popen(command, env={**os.environ, **TOKEN}, stderr=subprocess.PIPE, text=True)
    spilled = 0
    while run.poll() is None:
        spilled = max(spilled, sum(path.stat().st_size for path in head.scratch.rglob("ray_spilled_objects*/**/*")))
        time.sleep(0.2)
    assert run.returncode == 0, run.communicate()[1]
    assert len(committed(tmp_path / "out")) == 19
    assert spilled == 0


@pytest.mark.usefixtures("cluster")
def test_a_node_that_dies_half_way(head, tmp_path):
    clips, out, profile = tmp_path / "clips", tmp_path / "out", tmp_path / "tiny.yaml"
    clips.mkdir()
    for at in range(12):
        make_clip(clips / f"clip{at}.mp4", frames=pattern(10, seed=at), audio=sine(1, amplitude=0.05 * (at + 1)))
    profile.write_text(FRAMES_PROFILE + '  asr: {class: "tests.tiny:TinySound"}\n')
    with node(f"--address={head.gcs}", *SIZE) as worker:
        wait_for(lambda: "raylet" in names(worker), every=0.2)
        command = [
            sys.executable, "-m", "vemoclap_batch", "extract", clips, "-o", out, "--profile", profile,
            "--address", head.gcs, "--set", "pipeline.block_videos=1", "--set", "extractors.clip.delay_s=0.5",
            "--set", "pipeline.cpu_chains=2",
        ]  # fmt: skip
        run = subprocess.Popen(command, env={**os.environ, **TOKEN}, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: len(committed(out)) >= 2 or run.poll() is not None, every=0.2)
        kill(worker)
        # As any cluster manager does. Pools are sized once, so what lay on the dead node may not fit the others.
        with node(f"--address={head.gcs}", *SIZE):
            # Meanwhile, on the session's own Ray.
            assert here("extract", clips, "-o", tmp_path / "undisturbed", "--profile", profile) == 0
            said = run.communicate(timeout=600)[1]
    assert run.returncode == 0, said
    assert len({row["text"] for row in read(out, "features/asr")}) == 12
    check_same(out, tmp_path / "undisturbed")
    assert failures(out) == {}


def kill(node):
    for each in psutil.Process(node.pid).children(recursive=True):
        each.send_signal(signal.SIGKILL)


def names(process):
    return " ".join(child.name() for child in psutil.Process(process.pid).children(recursive=True))
