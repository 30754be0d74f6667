"""The worker process: decodes one video after another, and ends with its parent.

It imports only what decoding needs, so that a new one starts in well under a second.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from dataclasses import asdict
from typing import Any

import cv2

from vemoclap_batch.errors import ErrorType, Failure
from vemoclap_batch.lifetime import end_at_event
from vemoclap_batch.media.clip import MediaError
from vemoclap_batch.media.decode import decode_chunks
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.worker import receive, send

_HEARTBEAT_S = 1.0
_CV_OUT_OF_MEMORY = -4
_CLIP_FIELDS = ("duration_s", "start_s", "chunk", "chunks", "first_frame", "audio_samples")


def main(answers: int, parent_pipe: int, sampling: Sampling, limits: Limits) -> None:
    """Answer requests from standard input on the pipe ``answers``, until the parent closes its end."""
    # When the parent's end closes, however it ended. PR_SET_PDEATHSIG would fire when the thread that started this
    # process ends.
    end_at_event(parent_pipe)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the parent, which decides.
    _limit_memory(int(limits.memory_gb * 2**30))
    cv2.setNumThreads(1)
    while True:
        try:
            request, _ = receive(0)
        except EOFError:
            return
        _answer(answers, request, sampling, limits)


def _limit_memory(size: int) -> None:
    if sys.platform != "linux":
        return  # macOS accepts the limit and ignores it.
    with open("/proc/self/statm") as stream:
        used = int(stream.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = used + size if hard == resource.RLIM_INFINITY else min(used + size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # A crash of a decoder is no occasion for a file of 4 GiB.


def _answer(answers: int, request: dict[str, Any], sampling: Sampling, limits: Limits) -> None:
    last = time.monotonic()

    def heartbeat() -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _HEARTBEAT_S:
            last = now
            send(answers, {"kind": "heartbeat"})

    address, first_only = request.pop("address"), request.pop("first_only")
    try:
        for clip, info in decode_chunks(address, "", sampling, limits, heartbeat=heartbeat, **request):
            fields = {name: getattr(clip, name) for name in _CLIP_FIELDS}
            # The pipe makes this process wait until the parent wants the next chunk.
            message = {"kind": "clip", "clip": fields, "info": asdict(info)}
            send(answers, message, (clip.frames, clip.frame_times, clip.waveform, clip.lookahead))
            if first_only:
                break
    except BrokenPipeError:
        os._exit(1)  # The parent is gone.
    except Exception as error:
        send(answers, {"kind": "failure", **asdict(_failure(error, limits))})


def _failure(error: Exception, limits: Limits) -> Failure:
    if isinstance(error, MediaError):
        return error.failure
    if isinstance(error, MemoryError) or getattr(error, "code", None) == _CV_OUT_OF_MEMORY:
        message = f"needs more than the {limits.memory_gb:g} GiB that decoding one video may use"
        return Failure(ErrorType.OUT_OF_MEMORY, message)
    # Whatever a decoder makes of damaged bytes, it is this video's failure alone.
    return Failure.of(error, ErrorType.UNDECODABLE)
