"""The driver commits finished rows to the tables, a group at a time. Nothing else writes features."""

from __future__ import annotations

import datetime
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.pipeline.pending import Pending, features_table
from vemoclap_batch.pipeline.rows import DECODED
from vemoclap_batch.pipeline.stages import DECODE
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import picked

#: A group is committed before it is larger. Features take about 0.1 MB a video, so that such a group has about 2,500
#: videos. While it is committed as much may wait, and committing takes about a copy: below 1 GB of the driver in all,
#: and the last group is written within the grace of a SIGTERM, also where the store takes 30 MB/s.
GROUP_BYTES = 256 * 2**20
#: How long after one group the next is due, at first; each time twice that, up to what the configuration says. A run
#: that is killed soon has committed something by then, however often that happens to it.
FIRST_S = 10.0
_VIDEO = ["video_id", "content_key", "uri"]
#: What an Arrow table with the columns of a run takes beside its values: 109 kB were measured for one of a single row.
BLOCK_BYTES = 128 * 2**10
# So many are put together, which then take it once.
_PUT_TOGETHER = 64


@dataclass
class StageTotals:
    """What one stage did in a run: items that gave a result, items that failed, and its own time.

    ``noted`` are the results whose column ``note`` (of windows: ``notes``) says what was left out.
    """

    items: int = 0
    failed: int = 0
    noted: int = 0
    seconds: float = 0.0


@dataclass
class Totals:
    """What a run has committed so far."""

    videos: int = 0
    failed_videos: int = 0
    video_seconds: float = 0.0
    ready_at: float = 0.0
    stages: defaultdict[str, StageTotals] = field(default_factory=lambda: defaultdict(StageTotals))

    def add(self, more: Totals) -> None:
        """Add those of a group."""
        self.videos += more.videos
        self.failed_videos += more.failed_videos
        self.video_seconds += more.video_seconds
        self.ready_at = max(self.ready_at, more.ready_at)
        for name, stage in more.stages.items():
            self.stages[name].items += stage.items
            self.stages[name].failed += stage.failed
            self.stages[name].noted += stage.noted
            self.stages[name].seconds += stage.seconds


class Schedule:
    """Says when a group is due: the first at once, others after so many rows or bytes, or so long after the last."""

    def __init__(self, every_s: float, rows: int, size: int = GROUP_BYTES) -> None:
        """Take the bounds of a group.

        Args:
            every_s: seconds from the begin of a group to that of the next, once the first few are through.
            rows: of a group.
            size: of a group in bytes.
        """
        self._every_s, self._rows, self._size = every_s, rows, size
        self._pause_s, self._due_at = min(FIRST_S, every_s), float("-inf")

    def is_full(self, rows: int, size: int) -> bool:
        """Tell whether a group of so many rows and bytes is due, whenever that is."""
        return rows >= self._rows or size >= self._size

    def left_s(self, now: float) -> float:
        """Return how many seconds a group may wait for more rows."""
        return max(0.0, self._due_at - now)

    def begin(self, now: float) -> None:
        """Note that a group is being committed."""
        self._due_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._every_s)


class Committer:
    """Gathers finished rows and commits them in groups, one at a time, beside the thread that adds them.

    A context manager: in the end, also after an error of something else, it commits what is left.

    Guarantees: a row that :meth:`add` took is committed once, unless a commit fails or the process dies; the rows of a
    group appear table by table, each table's together; after a commit that failed nothing more is committed. A signal
    handler may raise in any of its methods: what was handed over stays so. Until :meth:`close` has returned or raised,
    and no longer, tables change.

    Attributes:
        totals: of what is committed.
        arrived: videos that were added.
        failed: those of them that something failed on.
        advanced_at: when rows were added or committed last, by the monotonic clock.
    """

    def __init__(
        self, store: Store, specs: Mapping[str, Spec], pending: Pending, run_id: str, *,
        every_s: float = 60.0, rows: int = 10_000, size: int = GROUP_BYTES,
    ) -> None:  # fmt: skip
        """Open the tables of the extractors that have work, and describe beside each what made it.

        Args:
            store: the output folder, which this process holds.
            specs: the run's extractors.
            pending: what the run has to do.
            run_id: goes to each row.
            every_s: see :class:`Schedule`, as for ``rows`` and ``size``.
            rows: of a group.
            size: of a group in bytes.
        """
        self._pending, self._run_id = pending, run_id
        self._videos, self._errors = store.videos(), store.errors()
        self._specs = {name: specs[name] for name in pending.wanted}
        self._features = {name: features_table(store, spec) for name, spec in self._specs.items()}
        for spec in self._specs.values():
            names = ("fingerprint", "space", "width", "identity")
            description = {"extractor": spec.name, "sequence": spec.cls.sequence}
            description |= {name: getattr(spec, name) for name in names}
            store.describe_features(spec.name, spec.fingerprint, description)
        self.totals, self.arrived, self.failed = Totals(), 0, 0
        self.advanced_at = time.monotonic()
        self._schedule, self._size = Schedule(every_s, rows, size), size
        # The two threads share no lock, which a signal handler's exception could leave held for ever: putting to a
        # SimpleQueue is one step, done or not, and each number below has one thread that changes it.
        self._inbox: SimpleQueue[tuple[pa.Table, int] | None] = SimpleQueue()
        self._progress: SimpleQueue[None] = SimpleQueue()
        self._put_bytes = self._taken_bytes = 0
        self._at_once = self._is_closed = self._is_given_up = self._has_ended = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, name="committer", daemon=True)

    def __enter__(self) -> Committer:
        """Begin to take rows."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, block: pa.Table) -> None:
        """Take finished rows; returns at once, unless as much as a group holds waits behind one that is committed.

        Raises:
            RunBroken: something could not be committed: the folder cannot be written, or is another run's by now.
        """
        self._raise()
        # Neither what extractors read nor what is not for a table.
        block = block.select([name for name in block.column_names if name in {*_VIDEO, DECODED, *self._specs}])
        size, failed = block.nbytes + BLOCK_BYTES, _failed(block)
        self._inbox.put((block, size))
        self._put_bytes += size
        self.arrived, self.failed = self.arrived + block.num_rows, self.failed + failed
        self.advanced_at = time.monotonic()
        while self._put_bytes - self._taken_bytes > self._size and not self._has_ended:
            self._progress.get()
        self._raise()

    def flush(self) -> None:
        """From now on commit what is there without waiting for more. Returns at once; a signal handler may call it."""
        self._at_once = True
        self._inbox.put(None)

    def close(self) -> None:
        """Commit what is left and end. What a signal handler raises meanwhile has the group under way be the last.

        Raises:
            RunBroken: as :meth:`add`, of any commit, also if it was raised before.
        """
        self._is_closed = True
        self.flush()
        self._join()
        self._raise()

    def _join(self) -> None:
        """Wait for the thread: nothing may be written any more when the folder is given back."""
        try:
            while not self._has_ended:
                self._progress.get()
        except BaseException:
            self._is_given_up = True
            self._join()
            raise

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        """Commit groups until closed: what the thread does."""
        try:
            while group := self._gather():
                self._schedule.begin(time.monotonic())
                self._commit(group)
                self.advanced_at = time.monotonic()
        except BaseException as error:  # It is raised in the thread that adds.
            self._error = error
        finally:
            self._has_ended = True
            self._progress.put(None)

    def _gather(self) -> list[pa.Table]:
        """Take rows until a group is due; none when closed and all is committed, or no more is wanted."""
        whole: list[pa.Table] = []
        parts: list[pa.Table] = []
        rows = size = 0
        while not (self._is_given_up or self._schedule.is_full(rows, size)):
            # Without rows there is nothing to commit, and no reason to wake but more of them or the end.
            left_s = self._schedule.left_s(time.monotonic()) if rows else None
            if self._is_closed or (rows and self._at_once):
                left_s = 0.0
            try:
                item = self._inbox.get(left_s != 0.0, left_s)
            except Empty:
                break
            if item is not None:
                parts.append(item[0])
                rows, size = rows + item[0].num_rows, size + item[1]
                self._taken_bytes += item[1]
            if len(parts) == _PUT_TOGETHER:
                whole.append(_put_together(parts))
                parts.clear()
        self._progress.put(None)
        return [] if self._is_given_up else [*whole, *parts]

    def _commit(self, group: list[pa.Table]) -> None:
        """Commit a group: one commit a table, all tables side by side."""
        # In one piece: the writer then makes no copy of its own, and the memory of the blocks, often Ray's, is free.
        block = _put_together(group)
        group.clear()
        totals = Totals()
        failures: list[dict[str, Any]] = []
        if DECODED in block.column_names:
            videos = self._results(block, DECODED, None, totals, failures)
            totals.video_seconds = pc.sum(videos["duration_s"]).as_py() or 0.0
            # Before the features: a video that has all of them is not looked at again, and needs its row by then.
            self._videos.append(videos)
        appends = [
            (self._features[name], self._results(block, name, spec, totals, failures))
            for name, spec in self._specs.items()
            if name in block.column_names
        ]
        appends.append((self._errors, pa.Table.from_pylist(failures, schema=schemas.ERRORS)))
        with ThreadPoolExecutor(len(appends)) as pool:
            for commit in [pool.submit(table.append, rows) for table, rows in appends]:
                commit.result()
        failed = {f"{row['video_id']}\0{row['content_key']}" for row in failures}
        totals.videos, totals.failed_videos = block.num_rows, len(failed)
        self.totals.add(totals)

    def _results(
        self, block: pa.Table, column: str, spec: Spec | None, totals: Totals, failures: list[dict[str, Any]]
    ) -> pa.Table:
        """Return the rows for a table, those of a column that did not fail; adds the others to ``failures``."""
        rows = picked(block, pc.is_valid(block[column]))
        is_good = pc.is_null(pc.struct_field(rows[column], "error_type"))
        good, bad = picked(rows, is_good), rows.filter(pc.invert(is_good))
        failures += [self._failure(row, column, spec) for row in bad.select([*_VIDEO, column]).to_pylist()]
        if rows.num_rows:
            _count(totals, spec.name if spec else DECODE, rows[column], bad.num_rows)
        values = good[column]
        results = pa.table(dict(zip(values.type.names, values.flatten(), strict=True)))
        for name in _VIDEO:
            results = results.append_column(name, good[name])
        return results.append_column("run_id", pa.array([self._run_id] * good.num_rows, pa.string()))

    def _failure(self, row: Mapping[str, Any], column: str, spec: Spec | None) -> dict[str, Any]:
        fingerprint = spec.fingerprint if spec else None
        before = self._pending.attempts.get((f"{row['video_id']}\0{row['content_key']}", fingerprint), 0)
        return {
            **{name: row[name] for name in _VIDEO},
            "extractor": spec.name if spec else None,
            "stage": "extract" if spec else "decode",
            "fingerprint": fingerprint,
            "error_type": row[column]["error_type"],
            "message": row[column]["message"],
            "attempts": before + 1,
            "run_id": self._run_id,
            "time": datetime.datetime.now(datetime.UTC),
        }


def _count(totals: Totals, name: str, results: pa.ChunkedArray, failed: int) -> None:
    stage = totals.stages[name]
    stage.failed += failed
    stage.items += len(results) - failed
    stage.noted += _noted(results)
    stage.seconds += pc.sum(pc.struct_field(results, "seconds")).as_py()
    totals.ready_at = max(totals.ready_at, pc.max(pc.struct_field(results, "ready_at")).as_py())


def _noted(results: pa.ChunkedArray) -> int:
    """Count the results of an extractor that note something."""
    names = results.type.names
    if "note" in names:
        return len(results) - pc.struct_field(results, "note").null_count
    if "notes" in names:
        return pc.sum(pc.greater(pc.list_value_length(pc.struct_field(results, "notes")), 0)).as_py() or 0
    return 0


def _failed(block: pa.Table) -> int:
    """Count the rows of a block on which something failed."""
    failed = pa.array(np.zeros(block.num_rows, bool))
    for name in block.column_names:
        if name not in _VIDEO:
            failed = pc.or_(failed, pc.is_valid(pc.struct_field(block[name], "error_type")))
    return pc.sum(failed).as_py() or 0


def _put_together(parts: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts, promote_options="default").combine_chunks()
