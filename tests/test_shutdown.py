"""SIGTERM asks for a stop, or ends a process at once; see tests/pipeline/test_shutdown.py for whole runs."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from vemoclap_batch.shutdown import Stopped, listen_again, stoppable, uninterrupted


def send_term(times, on_stop, grace_s):
    with stoppable() as request, request.gently(on_stop, grace_s):
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
        assert request.asked
        time.sleep(60)


def test_the_first_signal_asks_and_the_end_of_the_grace_stops():
    asked = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        send_term(1, lambda: asked.append(1), grace_s=0.2)
    assert asked == [1]
    assert signal.getsignal(signal.SIGTERM) == before


def stop_outside():
    with stoppable() as request:
        # As Ray does when it starts.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
        listen_again()
        with request.gently(lambda: None, 0.1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def test_a_signal_where_nothing_is_under_way_stops_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        stop_outside()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_signal_stops_at_once():
    with pytest.raises(Stopped):
        send_term(2, lambda: None, grace_s=1e6)


def start_processes_until_stopped(after_s):
    """As Ray starts its servers: with something to do between fork and exec, for which Python takes locks."""
    with stoppable():
        # Another process: while this one is forked, no thread of it runs.
        subprocess.Popen(["sh", "-c", f"sleep {after_s}; kill -TERM {os.getpid()}"])
        end = time.monotonic() + 60
        while time.monotonic() < end:
            subprocess.Popen(["true"], preexec_fn=os.getpid).wait()  # noqa: PLW1509


def test_a_signal_while_a_process_is_forked_leaves_no_lock_held():
    large = b"x" * 200_000_000  # It takes longer to fork.
    for at in range(10):
        with pytest.raises(Stopped):
            start_processes_until_stopped(0.05 + at / 1000)
    del large
    logs = threading.Thread(target=logging.getLogger("another thread").isEnabledFor, args=(5,), daemon=True)
    logs.start()
    logs.join(timeout=60)
    assert not logs.is_alive()


def test_a_signal_that_a_library_caught_still_stops():
    def caught():
        with stoppable() as request:
            with contextlib.suppress(Stopped):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            with request.gently(lambda: None):
                time.sleep(60)

    with pytest.raises(Stopped):
        caught()


def test_a_signal_waits_for_what_must_not_be_interrupted():
    done = []

    def work(seconds):
        with stoppable(), uninterrupted(at_most_s=1):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(seconds)
            done.append(seconds)

    for seconds in (0.1, 60):
        with pytest.raises(Stopped):
            work(seconds)
    assert done == [0.1]
