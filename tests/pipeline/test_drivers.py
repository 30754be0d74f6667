"""Whole commands, stopped and killed as a cluster does it, and two of them on one folder at the same time."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from deltalake import DeltaTable

from tests.clips import make_clip, pattern
from tests.commands import dying
from tests.pipeline.faulty import PROFILE
from tests.pipeline.test_faults import begun, check_same, committed, failures, here, read, stem
from tests.tiny import tiny_checkpoint
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its extractor limits processes by /proc")

ROOT = Path(__file__).parents[2]
TABLES = ("videos", "features/clip", "predictions")
#: The command with a grace of 3 s in place of 25.
SHORT_GRACE = """
import sys
from functools import partialmethod
from vemoclap_batch.cli.app import main
from vemoclap_batch.shutdown import StopRequest

StopRequest.gently = partialmethod(StopRequest.gently, grace_s=3.0)
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Five different videos after one that its extractor cannot bear; no test changes them."""
    folder = tmp_path_factory.mktemp("clips")
    for at, name in enumerate(["a-raise", *(f"clip{at}" for at in range(5))]):
        make_clip(folder / f"{name}.mp4", frames=pattern(10, seed=at))
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Options of all commands here: one extractor, for which there may be a file ``hold``; it notes what it begins."""
    folder = tmp_path_factory.mktemp("trouble")
    profile = folder / "frames.yaml"
    profile.write_text("".join(line for line in PROFILE.splitlines(keepends=True) if "asr:" not in line))
    of = "extractors.clip"
    chosen = [f"{of}.trouble={folder}", f"{of}.calls={folder / 'calls.txt'}", "pipeline.block_videos=1"]
    return ["--profile", profile, *(part for setting in chosen for part in ("--set", setting))]


@pytest.fixture
def hold(settings):
    file = settings[1].parent / "hold"
    file.touch()
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture
def calls(settings):
    path = settings[1].parent / "calls.txt"
    path.write_text("")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), ["clip"])


def start(*command):
    """A command as a process of its own."""
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def undisturbed(clips, settings, model, tmp_path_factory, cluster):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert here("label", clips, "-o", out, *settings, "--model", model) == 3
    assert committed(out, "predictions")
    return out


def stored(out):
    """How many videos have features; two that end within 0.2 s are one commit, so files say less."""
    tables = {path.parents[1] for path in (out / "features" / "clip").glob("*/_delta_log/0*.json")}
    return sum(DeltaTable(str(table)).to_pyarrow_dataset().count_rows() for table in tables)


def wait_until_held(process, calls, out, done):
    """Wait until so many videos are committed and the next is held; returns its name, and the id of its process."""
    wait_for(lambda: (len(begun(calls)), stored(out)) == (done + 2, done) or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    video, actor = begun(calls)[-1]
    return video, int(actor)


def test_a_driver_that_is_killed_3_s_after_it_was_asked_to_stop(
    address, clips, settings, undisturbed, tmp_path, hold, calls
):  # fmt: skip
    """As Ray's own job stop does it, unless told otherwise."""
    out = tmp_path / "out"
    extract = ["extract", clips, "-o", out, *settings]
    process = start(sys.executable, "-m", "vemoclap_batch", *extract, "--address", address)
    _, actor = wait_until_held(process, calls, out, done=1)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    process.kill()
    process.communicate()
    # All that had arrived is there, but no summary.
    assert not (out / "runs").exists()
    assert [stem(row) for row in read(out, "features/clip")] == ["clip0"]
    assert failures(out) == {("a-raise", "clip"): "model"}
    wait_for(lambda: not psutil.pid_exists(actor))
    hold.unlink()
    assert here(*extract) == 3
    # The one that was held is redone, and nothing else.
    assert len(begun(calls)) == 3 + 4
    check_same(out, undisturbed, TABLES[:2])
    assert len(read(out, "errors")) == 1


def test_label_waits_for_a_run_that_outlives_its_grace_and_is_killed_before_it_has_predicted(
    address, clips, settings, model, undisturbed, tmp_path, hold, calls, capsys
):
    out = tmp_path / "out"
    extract, label = ["extract", clips, "-o", out, *settings], ["label", clips, "-o", out, *settings, "--model", model]
    first = start(sys.executable, "-c", SHORT_GRACE, *extract, "--json", "--address", address)
    wait_until_held(first, calls, out, done=1)
    # When it would commit its predictions.
    dies = dying(r"/predictions/\w+/?$", 1, ROOT / "jobs" / "label.py", *label[1:], "--address", address)
    second = start(*dies)
    whom = rf"held by run \S+ \(process {first.pid} on "
    for command in (extract, label, ["retry", out, *settings]):
        capsys.readouterr()
        assert here(*command, "--no-wait") == 4
        assert re.search(whom, capsys.readouterr().err)
    assert any(re.search(whom + ".*waiting for it to end", line) for line in iter(second.stderr.readline, ""))
    # What the first makes from now on, the second has not seen missing.
    hold.write_text("4")
    video, actor = wait_until_held(first, calls, out, done=3)

    asked = time.monotonic()
    first.terminate()
    # It ends although the one that it waits for is held for ever.
    told, said = first.communicate(timeout=300)
    assert first.returncode == 143, said
    assert time.monotonic() - asked >= 3
    [summary] = [json.loads(path.read_text()) for path in (out / "runs").iterdir()]
    last = json.loads(told.splitlines()[-1])
    assert [last[name] for name in ("run_id", "counts", "stopped")] == [summary["run_id"], summary["counts"], True]
    assert last["counts"] == {"videos": 6, "done": 3, "skipped": 0, "failed": 1}
    assert last["left"] == 2
    # What outlived the grace is abandoned: its process ends before it has made anything.
    wait_for(lambda: not psutil.pid_exists(actor))
    assert f"frames {video}" not in calls.read_text()
    hold.unlink()

    said = second.communicate(timeout=300)[1]
    assert second.returncode == -signal.SIGKILL, said
    assert not read(out, "predictions")
    # What the first had made or found to fail was not begun again, nor is anything now.
    assert len(begun(calls)) == 5 + 2
    assert here(*label) == 3
    assert len(begun(calls)) == 5 + 2
    check_same(out, undisturbed, TABLES)
    assert len(read(out, "errors")) == 1
