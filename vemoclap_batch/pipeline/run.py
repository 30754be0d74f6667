"""The main jobs: extract what is missing, label, and the summary of a run."""

from __future__ import annotations

import platform
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vemoclap_batch import __version__
from vemoclap_batch.config import Config
from vemoclap_batch.errors import RunBroken, RunEnded
from vemoclap_batch.extractors.registry import Spec, resolve
from vemoclap_batch.fusion.predict import Predicted, predict
from vemoclap_batch.fusion.selection import Selected
from vemoclap_batch.media.timeline import Window
from vemoclap_batch.pipeline import plan as planning
from vemoclap_batch.pipeline.capacity import watching
from vemoclap_batch.pipeline.cluster import connected
from vemoclap_batch.pipeline.commit import Committer, Totals
from vemoclap_batch.pipeline.graph import block_size, run_graph
from vemoclap_batch.pipeline.pending import Cell, Work, features_table, find_work
from vemoclap_batch.pipeline.progress import tracking
from vemoclap_batch.pipeline.quarantine import open_ledger
from vemoclap_batch.pipeline.shutdown import Stopped, StopRequest, as_stopped, stoppable
from vemoclap_batch.pipeline.windows import windowed, with_pieces
from vemoclap_batch.store.compaction import compact
from vemoclap_batch.store.store import Store, new_run_id
from vemoclap_batch.store.table import keys

if TYPE_CHECKING:
    from vemoclap_batch.fusion.checkpoint import Checkpoint

_VERSIONS = ("ray", "torch", "numpy", "pyarrow", "av", "decord", "faster-whisper", "paddleocr", "onnxruntime")


@dataclass
class Run:
    """One run on one output folder, and what is known of it so far.

    Attributes:
        videos: how many the manifest has.
        skipped: how many of them had everything already.
        failed: how many lack something at the end, for a failure.
        left: how many a run that ended before it was done did not come to.
        stopped: whether it was asked to end before it was done.
        held_s: seconds in which it had its actors.
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
    plan: planning.Plan | None = None
    predicted: Predicted | None = None
    notes: list[str] = field(default_factory=list)
    work: Work | None = None

    @property
    def done(self) -> int:
        """Videos that were completed by this run."""
        return self.videos - self.skipped - self.failed - self.left

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
                "done_before": self.work.done if self.work else {},
                "given_up": self.work.given_up if self.work else {},
            },
            "predictions": {"new": self.predicted.new, "table": self.predicted.fingerprint} if self.predicted else None,
            "stages": {name: asdict(stage) for name, stage in self.totals.stages.items()},
            "wall_s": round(wall, 3),
            "startup_s": round(startup, 3),
            "held_s": round(self.held_s, 3),
            "video_seconds": round(self.totals.video_seconds, 3),
            "video_seconds_per_second": round(self.totals.video_seconds / wall, 3) if wall else None,
            "notes": self.notes,
            "plan": self.plan.as_dict() if self.plan else None,
            "fingerprints": {name: spec.fingerprint for name, spec in self.specs.items()},
            "versions": versions(),
            "config": self.config.model_dump(mode="json", by_alias=True),
        }


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that shape its output; packages not installed are left out."""
    found = {"python": platform.python_version(), "vemoclap-batch": __version__}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Classifier:
    """A checkpoint with its digest."""

    checkpoint: Checkpoint
    digest: str

    @classmethod
    def load(cls, folder: str) -> Classifier:
        """Read it from a folder."""
        # Here, since it loads torch, which the driver of extract has no use for.
        from vemoclap_batch.fusion.checkpoint import Checkpoint, digest

        return cls(Checkpoint.load(folder), digest(folder))


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
        again: failed cells that are tried again, whatever their failure; see :func:`find_work`.

    Raises:
        ConfigError: settings that are wrong, do not fit the classifier or do not fit the cluster.
        Busy: another run holds the folder, and ``wait`` is False.
        Stopped: SIGTERM came; what was finished is committed and the summary is written.
    """
    specs = resolve(config)
    if window:
        config = windowed(config, window)
        specs = resolve(config)
    if classifier:
        from vemoclap_batch.fusion.checkpoint import check_spaces

        check_spaces(classifier.checkpoint, _spaces(specs), sorted(classifier.checkpoint.spec.features))
    command = "label" if classifier else "extract"
    this = Run(Store(out), config, specs, new_run_id(), command, videos=videos.num_rows)
    with stoppable() as stop, this.store.writing(this.run_id, wait), _accounted_for(this):
        this.work = find_work(this.store, videos, specs, config.pipeline.max_attempts, again)
        this.skipped = videos.num_rows - this.work.incomplete.num_rows
        if this.work.rows.num_rows:
            with as_stopped():
                _extract(this, this.work, stop, address, verbose)
        if classifier:
            _predict(this, videos, classifier, window)
        this.failed = _still_incomplete(this)
        _write_summary(this)
        if this.totals.videos:
            this.notes += _tidied(this.store, config.pipeline.compact_shards)
    return this


@contextmanager
def _accounted_for(this: Run) -> Iterator[None]:
    """Have a run that ends before it is done count what it did, and its summary written and told if that can be."""
    try:
        yield
    except BaseException as error:
        this.stopped = isinstance(error, Stopped)
        _count_early(this)
        if isinstance(error, RunEnded):
            error.summary = this.summary()
        # A disk that is full, say, has ended the run, and is what it tells.
        with suppress(RunBroken):
            _write_summary(this)
        raise


def _count_early(this: Run) -> None:
    """Tell the videos that failed from those that the run did not come to."""
    if this.work is None:
        this.left = this.videos
        return
    incomplete = this.work.incomplete.num_rows
    given_up = incomplete - this.work.rows.num_rows
    lacking = incomplete - (this.totals.videos - this.totals.failed_videos)
    with suppress(RunBroken, OSError):
        lacking = _still_incomplete(this)
    this.failed = min(lacking, given_up + this.totals.failed_videos)
    this.left = lacking - this.failed


def _write_summary(this: Run) -> None:
    if this.totals.videos or this.stopped or (this.predicted and this.predicted.new):
        this.store.write_json(f"runs/{this.run_id}.json", this.summary())


def _tidied(store: Store, limit: int) -> list[str]:
    """Compact the folder once a table has more shards than the limit (0: never); what to say of it."""
    try:
        before = [len(shards) for shards in store.shard_files().values()]
        if not limit or max(before, default=0) <= limit:
            return []
        after = sum(table.shards_after for table in compact(store))
    except (RunBroken, OSError, pa.ArrowException) as error:
        # The run itself is done; the next one tries again. One bad shard that no run reads any more may be why.
        return [f"the tables were not compacted: {error}"]
    return [f"{sum(before)} shards were compacted to {after}"]


def _extract(this: Run, work: Work, stop: StopRequest, address: str | None, verbose: bool) -> None:
    with tracking("videos", work.rows.num_rows) as tracker, connected(address, verbose) as cluster:
        stop.listen()  # Ray has put a handler of its own in place.
        size = block_size(work.rows.num_rows, this.config, cluster.cpus)
        blocks = -(-work.rows.num_rows // size)
        this.plan = planning.make_plan(this.config, this.specs, work.wanted, blocks, cluster)
        tracker.say(f"run {this.run_id}: {describe_plan(this.plan, work)}")
        committer = Committer(this.store, this.specs, work, this.run_id)
        this.totals = committer.totals
        with open_ledger() as ledger, stop.gently(ledger.stop.remote), _held(this):
            rows = with_pieces(this.store, work.rows, this.specs)
            with watching(
                this.plan, this.config.pipeline.wait_for_nodes_s, lambda: committer.advanced_at,
                lambda why: stop.abort(RunBroken(why)),
            ):  # fmt: skip
                for block in run_graph(rows, this.config, this.specs, this.plan, size, ledger):
                    committer.commit(block)
                    tracker.at(committer.totals.videos, committer.totals.failed_videos)
        if stop.asked:
            raise Stopped


@contextmanager
def _held(this: Run) -> Iterator[None]:
    """Measure how long the run has its actors."""
    began = time.monotonic()
    try:
        yield
    finally:
        this.held_s += time.monotonic() - began


def describe_plan(plan: planning.Plan, work: Work) -> str:
    """One line: how much there is to do, by how many actors, and how long it may take."""
    stages = ", ".join(f"{stage.name} {stage.actors}" for stage in plan.stages)
    return (
        f"{work.rows.num_rows} videos to do on {plan.cluster.cpus:g} CPUs and {plan.cluster.gpus:g} GPUs; "
        f"actors: {stages}; about {plan.seconds:.0f} s and the start-up"
    )


def _spaces(specs: Mapping[str, Spec]) -> dict[str, str | None]:
    return {name: spec.space for name, spec in specs.items()}


def selected_from(specs: Mapping[str, Spec], names: list[str]) -> dict[str, Selected]:
    """The current profile's own tables, for the features a classifier takes."""
    return {
        name: Selected(name, specs[name].fingerprint, specs[name].space, specs[name].width, specs[name].cls.sequence)
        for name in names
    }


def _predict(this: Run, videos: pa.Table, classifier: Classifier, window: Window | None) -> None:
    selected = selected_from(this.specs, sorted(classifier.checkpoint.spec.features))
    this.notes += fingerprint_notes(classifier.checkpoint, selected)
    this.predicted = predict(
        this.store, videos, classifier.checkpoint, classifier.digest, selected, this.run_id, window=window
    )


def fingerprint_notes(checkpoint: Checkpoint, selected: Mapping[str, Selected]) -> list[str]:
    """A line for every feature whose fingerprint is another than those the classifier was trained on."""
    return [
        f"{name}: predicted from fingerprint {feature.fingerprint}, trained on {', '.join(trained)} (same space)"
        for name, feature in selected.items()
        if (trained := checkpoint.fingerprints.get(name)) and feature.fingerprint not in trained
    ]


def _still_incomplete(this: Run) -> int:
    """How many of the run's videos lack a row in some extractor's table."""
    if not this.work or not this.work.incomplete.num_rows:
        return 0
    videos = keys(this.work.incomplete)
    complete = np.ones(len(videos), bool)
    for spec in this.specs.values():
        complete &= features_table(this.store, spec).committed(videos)
    return int((~complete).sum())
