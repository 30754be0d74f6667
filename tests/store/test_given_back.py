"""A command that is asked to stop gives a folder back at once, also where a lock outlives its process."""

import os
import signal
import time

import pytest

from vemoclap_batch.cli.common import exit_statuses
from vemoclap_batch.store.store import Store


def be_asked():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


def test_a_command_that_is_asked_to_stop_gives_its_folder_in_a_bucket_back(s3_out):
    with pytest.raises(SystemExit) as left, exit_statuses(), Store(s3_out).writing("the first"):
        be_asked()
    assert left.value.code == 143
    with Store(s3_out).writing("the second", wait=False):
        pass
