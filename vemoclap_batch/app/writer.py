"""What the server writes to OUT and reads from it: the tables of a batch run, under the lock of a batch run."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.config import Config
from vemoclap_batch.errors import Busy
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.fusion.predict import predict, prediction_fingerprint
from vemoclap_batch.fusion.selection import Selected, selected_from
from vemoclap_batch.pipeline.commit import Committer
from vemoclap_batch.pipeline.pending import Cell, Pending, features_table, find_pending
from vemoclap_batch.pipeline.run import Classifier, Run, compact_if_large
from vemoclap_batch.pipeline.stages import Plan
from vemoclap_batch.report.failures import latest_failures
from vemoclap_batch.shutdown import Stopped
from vemoclap_batch.sources.listing import local_content_key
from vemoclap_batch.store.filesystem import is_remote
from vemoclap_batch.store.store import Store, new_run_id
from vemoclap_batch.store.table import Table, keys

_TRY_EVERY_S = 0.3
#: Columns of features that say who the row is of, or are for classifiers alone.
_INNER = {"video_id", "content_key", "run_id", "feature"}


@dataclass(frozen=True)
class Video:
    """A video as the tables name it."""

    video_id: str
    content_key: str
    uri: str

    @property
    def rows(self) -> pa.Table:
        """A manifest of it alone."""
        return pa.table({name: [getattr(self, name)] for name in ("video_id", "content_key", "uri")})

    @property
    def key(self) -> str:
        """What the tables' keys are made of."""
        return f"{self.video_id}\0{self.content_key}"


@dataclass
class Outcome:
    """What a video's extractors gave, for the tables.

    Attributes:
        pending: what there was to do.
        rows: the finished row; None where all was there before.
    """

    video: Video
    pending: Pending
    rows: pa.Table | None = None


@dataclass
class _Session:
    """A time in which OUT is held; it is a run of its own."""

    run: Run
    held: ExitStack = field(default_factory=ExitStack)


class Writer:
    """Commits to OUT and predicts. One thread at a time may call what takes or needs the folder.

    The folder is held while there is work, and given back in between, so that batch runs have their turn.
    """

    def __init__(self, out: str, config: Config, specs: Mapping[str, Spec], classifier: Classifier, plan: Plan) -> None:
        self.store, self._config, self._specs = Store(out), config, dict(specs)
        self._classifier, self._plan = classifier, plan
        self._labels = list(classifier.description.spec.labels)
        self._selected: Mapping[str, Selected] = selected_from(specs, sorted(classifier.description.spec.features))
        self._session: _Session | None = None
        self.stopping = False
        self.waiting_for: str | None = None
        # It takes a while, and the first video should not wait for it.
        _ = classifier.checkpoint

    @property
    def specs(self) -> Mapping[str, Spec]:
        """The extractors, in their order."""
        return self._specs

    def is_predicted(self, video: Video) -> bool:
        """Tell whether a video has its prediction."""
        return bool(self._predictions().committed(keys(video.rows)).all())

    def _predictions(self) -> Table:
        return self.store.predictions(prediction_fingerprint(self._classifier.digest, self._selected), self._labels)

    def pending(self, video: Video, again: bool = False) -> Pending:
        """Ask what is missing of a video.

        Args:
            video: which.
            again: whether what failed for good is missing, too: behind a link there may be another file by now.
        """
        fingerprints = [None, *[spec.fingerprint for spec in self._specs.values()]]
        cells: set[Cell] = {(video.key, fingerprint) for fingerprint in fingerprints} if again else set()
        return find_pending(self.store, video.rows, self._specs, self._config.pipeline.max_attempts, cells)

    def same(self, size: int, sha256: str) -> Video | None:
        """Find a video with such bytes among the local ones in OUT that are still what they were.

        Args:
            size: in bytes, which the content key of a local file begins with.
            sha256: of the bytes, as hex digits.
        """
        rows = self.store.videos().read(["uri"])
        mine = pc.starts_with(rows["content_key"], f"{size}-")
        for row in rows.filter(pc.and_kleene(mine, pc.is_valid(rows["uri"]))).to_pylist():
            if not is_remote(row["uri"]) and local_content_key(row["uri"]) == row["content_key"]:
                with suppress(OSError), open(row["uri"], "rb") as stream:
                    if hashlib.file_digest(stream, "sha256").hexdigest() == sha256:
                        return Video(row["video_id"], row["content_key"], row["uri"])
        return None

    def hold(self) -> None:
        """Take the folder, unless it is held already; waits while a batch run holds it.

        Raises:
            Stopped: the server was asked to stop meanwhile.
            RunBroken: the folder cannot be written.
        """
        if self._session is not None:
            return
        run = Run(self.store, self._config, self._specs, new_run_id(), "serve", plan=self._plan)
        session = _Session(run)
        while True:
            try:
                session.held.enter_context(self.store.writing(run.run_id, wait=False))
                break
            except Busy as error:
                self.waiting_for = str(error)
                if self.stopping:
                    raise Stopped from error
                time.sleep(_TRY_EVERY_S)
        self.waiting_for = None
        self._session = session

    def release(self) -> None:
        """Write the session's summary, as of any run, and give the folder back."""
        session, self._session = self._session, None
        if session is not None:
            with session.held:
                if session.run.totals.videos or session.run.predicted:
                    self.store.write_json(f"runs/{session.run.run_id}.json", session.run.summary())
                    compact_if_large(self.store, self._config.pipeline.compact_shards)

    def commit(self, outcomes: Sequence[Outcome]) -> None:
        """Commit finished videos together and predict them.

        Raises:
            RunBroken: the folder cannot be written, or is another run's by now.
        """
        self.hold()
        assert self._session is not None
        run = self._session.run
        done = [each for each in outcomes if each.rows is not None]
        if done:
            rows = pa.concat_tables([each.pending.rows for each in done], promote_options="default")
            attempts = {cell: number for each in done for cell, number in each.pending.attempts.items()}
            together = Pending(rows, rows, rows, attempts=attempts)
            with Committer(self.store, self._specs, together, run.run_id) as committer:
                for each in done:
                    committer.add(_named(each))
            run.totals.add(committer.totals)
            run.videos += len(done)
            run.failed += committer.failed
        videos = pa.concat_tables([each.video.rows for each in outcomes])
        found = predict(self.store, videos, self._classifier, self._selected, run.run_id)
        if run.predicted is None:
            run.predicted = found
        else:
            run.predicted.new += found.new

    def result(self, video: Video) -> dict[str, Any]:
        """Read all that the tables say of a video.

        Returns:
            ``video``, ``prediction`` (None where there is none), ``extractors`` (the columns of each that has a row)
            and ``failures``.
        """
        wanted = keys(video.rows)
        there = self.store.videos().read(of=wanted).to_pylist()
        predicted = self._predictions().read(of=wanted).to_pylist()
        found, missing = {}, []
        for name, spec in self._specs.items():
            table = features_table(self.store, spec)
            columns = [column for column in table.schema.names if column not in _INNER]
            rows = table.read(columns, of=wanted).to_pylist()
            if rows:
                found[name] = {column: rows[0][column] for column in columns}
            else:
                missing.append(name)
        failures = latest_failures(self.store, video.rows) if missing else []
        return finite(
            {
                "video": {name: there[0][name] for name in there[0] if name not in {"uri", "run_id"}}
                if there
                else None,
                "prediction": _prediction(predicted[0], self._labels) if predicted else None,
                "extractors": found,
                "failures": [
                    {name: failure[name] for name in ("extractor", "error_type", "message")} for failure in failures
                ],
            }
        )


def _named(outcome: Outcome) -> pa.Table:
    """The finished row under the address that the tables know the video by, whatever file it was read from."""
    assert outcome.rows is not None
    at = outcome.rows.schema.get_field_index("uri")
    return outcome.rows.set_column(at, "uri", pa.array([outcome.video.uri] * outcome.rows.num_rows, pa.string()))


def stage_seconds(rows: pa.Table, specs: Mapping[str, Spec]) -> dict[str, float]:
    """Return what decoding and each extractor took of a finished row, in seconds."""
    found = {}
    for name in ("decoded", *specs):
        value = rows[name][0].as_py() if name in rows.column_names else None
        if value is not None:
            found["decode" if name == "decoded" else name] = round(value["seconds"], 4)
    return found


def _prediction(row: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    found = {name: row[name] for name in ("label", "confidence", "label_set", "valence", "arousal", "missing")}
    return found | {"probabilities": {label: row[f"p_{label}"] for label in labels}}


def finite(value: Any) -> Any:
    """Return values that JSON has: numbers that are none become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value
