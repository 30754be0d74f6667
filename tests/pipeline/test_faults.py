"""Real processes are killed, stopped and starved, and real folders filled up, closed and cut off, while a run goes on.

After each, the same command gives the rows of an undisturbed run, none twice.
"""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import numpy as np
import psutil
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest
import ray

from tests.clips import make_clip, pattern, speech
from tests.conftest import GPUS
from tests.pipeline.faulty import FRAMES_AT_A_TIME, LITE, PROFILE
from tests.s3 import Server
from tests.tiny import on_gpus
from tests.waiting import wait_for
from vemoclap_batch.cli.app import main
from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.media.decode import decode

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.skipif(sys.platform != "linux", reason="finds and limits processes by /proc"),
]

TABLES = ("videos", "features/clip", "features/asr")
#: Long enough that decoding one can be caught.
LONG = ("hanging", "segfault", "killed")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Five short videos and three long ones; no test changes them."""
    folder = tmp_path_factory.mktemp("clips")
    for at in range(5):
        make_clip(folder / f"clip{at}.mp4", seconds=1)
    pictures = list(pattern(25, (640, 360))) * 20
    options = {"preset": "ultrafast", "g": "10000", "bf": "0"}
    first = make_clip(folder / f"{LONG[0]}.mp4", frames=pictures, fps=25, options=options)
    for name in LONG[1:]:
        shutil.copy(first, folder / f"{name}.mp4")
    return folder


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "faulty.yaml"
    path.write_text(PROFILE)
    return path


@pytest.fixture(params=["cpu", "gpu"])
def device_profile(request, profile, tmp_path):
    """The profile, and one in which what has the trouble has a GPU, in a stage of its own.

    Another job has all other GPUs, so that there is room for one of the actors that are asked for.
    """
    if request.param == "cpu":
        yield profile
        return
    path = tmp_path / "faulty-gpu.yaml"
    path.write_text(on_gpus(PROFILE, "clip"))
    other = ray.remote(num_cpus=0, num_gpus=GPUS - 1)(Other).remote()
    ray.get(other.__ray_ready__.remote())
    yield path
    ray.kill(other)


class Other:
    """The actor of another job."""


@pytest.fixture
def calls(tmp_path):
    path = tmp_path / "calls.txt"
    path.touch()
    return path


@pytest.fixture
def trouble(tmp_path):
    folder = tmp_path / "trouble"
    folder.mkdir()
    return folder


def here(*arguments, settings=()):
    """Exit status of a command, run in this process against the session's Ray."""
    overrides = [part for setting in settings for part in ("--set", setting)]
    with pytest.raises(SystemExit) as left:
        main([*map(str, arguments), *overrides])
    return left.value.code or 0


def extract(clips, out, profile, *settings):
    return here("extract", clips, "-o", out, "--profile", profile, settings=settings)


def check_none_failed(capsys, out, profile, settings=()):
    """See that the folder has no failure left."""
    capsys.readouterr()
    assert here("status", out, "--profile", profile, "--json", settings=settings) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {cells["failed"] for cells in found["extractors"].values()} == {0}
    assert found["failures"] == []


@pytest.fixture(scope="module")
def undisturbed(clips, profile, tmp_path_factory, cluster):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert extract(clips, out, profile) == 0
    return out


def read(out, table):
    """The rows of a table, by plain pyarrow; what belongs to a run rather than to a video is left out."""
    filesystem, root = pafs.FileSystem.from_uri(str(out))
    infos = filesystem.get_file_info(pafs.FileSelector(f"{root}/{table}", allow_not_found=True, recursive=True))
    shards = [info.path for info in infos if info.base_name.startswith("part-")]
    rows = ds.dataset(shards, filesystem=filesystem).to_table().to_pylist() if shards else []
    return sorted(({name: row[name] for name in row if name != "run_id"} for row in rows), key=lambda r: r["video_id"])


def stem(row):
    return row["video_id"].rsplit("-", 1)[0]


def failures(out):
    return {(stem(row), row["extractor"]): row["error_type"] for row in read(out, "errors")}


def check_same(out, reference, tables=TABLES):
    for table in tables:
        found, expected = read(out, table), read(reference, table)
        assert [row["video_id"] for row in found] == [row["video_id"] for row in expected], table
        for one, other in zip(found, expected, strict=True):
            feature, wanted = np.array(one.pop("feature", [])), np.array(other.pop("feature", []))
            assert feature.shape == wanted.shape
            np.testing.assert_allclose(feature, wanted, rtol=1e-4)
            assert one.keys() == other.keys()
            for column, value in one.items():
                close = isinstance(value, float) and table != "videos"
                assert value == (pytest.approx(other[column], rel=1e-4) if close else other[column]), (table, column)


@contextmanager
def meanwhile(trouble, ready, disturb):
    """Hold the extractor after two videos until, once it is so far, the disturbance has been made."""
    hold = trouble / "hold"
    hold.touch()

    def once_ready():
        try:
            wait_for(ready, every=0.1)
            disturb()
        finally:
            hold.unlink()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(once_ready)
        yield
        done.result()


def committed(out, table="features/clip"):
    return len(list((Path(out) / table).rglob("part-*.parquet")))


def begun(calls):
    return [line.split(" ")[1:] for line in calls.read_text().splitlines() if line.startswith("begin")]


def test_an_actor_that_is_killed_while_it_works(clips, profile, device_profile, undisturbed, tmp_path, calls, trouble):
    out = tmp_path / "out"
    settings = [f"extractors.clip.calls={calls}", f"extractors.clip.trouble={trouble}"]
    with meanwhile(
        trouble, lambda: len(begun(calls)) == 3, lambda: os.kill(int(begun(calls)[2][1]), signal.SIGKILL)
    ):  # fmt: skip
        assert extract(clips, out, device_profile, *settings) == 0
    # One that waited for a GPU takes that of the dead actor, which comes back once another has no more to do.
    assert len({pid for _, pid in begun(calls)}) == (2 if device_profile == profile else 3)
    # Redone: what it held and what waited for it.
    assert len(begun(calls)) <= 8 + 3
    check_same(out, undisturbed)
    assert failures(out) == {}


def hit(path, number):
    """Send a signal to the process that has a video open to decode it."""

    def owner():
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if any("worker_main" in part for part in process.cmdline()) and any(
                    file.path == str(path) for file in process.open_files()
                ):
                    return process
        return None

    # Looking through all processes takes time that they could use.
    wait_for(owner, every=0.1).send_signal(number)


def test_decoders_that_hang_crash_and_are_killed(clips, profile, undisturbed, tmp_path, capsys):
    out = tmp_path / "out"
    signals = dict(zip(LONG, (signal.SIGSTOP, signal.SIGSEGV, signal.SIGKILL), strict=True))
    with ThreadPoolExecutor(3) as pool:
        hits = [pool.submit(hit, clips / f"{name}.mp4", number) for name, number in signals.items()]
        # A decoder that starts is silent, too, for as long as a busy machine needs for it.
        assert extract(clips, out, profile, "decode.timeout_s=20") == 3
        for each in hits:
            each.result()
    assert failures(out) == {
        ("hanging", None): "timeout", ("segfault", None): "worker_died", ("killed", None): "worker_died"
    }  # fmt: skip
    messages = " ".join(row["message"] for row in read(out, "errors"))
    assert "SIGSEGV" in messages
    assert "SIGKILL" in messages
    assert [stem(row) for row in read(out, "features/clip")] == [f"clip{at}" for at in range(5)]
    assert here("retry", out, "--profile", profile) == 0
    check_same(out, undisturbed)
    check_none_failed(capsys, out, profile)


def test_a_gpu_without_memory_halves_and_goes_on(clips, device_profile, undisturbed, tmp_path, calls, trouble):
    out = tmp_path / "out"
    (trouble / "cuda").touch()
    code = extract(clips, out, device_profile, f"extractors.clip.calls={calls}", f"extractors.clip.trouble={trouble}")
    assert code == 0
    sizes = Counter(line for line in calls.read_text().splitlines() if line.startswith("batch"))
    # What was learnt holds for all later batches of the process.
    assert (sizes[f"batch {FRAMES_AT_A_TIME}"], sizes["batch 4"]) == (1, 1)
    assert set(sizes) <= {f"batch {FRAMES_AT_A_TIME}", "batch 4", "batch 2", "batch 1"}
    check_same(out, undisturbed)
    assert failures(out) == {}


def test_a_process_without_memory_costs_the_videos_that_do_not_fit(
    clips, profile, undisturbed, tmp_path, calls, trouble, capsys
):
    out = tmp_path / "out"
    settings = [f"extractors.clip.calls={calls}", f"extractors.clip.trouble={trouble}"]
    (trouble / "host").touch()
    assert extract(clips, out, profile, *settings) == 3
    assert failures(out) == {(name, "clip"): "out_of_memory" for name in LONG}
    assert [stem(row) for row in read(out, "features/clip")] == [f"clip{at}" for at in range(5)]
    assert len({pid for _, pid in begun(calls)}) == 1
    (trouble / "host").unlink()
    calls.write_text("")
    assert here("retry", out, "--profile", profile, "--stage", "clip", settings=settings) == 0
    assert sorted(video.rsplit("-", 1)[0] for video, _ in begun(calls)) == sorted(LONG)
    check_same(out, undisturbed)
    check_none_failed(capsys, out, profile, settings)


def mount(*arguments):
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False).returncode == 0


def can_mount():
    with tempfile.TemporaryDirectory() as folder:
        return mount("-t", "tmpfs", "tmpfs", folder) and not subprocess.call(["umount", "--lazy", folder])


@pytest.fixture
def disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder):
        pytest.skip("mounting needs privileges; the limit on file sizes is tested instead")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_and_one_that_may_not_be_written_any_more(
    clips, profile, undisturbed, disk, trouble, capsys
):
    out, setting = disk / "out", f"extractors.clip.trouble={trouble}"
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(2**20 - 60_000))
    assert extract(clips, out, profile, setting) == 1
    said = capsys.readouterr()
    check_said(said.err, "No space left on device")
    # The disk is still full: the summary cannot be written, but is told.
    assert re.fullmatch(r"\d done, 0 skipped, 0 failed, \d left", said.out.splitlines()[-1])
    ballast.unlink()
    before = committed(out)

    def close():
        # Over what is there, which a lock that is held keeps from being made read-only itself.
        assert mount("-t", "tmpfs", "-o", "ro", "tmpfs", out / "features")

    with meanwhile(trouble, lambda: committed(out) > before, close):
        code = extract(clips, out, profile, setting)
    subprocess.run(["umount", "--lazy", str(out / "features")], check=True)
    assert code == 1
    check_said(capsys.readouterr().err, "Read-only file system")
    assert extract(clips, out, profile, setting) == 0
    check_same(out, undisturbed)
    assert not list(disk.rglob("*.tmp"))


def check_said(said, reason):
    assert "error: the run broke off: cannot write to " in said
    assert reason in said
    assert "Traceback" not in said


def start(address, clips, out, profile, *settings):
    """The command as a process of its own, on the session's Ray."""
    overrides = [part for setting in settings for part in ("--set", setting)]
    return subprocess.Popen(
        [
            sys.executable, "-m", "vemoclap_batch", "extract", clips, "-o", out, "--profile", profile,
            "--address", address, *overrides,
        ],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip


@pytest.mark.skipif(can_mount(), reason="a file system that is full says the same of all that is written there")
def test_a_driver_whose_files_may_not_grow(address, clips, profile, undisturbed, tmp_path, trouble):
    out, setting = tmp_path / "out", f"extractors.clip.trouble={trouble}"

    def limit():
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    with meanwhile(trouble, lambda: committed(out), limit):
        process = start(address, clips, out, profile, setting)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 1, said
    check_said(said, "File too large")
    assert committed(out) in (1, 2)
    assert extract(clips, out, profile, setting) == 0
    check_same(out, undisturbed)
    assert not list(out.rglob("*.tmp"))


def test_an_object_store_that_is_out_of_reach_for_a_while(
    clips, profile, undisturbed, trouble, monkeypatch
):  # fmt: skip
    away = threading.Event()

    def within_reach(app):
        # Connections that are open outlive the server's end.
        def serve(environ, start_response):
            if not away.is_set():
                return app(environ, start_response)
            start_response("503 Service Unavailable", [("Connection", "close")])
            return [b""]

        return serve

    server = Server(within_reach)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="faults")

    def come_back():
        away.clear()
        server.start()

    back = threading.Timer(5, come_back)

    def there():
        objects = client.list_objects_v2(Bucket="faults", Prefix="out/features/clip").get("Contents", [])
        return any("/part-" in item["Key"] for item in objects)

    def cut_off():
        away.set()
        server.stop()
        back.start()

    out, setting = "s3://faults/out", f"extractors.clip.trouble={trouble}"
    with meanwhile(trouble, there, cut_off):
        assert extract(clips, out, profile, setting) == 0
        # Most was still to be committed when the store went away: the run has waited for it.
        assert not away.is_set()
    back.join()
    check_same(out, undisturbed)
    assert failures(out) == {}
    assert extract(clips, out, profile, setting) == 0
    check_same(out, undisturbed)
    server.close()


def newest_actor():
    """The process of the session's Ray in which an extractor was started last."""
    found = [each for each in psutil.Process().children(recursive=True) if "ChainActor" in title(each)]
    return max(found, key=psutil.Process.create_time)


def title(process):
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.numeric
def test_lite_after_its_actor_and_then_its_driver_were_killed(address, tmp_path):
    profile, folder = tmp_path / "lite.yaml", tmp_path / "clips"
    profile.write_text(LITE)
    folder.mkdir()
    words, rate = speech()
    for at in range(3):
        spoken = words[at * rate : (at + 4) * rate]
        make_clip(folder / f"clip{at}.mp4", seconds=4, size=(320, 240), audio=spoken, audio_rate=rate)
    out = tmp_path / "out"
    process = start(address, folder, out, profile)
    wait_for(lambda: committed(out) or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    newest_actor().kill()
    wait_for(lambda: committed(out) >= 2 or process.poll() is not None)
    process.kill()
    process.communicate()
    assert extract(folder, out, profile) == 0
    clips = [decode(str(path), path.stem)[0] for path in sorted(folder.iterdir())]
    assert [stem(row) for row in read(out, "videos")] == [clip.video_id for clip in clips]
    for name, spec in resolve(load_config(str(profile))).items():
        results = spec.cls(spec.settings, Resources()).extract(clips)
        rows = read(out, f"features/{name}")
        assert [stem(row) for row in rows] == [clip.video_id for clip in clips]
        for row, result in zip(rows, results, strict=True):
            np.testing.assert_allclose(
                np.array(row["feature"]).reshape(result.feature.shape), result.feature, 1e-4, 1e-4
            )
            assert row.get("text") == result.extras.get("text") != ""
