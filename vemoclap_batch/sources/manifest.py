"""Which videos: a file, a folder, a glob or a manifest becomes a table of rows, checked before anything starts.

A manifest is a ``.csv``, ``.jsonl`` or ``.parquet`` file with a column ``uri`` and, where wanted, ``video_id``,
``label``, ``split`` and ``content_key``. A relative ``uri`` is relative to the manifest's folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from vemoclap_batch.config import LABELS, ConfigError
from vemoclap_batch.errors import without_password
from vemoclap_batch.policy import ANYWHERE, Policy
from vemoclap_batch.sources.listing import (
    asked,
    content_keys,
    is_bucket_missing,
    is_media,
    is_object_store,
    local_content_key,
    normalise,
    remote_content_key,
    remote_files,
    walk,
)
from vemoclap_batch.store.filesystem import is_remote, local_path, resolve, write_bytes_atomically
from vemoclap_batch.store.patience import is_local

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".parquet")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("video_id", "content_key", "uri", "label", "split")],
)
#: Columns that are read as text; others a manifest may have as it likes.
_TEXTS = (*SCHEMA.names, "split_source")
#: What reading a file that is no such file may raise.
_UNREADABLE = (pa.ArrowException, OSError, ValueError)
_SHOWN = 10


@dataclass
class Manifest:
    """The videos of a run.

    Attributes:
        rows: one per video, columns of :data:`SCHEMA`; ``label`` and ``split`` are null where not given.
        ignored: how many files of the searched folders were left out, by suffix.
        empty: the sources in which there is no video.
    """

    rows: pa.Table
    ignored: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)


def read_sources(sources: Sequence[str], policy: Policy = ANYWHERE, may_be_empty: bool = False) -> Manifest:
    """The videos that the sources name together; one found by two sources counts once.

    Args:
        sources: videos, folders, prefixes, globs and manifests.
        policy: what may be read; nothing else is asked for, not even whether it is there.
        may_be_empty: whether a source may hold no video, and a manifest no row; a prefix of an object store may be
            missing, then, as it is when it is empty.

    Raises:
        ConfigError: a source that is not there, may not be read, holds no video or is a manifest with mistakes; all
            are named.
        RunBroken: a store does not answer, or refuses.
    """
    mistakes: list[str] = []
    tables: list[pa.Table] = []
    ignored: Counter[str] = Counter()
    empty = []
    for source in sources:
        try:
            tables.append(_read(source, ignored, policy))
        except NoVideo as error:
            empty.append(source)
            mistakes += [] if may_be_empty else error.mistakes
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    rows = _merge(pa.concat_tables(tables)) if tables else SCHEMA.empty_table()
    return Manifest(rows, ignored, empty)


class NoVideo(ConfigError):
    """A source without a video."""


def video_id(address: str) -> str:
    """The id of a video that has none: ``<stem>-<10 hex of sha256 of the absolute, normalised address>``."""
    stem = posixpath.splitext(posixpath.basename(address))[0]
    digest = hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{_utf8(stem)}-{digest}"


def write_manifest(manifest: Manifest, address: str) -> None:
    """Write the rows as the file's suffix says (``.csv``, ``.jsonl`` or ``.parquet``).

    Raises:
        ConfigError: another suffix.
    """
    rows = manifest.rows
    empty = [name for name in ("label", "split") if rows[name].null_count == len(rows)]
    rows = rows.drop_columns(empty)
    sink = io.BytesIO()
    if address.endswith(".csv"):
        pacsv.write_csv(rows, sink)
    elif address.endswith(".jsonl"):
        sink.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows.to_pylist())
    elif address.endswith(".parquet"):
        pq.write_table(rows, sink)
    else:
        raise ConfigError([f"{address!r}: expected a name ending in {', '.join(MANIFEST_SUFFIXES)}"])
    write_bytes_atomically(*resolve(address), sink.getvalue())


def _utf8(text: str) -> str:
    """A name that is not UTF-8 (Linux allows any bytes) made printable."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _read(source: str, ignored: Counter[str], policy: Policy) -> pa.Table:
    if is_remote(source) and (refusal := policy.refusal(normalise(source))) is not None:
        raise ConfigError([f"{without_password(source)!r} may not be read: {refusal}"])
    find = _remote_source if is_remote(source) else _local_source
    found = find(source, ignored, policy)
    if isinstance(found, pa.Table):
        return found
    if [address for address, _ in found] == [normalise(source)]:
        mistakes = _Mistakes(source)
        _check_allowed(mistakes, [found[0][0]], policy)
        mistakes.raise_any()
    else:
        # A link that leads out of the roots must not keep the others from being read.
        refused = {address for address, _ in found if policy.refusal(address) is not None}
        ignored.update("(may not be read)" for _ in refused)
        found = [(address, key) for address, key in found if address not in refused]
    rows = [(video_id(address), key, address) for address, key in sorted(found)]
    if not rows:
        left_out = f" ({sum(ignored.values())} files of other kinds)" if ignored else ""
        raise NoVideo([f"{source!r}: no video found{left_out}"])
    return _table(rows)


def _table(rows: Iterable[tuple[str, str, str]]) -> pa.Table:
    ids, found_keys, uris = (list(column) for column in zip(*rows, strict=True))
    nulls = pa.nulls(len(ids), pa.string())
    return pa.table([pa.array(ids), pa.array(found_keys), pa.array(uris), nulls, nulls], schema=SCHEMA)


# ---- local folders, files and globs


def _local_source(source: str, ignored: Counter[str], policy: Policy) -> list[tuple[str, str]] | pa.Table:
    path = local_path(source)
    if os.path.isdir(path):
        return list(walk(path, ignored))
    if os.path.isfile(path) and not path.isprintable():
        raise ConfigError([f"{source!r}: a control character, or no UTF-8, in the name"])
    if os.path.isfile(path):
        return (
            _read_manifest_file(path, policy) if path.endswith(MANIFEST_SUFFIXES) else [(path, local_content_key(path))]
        )
    if any(char in source for char in "*?["):
        matches = fsspec.filesystem("file").glob(path)
        return [(match, local_content_key(match)) for match in matches if is_media(match, ignored)]
    raise ConfigError([f"{source!r}: no such file or folder"])


# ---- object stores and other remote filesystems


def _remote_source(source: str, ignored: Counter[str], policy: Policy) -> list[tuple[str, str]] | pa.Table:
    source = normalise(source)
    if source.endswith(MANIFEST_SUFFIXES):
        return _read_manifest_file(source, policy)
    try:
        found = asked(source, "list", partial(remote_files, source))
    except FileNotFoundError as error:
        # A prefix of which nothing is left is no mistake for a night; a bucket or a folder that is not there is.
        kind = NoVideo if is_object_store(source) and not is_bucket_missing(error) else ConfigError
        raise kind([f"{source!r}: no such file or folder"]) from error
    return [
        (address, remote_content_key(info))
        for address, info in found.items()
        if address == source or is_media(address, ignored)
    ]


# ---- manifest files


def _read_manifest_file(address: str, policy: Policy) -> pa.Table:
    try:
        raw = _parse(address)
    except _UNREADABLE as error:
        raise ConfigError([f"{address!r}: cannot be read as a manifest ({error})"]) from error
    if raw.column_names and "uri" not in raw.column_names:
        raise ConfigError([f"{address!r}: no column 'uri'; found {', '.join(raw.column_names)}"])
    if not raw.num_rows:
        raise NoVideo([f"{address!r}: no rows"])
    return _complete(address, {name: _strings(raw, name) for name in SCHEMA.names}, policy)


def read_labels(address: str, labels: Sequence[str] = LABELS) -> dict[str, list[str | None]]:
    """A labels file, for training and evaluation: a manifest that may name its videos by ``video_id`` alone.

    Returns:
        ``video_id``, ``uri`` (normalised), ``label``, ``split``, ``split_source`` (where the split is from, in words)
        and ``blacklist`` (which list took videos out), each with a value or None per row; rows without a label are
        left out.

    Raises:
        ConfigError: neither ``video_id`` nor ``uri``, no ``label``, an unknown label, a video named twice.
    """
    address = normalise(address)
    try:
        raw = _parse(address)
    except _UNREADABLE as error:
        raise ConfigError([f"--labels {address!r}: cannot be read ({error})"]) from error
    names = set(raw.column_names)
    if "label" not in names or not names & {"video_id", "uri"}:
        raise ConfigError([f"--labels {address!r}: needs 'label' and 'video_id' or 'uri'; found {', '.join(names)}"])
    wanted = ("video_id", "uri", "label", "split", "split_source", "blacklist")
    columns = {name: _strings(raw, name) for name in wanted}
    rows = [row for row, label in enumerate(columns["label"]) if label]
    columns = {name: [column[row] for row in rows] for name, column in columns.items()}
    columns["label"] = [label.lower() if label else None for label in columns["label"]]
    columns["uri"] = [normalise(uri, posixpath.dirname(address)) if uri else None for uri in columns["uri"]]
    mistakes = _Mistakes(address)
    unknown = [label not in labels for label in columns["label"]]
    mistakes.rows(f"label is not one of {', '.join(labels)}", unknown, lambda row: repr(columns["label"][row]))
    _check_unique(mistakes, [a or b or "" for a, b in zip(columns["video_id"], columns["uri"], strict=True)])
    mistakes.raise_any()
    return columns


def _parse(address: str) -> pa.Table:
    with _opened(address) as stream:
        if address.endswith(".parquet"):
            return _with_texts(pq.read_table(stream))
        content = io.BytesIO(stream.read())
    if address.endswith(".jsonl"):
        return _with_texts(_parse_jsonl(content))
    text = {name: pa.string() for name in _TEXTS}
    options = pacsv.ConvertOptions(column_types=text, strings_can_be_null=True, null_values=[""])
    return _with_texts(pacsv.read_csv(content, convert_options=options))


def _opened(address: str) -> pa.NativeFile:
    """A file to read; one from elsewhere is fetched whole, so that it can be asked for again."""
    filesystem, path = resolve(address)
    if is_local(filesystem):
        return filesystem.open_input_file(path)

    def fetch() -> bytes:
        with filesystem.open_input_file(path) as stream:
            return bytes(stream.read())

    return pa.BufferReader(asked(address, "read", fetch))


def _parse_jsonl(content: io.BytesIO) -> pa.Table:
    """One object a line. Not by pyarrow: it rewrites text that looks like a time, and crashes on some broken files."""
    columns: dict[str, list[str | None]] = {name: [] for name in _TEXTS}
    names: dict[str, None] = {}
    rows = 0
    for number, line in enumerate(content, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("expected an object")
            for name, column in columns.items():
                column.append(_json_text(name, row.get(name)))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from error
        names.update(dict.fromkeys(row))
        rows += 1
    return pa.table(
        {name: pa.array(columns[name], pa.string()) if name in columns else pa.nulls(rows) for name in names}
    )


def _json_text(name: str, value: Any) -> str | None:
    if isinstance(value, list | dict):
        raise ValueError(f"column {name}: expected text, found {value!r:.80}")
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _with_texts(raw: pa.Table) -> pa.Table:
    """The columns that have a meaning, as text.

    Raises:
        ValueError, ArrowException: one is there twice, or is no text.
    """
    there = [name for name in raw.column_names if name in _TEXTS]
    if twice := sorted({name for name in there if there.count(name) > 1}):
        raise ValueError(f"more than one column {', '.join(twice)}")
    for name in there:
        kind = raw.schema.field(name).type
        if pa.types.is_nested(kind):
            raise ValueError(f"column {name}: expected text, found {kind}")
        raw = raw.set_column(raw.column_names.index(name), name, raw[name].cast(pa.string()))
    return raw


def _strings(raw: pa.Table, name: str) -> list[str | None]:
    if name not in raw.column_names:
        return [None] * raw.num_rows
    return [text.strip() or None if text else None for text in raw[name].to_pylist()]


def _complete(address: str, columns: dict[str, list[str | None]], policy: Policy) -> pa.Table:
    """Fill in what the manifest leaves out, and check every row."""
    mistakes = _Mistakes(address)
    base = posixpath.dirname(address)
    uris = [normalise(uri, base) if uri else "" for uri in columns["uri"]]
    mistakes.rows("no uri", (not uri for uri in uris))
    ids = [given or video_id(uri) for given, uri in zip(columns["video_id"], uris, strict=True)]
    mistakes.rows("a control character in uri", (not uri.isprintable() for uri in uris))
    mistakes.rows("a control character in video_id", (not name.isprintable() for name in ids))
    labels = [label.lower() if label else None for label in columns["label"]]
    unknown = [label is not None and label not in LABELS for label in labels]
    mistakes.rows(f"label is not one of {', '.join(LABELS)}", unknown, lambda row: repr(labels[row]))
    control = [key is not None and not key.isprintable() for key in columns["content_key"]]
    mistakes.rows("a control character in content_key", control)
    _check_unique(mistakes, ids, uris)
    mistakes.raise_any()
    _check_allowed(mistakes, uris, policy)
    mistakes.raise_any()
    missing = [row for row, key in enumerate(columns["content_key"]) if not key]
    filled = list(columns["content_key"])
    for row, key in zip(missing, content_keys([uris[row] for row in missing]), strict=True):
        filled[row] = key
    return pa.table(
        [pa.array(column) for column in (ids, filled, uris)]
        + [pa.array(labels, pa.string()), pa.array(columns["split"], pa.string())],
        schema=SCHEMA,
    )


def _check_allowed(mistakes: _Mistakes, uris: Sequence[str], policy: Policy) -> None:
    refusals = [policy.refusal(uri) if uri else None for uri in uris]
    bad = [refusal is not None for refusal in refusals]
    mistakes.rows("may not be read", bad, lambda row: f"{without_password(uris[row])!r}: {refusals[row]}")


def _check_unique(mistakes: _Mistakes, ids: list[str], uris: list[str] | None = None) -> None:
    first: dict[str, int] = {}
    again = [first.setdefault(name, row) != row for row, name in enumerate(ids)]

    def detail(row: int) -> str:
        clash = f": {uris[first[ids[row]]]} and {uris[row]}" if uris else ""
        return f"{ids[row]!r}, as in row {first[ids[row]] + 1}{clash}"

    mistakes.rows("a video that an earlier row names", again, detail)


class _Mistakes:
    """Mistakes in the rows of one manifest, the first few of each kind named."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.found: list[str] = []

    def rows(self, what: str, bad: Iterable[bool], detail: Callable[[int], str] | None = None) -> None:
        at = [row for row, is_bad in enumerate(bad) if is_bad]
        for row in at[:_SHOWN]:
            self.found.append(f"{self.address!r} row {row + 1}: {what}" + (f" ({detail(row)})" if detail else ""))
        if len(at) > _SHOWN:
            self.found.append(f"{self.address!r}: {len(at) - _SHOWN} more rows with {what}")

    def raise_any(self) -> None:
        if self.found:
            raise ConfigError(self.found)


def _merge(rows: pa.Table) -> pa.Table:
    """Drop what a second source named again; two different videos under one id are a mistake."""
    ids = rows["video_id"].to_pylist()
    if len(set(ids)) == len(ids):
        return rows
    uris = rows["uri"].to_pylist()
    first: dict[str, int] = {}
    keep, clashes = [], []
    for row, name in enumerate(ids):
        earlier = first.setdefault(name, row)
        keep.append(earlier == row)
        if uris[earlier] != uris[row]:
            clashes.append(f"video id {name!r} names two videos: {uris[earlier]} and {uris[row]}")
    if clashes:
        raise ConfigError(clashes[:_SHOWN])
    return rows.filter(pc.equal(pa.array(keep), True))
