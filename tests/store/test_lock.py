"""One writer at a time; a holder that dies frees the folder at once."""

import subprocess
import sys

import pytest

from vemoclap_batch.errors import Busy, ConfigError
from vemoclap_batch.store.lock import writer

HOLD = """
import sys
from vemoclap_batch.store.lock import writer
with writer(sys.argv[1], "the-other-run"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_told_who_holds_the_folder(tmp_path, holder):
    with (
        pytest.raises(Busy, match=rf"held by run the-other-run \(process {holder.pid} on"),
        writer(str(tmp_path), "r", wait=False),
    ):
        raise AssertionError("two writers")


def test_a_holder_that_is_killed_frees_it(tmp_path, holder):
    holder.kill()
    holder.wait()
    with writer(str(tmp_path), "r", wait=False):
        pass


def test_a_waiting_run_goes_on_when_the_holder_ends(tmp_path, holder):
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "waiting for it to end" in waiting.stderr.readline()
    assert waiting.poll() is None
    holder.kill()
    assert waiting.stdout.readline() == "held\n"
    waiting.kill()
    waiting.communicate()


@pytest.mark.parametrize("out", ["taken", "taken/out"])
def test_a_file_in_the_place_of_the_folder_is_wrong_usage(tmp_path, out):
    (tmp_path / "taken").write_text("not a folder")
    with pytest.raises(ConfigError, match=f"{out}'.*is a file"), writer(str(tmp_path / out), "r"):
        raise AssertionError("a folder was made")
