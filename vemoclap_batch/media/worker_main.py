"""The worker process: decodes one video after another, and ends with the process that owns it.

It imports only what decoding needs, so that a new one starts in well under a second.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import sys
import time
from dataclasses import asdict
from typing import Any

from vemoclap_batch.errors import ErrorType, Failure
from vemoclap_batch.media import channel
from vemoclap_batch.media.decode import decode_parts
from vemoclap_batch.media.decoded import Decoded
from vemoclap_batch.media.error import MediaError
from vemoclap_batch.media.sampling import Limits, Sampling

_BEAT_S = 1.0
_CV_OUT_OF_MEMORY = -4


def main(answers: int, lifeline: int, sampling: Sampling, limits: Limits) -> None:
    """Answer requests from standard input on the pipe ``answers``, until the owner closes its end."""
    _end_with_owner(lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the owner, which decides.
    _limit_memory(int(limits.memory_gb * 2**30))
    _one_thread()
    requests = channel.read_into(0)
    while True:
        try:
            request, _ = channel.receive(requests)
        except EOFError:
            return
        _answer(answers, request, sampling, limits)


def _end_with_owner(lifeline: int) -> None:
    """Have the kernel kill this process when the owner's end of the pipe closes, however the owner ended.

    A thread that waits for it would not do: decoders hold the interpreter lock while they hang. Nor would
    PR_SET_PDEATHSIG, which fires when the thread that started this process ends.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    if hasattr(fcntl, "F_SETSIG"):  # Linux; elsewhere it is SIGIO, which ends a process too.
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_NONBLOCK | fcntl.FASYNC)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    if poll.poll(0):
        os._exit(1)  # The owner was gone before the kernel knew.


def _limit_memory(size: int) -> None:
    if sys.platform != "linux":
        return  # macOS accepts the limit and ignores it.
    with open("/proc/self/statm") as stream:
        used = int(stream.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = used + size if hard == resource.RLIM_INFINITY else min(used + size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # A crash of a decoder is no occasion for a file of 4 GiB.


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _answer(answers: int, request: dict[str, Any], sampling: Sampling, limits: Limits) -> None:
    wants = {name: bool(request[name]) for name in ("want_frames", "want_audio")}
    try:
        for decoded in decode_parts(request["address"], sampling, limits, beat=_Pulse(answers), **wants):
            # The pipe makes this process wait until the owner wants the next part.
            _send(answers, decoded)
    except BrokenPipeError:
        os._exit(1)  # The owner is gone.
    except Exception as error:
        channel.send(answers, {"kind": "failure", **asdict(_failure(error, limits))})


def _send(answers: int, decoded: Decoded) -> None:
    message = {
        "kind": "clip",
        "info": asdict(decoded.info),
        "part": decoded.part,
        "sound_samples": decoded.sound_samples,
    }
    channel.send(answers, message, (decoded.frames, decoded.frame_times, decoded.pcm, decoded.following))


def _failure(error: Exception, limits: Limits) -> Failure:
    if isinstance(error, MediaError):
        return error.failure
    if isinstance(error, MemoryError) or getattr(error, "code", None) == _CV_OUT_OF_MEMORY:
        return _out_of_memory(limits)
    # Whatever a decoder makes of damaged bytes, it is this video's failure alone.
    return Failure.of(error, ErrorType.UNDECODABLE)


def _out_of_memory(limits: Limits) -> Failure:
    message = f"needs more than the {limits.memory_gb:g} GiB that decoding one video may use"
    return Failure(ErrorType.OUT_OF_MEMORY, message)


class _Pulse:
    """Tells the owner, once a second at most, that decoding gets on."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._last = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._last >= _BEAT_S:
            self._last = now
            channel.send(self._answers, {"kind": "beat"})
