"""How much memory a whole run takes, its driver, actors and object store, from outside (Linux only)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from bench.report import Report
from bench.videos import write_video
from vemoclap_batch.errors import ConfigError

#: How often the processes are looked at.
_EVERY_S = 0.5
#: One-second clips that differ; the others are copies of them.
_DISTINCT = 8
#: The kinds of memory that are told apart.
DRIVER, ACTORS, DECODERS, RAY, STORE = "driver", "actors", "decoders", "ray", "object_store"
#: The actors' own peaks added up, whenever each had it: what they would take if all were at their peaks at once.
EACH = "actors_own_peaks"


def flat(
    counts: Sequence[int] = (10, 100), profile: str = "lite", overrides: Sequence[str] = (),
    size: tuple[int, int] = (640, 360),
) -> Report:  # fmt: skip
    """Peaks of runs over so many one-second clips each: flat if the last is no higher than the first."""
    with TemporaryDirectory(prefix="vemoclap-bench-") as scratch:
        folder = Path(scratch)
        kinds = [
            write_video(folder / f"{number}.mp4", 1, size=size, fps=10, seed=number)
            for number in range(min(_DISTINCT, max(counts)))
        ]
        rows = []
        for count in counts:
            clips = folder / f"clips{count}"
            clips.mkdir()
            for number in range(count):
                shutil.copy(kinds[number % len(kinds)], clips / f"clip {number:05d}.mp4")
            rows.append({"clips": count, **peaks(clips, folder / f"out{count}", profile, overrides)})
            shutil.rmtree(clips)
    settings = {"profile": profile, "overrides": list(overrides), "size": list(size), "clip_s": 1}
    return Report("memory", settings, rows, _above(rows))


def long(
    lengths_s: Sequence[int] = (60, 7200), profile: str = "lite", overrides: Sequence[str] = (),
    size: tuple[int, int] = (640, 360), fps: int = 5,
) -> Report:  # fmt: skip
    """Peaks of runs over a single video each, of these lengths in seconds."""
    rows = []
    for seconds in lengths_s:
        with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
            video = Path(folder) / "video.mp4"
            write_video(video, seconds, size=size, fps=fps, rate=16_000, preset="ultrafast")
            rows.append({"video_s": seconds, **peaks(video, Path(folder) / "out", profile, overrides)})
    settings = {"profile": profile, "overrides": list(overrides), "size": list(size), "fps": fps}
    notes = ["the sound is a tone with pauses: what it costs to recognise speech is not in the seconds"]
    return Report("long", settings, rows, _above(rows), notes)


def peaks(source: Path, out: Path, profile: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Run ``extract`` as a process of its own and watch it.

    Returns:
        ``wall_s`` and, in MiB, the largest sum over all processes and the largest of each kind at a time, and the sum
        of the actors' own peaks; shared memory counts once (proportional set sizes).

    Raises:
        RuntimeError: the run failed, or some video in it.
        ConfigError: no Linux, or one too old to tell shared memory from the rest.
    """
    _check_kernel()
    command = [sys.executable, "-m", "vemoclap_batch", "extract", str(source), "-o", str(out), "--profile", profile]
    command += [word for override in overrides for word in ("--set", override)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        highest = _watch(process)
    finally:
        # Its Ray ends with it.
        process.terminate()
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    mib = {f"{kind}_mib": round(size / 2**20) for kind, size in highest.items()}
    return {"wall_s": round(time.perf_counter() - began, 1), **mib}


def _watch(process: subprocess.Popen[bytes]) -> dict[str, int]:
    """The peaks in bytes, of all and of each kind, until the process ends."""
    highest = dict.fromkeys(("all", DRIVER, ACTORS, DECODERS, STORE, RAY), 0)
    each: dict[int, int] = {}
    while process.poll() is None:
        now = dict.fromkeys(highest, 0)
        for pid, kind, own, shared in _sizes(process.pid):
            now[kind] += own
            now[STORE] += shared
            if kind == ACTORS:
                each[pid] = max(each.get(pid, 0), own)
        now["all"] = sum(now.values())
        highest = {kind: max(size, now[kind]) for kind, size in highest.items()}
        time.sleep(_EVERY_S)
    return {**highest, EACH: sum(each.values())}


def _sizes(pid: int) -> Iterator[tuple[int, str, int, int]]:
    """Of a process and all its descendants: id, kind, its own memory and its part of the shared, in bytes."""
    with suppress(psutil.NoSuchProcess):
        driver = psutil.Process(pid)
        for process in (driver, *driver.children(recursive=True)):
            # Some end between two looks.
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                sizes = _rollup(process.pid)
                kind = DRIVER if process == driver else _kind(process.cmdline())
                yield process.pid, kind, sizes["Pss"] - sizes["Pss_Shmem"], sizes["Pss_Shmem"]


def used(pid: int) -> int:
    """Memory in bytes that a process and all its descendants take; shared memory counts once."""
    return sum(own + shared for _, _, own, shared in _sizes(pid))


def _kind(command: Sequence[str]) -> str:
    if command and command[0].startswith("ray::"):
        return ACTORS
    return DECODERS if any("worker_main" in word for word in command) else RAY


def _rollup(pid: int | str) -> dict[str, int]:
    """The kernel's sums over a process' memory, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def _check_kernel() -> None:
    try:
        sums = _rollup("self")
    except OSError as error:
        raise ConfigError(["memory is measured by /proc/PID/smaps_rollup, which only Linux has"]) from error
    if "Pss_Shmem" not in sums:
        raise ConfigError(["this kernel does not tell shared memory from the rest; 5.4 does"])


def highest_memory() -> int:
    """The most resident memory in bytes that this process had since it started its program."""
    # getrusage would count what its parent had when it was forked.
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ConfigError(["this kernel does not tell the peak of a process' memory"])


def _above(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """By how much the last run's peaks lie above the first's."""
    kinds = [name for name in rows[0] if name.endswith("_mib")]
    return {f"{name}_above_first": rows[-1][name] - rows[0][name] for name in kinds}
