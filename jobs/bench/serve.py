"""The web application under load: many clients at once, and whether its memory grows.

``python jobs/bench/serve.py --clients 20 --clips 200 --workers 2``
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
import typer

from bench.report import Report, show
from bench.videos import write_video

_LOOK_EVERY_S = 0.1


def measure(clients: int, clips: int, workers: int, seconds: int) -> Report:
    """Send so many different clips by so many clients, each of which waits for one before it sends the next.

    Args:
        clients: at once.
        clips: in all.
        workers: of the server.
        seconds: of each clip.
    """
    with TemporaryDirectory(prefix="vemoclap-bench-") as name:
        folder = Path(name)
        made = [folder / f"{number}.mp4" for number in range(clips + 3)]
        for number, path in enumerate(made):
            write_video(path, seconds, size=(320, 180), seed=number)
        with _server(folder, workers) as (process, url), httpx.Client(base_url=url, timeout=120) as client:
            alone = [_one(client, path)[0] for path in made[:3]][1:]
            memory: list[float] = []

            def send(path: Path) -> tuple[float, str]:
                found = _one(client, path)
                memory.append(_memory(process))
                return found

            began = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                outcomes = list(pool.map(send, made[3:]))
            wall = time.perf_counter() - began
        states = [state for _, state in outcomes]
        took = sorted(latency for latency, _ in outcomes)
        half = memory[len(memory) // 2 :]
        tenth = max(1, len(half) // 10)
        growth = statistics.median(half[-tenth:]) / statistics.median(half[:tenth]) - 1
        figures = {
            "lost": float(states.count("lost")), "failed": float(states.count("failed")), "alone_s": min(alone),
            "p50_s": took[len(took) // 2], "p95_s": took[int(len(took) * 0.95)], "clips_per_s": clips / wall,
            "memory_growth": growth,
        }  # fmt: skip
        rows = [{"figure": figure, "value": round(value, 3)} for figure, value in figures.items()]
        settings = {"clients": clients, "clips": clips, "workers": workers, "seconds": seconds}
        notes = [
            "memory_growth: server and workers, from the begin to the end of the second half of all clips",
            f"with {clients} clients on {workers} workers a clip waits for {clients / workers:g} on average",
        ]
        return Report("serve", settings, rows, figures, notes)


def _one(client: httpx.Client, path: Path) -> tuple[float, str]:
    """Send a clip and wait for it; returns seconds and its state in the end."""
    began = time.perf_counter()
    with path.open("rb") as stream:
        answer = client.post("/v1/videos", files={"file": (path.name, stream)})
    if answer.status_code != 202:
        return time.perf_counter() - began, "lost"
    while True:
        found = client.get(f"/v1/videos/{answer.json()['id']}")
        if found.status_code != 200:
            return time.perf_counter() - began, "lost"
        if (state := found.json()["state"]) in {"done", "failed"}:
            return time.perf_counter() - began, state
        time.sleep(_LOOK_EVERY_S)


def _memory(process: subprocess.Popen[bytes]) -> float:
    """Proportional memory of the server and what it started, in MiB."""
    server = psutil.Process(process.pid)
    total = 0
    for each in (server, *server.children(recursive=True)):
        try:
            total += each.memory_full_info().pss
        except psutil.Error:  # It has ended.
            continue
    return total / 2**20


@contextmanager
def _server(folder: Path, workers: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    log = folder / "log"
    command = [sys.executable, "-m", "vemoclap_batch", "serve", "--port", "0", "-o", str(folder / "out")]
    command += ["--workers", str(workers), "--per-minute", "0", "--max-queue", "1000"]
    with log.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        try:
            while not (found := re.search(r"listening on (\S+)", log.read_text())):
                if process.poll() is not None:
                    raise RuntimeError(log.read_text())
                time.sleep(0.2)
            yield process, found[1]
        finally:
            process.terminate()


def main(clients: int = 20, clips: int = 200, workers: int = 2, seconds: int = 1, as_json: bool = False) -> None:
    """Measure the web application under load."""
    show(measure(clients, clips, workers, seconds), as_json)


if __name__ == "__main__":
    typer.run(main)
