"""Waiting for what other processes and threads do, however long a busy machine takes over it."""

import time


def wait_for(condition, seconds=300, every=0.01):
    """What the condition returns once that is true; an AssertionError when it does not come to be."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came to that"
        time.sleep(every)
    return found
