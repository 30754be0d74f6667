"""A run: extracts what is missing of some videos, labels them, and writes its summary."""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError

from vemoclap_batch import __version__, lifetime
from vemoclap_batch.config import Config
from vemoclap_batch.errors import RunBroken, RunEnded
from vemoclap_batch.extractors.registry import Spec, resolve
from vemoclap_batch.extractors.windowed_text import windowed
from vemoclap_batch.fusion.description import Description, check_spaces, describe, digest
from vemoclap_batch.fusion.predict import Predicted, predict
from vemoclap_batch.fusion.selection import fingerprint_notes, selected_from
from vemoclap_batch.media.windows import Window
from vemoclap_batch.pipeline.cluster import capacity_monitor, connected, with_gpu_memory
from vemoclap_batch.pipeline.commit import Committer, Totals
from vemoclap_batch.pipeline.pending import Cell, Pending, features_table, find_pending
from vemoclap_batch.pipeline.plan import ASSUMED_SECONDS, estimates, make_plan
from vemoclap_batch.pipeline.processor import process, without_helpers
from vemoclap_batch.pipeline.quarantine import start_quarantine
from vemoclap_batch.pipeline.stages import Plan
from vemoclap_batch.report.progress import tracking
from vemoclap_batch.shutdown import Stopped, StopRequest, stoppable
from vemoclap_batch.store.store import Store, new_run_id
from vemoclap_batch.store.table import keys

if TYPE_CHECKING:
    from vemoclap_batch.fusion.checkpoint import Checkpoint

_VERSIONS = ("ray", "torch", "numpy", "pyarrow", "av", "decord", "faster-whisper", "paddleocr", "onnxruntime")


@dataclass
class Run:
    """One run on one output folder: what it has to do, what it has done, and its summary.

    Attributes:
        videos: how many the manifest has.
        skipped: how many of them had everything already.
        failed: how many lack something at the end, for a failure.
        left: how many a run that ended early did not come to.
        stopped: whether it was asked to end early.
        held_s: seconds in which it had its actors.
        pending: what it had to do, once that is known.
    """

    store: Store
    config: Config
    specs: dict[str, Spec]
    run_id: str
    command: str
    began: float = field(default_factory=time.time)
    videos: int = 0
    skipped: int = 0
    failed: int = 0
    left: int = 0
    stopped: bool = False
    held_s: float = 0.0
    totals: Totals = field(default_factory=Totals)
    plan: Plan | None = None
    predicted: Predicted | None = None
    notes: list[str] = field(default_factory=list)
    pending: Pending | None = None

    @property
    def done(self) -> int:
        """Videos that were completed by this run."""
        return self.videos - self.skipped - self.failed - self.left

    @property
    def noted(self) -> list[str]:
        """A line for every extractor that noted something of texts."""
        return [
            f"{name}: the texts of {stage.noted} videos have a note, such as a language left out; see its table"
            for name, stage in self.totals.stages.items()
            if stage.noted
        ]

    def summary(self) -> dict[str, Any]:
        """What is written to ``runs/<run id>.json``."""
        wall = time.time() - self.began
        startup = max(0.0, self.totals.ready_at - self.began) if self.totals.ready_at else 0.0
        return {
            "run_id": self.run_id,
            "command": self.command,
            "counts": {"videos": self.videos, "done": self.done, "skipped": self.skipped, "failed": self.failed},
            "left": self.left,
            "stopped": self.stopped,
            "cells": {
                "done_before": self.pending.done if self.pending else {},
                "given_up": self.pending.given_up if self.pending else {},
            },
            "predictions": {"new": self.predicted.new, "table": self.predicted.fingerprint} if self.predicted else None,
            "stages": {
                name: asdict(stage) | (self.plan.devices().get(name, {}) if self.plan else {})
                for name, stage in self.totals.stages.items()
            },
            "wall_s": round(wall, 3),
            "startup_s": round(startup, 3),
            "held_s": round(self.held_s, 3),
            "video_seconds": round(self.totals.video_seconds, 3),
            "video_seconds_per_second": round(self.totals.video_seconds / wall, 3) if wall else None,
            "notes": self.notes + self.noted,
            "plan": self.plan.as_dict() if self.plan else None,
            "fingerprints": {name: spec.fingerprint for name, spec in self.specs.items()},
            "versions": versions(),
            "config": self.config.model_dump(mode="json", by_alias=True),
        }


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of those installed that shape its output."""
    installed = {"python": platform.python_version(), "vemoclap-batch": __version__}
    for name in _VERSIONS:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


@dataclass(frozen=True)
class Classifier:
    """What a checkpoint's folder says; the weights are loaded where something is predicted."""

    folder: str
    description: Description
    digest: str

    @classmethod
    def load(cls, folder: str) -> Classifier:
        """Read it from a folder.

        Raises:
            ConfigError: the folder holds no checkpoint, or a broken one.
        """
        return cls(folder, describe(folder), digest(folder))

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The classifier itself; it takes torch, which a run has no use for before it predicts."""
        from vemoclap_batch.fusion.checkpoint import Checkpoint

        return Checkpoint.load(self.folder)


def run(
    videos: pa.Table, out: str, config: Config, classifier: Classifier | None = None, *,
    wait: bool = True, address: str | None = None, verbose: bool = False, window: Window | None = None,
    again: Collection[Cell] = frozenset(),
) -> Run:  # fmt: skip
    """Extract what is missing of some videos and, with a classifier, label them.

    Everything that can be checked is checked before the first video is opened. What is there already is not computed
    again. A failing video becomes a row of ``errors`` and never stops the others.

    Args:
        videos: the manifest's rows.
        out: the output folder.
        config: the run's configuration.
        classifier: predicts from the features; without one, features are all that is made.
        wait: whether to wait for another run that holds the folder.
        address: of a Ray cluster; see :func:`vemoclap_batch.pipeline.cluster.connected`.
        verbose: show the cluster's own log.
        window: extract what such windows of the videos need, and label them instead of whole videos.
        again: failed cells that are tried again, whatever their failure; see :func:`find_pending`.

    Raises:
        ConfigError: settings that are wrong, do not fit the classifier or do not fit the cluster.
        Busy: another run holds the folder, and ``wait`` is False.
        Stopped: SIGTERM came; what was finished is committed and the summary is written.
    """
    config = windowed(config, window) if window else config
    specs = resolve(config)
    if classifier:
        check_spaces(classifier.description.spec, {name: spec.space for name, spec in specs.items()})
    command = "label" if classifier else "extract"
    this = Run(Store(out), config, specs, new_run_id(), command, videos=videos.num_rows)
    with stoppable() as stop, this.store.writing(this.run_id, wait), _summary_on_early_end(this):
        this.pending = find_pending(this.store, videos, specs, config.pipeline.max_attempts, again)
        this.skipped = videos.num_rows - this.pending.incomplete.num_rows
        try:
            if this.pending.rows.num_rows:
                _extract(this, this.pending, stop, address, verbose)
        except Stopped:
            if classifier:  # What was finished is predicted as well; a second SIGTERM ends that.
                _predict(this, videos, classifier, window)
            raise
        if classifier:
            _predict(this, videos, classifier, window)
        this.failed = _still_incomplete(this)
        _write_summary(this)
        if this.totals.videos:
            this.notes += compact_if_large(this.store, config.pipeline.compact_shards)
    return this


def _predict(this: Run, videos: pa.Table, classifier: Classifier, window: Window | None) -> None:
    selected = selected_from(this.specs, sorted(classifier.description.spec.features))
    this.notes += fingerprint_notes(classifier.description.fingerprints, selected)
    this.predicted = predict(this.store, videos, classifier, selected, this.run_id, window=window)


def _extract(this: Run, pending: Pending, stop: StopRequest, address: str | None, verbose: bool) -> None:
    count, pipeline = pending.rows.num_rows, this.config.pipeline
    # What is left of the actors is killed once Ray has had its time to end them.
    with tracking("videos", count) as tracker, ExitStack() as last, connected(address, verbose) as cluster:
        audio_s, measured = estimates(this.store, this.specs)
        this.plan = make_plan(
            this.config, this.specs, pending.wanted, count, with_gpu_memory(cluster, this.config),
            audio_s or ASSUMED_SECONDS, measured,
        )  # fmt: skip
        tracker.log(f"run {this.run_id}: {count} videos to do {this.plan}")
        committer = Committer(
            this.store, this.specs, pending, this.run_id, every_s=pipeline.commit_s, rows=pipeline.commit_rows
        )
        this.totals = committer.totals
        monitor = capacity_monitor(
            this.plan.lacks, pipeline.wait_for_nodes_s, lambda: committer.advanced_at,
            lambda reason: stop.abort(RunBroken(reason)),
        )  # fmt: skip
        began = time.monotonic()
        try:
            driver = last.enter_context(lifetime.listening(ray.util.get_node_ip_address()))
            with (
                start_quarantine(driver) as quarantine,
                _stopping(stop, quarantine, committer),
                monitor,
                without_helpers(cluster),
                committer,
            ):
                dataset = _dataset(pending.rows, this.plan)
                dataset = process(dataset, this.config, this.specs, this.plan, quarantine, driver)
                for block in _blocks(dataset):
                    committer.add(block)
                    tracker.update(committer.arrived, committer.failed)
        finally:
            this.held_s = time.monotonic() - began
        if stop.asked:
            raise Stopped


def _dataset(rows: pa.Table, plan: Plan) -> ray.data.Dataset:
    """Make a dataset of the pending videos, in blocks of the plan's sizes."""
    ends = itertools.accumulate(plan.block_sizes(rows.num_rows))
    # Each slice stays a block; from_arrow would start a process on the cluster to look at them.
    return ray.data.from_blocks([rows.slice(start, end - start) for start, end in itertools.pairwise([0, *ends])])


def _blocks(dataset: ray.data.Dataset) -> Iterator[pa.Table]:
    """Run a dataset; yields finished blocks as they come, in any order.

    Raises:
        RunBroken: a model does not load, or actors died more often than allowed.
    """
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except RayError as error:
        raise RunBroken(str(error).strip().splitlines()[-1]) from error


@contextmanager
def _stopping(stop: StopRequest, quarantine: Any, committer: Committer) -> Iterator[None]:
    """At SIGTERM have nothing new begun, and what arrives from then on committed at once."""

    def on_stop() -> Any:
        stopped = quarantine.stop.remote()
        committer.flush()
        return stopped

    with stop.gently(on_stop):
        yield


def _still_incomplete(this: Run) -> int:
    """Count the run's videos that lack a row in some extractor's table."""
    if not this.pending or not this.pending.incomplete.num_rows:
        return 0
    videos = keys(this.pending.incomplete)
    complete = np.ones(len(videos), bool)
    for spec in this.specs.values():
        complete &= features_table(this.store, spec).committed(videos)
    return int((~complete).sum())


def _write_summary(this: Run) -> None:
    if this.totals.videos or this.stopped or (this.predicted and this.predicted.new):
        this.store.write_json(f"runs/{this.run_id}.json", this.summary())


@contextmanager
def _summary_on_early_end(this: Run) -> Iterator[None]:
    """Count what a run that ends early has done, write its summary if that can be, and attach it to the error."""
    try:
        yield
    except BaseException as error:
        this.stopped = isinstance(error, Stopped)
        _count_early(this)
        if isinstance(error, RunEnded):
            error.summary = this.summary()
        # A disk that is full, say, has ended the run, and is the error to report.
        with suppress(RunBroken):
            _write_summary(this)
        raise


def _count_early(this: Run) -> None:
    """Count the videos that failed, and those that the run did not come to."""
    if this.pending is None:
        this.left = this.videos
        return
    incomplete = this.pending.incomplete.num_rows
    given_up = incomplete - this.pending.rows.num_rows
    lacking = incomplete - (this.totals.videos - this.totals.failed_videos)
    with suppress(RunBroken, OSError):
        lacking = _still_incomplete(this)
    this.failed = min(lacking, given_up + this.totals.failed_videos)
    this.left = lacking - this.failed


def compact_if_large(store: Store, limit: int) -> list[str]:
    """Compact the output once a table has more shards than the limit (0: never); returns notes on it for a person."""
    try:
        before = [size.shards for size in store.sizes()]
        if not limit or max(before, default=0) <= limit:
            return []
        after = sum(table.shards_after for table in store.compact())
    except (RunBroken, OSError, pa.ArrowException) as error:
        # The run itself is done; the next one tries again. One bad shard that no run reads any more may be why.
        return [f"the tables were not compacted: {error}"]
    return [f"{sum(before)} shards were compacted to {after}"]
