"""What a labelled data set looks like, and what a blacklist changes: reads the store, opens no video."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.config import LABELS
from vemoclap_batch.fusion.dataset import find_labelled
from vemoclap_batch.sources.blacklist import VideoNames, find_listed, read_blacklist
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table, keys
from vemoclap_batch.studies.significance import compare, holm

#: Bounds of the kinds that durations (seconds) and resolutions (pixels of the short side) are counted by.
DURATION_BOUNDS = (15, 30, 60, 120, 300)
DURATIONS = ("< 15 s", "15–30 s", "30–60 s", "1–2 min", "2–5 min", "≥ 5 min")
SIDE_BOUNDS = (240, 360, 480, 720, 1080)
RESOLUTIONS = ("< 240p", "240–359p", "360–479p", "480–719p", "720–1079p", "≥ 1080p")
#: What tells whether a video has speech, a face or text: the first table there is, and its column.
SOURCES = {
    "speech": (("asr", "text"), ("asr_sentiment", "feature")),
    "face": (("face_emotion", "faces"), ("face_emotion", "feature")),
    "text": (("ocr", "text"), ("ocr_sentiment", "feature")),
}
# A feature column of so many videos takes 200 MB at most.
_CHUNK = 4096


@dataclass
class Facts:
    """What is known of each labelled video.

    Attributes:
        ids: of the videos.
        uris: None where the address is not known (imported features).
        labels: index of each given label, int64 [n].
        duration_s: float64 [n], NaN where it is not known.
        short_side: pixels, float64 [n], NaN where it is not known.
        presence: speech, face and text → 1.0, 0.0 or NaN (not analysed), float64 [n] each.
        tables: speech, face and text → the table and column that says so, for a report.
        without_video: labelled rows that the store has no video for.
    """

    ids: list[str]
    uris: list[str | None]
    labels: np.ndarray
    duration_s: np.ndarray
    short_side: np.ndarray
    presence: dict[str, np.ndarray]
    tables: dict[str, str]
    without_video: int


def analyze(
    store: Store, labels: str, blacklist: str | None = None, preferred: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Describe the labelled videos of a store, with and without those of a blacklist, a text file of one video a line.

    Where an extractor has several tables, the one of the ``preferred`` fingerprint is read, else the one written last.

    Returns:
        ``videos``; ``groups``: ``before`` and, with a blacklist, ``after`` and ``removed``, each as :func:`describe`
        gives; ``tests`` of kept against removed videos, as :func:`~vemoclap_batch.studies.significance.compare` gives
        with ``what``, ``kinds``, ``kept``, ``removed`` and ``p_holm``; ``blacklist`` (``file``, ``names``,
        ``removed``, ``unknown``) or None; ``tables``, what presence was read from; ``kinds``, the names of those
        counted; ``notes``.

    Raises:
        ConfigError: mistakes in the labels file or the blacklist, or no labelled video in the store.
    """
    facts = gather(store, labels, preferred or {})
    everything = np.arange(len(facts.ids))
    result: dict[str, Any] = {
        "labels": list(LABELS),
        "videos": len(facts.ids),
        "without_video": facts.without_video,
        "kinds": {"durations": list(DURATIONS), "resolutions": list(RESOLUTIONS)},
        "tables": facts.tables,
        "blacklist": None,
        "groups": {"before": describe(facts, everything)},
        "tests": [],
        "notes": _notes(facts),
    }
    if blacklist is None:
        return result
    names = VideoNames(facts.ids, facts.uris, [LABELS[label] for label in facts.labels])
    listed = find_listed(read_blacklist(blacklist), names, blacklist)
    kept = np.setdiff1d(everything, listed.rows)
    after, removed = (describe(facts, rows) for rows in (kept, np.array(listed.rows, np.int64)))
    result["groups"] |= {"after": after, "removed": removed}
    result["tests"] = _tests(after, removed)
    name = posixpath.basename(blacklist)
    counts = {"names": len(listed.rows) + len(listed.unknown), "removed": len(listed.rows)}
    result["blacklist"] = {"file": name, **counts, "unknown": listed.unknown}
    if listed.unknown:
        result["notes"].append(f"{len(listed.unknown)} names in {name} are no labelled video in OUT")
        if not listed.rows:
            result["notes"].append(f"{name} removes nothing: were its videos left out of the labels file already?")
    return result


def describe(facts: Facts, rows: np.ndarray) -> dict[str, Any]:
    """Count some of the videos.

    Returns:
        ``all`` and each label: ``n``, ``share`` (of these videos), ``duration_s`` and ``short_side`` (``known``,
        ``quartiles`` or None, ``total``), ``durations`` and ``resolutions`` (how many of each kind), and ``speech``,
        ``face`` and ``text`` (``known``, ``present``).
    """
    parts = {"all": rows} | {name: rows[facts.labels[rows] == at] for at, name in enumerate(LABELS)}
    return {name: _counts(facts, part, len(rows)) for name, part in parts.items()}


def _counts(facts: Facts, rows: np.ndarray, whole: int) -> dict[str, Any]:
    durations, sides = _known(facts.duration_s[rows]), _known(facts.short_side[rows])
    presence = {name: _known(values[rows]) for name, values in facts.presence.items()}
    return {
        "n": len(rows),
        "share": len(rows) / whole if whole else 0.0,
        "duration_s": _spread(durations),
        "short_side": _spread(sides),
        "durations": _of_each_kind(durations, DURATION_BOUNDS),
        "resolutions": _of_each_kind(sides, SIDE_BOUNDS),
        **{name: {"known": len(values), "present": int(values.sum())} for name, values in presence.items()},
    }


def _known(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def _spread(known: np.ndarray) -> dict[str, Any]:
    quartiles = np.percentile(known, [25, 50, 75]).tolist() if len(known) else None
    return {"known": len(known), "quartiles": quartiles, "total": float(known.sum())}


def _of_each_kind(known: np.ndarray, bounds: Sequence[float]) -> list[int]:
    return np.bincount(np.digitize(known, bounds), minlength=len(bounds) + 1).tolist()


def _tests(after: Mapping[str, Any], removed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tests of every property of the kept videos against the removed ones."""

    def counted(group: Mapping[str, Any]) -> dict[str, list[int]]:
        counts = {"class": [group[name]["n"] for name in LABELS]}
        counts |= {"duration": group["all"]["durations"], "resolution": group["all"]["resolutions"]}
        presence = {name: group["all"][name] for name in SOURCES if name in group["all"]}
        return counts | {name: [of["present"], of["known"] - of["present"]] for name, of in presence.items()}

    kinds = {"class": LABELS, "duration": DURATIONS, "resolution": RESOLUTIONS}
    kept, out = counted(after), counted(removed)
    tests: list[dict[str, Any]] = [
        {"what": what, "kinds": list(kinds.get(what, ("present", "absent"))), "kept": kept[what], "removed": out[what]}
        | compare(kept[what], out[what])
        for what in kept
    ]
    for test, adjusted in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = adjusted
    return tests


def _notes(facts: Facts) -> list[str]:
    notes = []
    if facts.without_video:
        notes.append(f"{facts.without_video} labelled rows have no video in OUT and are not counted")
    for name, sources in SOURCES.items():
        if name not in facts.presence:
            tables = " or ".join(dict.fromkeys(table for table, _ in sources))
            notes.append(f"{name}: not known, OUT has no table {tables}")
        elif unknown := int(np.isnan(facts.presence[name]).sum()):
            notes.append(f"{name}: not known of {unknown} videos, which have no row in {facts.tables[name]}")
    for name, values in (("duration", facts.duration_s), ("resolution", facts.short_side)):
        if unknown := int(np.isnan(values).sum()):
            notes.append(f"{name}: not known of {unknown} videos")
    return notes


# ---- reading the store


def gather(store: Store, labels: str, preferred: Mapping[str, str]) -> Facts:
    """What the store knows of the videos of a labels file.

    Raises:
        ConfigError: mistakes in the labels file, or none of its videos is in the store.
    """
    labelled = find_labelled(store, labels, {}, LABELS)
    wanted = keys(labelled.videos)
    videos = store.current_videos(("uri", "duration_s", "width", "height"))
    videos = videos.take(pc.index_in(wanted, value_set=keys(videos).combine_chunks()).combine_chunks())
    duration_s, width, height = (
        videos[name].cast(pa.float64()).to_numpy() for name in ("duration_s", "width", "height")
    )
    facts = Facts(
        labelled.ids, videos["uri"].to_pylist(), labelled.labels, duration_s, np.minimum(width, height), {}, {},
        labelled.without_video,
    )  # fmt: skip
    for name in SOURCES:
        if source := _source(store, name, preferred):
            table, column = source
            facts.presence[name] = _presence(table, column, wanted)
            facts.tables[name] = f"{table.folder.removeprefix(store.root + '/features/')}, column {column}"
    return facts


def _source(store: Store, what: str, preferred: Mapping[str, str]) -> tuple[Table, str] | None:
    for name, column in SOURCES[what]:
        table = current_table(store, name, preferred.get(name))
        if table is not None and column in table.schema.names:
            return table, column
    return None


def current_table(store: Store, extractor: str, preferred: str | None = None) -> Table | None:
    """An extractor's table with all its columns; None when it has no rows at all.

    Of several fingerprints the preferred one is taken, else the one written last.
    """
    stored = {name: store.stored_features(extractor, name) for name in store.fingerprints(extractor)}
    tables = {name: table for name, table in stored.items() if table is not None}
    if preferred in tables:
        return tables[preferred]
    if len(tables) < 2:
        return next(iter(tables.values()), None)
    last_run = {name: pc.max(table.read(["run_id"])["run_id"]).as_py() or "" for name, table in tables.items()}
    return tables[max(last_run, key=lambda name: (last_run[name], name))]


def _presence(table: Table, column: str, wanted: pa.ChunkedArray) -> np.ndarray:
    """Whether the column holds anything: 1.0 or 0.0, NaN for videos without a row, [n]."""
    presence = np.full(len(wanted), np.nan)
    for start in range(0, len(wanted), _CHUNK):
        part = wanted.slice(start, _CHUNK)
        rows = table.read([column], of=part)
        values = rows[column]
        is_text = pa.types.is_string(values.type)
        length = pc.utf8_length(pc.utf8_trim_whitespace(values)) if is_text else pc.list_value_length(values)
        at = pc.index_in(keys(rows), value_set=part.combine_chunks()).to_numpy()
        presence[start + at] = pc.fill_null(length, 0).to_numpy() > 0
    return presence
