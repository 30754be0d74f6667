"""Processes end with their driver and with their parent, however those end; whole runs: tests/jobs/test_lifetime.py."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_for
from vemoclap_batch import lifetime

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends the signals")

#: Ends with its driver; then it holds the interpreter lock, as a native library does that hangs.
ACTOR = """
import re, sys
from vemoclap_batch.lifetime import die_with
die_with(sys.argv[1])
print("ready", flush=True)
re.match("(a+)+$", "a" * 60 + "b")
"""
#: Starts an actor, tells its process id and lives on.
PARENT = f"""
import subprocess, sys, time
actor = subprocess.Popen([sys.executable, "-c", {ACTOR!r}, sys.argv[1]], stdout=subprocess.PIPE)
actor.stdout.readline()
print(actor.pid, flush=True)
time.sleep(3600)
"""
#: Listens, tells where, and has a forked child that does nothing but live.
DRIVER = """
import os, time
from vemoclap_batch.lifetime import listening
with listening("127.0.0.1") as address:
    print(address, flush=True)
    input()
    if not os.fork():
        print(os.getpid(), flush=True)
        time.sleep(3600)
    time.sleep(3600)
"""
#: Starts what is marked and what is not, and tells their process ids; the marked ones have parents that end.
MARKING = """
import subprocess, sys, time
from vemoclap_batch.lifetime import Watchdog
watchdog = Watchdog()
sleep = "setsid sleep 3600 >/dev/null & echo $!"
with watchdog.marking():
    marked = subprocess.check_output(f"{sleep}; {sleep}", shell=True, text=True, stderr=subprocess.DEVNULL)
other = subprocess.Popen(["sleep", "3600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(watchdog._process.pid, other.pid, *marked.split(), flush=True)
if input() == "close":
    watchdog.close()
"""


def start(code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def gone(*pids):
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            pass
    return True


def test_an_actor_ends_when_its_parent_is_killed():
    with lifetime.listening("127.0.0.1") as address:
        parent = start(PARENT, address)
        actor = int(parent.stdout.readline())
        parent.kill()
        parent.communicate()
        wait_for(lambda: gone(actor))


def test_an_actor_ends_when_its_driver_is_killed_though_a_fork_of_that_lives():
    driver = start(DRIVER)
    actor = start(ACTOR, driver.stdout.readline().strip())
    assert actor.stdout.readline() == "ready\n", actor.communicate()
    driver.stdin.write("\n")
    driver.stdin.flush()
    fork = psutil.Process(int(driver.stdout.readline()))
    assert actor.poll() is None
    driver.kill()
    actor.communicate(timeout=300)
    assert actor.returncode == -signal.SIGKILL
    assert fork.is_running()
    fork.kill()
    driver.communicate()


def test_actors_end_when_the_run_does_and_none_starts_after_it():
    with lifetime.listening("127.0.0.1") as address:
        actors = [start(ACTOR, address) for _ in range(3)]
        assert [actor.stdout.readline() for actor in actors] == ["ready\n"] * 3
        actors[0].kill()
        actors[0].communicate()
        assert [actor.poll() for actor in actors[1:]] == [None, None]
    for actor in actors[1:]:
        actor.communicate(timeout=300)
        assert actor.returncode == -signal.SIGKILL
    said = start(ACTOR, address).communicate(timeout=300)[1]
    assert said.splitlines()[-1] == (
        f"RuntimeError: the driver does not listen at {address}: its run is over, or a firewall is between"
    )


def test_a_driver_out_of_reach_is_a_warning():
    code = ACTOR.replace("re.match", "sys.exit() or re.match")
    actor = start(code, "nobody.invalid:1")
    told, said = actor.communicate(timeout=300)
    assert (actor.returncode, told) == (0, "ready\n"), said
    assert "the driver at nobody.invalid:1 is out of reach" in said


def test_a_stranger_that_connects_and_talks_changes_nothing():
    with lifetime.listening("127.0.0.1") as address:
        actor = start(ACTOR, address)
        assert actor.stdout.readline() == "ready\n"
        with socket.create_connection(address.split(":")) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            stranger.settimeout(300)
            with suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
        assert actor.poll() is None
    actor.communicate(timeout=300)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "192.0.2.77"])
def test_it_listens_where_the_node_is(host):
    """The last is no address of this machine, as in a container whose node has that of its host."""
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with lifetime.listening(host) as address:
        name, _, port = address.rpartition(":")
        assert name.strip("[]") == host
        reached = host if host != "192.0.2.77" else "127.0.0.1"
        socket.create_connection((reached, int(port))).close()


def ignores(pid, number):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [ignored] = [int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:")]
    return ignored >> number - 1 & 1


def marking():
    driver = start(MARKING)
    watchdog, other, *marked = map(int, driver.stdout.readline().split())
    assert len(marked) == 2
    assert not gone(watchdog)
    return driver, watchdog, other, marked


def test_the_watchdog_ends_what_a_killed_driver_has_marked():
    driver, watchdog, other, marked = marking()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # Under nohup the last is ignored from the start.
    wait_for(lambda: all(ignores(watchdog, number) for number in numbers))
    for number in numbers:
        os.kill(watchdog, number)
    os.kill(marked[0], signal.SIGSTOP)
    driver.kill()
    said = driver.communicate(timeout=300)[1]
    assert said.startswith("error: the process of the run ended at once: ")
    wait_for(lambda: gone(*marked, watchdog))
    assert not gone(other)
    os.kill(other, signal.SIGKILL)


def test_the_watchdog_ends_what_is_left_at_the_end():
    driver, watchdog, other, marked = marking()
    said = driver.communicate("close\n", timeout=300)[1]
    assert (driver.returncode, said) == (0, "")
    assert gone(*marked, watchdog)
    assert not gone(other)
    os.kill(other, signal.SIGKILL)


def test_the_mark_is_on_what_starts_meanwhile_alone(monkeypatch):
    monkeypatch.delenv("SPT_NOENV", raising=False)
    before = dict(os.environ)
    watchdog = lifetime.Watchdog()
    with watchdog.marking():
        assert os.environ[lifetime.MARK]
    assert dict(os.environ) == before
    watchdog.close()
