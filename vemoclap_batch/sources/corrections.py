"""Labels that people gave in another tool: read, and made one label a video."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from vemoclap_batch.config import LABELS
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.sources.blacklist import first_of, read_text
from vemoclap_batch.sources.listing import normalise
from vemoclap_batch.store.filesystem import is_remote, local_path, resolve, write_bytes_atomically

#: How many mistakes of a file are named one by one.
_SHOWN = 20
SCHEMA = pa.schema(
    [("video_id", pa.string()), ("uri", pa.string()), ("label", pa.string()), ("annotators", pa.int32()),
     ("agreement", pa.float64())]
)  # fmt: skip


@dataclass(frozen=True)
class Vote:
    """What one annotator says of a video, or of so many seconds of it; either ``video_id`` or ``uri`` may be None."""

    video_id: str | None
    uri: str | None
    annotator: str
    label: str
    seconds: float | None = None

    @property
    def video(self) -> str:
        """What names the video."""
        return self.video_id or self.uri or ""


@dataclass
class Corrected:
    """Labels of several annotators, put together.

    Attributes:
        rows: one a video, columns of :data:`SCHEMA`; a tie has no label.
        annotators: how many there are.
        alpha: Krippendorff's alpha (nominal) of their labels; None where no video has two, or all labels are the same.
        ties: the videos without a majority.
        without_label: videos, or tasks, that nobody labelled.
    """

    rows: pa.Table
    annotators: int
    alpha: float | None
    ties: list[str]
    without_label: int


@dataclass
class Ballot:
    """What was read of a file: the votes, the mistakes, and how many videos have no label."""

    votes: list[Vote] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    without_label: int = 0

    def add(
        self, where: str, video: tuple[str | None, str | None], annotator: str, label: str, seconds: float | None
    ) -> None:
        """Add a vote; a label that is none of the six, or a vote for no video, is a mistake."""
        name = label.strip().lower()
        if not any(video):
            self.mistakes.append(f"{where}: no video_id and no uri")
        elif name not in LABELS:
            self.mistakes.append(f"{where}: label {label!r} is not one of {', '.join(LABELS)}")
        else:
            self.votes.append(Vote(*video, annotator, name, seconds))


def read_corrections(address: str, kind: str, known: tuple[set[str], set[str]] | None = None) -> Corrected:
    """Read what people labelled.

    Args:
        address: an export of Label Studio (JSON or JSON-MIN), a CSV file, or an ELAN document or folder of these.
        kind: ``label-studio``, ``csv`` or ``elan``.
        known: ids and addresses of the videos that there are; others are mistakes.

    Raises:
        ConfigError: it cannot be read, has no label, or mistakes; all are named.
    """
    if kind not in READERS:
        raise ConfigError([f"--from {kind!r}: expected one of {', '.join(READERS)}"])
    ballot = READERS[kind](address)
    mistakes = ballot.mistakes[:_SHOWN]
    if (more := len(ballot.mistakes) - _SHOWN) > 0:
        mistakes.append(f"{address!r}: and {more} more mistakes")
    if known is not None:
        ids, uris = known
        is_known = {
            vote.video: (vote.video_id in ids) if vote.video_id else (vote.uri in uris) for vote in ballot.votes
        }
        if unknown := [video for video, there in is_known.items() if not there]:
            mistakes.append(f"{address!r}: {len(unknown)} videos that OUT does not have: {first_of(unknown)}")
    if not mistakes and not ballot.votes:
        mistakes.append(f"{address!r}: nobody labelled a video in it")
    if mistakes:
        raise ConfigError(mistakes)
    return _put_together(ballot)


def write_labels(corrected: Corrected, address: str) -> None:
    """Write the rows as the file's suffix says, as ``train --labels`` takes them.

    Raises:
        ConfigError: another suffix than :func:`check_suffix` knows.
    """
    check_suffix(address)
    sink = io.BytesIO()
    if address.endswith(".csv"):
        pacsv.write_csv(corrected.rows, sink)
    elif address.endswith(".jsonl"):
        sink.writelines(json.dumps(row).encode() + b"\n" for row in corrected.rows.to_pylist())
    else:
        pq.write_table(corrected.rows, sink)
    write_bytes_atomically(*resolve(address), sink.getvalue())


def check_suffix(address: str) -> None:
    """See that a labels file can be written under a name.

    Raises:
        ConfigError: it has another suffix.
    """
    if not address.endswith((".parquet", ".csv", ".jsonl")):
        raise ConfigError([f"-o {address!r}: expected a name ending in .parquet, .csv, .jsonl"])


# ---- one label a video


def _put_together(ballot: Ballot) -> Corrected:
    """The majority of the annotators, each of whom has one vote a video: the label of most of its seconds."""
    seconds: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    names: dict[str, tuple[str | None, str | None]] = {}
    for vote in ballot.votes:
        of_label = seconds[vote.video, vote.annotator]
        if vote.seconds is None:
            of_label.clear()  # Who labels a video again has changed their mind.
        of_label[vote.label] = of_label.get(vote.label, 0.0) + (vote.seconds or 0.0)
        names.setdefault(vote.video, (vote.video_id, vote.uri))
    labels: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for (video, annotator), of_label in seconds.items():
        labels[video][annotator] = max(of_label, key=lambda label: of_label[label])
    rows, ties = [], []
    for video, given in labels.items():
        (label, most), *others = Counter(given.values()).most_common()
        is_tie = bool(others) and others[0][1] == most
        ties += [video] if is_tie else []
        row = dict(zip(("video_id", "uri"), names[video], strict=True))
        agreement = most / len(given)
        rows.append({**row, "label": None if is_tie else label, "annotators": len(given), "agreement": agreement})
    annotators = len({annotator for given in labels.values() for annotator in given})
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return Corrected(table, annotators, agreement_of(labels.values()), ties, ballot.without_label)


def agreement_of(labels: Iterable[Mapping[str, str]]) -> float | None:
    """Krippendorff's alpha of nominal labels, given for each video as annotator → label; None where it is undefined."""
    import krippendorff

    counts = np.array([[list(given.values()).count(name) for name in LABELS] for given in labels], np.int64)
    pairable = counts[counts.sum(1) > 1]
    if np.count_nonzero(pairable.sum(0)) < 2:
        return None  # There is no disagreement that chance could have made.
    return float(krippendorff.alpha(value_counts=pairable, level_of_measurement="nominal"))


# ---- the tools


def _read_csv(address: str) -> Ballot:
    """Columns ``label``, ``video_id`` or ``uri``, maybe ``annotator``; of windows, those of their times."""
    text = read_text(address)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)  # Spreadsheets of some countries write semicolons.
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    try:
        names = [*(rows.fieldnames or ())]
        content = [*rows]
    except csv.Error as error:
        raise ConfigError([f"{address!r}: cannot be read as CSV ({error})"]) from error
    if "label" not in names or not {"video_id", "uri"} & {*names}:
        found = ", ".join(map(str, names)) or "nothing"
        raise ConfigError([f"{address!r}: expected columns label and video_id or uri; found {found}"])
    windows = {"window_start_s", "window_end_s"} <= {*names}
    repeated = Counter((row.get("video_id") or row.get("uri"), row.get("annotator")) for row in content)
    ballot, base = Ballot(), posixpath.dirname(normalise(address))
    for number, row in enumerate(content, 2):
        where = f"{address!r} line {number}"
        label, uri = (row["label"] or "").strip(), (row.get("uri") or "").strip()
        if not label:
            ballot.without_label += 1
            continue
        key = (row.get("video_id") or row.get("uri"), row.get("annotator"))
        seconds = None
        if repeated[key] > 1:
            if not windows:
                ballot.mistakes.append(f"{where}: {key[0]!r} has several rows of one annotator")
                continue
            seconds = _seconds(row["window_start_s"], row["window_end_s"])
            if seconds is None:
                ballot.mistakes.append(f"{where}: window_start_s and window_end_s are no times in order")
                continue
        video = ((row.get("video_id") or "").strip() or None, normalise(uri, base) if uri else None)
        ballot.add(where, video, (row.get("annotator") or "").strip(), label, seconds)
    return ballot


def _seconds(start: Any, end: Any) -> float | None:
    try:
        length = float(end) - float(start)
    except (TypeError, ValueError):
        return None
    return length if 0 < length < float("inf") else None


def _read_label_studio(address: str) -> Ballot:
    """An export of Label Studio in its formats JSON and JSON-MIN; skipped and empty annotations are no votes."""
    try:
        tasks = json.loads(read_text(address))
    except ValueError as error:
        raise ConfigError([f"{address!r}: cannot be read as JSON ({error})"]) from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ConfigError([f"{address!r}: expected a list of tasks, as Label Studio exports as JSON or JSON-MIN"])
    ballot = Ballot()
    for number, task in enumerate(tasks, 1):
        where, before = f"{address!r} task {task.get('id', number)}", len(ballot.votes) + len(ballot.mistakes)
        try:
            given = list(_given_in(task))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            ballot.mistakes.append(f"{where}: unexpected content ({type(error).__name__}: {error})")
            continue
        data = task["data"] if isinstance(task.get("data"), dict) else task
        for annotator, label, seconds in given:
            ballot.add(where, _video_of(data), annotator, label, seconds)
        ballot.without_label += before == len(ballot.votes) + len(ballot.mistakes)
    return ballot


def _given_in(task: Mapping[str, Any]) -> Iterator[tuple[str, str, float | None]]:
    """Annotator, label and, for regions of the time line, frames, of each label of a task."""
    if "annotations" not in task:  # JSON-MIN: a value for each control.
        annotator = str(task.get("annotator", ""))
        choice = task.get("emotion")
        if choice:
            yield annotator, choice if isinstance(choice, str) else choice["choices"][0], None
            return
        for region in task.get("emotions") or ():
            yield from _of_region(annotator, region)
        return
    for annotation in sorted(task["annotations"], key=lambda one: str(one.get("updated_at") or "")):
        if annotation.get("was_cancelled"):
            continue
        by = annotation.get("completed_by", "")
        annotator = str(by.get("email") or by.get("id")) if isinstance(by, dict) else str(by)
        results = [one for one in annotation.get("result") or () if isinstance(one.get("value"), dict)]
        choices = [one["value"]["choices"] for one in results if one["value"].get("choices")]
        if choices:
            yield annotator, str(choices[-1][0]), None
            continue
        for one in results:
            yield from _of_region(annotator, one["value"])


def _of_region(annotator: str, value: Mapping[str, Any]) -> Iterator[tuple[str, str, float | None]]:
    labels = value.get("timelinelabels") or ()
    frames = sum(float(one["end"]) - float(one["start"]) + 1 for one in value.get("ranges") or ())
    if labels:
        yield annotator, str(labels[0]), frames


def _video_of(data: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Id and address, as the export put them there; else what the address in the task tells."""
    video_id, uri = data.get("video_id"), data.get("uri")
    if not video_id and not uri and isinstance(data.get("video"), str):
        parts = urlsplit(data["video"])
        local = parse_qs(parts.query).get("d") if parts.path.endswith("/local-files/") else None
        uri = "/" + local[0].lstrip("/") if local else data["video"]
    return (str(video_id) if video_id else None, normalise(str(uri)) if uri else None)


def _read_elan(address: str) -> Ballot:
    """The tiers ``emotion``, ``emotion 2`` … of a document, or of all in a folder and below it.

    The annotator is that of the tier, else the folder of the document below the one named, else the document's author.
    """
    if is_remote(address):
        raise ConfigError([f"{address!r}: expected an ELAN document, or a folder of these, on this machine"])
    path = Path(local_path(address))
    files = sorted(path.rglob("*.eaf")) if path.is_dir() else [path]
    if not files:
        raise ConfigError([f"{address!r}: no ELAN document (.eaf) in it"])
    ballot = Ballot()
    for file in files:
        try:
            root = ElementTree.parse(file).getroot()
            before = len(ballot.votes) + len(ballot.mistakes)
            _read_document(ballot, file, root, _folder_in(path, file))
        except (OSError, ElementTree.ParseError, KeyError, ValueError) as error:
            ballot.mistakes.append(f"{str(file)!r}: cannot be read as an ELAN document ({error})")
            continue
        ballot.without_label += before == len(ballot.votes) + len(ballot.mistakes)
    return ballot


def _folder_in(path: Path, file: Path) -> str:
    """The folder of a document, seen from the one that is read; empty where it is that one."""
    return "" if path in (file, file.parent) else file.parent.relative_to(path).as_posix()


def _read_document(ballot: Ballot, file: Path, root: ElementTree.Element, folder: str) -> None:
    times = {slot.attrib["TIME_SLOT_ID"]: slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    said = {one.get("NAME"): (one.text or "").strip() or None for one in root.iter("PROPERTY")}
    media = next((one.get("MEDIA_URL") or "" for one in root.iter("MEDIA_DESCRIPTOR")), "")
    uri = said.get("uri") or (unquote(urlsplit(media).path) if media.startswith("file:") else media) or None
    video = (said.get("video_id"), normalise(uri) if uri else None)
    for tier in root.iter("TIER"):
        if not tier.get("TIER_ID", "").lower().startswith("emotion"):
            continue
        annotator = tier.get("ANNOTATOR") or folder or root.get("AUTHOR") or ""
        for one in tier.iter("ALIGNABLE_ANNOTATION"):
            label = (one.findtext("ANNOTATION_VALUE") or "").strip()
            start, end = (times[one.attrib[f"TIME_SLOT_REF{number}"]] for number in (1, 2))
            if label and (seconds := _seconds(start, end)) is not None:
                ballot.add(f"{str(file)!r} tier {tier.get('TIER_ID')!r}", video, annotator, label, seconds / 1000)


#: The tools whose labels come back.
READERS: dict[str, Callable[[str], Ballot]] = {
    "label-studio": _read_label_studio,
    "csv": _read_csv,
    "elan": _read_elan,
}


def known_videos(videos: pa.Table) -> tuple[set[str], set[str]]:
    """Ids and addresses of videos, for :func:`read_corrections`."""
    return {*videos["video_id"].to_pylist()}, {uri for uri in videos["uri"].to_pylist() if uri}


def describe(corrected: Corrected) -> Sequence[str]:
    """What to know of labels that were put together."""
    notes = []
    if corrected.ties:
        notes.append(f"{len(corrected.ties)} videos have no majority and no label: {first_of(corrected.ties)}")
    if corrected.without_label:
        notes.append(f"{corrected.without_label} tasks, rows or documents without a label")
    return notes
