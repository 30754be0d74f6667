"""What Ray's actors run: each wraps one plain class of media/ or extractors/ and adds a column to the rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from vemoclap_batch.config import Config
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.catalog import Spec
from vemoclap_batch.failure import Failure
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.worker import DecodeWorker
from vemoclap_batch.pipeline import rows as R
from vemoclap_batch.pipeline.ledger import guarded


class DecodeStage:
    """Opens each video once, for all extractors that want it, in a process that can be killed."""

    def __init__(self, config: Config, specs: dict[str, Spec], ledger: Any) -> None:
        self._frames = {name for name, spec in specs.items() if spec.reads_frames}
        self._sound = {name for name, spec in specs.items() if spec.reads_waveform}
        self._ledger = ledger
        self._worker = DecodeWorker(Sampling(**config.sampling.model_dump()), _limits(config))
        self._ready = time.time()

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Add the decoded media to the rows that want any."""
        wanted = [set(names) for names in rows["wanted"].to_pylist()]
        at = [row for row, names in enumerate(wanted) if names & (self._frames | self._sound)]
        ids, uris = rows["video_id"].to_pylist(), rows["uri"].to_pylist()
        seconds = [0.0] * rows.num_rows

        def decode(row: int) -> tuple[Clip, MediaInfo] | Failure:
            began = time.perf_counter()
            result = self._worker.decode(
                ids[row],
                uris[row],
                want_frames=bool(wanted[row] & self._frames),
                want_audio=bool(wanted[row] & self._sound),
            )
            seconds[row] = time.perf_counter() - began
            return result

        found = guarded(self._ledger, "decode", _keys(rows, at), lambda part: [decode(at[i]) for i in part])
        decoded: list[tuple[Clip, MediaInfo] | Failure | None] = [None] * rows.num_rows
        for row, item in zip(at, found, strict=True):
            decoded[row] = item
        return R.with_media(rows, decoded, seconds, self._ready)


class ExtractStage:
    """One model, loaded once, run for every extractor of the profile that shares it."""

    def __init__(
        self, specs: Sequence[Spec], resources: Resources, ledger: Any, drop: Sequence[str] = (),
        evidence: Sequence[Spec] = (),
    ) -> None:  # fmt: skip
        """Load the model.

        Args:
            specs: the extractors that it serves.
            resources: what it may use.
            ledger: notes which videos an actor holds.
            drop: the columns that no later stage needs.
            evidence: the extractors that tell it which frames are telling.
        """
        self._specs, self._ledger, self._drop, self._evidence = specs, ledger, list(drop), list(evidence)
        self._extractor = specs[0].cls(specs[0].settings, resources)
        self._ready = time.time()

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Add the column of each extractor, then drop what has served."""
        for spec in self._specs:
            rows = self._extract(rows, spec)
        return rows.drop_columns([name for name in self._drop if name in rows.column_names])

    def _extract(self, rows: pa.Table, spec: Spec) -> pa.Table:
        items = [
            _item(rows, row, spec, self._evidence) if spec.name in names else None
            for row, names in enumerate(rows["wanted"].to_pylist())
        ]
        at = [row for row, item in enumerate(items) if item is not None]
        began = time.perf_counter()
        found = guarded(
            self._ledger,
            spec.name,
            _keys(rows, at),
            lambda part: self._extractor.extract([items[at[i]] for i in part]),
        )
        results: list[Result | Failure | None] = [None] * rows.num_rows
        for row, result in zip(at, found, strict=True):
            results[row] = result
        return _with_results(rows, spec, results, time.perf_counter() - began, self._ready)


def _with_results(
    rows: pa.Table, spec: Spec, results: list[Result | Failure | None], seconds: float, ready: float
) -> pa.Table:
    """Add the column; a result that does not fit the extractor's own columns becomes that row's failure."""
    try:
        return R.with_results(rows, spec, results, seconds, ready)
    except (pa.ArrowException, ValueError, TypeError):
        for at, result in enumerate(results):
            try:
                R.with_results(rows.slice(at, 1), spec, [result], 0.0, ready)
            except (pa.ArrowException, ValueError, TypeError) as error:
                results[at] = Failure.of(error)
        return R.with_results(rows, spec, results, seconds, ready)


def _limits(config: Config) -> Limits:
    names = ("timeout_s", "memory_gb", "max_duration_s", "decoder")
    return Limits(**{name: getattr(config.decode, name) for name in names})


def _item(rows: pa.Table, row: int, spec: Spec, evidence: Sequence[Spec]) -> Clip | str | None:
    if spec.source is not None:
        return R.text_of(rows, row, spec.source)
    clip = R.clip_of(rows, row)
    if clip is not None:
        clip.evidence = {source.name: R.marks_of(rows, row, source) for source in evidence}
    return clip


def _keys(rows: pa.Table, at: Sequence[int]) -> list[str]:
    return [f"{rows['video_id'][row]}\0{rows['content_key'][row]}" for row in at]
