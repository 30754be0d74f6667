"""Small pictures of videos, decoded when a report wants them, and kept for the next one.

They are not made while a run decodes anyway: a run would be slower and its tables a third larger for pictures that few
look at, and OUT would hold pictures of people whom nobody asked to see.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vemoclap_batch.errors import Failure
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.worker import DecodeWorker
from vemoclap_batch.policy import Policy
from vemoclap_batch.store.filesystem import is_remote, without_file_scheme
from vemoclap_batch.store.folder import Folder

#: Pictures of a video at most, and bytes of all of them in one report.
MOST, _BYTES = 6, 24_000_000
#: About what a picture of either size takes.
_SMALL, _LARGE = (112, 45, 2_600), (160, 60, 6_000)  # short side in pixels, WebP quality, bytes
_CACHE, _CACHE_BYTES = "thumbnails.parquet", 400_000_000
_SCHEMA = pa.schema(
    [("key", pa.string()), ("side", pa.int32()), ("time_s", pa.list_(pa.float64())), ("webp", pa.list_(pa.binary()))]
)
#: A video that takes longer has no pictures.
_TIMEOUT_S = 20.0

Pictures = dict[str, list[tuple[float, bytes]]]


@dataclass(frozen=True)
class Wanted:
    """A video whose pictures are wanted: where it lies, and when frames were taken of it."""

    key: str
    uri: str | None
    frame_times: Sequence[float]

    @property
    def path(self) -> str | None:
        """Its path, if it is a file on this machine."""
        if not self.uri or is_remote(self.uri):
            return None
        path = without_file_scheme(self.uri)
        return path if os.path.isfile(path) else None


def thumbnails(
    wanted: Sequence[Wanted], folder: Folder, policy: Policy, seconds: float,
    report: Callable[[int], None] = lambda done: None,
) -> Pictures:  # fmt: skip
    """Pictures of videos on this machine, by key: seconds of the video and WebP.

    Args:
        wanted: the videos, all that the report shows.
        folder: where pictures are kept.
        policy: which files may be read.
        seconds: how long videos may be decoded; those whose turn does not come have none yet.
        report: called with the number of videos whose pictures are there.
    """
    side, quality, size = _LARGE if len(wanted) * MOST * _LARGE[2] <= _BYTES else _SMALL
    count = min(MOST, _BYTES // (max(len(wanted), 1) * size))
    if not count:
        return {}
    kept = _kept(folder, side)
    found = {of.key: kept[of.key] for of in wanted if of.key in kept}
    pending = [of for of in wanted if of.key not in found and of.path is not None]
    deadline = time.monotonic() + seconds
    made: Pictures = {}
    if pending and seconds > 0:
        made = _decoded(pending, side, quality, policy, deadline, lambda done: report(len(found) + done))
        _keep(folder, side, made, kept, {of.key for of in wanted})
    return {key: _fewer(pictures, count) for key, pictures in {**found, **made}.items()}


def _fewer(pictures: list[tuple[float, bytes]], count: int) -> list[tuple[float, bytes]]:
    if len(pictures) <= count:
        return pictures
    return [pictures[at] for at in np.linspace(0, len(pictures) - 1, count).round().astype(int)]


def frames_of(sampled: int) -> int:
    """How many frames to take of a video of which so many were taken: they are among those, so that boxes fit."""
    fitting = [count for count in range(2, MOST + 1) if sampled > 1 and (sampled - 1) % (count - 1) == 0]
    return max(fitting, default=min(sampled, MOST) or MOST)


def _decoded(
    pending: Sequence[Wanted], side: int, quality: int, policy: Policy, deadline: float, report: Callable[[int], None]
) -> Pictures:
    """Decode some videos in processes that can be killed, one a core."""
    made: Pictures = {}
    lock, local = threading.Lock(), threading.local()
    workers: list[DecodeWorker] = []
    stopped = threading.Event()

    def worker(frames: int) -> DecodeWorker:
        if getattr(local, "frames", None) != frames:
            limits = Limits(timeout_s=_TIMEOUT_S, policy=policy)
            local.worker, local.frames = DecodeWorker(Sampling(frames=frames, short_side=side), limits), frames
            with lock:
                workers.append(local.worker)
        return local.worker

    def one(of: Wanted) -> None:
        if stopped.is_set() or time.monotonic() > deadline or of.path is None:
            return
        decoded = worker(frames_of(len(of.frame_times))).decode(of.key, of.path, want_audio=False)
        pictures: list[tuple[float, bytes]] = []
        if not isinstance(decoded, Failure):
            pictures = list(_encoded(decoded[0].frames, decoded[0].frame_times, quality))
        with lock:
            made[of.key] = pictures
            report(len(made))

    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    try:
        # Videos with as many frames one after the other: a process is made for that number.
        list(pool.map(one, sorted(pending, key=lambda of: frames_of(len(of.frame_times)))))
    finally:
        stopped.set()
        for process in workers:
            # Only the thread that waits for it may close it; that goes on at once when the process is gone.
            if process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        pool.shutdown(cancel_futures=True)
        for process in workers:
            process.close()
    return made


def _encoded(frames: np.ndarray, times: Iterable[float], quality: int) -> Iterable[tuple[float, bytes]]:
    for frame, seconds in zip(frames, times, strict=True):
        is_made, content = cv2.imencode(".webp", frame[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
        if is_made:
            yield float(seconds), content.tobytes()


def webp(frame: np.ndarray, side: int = 160, quality: int = 60) -> bytes:
    """One frame uint8 [height, width, 3], RGB, as a small WebP picture."""
    scale = min(side / min(frame.shape[:2]), 1.0)
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".webp", small[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def _kept(folder: Folder, side: int) -> Pictures:
    """What an earlier report made; a file that cannot be read is made anew."""
    if not folder.has(_CACHE):
        return {}
    try:
        rows = pq.read_table(pa.BufferReader(folder.read(_CACHE)), schema=_SCHEMA).to_pylist()
    except (pa.ArrowException, OSError):
        return {}
    return {row["key"]: list(zip(row["time_s"], row["webp"], strict=True)) for row in rows if row["side"] == side}


def _keep(folder: Folder, side: int, made: Pictures, kept: Pictures, shown: set[str]) -> None:
    """Keep pictures for the next report, those of videos that are shown first."""
    size, rows = 0, []
    for key, pictures in sorted({**kept, **made}.items(), key=lambda item: item[0] not in shown):
        size += sum(len(content) for _, content in pictures)
        if size <= _CACHE_BYTES:
            times, contents = [time for time, _ in pictures], [content for _, content in pictures]
            rows.append({"key": key, "side": side, "time_s": times, "webp": contents})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink)
    folder.write(_CACHE, sink.getvalue().to_pybytes())


def by_key(keys: Sequence[str], videos: Sequence[Mapping[str, object]]) -> list[Wanted]:
    """The videos of a table, by their keys."""
    return [
        Wanted(key, row["uri"], row["frame_times"] or ())  # type: ignore[arg-type]
        for key, row in zip(keys, videos, strict=True)
    ]
