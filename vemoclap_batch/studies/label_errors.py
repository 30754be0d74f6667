"""Labels that look wrong: cross-validated training on a store's features, then confident learning."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from vemoclap_batch.config import LABELS
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.confident import Plausibility, fold_numbers, judge, out_of_fold
from vemoclap_batch.fusion.data import Data
from vemoclap_batch.fusion.dataset import Labelled, find_labelled, open_data
from vemoclap_batch.fusion.selection import Selected, names_of, select
from vemoclap_batch.fusion.spec import FusionSpec
from vemoclap_batch.fusion.training import PRESETS, History, TrainSettings, classifier_spec
from vemoclap_batch.report.digest import digest, shorten
from vemoclap_batch.report.pages import as_json
from vemoclap_batch.sources.blacklist import can_be_listed
from vemoclap_batch.store.filesystem import resolve, write_bytes_atomically
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import keys
from vemoclap_batch.studies.analysis import current_table
from vemoclap_batch.training.fit import in_words

PRESET = "quick"
#: Below this agreement with the given labels, most suspects are hard to tell rather than wrongly labelled.
WEAK = 0.7
_DIGESTED = ("asr", "ocr", "face_emotion", "clip")
_WORDS, _URI = 80, 200


@dataclass(frozen=True)
class Options:
    """How suspects are looked for.

    Attributes:
        folds: of the cross-validation.
        seed: of the folds and the trainings; the same one gives the same list.
        frames: items that the classifier takes of a sequence.
        d_model: width of the classifier.
        heads: its attention heads.
        dropout: its dropout.
        split: which split's videos are judged, and train; ``all`` for every labelled one.
        settings: of each training; their seed is the options'.
        use_gpu: train on the GPU, where torch finds one.
    """

    folds: int = 5
    seed: int = 1
    frames: int = 16
    d_model: int = 512
    heads: int = 4
    dropout: float = 0.5
    split: str = "all"
    settings: TrainSettings = PRESETS[PRESET]
    use_gpu: bool = False


def suggest_blacklist(
    store: Store, labels: str, options: Options, *, chosen: Mapping[str, str] | None = None,
    preferred: Mapping[str, str] | None = None, names: Sequence[str] | None = None,
    report: Callable[[int, History], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Rank the labelled videos whose label a classifier that has not seen them finds implausible.

    It judges by the features ``names``, without which by all that the store holds, from the tables of the fingerprints
    ``chosen``, else ``preferred``. ``report`` is called after each fold with its number and how its training went.

    Returns:
        ``n``; ``accuracy``, the share of given labels that the classifiers agree with;
        ``per_class`` (``n``, ``suspected``); ``suspects``, the least plausible first: ``rank``, ``video_id``, ``uri``,
        ``given``, ``p_given``, ``likelier``, ``p_likelier``, ``score`` and where known ``heard``, ``read``, ``seen``;
        ``videos``, all of them by score; ``folds``, ``seed``, ``preset``, ``split``, ``fingerprints``,
        ``without_video``, ``without_features`` and ``notes``.

    Raises:
        ConfigError: wrong options, labels or features, or too few videos of a label.
    """
    selected = _select(store, names, chosen or {}, preferred or {})
    shape = classifier_spec(
        selected, options.frames, d_model=options.d_model, heads=options.heads, dropout=options.dropout
    )
    labelled = find_labelled(store, labels, selected, LABELS)
    rows = labelled.rows(options.split)
    videos, given = labelled.videos.take(rows), labelled.labels[rows]
    _check(given, options)
    data = open_data(store, selected, videos, given)
    folds, probabilities = _cross_validate(shape, data, options, report)
    plausibility = judge(probabilities, given)
    suspects = plausibility.suspects
    judged = [_judged(data.ids[row], given[row], probabilities[row], plausibility, row) for row in range(len(given))]
    digests = _digests(store, videos.take(suspects), preferred or {})
    agreement = float((probabilities.argmax(1) == given).mean())
    return {
        "n": len(given),
        "accuracy": agreement,
        "per_class": {
            name: {"n": int((given == at).sum()), "suspected": int((given[suspects] == at).sum())}
            for at, name in enumerate(LABELS)
        },
        "suspects": [
            {"rank": rank, **judged[row], **digests[rank - 1]} for rank, row in enumerate(suspects.tolist(), 1)
        ],
        "videos": _all_videos(judged, probabilities, folds, plausibility),
        "folds": options.folds,
        "seed": options.seed,
        "preset": in_words(PRESET, options.settings),
        "split": options.split,
        "fingerprints": names_of(selected),
        "without_video": labelled.without_video,
        "without_features": labelled.without_features,
        "notes": _notes(labelled, options, agreement, len(suspects)),
    }


def _select(
    store: Store, names: Sequence[str] | None, chosen: Mapping[str, str], preferred: Mapping[str, str]
) -> dict[str, Selected]:
    """The features of the store that a classifier can take: those with a feature space."""
    extractors = sorted({size.table.split("/")[1] for size in store.sizes() if size.table.startswith("features/")})
    there = [
        name for name in extractors if any(made["space"] is not None for made in store.fingerprints(name).values())
    ]
    unknown = sorted(set(names or []) - set(there))
    if unknown:
        raise ConfigError([f"--use {name!r}: expected one of {', '.join(there) or 'none'}" for name in unknown])
    if not there:
        raise ConfigError([f"{store.address} holds no features"])
    return select(store, dict.fromkeys(names or there), chosen, preferred)


def _check(given: np.ndarray, options: Options) -> None:
    counts = np.bincount(given, minlength=len(LABELS))
    mistakes = [
        f"label {name!r}: one video only; cross-validation needs at least 2 of each label that is given"
        for name, count in zip(LABELS, counts, strict=True)
        if count == 1
    ]
    if (counts > 0).sum() < 2:
        mistakes.append("the labels file gives one label only; at least 2 are needed")
    if not 2 <= options.folds <= len(given):
        mistakes.append(f"--folds {options.folds}: expected 2 to {len(given)}, the number of labelled videos")
    if mistakes:
        raise ConfigError(mistakes)


def _cross_validate(
    shape: FusionSpec, data: Data, options: Options, report: Callable[[int, History], None] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The fold of each video, int64 [n], and what the classifier trained without that fold says: [n, labels]."""
    folds = fold_numbers(data.ids, data.labels, options.folds, options.seed)
    device = "cuda" if options.use_gpu and torch.cuda.is_available() else "cpu"
    settings = options.settings.model_copy(update={"seed": options.seed})
    return folds, out_of_fold(shape, data, folds, settings, device, report)


def _judged(video: str, given: int, probabilities: np.ndarray, plausibility: Plausibility, row: int) -> dict[str, Any]:
    likelier = int(plausibility.likelier[row])
    return {
        "video_id": video,
        "given": LABELS[given],
        "p_given": float(probabilities[given]),
        "likelier": LABELS[likelier],
        "p_likelier": float(probabilities[likelier]),
        "score": float(plausibility.scores[row]),
    }


def _all_videos(
    judged: Sequence[Mapping[str, Any]], probabilities: np.ndarray, folds: np.ndarray, plausibility: Plausibility
) -> list[dict[str, Any]]:
    """Every video with its probabilities: the suspects, then the others, each by score."""
    by_score = np.argsort(plausibility.scores, kind="stable")
    others = by_score[~np.isin(by_score, plausibility.suspects)]
    return [
        {
            "suggested": at < len(plausibility.suspects),
            **judged[row],
            "fold": int(folds[row]),
            **{f"p_{name}": float(p) for name, p in zip(LABELS, probabilities[row], strict=True)},
        }
        for at, row in enumerate([*plausibility.suspects.tolist(), *others.tolist()])
    ]


def _notes(labelled: Labelled, options: Options, agreement: float, suspected: int) -> list[str]:
    notes = [
        "a suggestion is no verdict: look at the video before its label is called wrong",
        "labels of all videos judged went into the folds: removing them from a test split flatters scores on it",
    ]
    if agreement < WEAK:
        notes.append(
            f"the classifiers agree with {_percent(agreement)} of the labels only: many of the {suspected} suspects "
            "will be videos that are hard to tell rather than wrong labels; the first ones are the likeliest"
        )
    if labelled.without_video:
        notes.append(f"{labelled.without_video} labelled rows have no video in OUT")
    if labelled.without_features:
        notes.append(f"{labelled.without_features} labelled videos lack a feature and were not judged")
    if options.split != "all":
        notes.append(f"only videos of split {options.split} ({labelled.source}) were judged")
    return notes


def _digests(store: Store, suspects: pa.Table, preferred: Mapping[str, str]) -> list[dict[str, Any]]:
    """Per suspect its ``uri`` and what was heard, read and seen, where the store knows."""
    videos = store.current_videos(("uri",))
    at = pc.index_in(keys(suspects), value_set=keys(videos).combine_chunks()).combine_chunks()
    tables = {name: table for name in _DIGESTED if (table := current_table(store, name, preferred.get(name)))}
    rows = digest(videos.take(at), None, tables, ())
    return [{name: row[name] for name in ("uri", "heard", "read", "seen") if name in row} for row in rows]


# ---- writing


def files_beside(address: str) -> dict[str, str]:
    """Where the files ``csv`` and ``json`` beside a list go; a ConfigError if the list has such a name itself."""
    stem, suffix = posixpath.splitext(address)
    if suffix in {".csv", ".json"} or not posixpath.basename(stem):
        raise ConfigError([f"-o {address!r}: expected a text file such as suspects.txt; .csv and .json go beside it"])
    return {"csv": f"{stem}.csv", "json": f"{stem}.json"}


def write_suggestions(result: Mapping[str, Any], address: str) -> dict[str, str]:
    """Write the list for ``--blacklist``, and beside it everything as JSON and every video's probabilities as CSV.

    Returns:
        The addresses: ``list``, ``csv``, ``json``.
    """
    files = files_beside(address)
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(result["videos"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(result["videos"])
    for target, text in ((files["csv"], sink.getvalue()), (files["json"], as_json(result)), (address, as_list(result))):
        write_bytes_atomically(*resolve(target), text.encode())
    return {"list": address, **files}


def as_list(result: Mapping[str, Any]) -> str:
    """The suspects in the format of ``--blacklist``: a line each, the least plausible label first."""
    made = ", ".join(f"{name} {fingerprint}" for name, fingerprint in result["fingerprints"].items())
    head = [
        f"{len(result['suspects'])} of {result['n']} labelled videos whose label looks wrong, the likeliest first",
        f"{result['folds']}-fold cross-validation, seed {result['seed']}, preset {result['preset']}; features: {made}",
        f"the classifiers agree with {_percent(result['accuracy'])} of the given labels",
        *result["notes"],
    ]
    return "".join(f"{line}\n" for line in [*[f"# {text}" for text in head], *map(line_of, result["suspects"])])


def line_of(suspect: Mapping[str, Any]) -> str:
    """One suspect on one line; whatever the texts hold, they stay within its comment."""
    name, comment = suspect["video_id"], _reason(suspect)
    if can_be_listed(name):
        return f"{name}  # {comment}"
    return f"# its id cannot stand in a list: {shorten(name, _URI)}: {comment}"


def _reason(suspect: Mapping[str, Any]) -> str:
    """Why a label looks wrong, and what was heard, read and seen."""
    judged = (
        f"given {suspect['given']} ({_percent(suspect['p_given'])}), "
        f"looks like {suspect['likelier']} ({_percent(suspect['p_likelier'])})"
    )
    texts = {name: shorten(suspect[name], _WORDS) for name in ("heard", "read", "seen") if suspect.get(name)}
    details = [f"seen: {text}" if name == "seen" else f'{name} "{text}"' for name, text in texts.items()]
    details += [shorten(suspect["uri"], _URI)] if suspect.get("uri") else []
    return ": ".join([judged, "; ".join(details)]) if details else judged


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
