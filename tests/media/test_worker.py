"""The worker process is stopped, killed and starved for real; nothing in the product knows that it is tested."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.clips import make_clip, mutate, pattern
from vemoclap_batch.errors import ErrorType, Failure
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.worker import DecodeWorker

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(make_clip(tmp_path_factory.mktemp("clips") / 'a clip\'s "name" 動画.mp4', size=(160, 120)))


@pytest.fixture(scope="module")
def long_path(tmp_path_factory):
    """A minute of frames with one key frame: decoding it takes long enough to be interrupted."""
    frames = list(pattern(25, (640, 360))) * 60
    options = {"preset": "ultrafast", "g": "10000", "bf": "0"}
    return str(
        make_clip(tmp_path_factory.mktemp("long") / "long.mp4", frames=frames, fps=25, options=options, audio=False)
    )


def wait_until_gone(pid, seconds=60.0):
    """Whether a process ended (a zombie counts as ended) within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_it_gives_what_decode_gives_and_stays_alive(path):
    expected, expected_info = decode(path)
    with DecodeWorker() as worker:
        assert worker.pid is None
        clip, info = worker.decode("first", path)
        pid = worker.pid
        again, _ = worker.decode("second", path)

        assert worker.pid == pid
        assert (clip.video_id, again.video_id) == ("first", "second")
        assert np.array_equal(clip.frames, expected.frames)
        assert np.array_equal(clip.frame_times, expected.frame_times)
        assert np.array_equal(clip.waveform, expected.waveform)
        assert clip.duration_s == expected.duration_s
        assert info == expected_info
    assert wait_until_gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="decord has no wheel here")
def test_decord_works_within_the_limits(path):
    with DecodeWorker(limits=Limits(decoder="decord")) as worker:
        clip, info = worker.decode("v", path)
    assert np.array_equal(clip.frames, decode(path)[0].frames)
    assert info.decoder == "decord+pyav"


def test_arrays_can_be_written_to(path):
    with DecodeWorker() as worker:
        clip, _ = worker.decode("v", path)
    clip.frames[0] = 0
    clip.waveform[0] = 0


def test_what_is_not_wanted_and_how_many(path):
    with DecodeWorker(Sampling(frames=3, short_side=48)) as worker:
        clip, info = worker.decode("v", path, want_audio=False)
        assert clip.frames.shape == (3, 48, 64, 3)
        assert len(clip.waveform) == 0
        assert info.has_audio
        assert len(worker.decode("v", path, want_frames=False)[0].frames) == 0


def test_failures_are_data(tmp_path, path):
    (tmp_path / "notes.mp4").write_text("notes")
    with DecodeWorker() as worker:
        missing = worker.decode("v", str(tmp_path / "missing.mp4"))
        pid = worker.pid
        assert isinstance(missing, Failure)
        assert missing.error_type is ErrorType.NOT_FOUND
        assert worker.decode("v", str(tmp_path / "notes.mp4")).error_type is ErrorType.NOT_MEDIA
        assert worker.decode("v", f"file://{path}")[1].has_video
        assert worker.pid == pid


def test_a_hang_costs_one_video_and_the_time_limit(path):
    # A process that starts is silent, too, for as long as a busy machine needs for it.
    with DecodeWorker(limits=Limits(timeout_s=8)) as worker:
        worker.decode("v", path)
        pid = worker.pid
        os.kill(pid, signal.SIGSTOP)

        start = time.monotonic()
        failure = worker.decode("v", path)

        assert failure.error_type is ErrorType.TIMEOUT
        assert "8 s and was killed" in failure.message
        assert time.monotonic() - start > 7.9
        assert wait_until_gone(pid)
        assert worker.decode("v", path)[1].has_video


def test_a_video_that_takes_longer_than_the_time_limit_is_no_hang(path, long_path):
    limit = 6.0
    with DecodeWorker(limits=Limits(timeout_s=limit)) as worker:
        worker.decode("v", path)
        done = threading.Event()
        slow = threading.Thread(target=_slow_down, args=(worker.pid, done))
        slow.start()
        start = time.monotonic()

        result = worker.decode("v", long_path)

        needed = time.monotonic() - start
        done.set()
        slow.join()
        assert not isinstance(result, Failure), result
        assert len(result[0].frames) == 16
        assert needed > limit


def _slow_down(pid, done):
    """Let a process run for a tenth of a second at a time, with longer rests between."""
    while not done.is_set():
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.6)
        os.kill(pid, signal.SIGCONT)
        done.wait(0.1)


def _crash(pid, number):
    os.kill(pid, number)
    with suppress(ProcessLookupError):  # SIGKILL does not wait for it to go on.
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_costs_one_video(path, long_path, number):
    with DecodeWorker() as worker:
        worker.decode("v", path)
        pid = worker.pid
        # Stopped, it cannot be done before it is ended.
        os.kill(pid, signal.SIGSTOP)
        crash = threading.Timer(0.05, _crash, (pid, number))
        crash.start()

        failure = worker.decode("v", long_path)

        crash.join()
        assert failure.error_type is ErrorType.WORKER_DIED
        assert number.name in failure.message
        assert worker.decode("v", path)[1].has_video
        assert worker.pid != pid


def test_a_process_that_died_between_two_videos_costs_none(path):
    with DecodeWorker() as worker:
        worker.decode("v", path)
        os.kill(worker.pid, signal.SIGKILL)
        assert wait_until_gone(worker.pid)

        assert worker.decode("v", path)[1].has_video


def test_a_process_that_cannot_start_says_why(path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry] + ["/nowhere"])
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecodeWorker() as worker:
        failure = worker.decode("v", path)

    assert failure.error_type is ErrorType.WORKER_DIED
    assert "exit status 1" in failure.message


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_bomb_costs_one_video(tmp_path, path):
    # A few kilobytes that unfold to frames of 100 MB.
    frames = [np.zeros((4096, 8192, 3), np.uint8)] * 2
    bomb = str(make_clip(tmp_path / "bomb.mp4", frames=frames, audio=False, options={"preset": "ultrafast"}))
    with DecodeWorker(limits=Limits(memory_gb=0.1)) as worker:
        failure = worker.decode("v", bomb)

        assert failure.error_type is ErrorType.OUT_OF_MEMORY, failure
        assert "0.1 GiB" in failure.message
        assert worker.decode("v", path)[1].has_video
    with DecodeWorker() as worker:
        assert worker.decode("v", bomb)[1].width == 8192


def test_damaged_files_never_end_the_worker(tmp_path):
    whole = make_clip(tmp_path / "m.mp4", options={"g": "8"}).read_bytes()
    with DecodeWorker(limits=Limits(timeout_s=20)) as worker:
        for seed in range(60):
            path = tmp_path / f"{seed}.mp4"
            path.write_bytes(whole)
            result = worker.decode("v", str(mutate(path, seed, changes=(5, 50, 500)[seed % 3])))
            assert not isinstance(result, Failure) or result.error_type in (
                ErrorType.UNDECODABLE,
                ErrorType.INCOMPLETE,
                ErrorType.NO_STREAMS,
                ErrorType.NOT_MEDIA,
                ErrorType.OUT_OF_MEMORY,
            )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("stopped", [False, True])
def test_the_worker_ends_when_its_owner_is_killed(path, stopped):
    owner = _owner(path, "time.sleep(600)")
    pid = int(owner.stdout.readline())
    if stopped:  # As good as a decoder that hangs with the interpreter lock held.
        os.kill(pid, signal.SIGSTOP)

    owner.kill()
    owner.wait()

    assert wait_until_gone(pid)


def test_the_worker_outlives_the_thread_that_started_it(path):
    with DecodeWorker() as worker:
        starter = threading.Thread(target=worker.decode, args=("v", path))
        starter.start()
        starter.join()
        pid = worker.pid
        time.sleep(0.2)

        assert worker.decode("v", path)[1].has_video
        assert worker.pid == pid


def test_a_main_module_is_not_run_again(tmp_path, path):
    script = tmp_path / "main.py"
    script.write_text(
        textwrap.dedent(f"""
        print("main module")
        from vemoclap_batch.media.worker import DecodeWorker
        with DecodeWorker() as worker:
            print(worker.decode("v", {path!r})[1].has_video)
        """)
    )
    done = _run([sys.executable, str(script)], tmp_path)

    assert done.stdout.split("\n") == ["main module", "True", ""]
    assert done.stderr == ""


def test_it_starts_with_few_imports(path):
    code = """
        import sys
        from vemoclap_batch.media import worker_main
        heavy = {"torch", "ray", "pydantic", "pyarrow", "fsspec", "transformers", "pandas"}
        print(sorted(heavy & set(sys.modules)))
        """
    done = _run([sys.executable, "-c", textwrap.dedent(code)], ROOT)

    assert done.stdout == "[]\n", done.stderr


def _run(command, folder):
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, env=_environment())


def _environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _owner(path, then):
    """Another process that owns a worker and prints the worker's pid."""
    code = f"""
        import time
        from vemoclap_batch.media.worker import DecodeWorker
        worker = DecodeWorker()
        worker.decode("v", {path!r})
        print(worker.pid, flush=True)
        {then}
        """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=_environment()
    )
