"""The labelled sets that lite learns from, as features of the very extractors that the pipeline runs.

Each set has one modality. An item is what one picture, utterance or comment gives: an array [length, width].
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vemoclap_batch.config import LABELS, load_config
from vemoclap_batch.extractors.base import Extractor, Resources, Result
from vemoclap_batch.extractors.registry import Spec, resolve
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip

#: The feature of the pipeline that each set is of.
FACES, SOUND, TEXT = "face_emotion", "beats", "asr_sentiment"


@dataclass
class Items:
    """One set's items that have exactly one of the six labels.

    Attributes:
        features: float32 [length, width] each.
        labels: index into :data:`~vemoclap_batch.config.LABELS`, int64 [n].
    """

    features: list[np.ndarray]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.features)


def cached(folder: Path | None, name: str, feature: str, read: Callable[[], Items]) -> Items:
    """Read a set once: kept in a folder under its name and the fingerprint of the extractor that made its features."""
    if folder is None:
        return read()
    path = folder / f"{name}-{lite_specs()[feature].fingerprint}.npz"
    if path.exists():
        with np.load(path) as kept:
            return Items(np.split(kept["rows"], kept["ends"][:-1]), kept["labels"])
    items = read()
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum([len(item) for item in items.features])
    np.savez(path, rows=np.concatenate(items.features), ends=ends, labels=items.labels)
    return items


def lite_specs() -> dict[str, Spec]:
    """The lite profile's extractors."""
    return resolve(load_config("lite"))


def _extractor(name: str) -> Extractor:
    spec = lite_specs()[name]
    return spec.cls(spec.settings, Resources(threads=1))


def read_faces(parquet: str | Path, split: str | None = None) -> Items:
    """Face crops (``image``: JPEG bytes, ``label``, optional ``split``) as videos of one frame with one face."""
    import torch

    from lite.expression_training import read_faces as read_crops
    from vemoclap_batch.extractors.face_expression import WEIGHTS
    from vemoclap_batch.networks.expression import CLASSES, load_expression_net, prepare

    faces = read_crops(parquet, split)
    net = load_expression_net(WEIGHTS)
    kept = [row for row, label in enumerate(faces.labels) if CLASSES[int(label)] in LABELS]
    features = []
    with torch.inference_mode():
        for at in range(0, len(kept), 256):
            crops = [np.asarray(faces.pixels[row]) for row in kept[at : at + 256]]
            features += [row[None] for row in net(prepare(crops))[0].numpy()]
    return Items(features, np.array([LABELS.index(CLASSES[int(faces.labels[row])]) for row in kept], np.int64))


def read_sound(manifest: str | Path, split: str | None = None, copies: int = 0) -> Items:
    """Utterances (``path`` relative to the manifest, ``label``, optional ``split``) as the sound of a video each.

    Args:
        manifest: the CSV.
        split: which rows; all without it.
        copies: augmented versions of each (another room, microphone, noise), for training.
    """
    from lite.voice_training import augment, read_waveform
    from vemoclap_batch.fusion.data import keyed_rng

    rows = _rows(manifest)
    kept = [row for row in rows if row["label"] in LABELS and split in (None, row.get("split"))]
    extractor, features = _extractor(SOUND), []
    for row in kept:
        original = read_waveform(Path(manifest).parent / row["path"])
        again = [augment(original, keyed_rng(row["path"], copy)) for copy in range(copies)]
        for waveform in (original, *again):
            nothing = np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0)
            [result] = extractor.extract([Clip(row["path"], *nothing, waveform, len(waveform) / SAMPLE_RATE)])
            if not isinstance(result, Result):
                raise ValueError(f"{row['path']}: {result.message}")
            features.append(result.feature)
    return Items(features, np.repeat([LABELS.index(row["label"]) for row in kept], copies + 1).astype(np.int64))


def read_text(tsv: str | Path, labels: str | Path) -> Items:
    """Comments (text, label indices into ``labels``, id; no header) as the speech of a video each."""
    names = [line.strip() for line in Path(labels).read_text("utf-8").splitlines() if line.strip()]
    with Path(tsv).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if len(row) >= 2]
    single = [(row[0], names[int(row[1])]) for row in rows if row[1].isdigit()]
    kept = [(text, label) for text, label in single if label in LABELS]
    extractor, features = _extractor(TEXT), []
    for at in range(0, len(kept), 512):
        for result in extractor.extract([text for text, _ in kept[at : at + 512]]):
            features.append(result.feature if isinstance(result, Result) else np.zeros((0, 384), np.float32))
    return Items(features, np.array([LABELS.index(label) for _, label in kept], np.int64))


def _rows(manifest: str | Path) -> list[Mapping[str, Any]]:
    with Path(manifest).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
