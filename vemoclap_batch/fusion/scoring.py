"""Scoring checkpoints on a store's features and given labels, and the report of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vemoclap_batch.config import ConfigError
from vemoclap_batch.fusion.checkpoint import DESCRIPTION, Checkpoint, used_videos
from vemoclap_batch.fusion.dataset import find_labelled, open_data
from vemoclap_batch.fusion.evaluation import draw_confusion, draw_reliability, evaluate, summarise
from vemoclap_batch.fusion.selection import names_of, select
from vemoclap_batch.store.folder import Folder
from vemoclap_batch.store.store import Store

METRICS, CONFUSION, RELIABILITY = "metrics.json", "confusion.png", "reliability.png"


def score(
    store: Store, model: str, labels: str, *, split: str = "test", chosen: Mapping[str, str] | None = None,
    preferred: Mapping[str, str] | None = None, folder: str | None = None, stream: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a checkpoint on the labelled videos of one split (``all`` for every one).

    A folder of checkpoints, one a seed, is scored as their mean and deviation.

    Args:
        store: the output folder with the features.
        model: folder of a checkpoint, or of ``seed-…`` folders.
        labels: the labels file.
        split: which videos.
        chosen: the user's choice of fingerprints.
        preferred: the profile's.
        folder: where ``metrics.json``, ``confusion.png`` and ``reliability.png`` go, if anywhere.
        stream: read features from disk rather than memory; None decides by their size.

    Returns:
        What :func:`~vemoclap_batch.fusion.evaluation.evaluate` or, for several seeds,
        :func:`~vemoclap_batch.fusion.evaluation.summarise` gives, with the labels, the preset, the split, where it is
        from, the blacklist, the fingerprints and ``model_notes``: what to know before believing it.

    Raises:
        ConfigError: no checkpoint, features or labels that fit, or nothing to score.
    """
    members = _members(model)
    checkpoints = {name: Checkpoint.load(path) for name, path in members.items()}
    first = _alike(model, checkpoints)
    spaces = {name: feature.space for name, feature in first.spec.features.items()}
    selected = select(store, spaces, chosen, preferred)
    labelled = find_labelled(store, labels, selected, first.spec.labels)
    rows = labelled.rows(split)
    data = open_data(store, selected, labelled.videos.take(rows), labelled.labels[rows], stream)
    probabilities = {name: checkpoint.probabilities(data) for name, checkpoint in checkpoints.items()}
    every = {name: evaluate(shares, data.labels, first.spec.labels) for name, shares in probabilities.items()}
    if len(every) == 1 and "" in every:
        result = every[""]
    else:
        result = summarise(every, [shares.argmax(1) == data.labels for shares in probabilities.values()])
    result |= {
        "preset": first.card.get("preset"),
        "split": split,
        "split_source": labelled.source,
        "blacklist": labelled.blacklist,
        "fingerprints": names_of(selected),
        "model_notes": _notes(checkpoints, members, data.ids),
        "leaks": _leak(checkpoints, members, data.ids),
        "without_video": labelled.without_video,
        "without_features": labelled.without_features,
        "labels": list(first.spec.labels),
    }
    if folder:
        _write(result, Folder(folder))
    return result


def _members(model: str) -> dict[str, str]:
    """The checkpoints of a folder: itself, under no name, or one a seed."""
    whole = Folder(model)
    if whole.has(DESCRIPTION):
        return {"": model}
    seeds = [folder for folder in whole.folders() if folder.name.startswith("seed-") and folder.has(DESCRIPTION)]
    seeds.sort(key=lambda folder: (len(folder.name), folder.name))
    return {folder.name: folder.address for folder in seeds} or {"": model}


def _alike(model: str, checkpoints: Mapping[str, Checkpoint]) -> Checkpoint:
    """The first of them.

    Raises:
        ConfigError: they take different features or give different labels.
    """
    first = next(iter(checkpoints.values()))
    wanted = {name: (feature.space, feature.width) for name, feature in first.spec.features.items()}
    mistakes = []
    for name, checkpoint in checkpoints.items():
        found = {key: (feature.space, feature.width) for key, feature in checkpoint.spec.features.items()}
        if found != wanted or checkpoint.spec.labels != first.spec.labels:
            mistakes.append(
                f"{model}/{name}: takes other features, or gives other labels, than {next(iter(checkpoints))}"
            )
        if checkpoint.card.get("preset") != first.card.get("preset"):
            mistakes.append(
                f"{model}/{name}: trained with preset {checkpoint.card.get('preset')}, "
                f"{next(iter(checkpoints))} with {first.card.get('preset')}"
            )
    if mistakes:
        raise ConfigError(mistakes)
    return first


def _notes(checkpoints: Mapping[str, Checkpoint], members: Mapping[str, str], ids: list[str]) -> list[str]:
    notes = dict.fromkeys(note for checkpoint in checkpoints.values() for note in checkpoint.card.get("notes", []))
    leak = _leak(checkpoints, members, ids)
    return list(notes | {leak: None}) if leak and leak not in notes else list(notes)


def _leak(checkpoints: Mapping[str, Checkpoint], members: Mapping[str, str], ids: list[str]) -> str | None:
    """Why the score flatters: the checkpoint has seen videos it is scored on. None when nothing says so."""
    for checkpoint in checkpoints.values():
        if said := checkpoint.card.get("leaks"):
            return str(said)
    seen: Counter[str] = Counter()
    for folder in members.values():
        used = used_videos(folder)
        found = Counter(used[name] for name in ids if name in used)
        seen |= found
    if not seen:
        return None
    told = " and ".join(
        f"{count} of them {'trained the model' if name == 'train' else 'chose its step'}"
        for name, count in sorted(seen.items())
    )
    return f"the score leaks: of the {len(ids)} videos scored, {told}"


def _write(result: dict[str, Any], folder: Folder) -> None:
    content = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    folder.write(METRICS, content.encode())
    with TemporaryDirectory(prefix="vemoclap-") as drawn:
        confusion, reliability = Path(drawn) / CONFUSION, Path(drawn) / RELIABILITY
        draw_confusion(result, result["labels"], confusion)
        draw_reliability(result, reliability)
        for picture in (confusion, reliability):
            folder.write(picture.name, picture.read_bytes())
