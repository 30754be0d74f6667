"""SIGTERM asks for a stop, or ends a process at once; see tests/pipeline/test_shutdown.py for whole runs."""

import os
import signal
import sys
import time

import pytest

from vemoclap_batch.shutdown import Stopped, stoppable


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
        request.listen()
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
