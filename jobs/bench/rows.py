"""Finished rows as a run's last stage gives them, of made-up numbers and words, for benchmarks of what follows it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from vemoclap_batch.extractors.base import FRAMES
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.pipeline.chunks import DECODED
from vemoclap_batch.store import schemas
from vemoclap_batch.store.table import KEY

#: So many different rows; their numbers come again and again, too far apart for a compressor to notice.
_DISTINCT = 512
#: Items of a sequence: of frames, and of audio in windows of a second; of other lists; of lists in these.
_FRAMES, _WINDOWS, _ITEMS, _NESTED = 16, 30, 8, 4


def manifest(count: int) -> pa.Table:
    """Videos with names and addresses of usual lengths."""
    ids = [f"a video called {row:07d}-{uuid.uuid5(uuid.NAMESPACE_OID, str(row)).hex[:10]}" for row in range(count)]
    content = [f"{1_000_000 + row}-1763000000{row:09d}" for row in range(count)]
    uris = [f"/data/corpus/part{row % 97}/a video called {row:07d}.mp4" for row in range(count)]
    return pa.table({"video_id": ids, "content_key": content, "uri": uris})


class Blocks:
    """Gives videos the results of every extractor, block by block."""

    def __init__(self, specs: Mapping[str, Spec], tiny: bool = False) -> None:
        """Make some different rows.

        Args:
            specs: the extractors.
            tiny: one item of one number in place of features and lists of usual sizes.
        """
        self._rng, self._tiny = np.random.default_rng(0), tiny
        letters = np.array(list("etaoinshrdlu"))
        spelt = ["".join(self._rng.choice(letters, size)) for size in self._rng.integers(4, 40, 1000)]
        self._texts = pa.array(spelt)
        columns = {DECODED: self._struct(list(schemas.DECODED), _FRAMES)}
        for name, spec in specs.items():
            items = _FRAMES if FRAMES in spec.cls.inputs else _WINDOWS
            fields = [*schemas.STATUS, *schemas.features(spec.cls.sequence, spec.cls.columns)]
            fields = [field for field in fields if field.name not in {*KEY, "run_id"}]
            columns[name] = self._struct(fields, items if spec.cls.sequence else _ITEMS, spec)
        self._rows, self._at = pa.table(columns), 0

    def of(self, videos: pa.Table, sizes: Iterable[int]) -> Iterator[pa.Table]:
        """Yield blocks of these sizes, each in memory of its own, as they come out of an object store."""
        at = 0
        for size in sizes:
            block = self.beside(videos.slice(at, size))
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, block.schema) as writer:
                writer.write_table(block.combine_chunks())
            yield pa.ipc.open_stream(sink.getvalue()).read_all()
            at += size

    def beside(self, videos: pa.Table) -> pa.Table:
        """Return some videos, fewer than there are different rows, with the columns of all results."""
        self._at = (self._at + 1) % (_DISTINCT - videos.num_rows)
        results = self._rows.slice(self._at, videos.num_rows)
        return pa.table([*videos.columns, *results.columns], [*videos.column_names, *results.column_names])

    def _struct(self, fields: Sequence[pa.Field], items: int, spec: Spec | None = None) -> pa.StructArray:
        """A result of each video; a list has so many items."""
        no_failure = {name: pa.nulls(_DISTINCT, pa.string()) for name in ("error_type", "message")}
        known = {**no_failure, "chunks": pa.array(np.ones(_DISTINCT, np.int32))}
        if spec:
            known["feature"] = self._feature(items if spec.cls.sequence else 1, spec.width)
        items = 1 if self._tiny else items
        arrays = [
            known[field.name] if field.name in known else self._values(field.type, _DISTINCT, items) for field in fields
        ]
        return pa.StructArray.from_arrays(arrays, fields=list(fields))

    def _feature(self, items: int, width: int) -> pa.ListArray:
        shape = (0, 0) if not width else (1, 1) if self._tiny else (items, width)
        return schemas.feature_array(list(self._rng.random((_DISTINCT, *shape), np.float32)))

    def _values(self, kind: pa.DataType, count: int, items: int) -> pa.Array:
        if pa.types.is_list(kind):
            values = self._values(kind.value_type, count * items, 1 if self._tiny else _NESTED)
            return pa.ListArray.from_arrays(pa.array(range(0, count * items + 1, items), pa.int32()), values, kind)
        if pa.types.is_struct(kind):
            arrays = [self._values(field.type, count, items) for field in kind]
            return pa.StructArray.from_arrays(arrays, fields=list(kind))
        if pa.types.is_string(kind):
            return self._texts.take(pa.array(self._rng.integers(0, len(self._texts), count)))
        if pa.types.is_boolean(kind):
            return pa.array(np.ones(count, bool))
        return pa.array(self._rng.random(count) * 10).cast(kind, safe=False)
