"""A process of its own that decodes: it can hang, crash or run out of memory, and costs one video each time."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from typing import IO, Any

from vemoclap_batch.errors import MAX_MESSAGE, ErrorType, Failure
from vemoclap_batch.media import channel
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.media.decoded import Decoded, Part
from vemoclap_batch.media.sampling import Limits, Sampling

#: The owner's module path is handed over, as multiprocessing's spawn does; its main module is not imported again.
_START = """
import json, os, sys
answers = os.dup(1)
os.dup2(2, 1)  # Whatever a library prints must not end up among the answers.
path, lifeline, sampling, limits, policy = json.loads(sys.argv[1])
sys.path[:] = path
from vemoclap_batch.media import worker_main
from vemoclap_batch import policy as policies
limits = worker_main.Limits(**limits, policy=policies.Policy(**policy))
worker_main.main(answers, lifeline, worker_main.Sampling(**sampling), limits)
"""
#: Decoding is done in the calling thread; the pools of these libraries would only take address space.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_STDERR_SHOWN = 300
#: A process that was killed is gone within this time, unless the kernel itself waits for a disk.
_END_S = 5.0


class DecodeWorker:
    """Owns one worker process, started by the first call and reused; for one calling thread at a time.

    The process ends with :meth:`close`, and when the owner ends in whatever way, SIGKILL included.
    """

    def __init__(self, sampling: Sampling | None = None, limits: Limits | None = None) -> None:
        self._sampling = sampling or Sampling()
        self._limits = limits or Limits()
        self._process: _Process | None = None

    def __enter__(self) -> DecodeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None before the first call and after one that ended it."""
        return self._process.pid if self._process is not None else None

    def decode(
        self, video_id: str, uri: str, *, want_frames: bool = True, want_audio: bool = True
    ) -> tuple[Clip, MediaInfo] | Failure:
        """The first part of a video, which is all of a short one; see :meth:`parts`."""
        with closing(self.parts(video_id, uri, want_frames=want_frames, want_audio=want_audio)) as parts:
            return next(parts)

    def parts(
        self, video_id: str, uri: str, *, want_frames: bool = True, want_audio: bool = True
    ) -> Generator[tuple[Clip, MediaInfo] | Failure, None, None]:
        """Decode one video as :func:`~vemoclap_batch.media.decode.decode_parts` does.

        Never raises for what is wrong with the video: a failure, then, is the last that is given. After a time-out, a
        crash or a lack of memory, and when not all parts are taken, the next call starts a new process.
        """
        request = {"address": uri, "want_frames": want_frames, "want_audio": want_audio}
        try:
            process = self._running()
        except OSError as error:
            yield Failure(ErrorType.WORKER_DIED, f"no process to decode the video could be started: {error}")
            return
        finished = False
        try:
            process.send(request)
            while not finished:
                result = self._result(video_id, *process.answer(self._limits.timeout_s))
                finished = isinstance(result, Failure) or result[0].part == result[0].parts - 1
                yield result
        except TimeoutError:
            message = f"decoding gave no sign of life for {self._limits.timeout_s:g} s and was killed"
            yield Failure(ErrorType.TIMEOUT, message)
        except (EOFError, OSError):
            yield Failure(ErrorType.WORKER_DIED, process.epitaph())
        finally:
            if not finished:  # What is still to come must not be taken for an answer about the next video.
                self.close()

    def close(self) -> None:
        """End the process, if one runs; the object can be used again."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _running(self) -> _Process:
        if self._process is None or not self._process.is_alive():
            self.close()
            self._process = _Process(self._sampling, self._limits)
        return self._process

    def _result(self, video_id: str, message: dict[str, Any], arrays: list[Any]) -> tuple[Clip, MediaInfo] | Failure:
        if message["kind"] == "failure":
            failure = Failure(ErrorType(message["error_type"]), message["message"])
            if failure.error_type is ErrorType.OUT_OF_MEMORY:
                self.close()  # What is left of its memory is in pieces.
            return failure
        info = MediaInfo(**message["info"])
        frames, times, pcm, following = arrays
        part = Part(*message["part"])
        return Decoded(frames, times, pcm, following, info, part, message["sound_samples"]).clip(video_id), info


class _Process:
    """The running worker and the three pipes to it."""

    def __init__(self, sampling: Sampling, limits: Limits) -> None:
        lifeline, self._lifeline = os.pipe()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process.
        bounds = asdict(limits)
        policy = bounds.pop("policy")
        start = json.dumps([[str(entry) for entry in sys.path], lifeline, asdict(sampling), bounds, policy])
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, start],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                pass_fds=[lifeline],
                env={**os.environ, **_ENVIRONMENT},
            )
        except OSError:
            os.close(self._lifeline)
            self._stderr.close()
            raise
        finally:
            os.close(lifeline)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self._requests = self._process.stdin.fileno()
        self._answers = self._process.stdout.fileno()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, request: dict[str, Any]) -> None:
        """Send a request.

        Raises:
            OSError: the process is gone.
        """
        channel.send(self._requests, request)

    def answer(self, timeout_s: float) -> tuple[dict[str, Any], list[Any]]:
        """Wait for the next answer; each sign of life starts the time anew.

        Raises:
            TimeoutError: no sign of life.
            EOFError, OSError: the process is gone.
        """
        while True:
            answer = channel.receive(_read_until(self._answers, time.monotonic() + timeout_s))
            if answer[0]["kind"] != "beat":
                return answer

    def epitaph(self) -> str:
        """What a process that is gone died of."""
        status = self._wait()
        self._stderr.seek(max(self._stderr.seek(0, os.SEEK_END) - _STDERR_SHOWN, 0))
        said = self._stderr.read().decode("utf-8", "replace").strip()
        if status is None:
            cause = "closed its pipe and went on"
        elif status < 0:
            cause = f"was ended by signal {signal.Signals(-status).name}"
        else:
            cause = f"ended by itself with exit status {status}"
        if status == -signal.SIGKILL:
            cause += " (the machine may have run out of memory)"
        message = f"the process that decoded the video {cause}"
        return f"{message}: {said}"[:MAX_MESSAGE] if said else message

    def _wait(self) -> int | None:
        """Exit status; None when the process does not end, as one does not that waits for a lost network disk."""
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self._process.kill()
        self._wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                stream.close()
        os.close(self._lifeline)


def _read_until(descriptor: int, deadline: float) -> channel.ReadInto:
    """A reader that gives up with TimeoutError."""
    poll = select.poll()  # Unlike select(), it takes any descriptor number.
    poll.register(descriptor, select.POLLIN)

    def fill(buffer: memoryview) -> None:
        while len(buffer):
            if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                raise TimeoutError
            count = os.readv(descriptor, [buffer])
            if not count:
                raise EOFError
            buffer = buffer[count:]

    return fill
