"""CSV, JSON Lines and Parquet: a file a table."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from vemoclap_batch.report.exports.base import Format
from vemoclap_batch.report.exports.source import ITEMS, Chunk
from vemoclap_batch.store import schemas

#: Control characters but tab and line breaks: readers of CSV end at a NUL, and spreadsheets refuse the others.
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f]"


class Tables(Format):
    """One file for each table: ``emotions``, ``speech``, ``text``, ``faces``, ``features_<extractor>``."""

    contents: ClassVar[tuple[str, ...]] = ("emotions", "speech", "text", "faces")
    suffix: ClassVar[str]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._writers: dict[str, Any] = {}
        for name, schema in self._schemas():
            self._writers[name] = self.open(name, schema)

    def _schemas(self) -> Iterator[tuple[str, pa.Schema]]:
        if "emotions" in self.chosen:
            yield "emotions", self.source.prediction_schema
        for content, (extractor, _, schema) in ITEMS.items():
            if content in self.chosen and extractor in self.source.features:
                yield content, schema
        if "features" in self.chosen:
            for extractor, table in self.source.features.items():
                times = [("start_s", schemas.SECONDS), ("end_s", schemas.SECONDS)]
                there = [column for column in times if column[0] in table.schema.names]
                columns = [("video_id", pa.string()), ("feature", schemas.FEATURE), *there]
                yield f"features_{extractor}", pa.schema(columns)

    def add(self, chunk: Chunk) -> None:
        """Write some videos."""
        for name in self._writers:
            if name == "emotions":
                rows = chunk.predictions
            elif name in ITEMS:
                rows = chunk.items(name)
            else:
                rows = chunk.feature_rows(name.removeprefix("features_"))
            self.write(name, rows)
            self.counts[name] += rows.num_rows
        self.counts["videos"] += chunk.videos.num_rows

    def close(self) -> None:
        """End the files."""
        for writer in self._writers.values():
            writer.close()

    @abstractmethod
    def open(self, name: str, schema: pa.Schema) -> Any:
        """Begin a file."""

    @abstractmethod
    def write(self, name: str, rows: pa.Table) -> None:
        """Add rows to a file."""

    def path(self, name: str) -> Path:
        """Of a table's file."""
        return self.folder / f"{name}{self.suffix}"


class Csv(Tables):
    """UTF-8, a header, every text in quotes; lists are parted by spaces, nothing is an empty cell."""

    name, suffix = "csv", ".csv"

    def open(self, name: str, schema: pa.Schema) -> pacsv.CSVWriter:
        """Begin a file."""
        flat = [(of.name, pa.string() if pa.types.is_list(of.type) else of.type) for of in schema]
        return pacsv.CSVWriter(str(self.path(name)), pa.schema(flat))

    def write(self, name: str, rows: pa.Table) -> None:
        """Add rows to a file."""
        columns = []
        for column in rows.columns:
            flat = pc.binary_join(column, " ") if pa.types.is_list(column.type) else column
            is_text = pa.types.is_string(flat.type)
            columns.append(pc.replace_substring_regex(flat, _CONTROL, "") if is_text else flat)
        self._writers[name].write_table(pa.table(columns, names=rows.column_names))


class JsonLines(Tables):
    """An object a line, in ASCII, so that no reader takes a character of a text for a line's end."""

    name, suffix = "jsonl", ".jsonl"

    def open(self, name: str, schema: pa.Schema) -> Any:
        """Begin a file."""
        return self.path(name).open("w", encoding="ascii")

    def write(self, name: str, rows: pa.Table) -> None:
        """Add rows to a file."""
        for batch in rows.to_batches(max_chunksize=4096):
            self._writers[name].writelines(json.dumps(row, allow_nan=False) + "\n" for row in batch.to_pylist())


class Parquet(Tables):
    """Plain columns, zstd; features too if they are asked for."""

    name, suffix = "parquet", ".parquet"
    on_request = ("features",)

    def open(self, name: str, schema: pa.Schema) -> pq.ParquetWriter:
        """Begin a file."""
        return pq.ParquetWriter(self.path(name), schema, compression="zstd")

    def write(self, name: str, rows: pa.Table) -> None:
        """Add rows to a file."""
        writer = self._writers[name]
        writer.write_table(rows.cast(writer.schema))
