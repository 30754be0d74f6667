"""What is asked of an export, checked before anything is written: every mistake is named."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import pyarrow as pa

from vemoclap_batch.errors import ConfigError, Mistakes
from vemoclap_batch.report.exports.formats import CONTENTS, FORMATS, Format
from vemoclap_batch.report.exports.source import ITEMS, Filter, Source, read_videos, uncertainty_order
from vemoclap_batch.sources.blacklist import VideoNames, first_of, read_blacklist
from vemoclap_batch.sources.manifest import read_labels
from vemoclap_batch.store.filesystem import is_remote
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table

UNCERTAIN = "uncertain"
_ONLY = ("label", "video", "content")


@dataclass(frozen=True)
class Asked:
    """The arguments of an export.

    Attributes:
        to: the format.
        folder: to write.
        labels: a labels file, or None.
        min_confidence: predictions below it are left out.
        only: ``label=…``, ``video=…``, ``content=…``, each with values parted by commas.
        pick: ``uncertain`` or a list of videos; which come first.
        limit: so many videos at most.
        predictions: which table; the newest without it.
        features: which table of an extractor with several.
        media_url: ``BEGINNING=URL``, what the tools are told in place of the beginning of an address.
    """

    to: str
    folder: str
    labels: str | None = None
    min_confidence: float | None = None
    only: Sequence[str] = ()
    pick: str | None = None
    limit: int | None = None
    predictions: str | None = None
    features: Mapping[str, str] = field(default_factory=dict)
    media_url: Sequence[str] = ()


@dataclass(frozen=True)
class Only:
    """What ``--only`` says, by its kinds."""

    labels: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """An export that can begin.

    Attributes:
        format: the class that writes it.
        source: what it reads.
        contents: what of it.
        media_url: what tools are told in place of the beginnings of addresses.
        notes: what to know of it.
    """

    format: type[Format]
    source: Source
    contents: tuple[str, ...]
    media_url: tuple[tuple[str, str], ...]
    notes: list[str]


def prepare(store: Store, asked: Asked, newest: str | None, preferred: Mapping[str, str]) -> Prepared:
    """Check what is asked, and find what it needs.

    Args:
        store: the output folder.
        asked: the arguments.
        newest: fingerprint of the predictions that a run wrote to last; None when there are none.
        preferred: the fingerprints of the profile, for extractors with several tables.

    Raises:
        ConfigError: with every mistake.
    """
    mistakes = Mistakes()
    form = FORMATS.get(asked.to)
    if form is None:
        mistakes.add([f"--to {asked.to!r}: expected one of {', '.join(FORMATS)}"])
    only, wrong = read_only(asked.only)
    mistakes.add(wrong)
    mistakes.add(_mistakes_in_numbers(asked))
    media_url: tuple[tuple[str, str], ...] = ()
    with mistakes.gathered():
        media_url = read_media_url(asked.media_url)
    videos = read_videos(store)
    if not videos.num_rows:
        mistakes.add([f"{store.address!r} has no video yet; expected the output folder of label or extract"])
    contents = _contents(form, only, mistakes) if form else ()
    predicted, notes = _Predicted(), list[str]()
    needs_labels = bool(only.labels) or asked.min_confidence is not None or asked.pick == UNCERTAIN
    if form and form.may_be_blank and not (needs_labels or asked.predictions or newest):
        notes.append("nothing is predicted yet: there is no emotion to correct, only to give")
    elif "emotions" in contents or needs_labels:
        with mistakes.gathered():
            predicted = _predictions(store, asked.predictions or newest, explicit=asked.predictions)
    labels = predicted.labels
    unknown = [name for name in only.labels if labels and name not in labels]
    mistakes.add([f"--only label={name}: expected one of {', '.join(labels)}" for name in unknown])
    features: dict[str, Table] = {}
    with mistakes.gathered():
        features = _features(store, asked, contents, only, preferred, notes)
    if form and asked.labels and not form.takes_labels:
        mistakes.add([f"--labels: {asked.to} has no place for given labels"])
    if videos.num_rows:
        with mistakes.gathered():
            videos = _with_labels(videos, asked.labels) if asked.labels else videos
        with mistakes.gathered():
            videos = _wanted(videos, only.videos)
        with mistakes.gathered():
            videos = _picked(videos, asked.pick, predicted, notes)
    mistakes.refuse()
    assert form is not None
    videos = videos if asked.limit is None else videos.slice(0, asked.limit)
    keep = Filter(frozenset(only.labels), asked.min_confidence)
    # One piece a column, so that taking some rows of it is cheap.
    source = Source(
        store, videos.combine_chunks(), predicted.table, labels, features, keep, predicted.model, predicted.windowed
    )  # fmt: skip
    return Prepared(form, source, contents, media_url, notes)


def read_only(given: Sequence[str]) -> tuple[Only, list[str]]:
    """Read ``--only``, and what is wrong with it: no ``KIND=VALUE``, or a kind or content that there is not."""
    found: dict[str, list[str]] = {kind: [] for kind in _ONLY}
    mistakes = []
    for item in given:
        kind, _, value = item.partition("=")
        values = [one.strip() for one in value.split(",") if one.strip()]
        if kind not in _ONLY or not values:
            mistakes.append(f"--only {item!r}: expected label=LABEL,…, video=NAME,… or content={','.join(CONTENTS)}")
            continue
        # Names of videos may hold commas: a value that is one as a whole stays whole; see _wanted.
        found[kind] += [value.strip()] if kind == "video" else values
    mistakes += [
        f"--only content={name}: expected one of {', '.join(CONTENTS)}"
        for name in found["content"]
        if name not in CONTENTS
    ]
    return Only(*(tuple(dict.fromkeys(found[kind])) for kind in _ONLY)), mistakes


def read_media_url(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read ``--media-url``.

    Raises:
        ConfigError: no ``BEGINNING=URL``.
    """
    pairs = [item.partition("=") for item in given]
    wrong = [f"--media-url {''.join(pair)!r}: expected BEGINNING=URL" for pair in pairs if not (pair[0] and pair[1])]
    if wrong:
        raise ConfigError(wrong)
    return tuple((beginning, url) for beginning, _, url in pairs)


def _mistakes_in_numbers(asked: Asked) -> list[str]:
    mistakes = []
    if asked.min_confidence is not None and not 0 <= asked.min_confidence <= 1:
        mistakes.append(f"--min-confidence {asked.min_confidence:g}: expected 0 to 1")
    if asked.limit is not None and asked.limit < 1:
        mistakes.append(f"--limit {asked.limit}: expected 1 or more")
    if is_remote(asked.folder):
        mistakes.append(f"-o {asked.folder!r}: expected a folder on this machine")
    return mistakes


def _contents(form: type[Format], only: Only, mistakes: Mistakes) -> tuple[str, ...]:
    takes = {*form.contents, *form.on_request}
    mistakes.add([
        f"--only content={name}: {form.name} holds {', '.join([*form.contents, *form.on_request])}"
        for name in only.contents
        if name in CONTENTS and name not in takes
    ])  # fmt: skip
    return tuple(name for name in CONTENTS if name in (only.contents or form.contents))


@dataclass(frozen=True)
class _Predicted:
    """A table of predictions, and what ``model.json`` says of it."""

    table: Table | None = None
    labels: tuple[str, ...] = ()
    model: str = ""
    windowed: bool = False


def _predictions(store: Store, fingerprint: str | None, explicit: str | None) -> _Predicted:
    described = store.read_json(f"predictions/{fingerprint}/model.json") if fingerprint else None
    if described is None:
        if explicit:
            raise ConfigError([f"--predictions {explicit}: no such table in {store.address!r}"])
        raise ConfigError([
            f"{store.address!r} has no predictions yet; run label or predict, or --only content= without emotions"
        ])  # fmt: skip
    labels = tuple(described["labels"])
    table = store.predictions(str(fingerprint), labels)
    return _Predicted(table, labels, described["model"], described.get("window") is not None)


def _features(
    store: Store, asked: Asked, contents: Sequence[str], only: Only, preferred: Mapping[str, str], notes: list[str]
) -> dict[str, Table]:
    """The tables of the extractors that are exported.

    Raises:
        ConfigError: several tables of one, and no way to choose; an asked for content that is not there.
    """
    wanted = [extractor for content, (extractor, *_) in ITEMS.items() if content in contents]
    if asked.to == "label-studio":
        wanted = ["asr", "ocr"]
    if "features" in contents:
        wanted += [name for name in store.extractors() if name not in wanted]
    mistakes = [
        f"--features {name}: not exported; expected one of {', '.join(wanted) or 'none'}"
        for name in asked.features
        if name not in wanted
    ]
    tables = {}
    for name in wanted:
        try:
            table = _feature_table(store, name, asked.features.get(name), preferred.get(name))
        except ConfigError as error:
            mistakes += error.mistakes
            continue
        if table is not None:
            tables[name] = table
    for content, (extractor, *_) in ITEMS.items():
        if content in contents and extractor not in tables:
            if content in only.contents:
                mistakes.append(f"--only content={content}: {store.address!r} has no features of {extractor} yet")
            else:
                notes.append(f"no {content}: there are no features of {extractor} yet")
    if mistakes:
        raise ConfigError(mistakes)
    return tables


def _feature_table(store: Store, name: str, chosen: str | None, preferred: str | None) -> Table | None:
    there = list(store.fingerprints(name))
    if chosen is not None and chosen not in there:
        raise ConfigError([f"--features {name}={chosen}: no such table; tables: {', '.join(there) or 'none'}"])
    if chosen is None and len(there) > 1:
        if preferred not in there:
            raise ConfigError([f"{name} has several tables; expected --features {name}=ONE of {', '.join(there)}"])
        chosen = preferred
    fingerprint = chosen or (there[0] if there else None)
    return store.stored_features(name, fingerprint) if fingerprint else None


def _with_labels(videos: pa.Table, address: str) -> pa.Table:
    """The videos with the labels of a file.

    Raises:
        ConfigError: it has mistakes, or names a video that is not there.
    """
    given = read_labels(address)
    ids = {name: row for row, name in enumerate(videos["video_id"].to_pylist())}
    uris = {uri: row for row, uri in enumerate(videos["uri"].to_pylist()) if uri}
    labels: list[str | None] = [None] * videos.num_rows
    splits: list[str | None] = [None] * videos.num_rows
    unknown = []
    columns = (given["video_id"], given["uri"], given["label"], given["split"])
    for name, uri, label, split in zip(*columns, strict=True):
        row = ids.get(name) if name else uris.get(uri)
        if row is None:
            unknown.append(name or uri or "")
            continue
        labels[row], splits[row] = label, split
    if unknown:
        raise ConfigError([
            f"--labels {address!r}: {len(unknown)} of its rows name no video of OUT: {first_of(unknown)}"
        ])  # fmt: skip
    for name, column in (("given_label", labels), ("given_split", splits)):
        videos = videos.set_column(videos.column_names.index(name), name, pa.array(column, pa.string()))
    return videos


def _wanted(videos: pa.Table, names: Sequence[str]) -> pa.Table:
    """The videos that ``--only video=`` names: ids, addresses, file names, patterns of these, @FILE for a list.

    Raises:
        ConfigError: a name fits none, or more than one.
    """
    if not names:
        return videos
    ids, uris = videos["video_id"].to_pylist(), videos["uri"].to_pylist()
    known = VideoNames(ids, uris, [""] * len(ids))
    rows: set[int] = set()
    mistakes = []
    for given in names:
        whole = [given] if known.rows(given) else [one.strip() for one in given.split(",") if one.strip()]
        for name in whole:
            for one in read_blacklist(name[1:]) if name.startswith("@") else [name]:
                found = _matching(one, ids, uris) if any(char in one for char in "*?[") else set()
                found = found or known.rows(one)
                if not found:
                    mistakes.append(f"--only video={one}: no such video in OUT")
                elif len(found) > 1 and not any(char in one for char in "*?["):
                    fits = first_of([ids[row] for row in sorted(found)])
                    mistakes.append(f"--only video={one}: fits more than one video: {fits}")
                rows |= found
    if mistakes:
        raise ConfigError(mistakes)
    return videos.take(pa.array(sorted(rows), pa.int64()))


def _matching(pattern: str, ids: Sequence[str], uris: Sequence[str | None]) -> set[int]:
    def fits(row: int) -> bool:
        uri = uris[row] or ""
        return any(fnmatchcase(name, pattern) for name in (ids[row], uri, posixpath.basename(uri)) if name)

    return {row for row in range(len(ids)) if fits(row)}


def _picked(videos: pa.Table, pick: str | None, predicted: _Predicted, notes: list[str]) -> pa.Table:
    """The videos in the order of ``--pick``.

    Raises:
        ConfigError: no such list, or none of its names is a video.
    """
    if pick is None:
        return videos
    if pick == UNCERTAIN:
        if predicted.table is None:
            return videos  # That there are none was said already.
        order = uncertainty_order(predicted.table, predicted.labels, videos)
        if left := videos.num_rows - len(order):
            notes.append(f"--pick {UNCERTAIN}: {left} videos have no prediction with a label")
        return videos.take(order)
    ids = videos["video_id"].to_pylist()
    try:
        names = read_blacklist(pick)
    except ConfigError as error:
        raise ConfigError(
            [f"--pick: expected {UNCERTAIN} or a list of videos; {one}" for one in error.mistakes]
        ) from error
    known = VideoNames(ids, videos["uri"].to_pylist(), [""] * len(ids))
    rows = [row for name in names for row in sorted(known.rows(name))]
    if unknown := [name for name in names if not known.rows(name)]:
        notes.append(f"--pick {pick}: {len(unknown)} names that are no video here: {first_of(unknown)}")
    if not rows:
        raise ConfigError([f"--pick {pick!r}: none of its {len(names)} names is a video of OUT"])
    return videos.take(pa.array(list(dict.fromkeys(rows)), pa.int64()))
