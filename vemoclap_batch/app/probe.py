"""How long a video is, asked before its turn: in a process that can be killed."""

from __future__ import annotations

import threading
from dataclasses import replace

from vemoclap_batch.config import Config
from vemoclap_batch.errors import Failure
from vemoclap_batch.media.sampling import Sampling
from vemoclap_batch.media.worker import DecodeWorker
from vemoclap_batch.pipeline.chain import limits

#: A file that says nothing for so long is left to the chain, which has more patience and an errors table.
_SILENCE_S = 15.0


class Probe:
    """Opens files one at a time."""

    def __init__(self, config: Config) -> None:
        self._worker = DecodeWorker(Sampling(frames=1, short_side=32), replace(limits(config), timeout_s=_SILENCE_S))
        self._lock = threading.Lock()

    def duration_s(self, path: str) -> float | None:
        """Return a video's length; None where it does not say, or is none: the chain will say why."""
        with self._lock:
            found = self._worker.decode("", path, want_audio=False)
        return None if isinstance(found, Failure) else found[1].duration_s

    def close(self) -> None:
        """End the process."""
        self._worker.close()
