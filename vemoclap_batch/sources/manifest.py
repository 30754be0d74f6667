"""Which videos: files, folders, globs and manifests become a table of rows, checked before anything starts.

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
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from vemoclap_batch.config import LABELS
from vemoclap_batch.errors import ConfigError, without_password
from vemoclap_batch.policy import ANYWHERE, Policy
from vemoclap_batch.sources.listing import (
    ask_store,
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
from vemoclap_batch.store.retry import is_local

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".parquet")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("video_id", "content_key", "uri", "label", "split")],
)
#: Columns that are read as text; a manifest may have others of any kind.
_TEXTS = (*SCHEMA.names, "split_source", "blacklist")
#: How many mistakes of a kind are named one by one.
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


class NoVideo(ConfigError):
    """A source without a video."""


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


def video_id(address: str) -> str:
    """The id of a video that has none: ``<stem>-<10 hex of sha256 of the absolute, normalised address>``."""
    stem = posixpath.splitext(posixpath.basename(address))[0]
    digest = hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    # Linux allows names that are not UTF-8.
    return f"{stem.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')}-{digest}"


def write_manifest(manifest: Manifest, address: str) -> None:
    """Write the rows as the file's suffix says (``.csv``, ``.jsonl`` or ``.parquet``).

    Raises:
        ConfigError: another suffix.
    """
    rows = manifest.rows
    rows = rows.drop_columns([name for name in ("label", "split") if rows[name].null_count == len(rows)])
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


def _read(source: str, ignored: Counter[str], policy: Policy) -> pa.Table:
    address = normalise(source)
    if is_remote(source) and (refusal := policy.refusal(address)) is not None:
        raise ConfigError([f"{without_password(source)!r} may not be read: {refusal}"])
    if not address.isprintable() and os.path.isfile(address):
        raise ConfigError([f"{source!r}: a control character, or no UTF-8, in the name"])
    if address.endswith(MANIFEST_SUFFIXES) and (is_remote(source) or os.path.isfile(address)):
        return _read_manifest(address, policy)
    files = _remote_files(address, ignored) if is_remote(source) else _local_files(source, ignored)
    refused = {file: refusal for file, _ in files if (refusal := policy.refusal(file)) is not None}
    if refused and [file for file, _ in files] == [address]:
        raise ConfigError([f"{without_password(source)!r} may not be read: {refused[address]}"])
    # A link that leads out of the roots must not keep the others from being read.
    ignored.update("(may not be read)" for _ in refused)
    rows = [(video_id(file), key, file) for file, key in sorted(files) if file not in refused]
    if not rows:
        left_out = f" ({sum(ignored.values())} files of other kinds)" if ignored else ""
        raise NoVideo([f"{source!r}: no video found{left_out}"])
    nulls = pa.nulls(len(rows), pa.string())
    return pa.table([*map(pa.array, zip(*rows, strict=True)), nulls, nulls], schema=SCHEMA)


def _local_files(source: str, ignored: Counter[str]) -> list[tuple[str, str]]:
    """The videos of a local folder, file or glob, with their content keys."""
    path = local_path(source)
    if os.path.isdir(path):
        return list(walk(path, ignored))
    if os.path.isfile(path):
        return [(path, local_content_key(path))]
    if any(char in source for char in "*?["):
        matches = fsspec.filesystem("file").glob(path)
        return [(match, local_content_key(match)) for match in matches if is_media(match, ignored)]
    raise ConfigError([f"{source!r}: no such file or folder"])


def _remote_files(source: str, ignored: Counter[str]) -> list[tuple[str, str]]:
    """The videos at a remote address, below it or matched by it, with their content keys."""
    try:
        found = ask_store(source, "list", partial(remote_files, source))
    except FileNotFoundError as error:
        # An empty prefix of an object store cannot be told from a missing one; a bucket or a folder can.
        kind = NoVideo if is_object_store(source) and not is_bucket_missing(error) else ConfigError
        raise kind([f"{source!r}: no such file or folder"]) from error
    return [
        (address, remote_content_key(info))
        for address, info in found.items()
        if address == source or is_media(address, ignored)
    ]


def _merge(rows: pa.Table) -> pa.Table:
    """Drop what a second source named again; two different videos under one id are a mistake."""
    uris: dict[str, str] = {}
    keep, clashes = [], []
    for name, uri in zip(rows["video_id"].to_pylist(), rows["uri"].to_pylist(), strict=True):
        keep.append(name not in uris)
        if uris.setdefault(name, uri) != uri:
            clashes.append(f"video id {name!r} names two videos: {uris[name]} and {uri}")
    if clashes:
        raise ConfigError(clashes[:_SHOWN])
    return rows if all(keep) else rows.filter(pa.array(keep))


# ---- manifest files


def _read_manifest(address: str, policy: Policy) -> pa.Table:
    try:
        raw = _parse(address)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError([f"{address!r}: cannot be read as a manifest ({error})"]) from error
    if raw.column_names and "uri" not in raw.column_names:
        raise ConfigError([f"{address!r}: no column 'uri'; found {', '.join(raw.column_names)}"])
    if not raw.num_rows:
        raise NoVideo([f"{address!r}: no rows"])
    texts = _texts(raw, address)
    uris = [uri or "" for uri in texts["uri"]]
    ids = [given or video_id(uri) for given, uri in zip(texts["video_id"], uris, strict=True)]
    mistakes = _rows_with(address, "no uri", [not uri for uri in uris])
    for name, column in (("uri", uris), ("video_id", ids), ("content_key", texts["content_key"])):
        bad = [text is not None and not text.isprintable() for text in column]
        mistakes += _rows_with(address, f"a control character in {name}", bad)
    mistakes += _unknown_labels(address, texts["label"], LABELS) + _repeated(address, ids, uris)
    if not mistakes:
        refusals = [policy.refusal(uri) for uri in uris]
        bad = [refusal is not None for refusal in refusals]
        mistakes = _rows_with(
            address, "may not be read", bad, lambda row: f"{without_password(uris[row])!r}: {refusals[row]}"
        )
    if mistakes:
        raise ConfigError(mistakes)
    keys = texts["content_key"]
    missing = [row for row, key in enumerate(keys) if not key]
    for row, key in zip(missing, content_keys([uris[row] for row in missing]), strict=True):
        keys[row] = key
    columns = (ids, keys, uris, texts["label"], texts["split"])
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=SCHEMA)


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
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError([f"--labels {address!r}: cannot be read ({error})"]) from error
    names = set(raw.column_names)
    if "label" not in names or not names & {"video_id", "uri"}:
        raise ConfigError([f"--labels {address!r}: needs 'label' and 'video_id' or 'uri'; found {', '.join(names)}"])
    texts = _texts(raw, address)
    kept = [row for row, label in enumerate(texts["label"]) if label]
    columns = {name: [column[row] for row in kept] for name, column in texts.items() if name != "content_key"}
    mistakes = _unknown_labels(address, columns["label"], labels)
    mistakes += _repeated(address, [a or b or "" for a, b in zip(columns["video_id"], columns["uri"], strict=True)])
    if mistakes:
        raise ConfigError(mistakes)
    return columns


def _parse(address: str) -> pa.Table:
    """The table in a file, with the columns that have a meaning as text.

    Raises:
        ValueError, ArrowException, OSError: it cannot be read, or such a column is there twice, or is no text.
    """
    with _opened(address) as stream:
        if address.endswith(".parquet"):
            raw = pq.read_table(stream)
        elif address.endswith(".jsonl"):
            raw = _parse_jsonl(io.BytesIO(stream.read()))
        else:
            types = dict.fromkeys(_TEXTS, pa.string())
            options = pacsv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
            raw = pacsv.read_csv(stream, convert_options=options)
    there = [name for name in raw.column_names if name in _TEXTS]
    if twice := sorted({name for name in there if there.count(name) > 1}):
        raise ValueError(f"more than one column {', '.join(twice)}")
    for name in there:
        if pa.types.is_nested(kind := raw.schema.field(name).type):
            raise ValueError(f"column {name}: expected text, found {kind}")
        raw = raw.set_column(raw.column_names.index(name), name, raw[name].cast(pa.string()))
    return raw


def _opened(address: str) -> pa.NativeFile:
    """A file to read; one from elsewhere is fetched whole, so that it can be asked for again."""
    filesystem, path = resolve(address)
    if is_local(filesystem):
        return filesystem.open_input_file(path)

    def fetch() -> bytes:
        with filesystem.open_input_file(path) as stream:
            return bytes(stream.read())

    return pa.BufferReader(ask_store(address, "read", fetch))


def _parse_jsonl(content: Iterable[bytes]) -> pa.Table:
    """One object a line. Not by pyarrow: it rewrites text that looks like a time, and crashes on some broken files."""
    rows: list[dict[str, str | None]] = []
    names: dict[str, None] = {}
    for number, line in enumerate(content, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("expected an object")
            rows.append({name: _json_text(name, row[name]) for name in _TEXTS if name in row})
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from error
        names.update(dict.fromkeys(row))
    return pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in names})


def _json_text(name: str, value: Any) -> str | None:
    if isinstance(value, list | dict):
        raise ValueError(f"column {name}: expected text, found {value!r:.80}")
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _texts(raw: pa.Table, address: str) -> dict[str, list[str | None]]:
    """The columns with a meaning: stripped, None where there is nothing, labels in lower case, addresses absolute."""
    base = posixpath.dirname(address)
    texts: dict[str, list[str | None]] = {name: [None] * raw.num_rows for name in _TEXTS}
    for name in set(_TEXTS) & set(raw.column_names):
        texts[name] = [text.strip() or None if text else None for text in raw[name].to_pylist()]
    texts["label"] = [label and label.lower() for label in texts["label"]]
    texts["uri"] = [uri and normalise(uri, base) for uri in texts["uri"]]
    return texts


def _unknown_labels(address: str, given: Sequence[str | None], labels: Sequence[str]) -> list[str]:
    bad = [label is not None and label not in labels for label in given]
    return _rows_with(address, f"label is not one of {', '.join(labels)}", bad, lambda row: repr(given[row]))


def _repeated(address: str, ids: Sequence[str], uris: Sequence[str] | None = None) -> list[str]:
    first: dict[str, int] = {}
    again = [first.setdefault(name, row) != row for row, name in enumerate(ids)]

    def detail(row: int) -> str:
        earlier = first[ids[row]]
        return f"{ids[row]!r}, as in row {earlier + 1}" + (f": {uris[earlier]} and {uris[row]}" if uris else "")

    return _rows_with(address, "a video that an earlier row names", again, detail)


def _rows_with(address: str, what: str, bad: Sequence[bool], detail: Callable[[int], str] | None = None) -> list[str]:
    """One line for each of the first rows with a mistake, and one for how many more there are."""
    at = [row for row, is_bad in enumerate(bad) if is_bad]
    lines = [f"{address!r} row {row + 1}: {what}" + (f" ({detail(row)})" if detail else "") for row in at[:_SHOWN]]
    return lines + ([f"{address!r}: {len(at) - _SHOWN} more rows with {what}"] if len(at) > _SHOWN else [])
