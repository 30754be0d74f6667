"""Damaged files through the real decode worker: each must end as a clip or one failure, in bounded time and memory."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fuzz.mutants import kinds, mutate
from vemoclap_batch.errors import Failure
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.media.sampling import Limits
from vemoclap_batch.media.worker import DecodeWorker

_LOOK_EVERY_S = 0.02
#: What the worker takes before it opens a file, in MiB, generously.
_AT_START_MIB = 512


@dataclass
class Outcome:
    """How one mutant ended.

    Attributes:
        name: of the mutant's file.
        result: ``whole``, ``salvaged`` (a clip with warnings) or the type of failure.
        broken: what must not be, in words; None if all is well.
    """

    name: str
    kind: str
    result: str
    seconds: float
    peak_mib: float
    broken: str | None = None


@dataclass
class Report:
    """All outcomes, and where the mutants lie that ended as none may."""

    outcomes: list[Outcome] = field(default_factory=list)
    kept_in: str | None = None

    @property
    def broken(self) -> list[Outcome]:
        """The mutants that ended as none may."""
        return [outcome for outcome in self.outcomes if outcome.broken]

    def as_dict(self) -> dict[str, Any]:
        """Counts, overall and by kind of damage, the slowest, the peak, and what must not be."""
        by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for outcome in self.outcomes:
            by_kind[outcome.kind][outcome.result] += 1
        slowest = max(self.outcomes, key=lambda outcome: outcome.seconds)
        return {
            "mutants": len(self.outcomes),
            "results": dict(Counter(outcome.result for outcome in self.outcomes).most_common()),
            "by_kind": {kind: dict(results.most_common()) for kind, results in by_kind.items()},
            "seconds": round(sum(outcome.seconds for outcome in self.outcomes), 2),
            "slowest": {"name": slowest.name, "seconds": round(slowest.seconds, 2), "result": slowest.result},
            "peak_mib": round(max(outcome.peak_mib for outcome in self.outcomes)),
            "broken": [asdict(outcome) for outcome in self.broken],
            "kept_in": self.kept_in,
        }


def fuzz(
    clips: Sequence[Path], count: int, seed: int, scratch: Path, keep: Path, limits: Limits, bound_s: float
) -> Report:
    """Decode so many mutants, the clips and kinds of damage in turn.

    Args:
        clips: intact files.
        count: of mutants.
        seed: the same seed and number of a mutant give the same bytes.
        scratch: folder for the mutants while they are decoded.
        keep: folder for those that ended as none may; made when there is one.
        limits: of the decode worker.
        bound_s: seconds that a mutant may take, whatever heartbeats its decoder sends.
    """
    report = Report()
    with DecodeWorker(limits=limits) as worker:
        for number, (name, kind, content) in enumerate(mutants(clips, count, seed)):
            path = scratch / name
            path.write_bytes(content)
            report.outcomes.append(_decode(worker, path, kind, limits, bound_s))
            if report.outcomes[number].broken:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / name).write_bytes(content)
                report.kept_in = str(keep)
            path.unlink()
    return report


def mutants(clips: Sequence[Path], count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Name, kind of damage and content of each mutant."""
    whole = {path: path.read_bytes() for path in clips}
    turns = [(path, kind) for path, content in whole.items() for kind in kinds(content)]
    for number in range(count):
        path, kind = turns[number % len(turns)]
        random = np.random.default_rng([seed, number])
        name = f"{path.stem} {seed}-{number} {kind}{path.suffix}"
        yield name, kind, mutate(whole[path], kind, random)


def _decode(worker: DecodeWorker, path: Path, kind: str, limits: Limits, bound_s: float) -> Outcome:
    began = time.monotonic()
    parts: list[tuple[Clip, MediaInfo] | Failure] = []
    wrong: list[str] = []
    with _watched(worker, bound_s) as peak:
        try:
            for part in worker.chunks(path.name, str(path)):
                wrong += [] if isinstance(part, Failure) else _faults(*part, limits)
                # Of what is whole only the info is kept.
                parts = [part]
        except Exception as error:
            wrong.append(f"the worker raised {error!r}")
    seconds = time.monotonic() - began
    if seconds > bound_s:
        wrong.append(f"it took {seconds:.1f} s")
    if peak[0] > limits.memory_gb * 1024 + _AT_START_MIB:
        wrong.append(f"the worker took {peak[0]:.0f} MiB")
    return Outcome(path.name, kind, _result(parts), seconds, peak[0], "; ".join(wrong) or None)


def _result(parts: Sequence[tuple[Clip, MediaInfo] | Failure]) -> str:
    if not parts:
        return "nothing"
    last = parts[-1]
    if isinstance(last, Failure):
        return str(last.error_type)
    return "salvaged" if last[1].warnings else "whole"


def _faults(clip: Clip, info: MediaInfo, limits: Limits) -> list[str]:
    """What no extractor could take, or would take too much memory."""
    times = np.asarray(clip.frame_times)
    audio = np.concatenate([clip.waveform, clip.lookahead])
    faults = {
        "frames without times": len(clip.frames) != len(times),
        "times outside the video": not ((times >= 0) & (times <= info.duration_s)).all(),
        "times out of order": bool((np.diff(times) < 0).any()),
        "more frames than asked for": len(clip.frames) > limits.whole_frames,
        "more audio than asked for": len(clip.waveform) > limits.whole_s * 16_000 + 1,
        "audio beyond full scale": bool(len(audio)) and not np.abs(audio).max() <= 1,
        "neither frames nor audio": not (info.has_video or info.has_audio),
        "no finite length": not 0 <= info.duration_s < float("inf"),
    }
    return [fault for fault, found in faults.items() if found]


@contextmanager
def _watched(worker: DecodeWorker, bound_s: float) -> Iterator[list[float]]:
    """Look at the worker's memory now and then, and end it after its time; gives the peak in MiB, in a list of one."""
    peak, done = [0.0], threading.Event()
    end = time.monotonic() + bound_s

    def look() -> None:
        while not done.wait(_LOOK_EVERY_S):
            pid = worker.pid
            if pid is None:
                continue
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                peak[0] = max(peak[0], process.memory_info().rss / 2**20)
                if time.monotonic() > end:
                    process.kill()

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
