"""A process of its own that decodes: it can hang, crash or run out of memory, and costs one video each time."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, closing
from dataclasses import asdict
from typing import IO, Any

import numpy as np

from vemoclap_batch.errors import MAX_MESSAGE, ErrorType, Failure
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.media.sampling import Limits, Sampling

#: The parent's module path is handed over, as multiprocessing's spawn does; its main module is not imported again.
_START = """
import json, os, sys
answers = os.dup(1)
os.dup2(2, 1)  # Whatever a library prints must not end up among the answers.
path, parent_pipe, sampling, limits, policy = json.loads(sys.argv[1])
sys.path[:] = path
from vemoclap_batch.media import worker_main
from vemoclap_batch import policy as policies
limits = worker_main.Limits(**limits, policy=policies.Policy(**policy))
worker_main.main(answers, parent_pipe, worker_main.Sampling(**sampling), limits)
"""
#: The thread pools of these libraries would only take address space.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_STDERR_SHOWN = 300
#: A process that was killed is gone within this time, unless the kernel itself waits for a disk.
_END_S = 5.0
_LENGTH = struct.Struct(">I")


class DecodeWorker(AbstractContextManager["DecodeWorker"]):
    """Owns one worker process, started by the first call and reused; for one calling thread at a time.

    The process ends with :meth:`close`, and when its parent ends in whatever way, SIGKILL included.
    """

    def __init__(self, sampling: Sampling | None = None, limits: Limits | None = None) -> None:
        self._sampling = sampling or Sampling()
        self._limits = limits or Limits()
        self._process: _Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None before the first call and after one that ended it."""
        return self._process.popen.pid if self._process is not None else None

    def decode(
        self, video_id: str, uri: str, *, want_frames: bool = True, want_audio: bool = True
    ) -> tuple[Clip, MediaInfo] | Failure:
        """The first chunk of a video, which is all of a short one; see :meth:`chunks`."""
        wanted = {"want_frames": want_frames, "want_audio": want_audio}
        with closing(self.chunks(video_id, uri, **wanted, first_only=True)) as chunks:
            return next(chunks)

    def chunks(
        self, video_id: str, uri: str, *, want_frames: bool = True, want_audio: bool = True, first_only: bool = False
    ) -> Generator[tuple[Clip, MediaInfo] | Failure, None, None]:
        """Decode one video as :func:`~vemoclap_batch.media.decode.decode_chunks` does, with a Failure for an exception.

        With ``first_only`` it ends after the first chunk. After a time-out, a crash or a lack of memory, and when not
        all chunks are taken, the next call starts a new process.
        """
        try:
            if self._process is None or self._process.popen.poll() is not None:
                self.close()
                self._process = _Process(self._sampling, self._limits)
            process = self._process
        except OSError as error:
            yield Failure(ErrorType.WORKER_DIED, f"no process to decode the video could be started: {error}")
            return
        finished = False
        try:
            request = {"want_frames": want_frames, "want_audio": want_audio, "first_only": first_only}
            send(process.requests, {"address": uri, **request})
            while not finished:
                result = self._result(video_id, *process.answer(self._limits.timeout_s))
                finished = first_only or isinstance(result, Failure) or result[0].chunk == result[0].chunks - 1
                yield result
        except TimeoutError:
            message = f"decoding made no progress for {self._limits.timeout_s:g} s and was killed"
            yield Failure(ErrorType.TIMEOUT, message)
        except (EOFError, OSError):
            yield Failure(ErrorType.WORKER_DIED, process.exit_reason())
        finally:
            if not finished:  # What is still to come must not be taken for an answer about the next video.
                self.close()

    def close(self) -> None:
        """End the process, if one runs; the object can be used again."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def _result(
        self, video_id: str, message: dict[str, Any], arrays: list[np.ndarray]
    ) -> tuple[Clip, MediaInfo] | Failure:
        if message["kind"] == "failure":
            failure = Failure(ErrorType(message["error_type"]), message["message"])
            if failure.error_type is ErrorType.OUT_OF_MEMORY:
                self.close()  # What is left of its memory is in pieces.
            return failure
        frames, times, waveform, lookahead = arrays
        clip = Clip(video_id, frames, times, waveform, lookahead=lookahead, **message["clip"])
        return clip, MediaInfo(**message["info"])


class _Process:
    """The running worker and the three pipes to it."""

    def __init__(self, sampling: Sampling, limits: Limits) -> None:
        parent_pipe, self._parent_end = os.pipe()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process.
        settings = asdict(limits)
        policy = settings.pop("policy")
        start = json.dumps([[str(entry) for entry in sys.path], parent_pipe, asdict(sampling), settings, policy])
        try:
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, start],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                pass_fds=[parent_pipe],
                env={**os.environ, **_ENVIRONMENT},
            )
        except OSError:
            os.close(self._parent_end)
            self._stderr.close()
            raise
        finally:
            os.close(parent_pipe)
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self._pipes = (self.popen.stdin, self.popen.stdout)
        self.requests = self.popen.stdin.fileno()

    def answer(self, timeout_s: float) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Wait for the next answer; each heartbeat starts the time anew.

        Raises:
            TimeoutError: no heartbeat came.
            EOFError, OSError: the process is gone.
        """
        while True:
            answer = receive(self._pipes[1].fileno(), timeout_s)
            if answer[0]["kind"] != "heartbeat":
                return answer

    def exit_reason(self) -> str:
        """Why a process that is gone ended."""
        status = self._wait()
        self._stderr.seek(max(self._stderr.seek(0, os.SEEK_END) - _STDERR_SHOWN, 0))
        stderr = self._stderr.read().decode("utf-8", "replace").strip()
        if status is None:
            cause = "closed its pipe and went on"
        elif status < 0:
            cause = f"was ended by signal {signal.Signals(-status).name}"
        else:
            cause = f"ended by itself with exit status {status}"
        if status == -signal.SIGKILL:
            cause += " (the machine may have run out of memory)"
        message = f"the process that decoded the video {cause}"
        return f"{message}: {stderr}"[:MAX_MESSAGE] if stderr else message

    def _wait(self) -> int | None:
        """Exit status; None when the process does not end, as one does not that waits for a lost network disk."""
        try:
            return self.popen.wait(_END_S)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self.popen.kill()
        self._wait()
        for stream in (*self._pipes, self._stderr):
            stream.close()
        os.close(self._parent_end)


def send(descriptor: int, message: dict[str, Any], arrays: tuple[np.ndarray, ...] = ()) -> None:
    """Write one message: a length, a JSON object, then the bytes of the arrays, neither copied nor pickled."""
    shapes = [(array.dtype.str, array.shape) for array in arrays]
    text = json.dumps({**message, "arrays": shapes}).encode()
    contents = [np.ascontiguousarray(array).data.cast("B") for array in arrays if array.size]
    for content in (memoryview(_LENGTH.pack(len(text)) + text), *contents):
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])


def receive(descriptor: int, timeout_s: float | None = None) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read one message.

    Raises:
        TimeoutError: not all of it came in time.
        EOFError: the other side is gone.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    poll = select.poll()  # Unlike select(), it takes any descriptor number.
    poll.register(descriptor, select.POLLIN)

    def fill(buffer: memoryview) -> None:
        while len(buffer):
            if deadline is not None and not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                raise TimeoutError
            count = os.readv(descriptor, [buffer])
            if not count:
                raise EOFError
            buffer = buffer[count:]

    length = bytearray(_LENGTH.size)
    fill(memoryview(length))
    text = bytearray(_LENGTH.unpack(length)[0])
    fill(memoryview(text))
    message = json.loads(text)
    arrays = [np.empty(shape, dtype) for dtype, shape in message.pop("arrays")]
    for array in arrays:
        if array.size:
            fill(array.data.cast("B"))
    return message, arrays
