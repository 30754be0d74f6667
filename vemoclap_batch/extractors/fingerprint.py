"""Fingerprints: a short hash of everything that changes what an extractor computes, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vemoclap_batch.config import ExtractorEntry, Sampling
from vemoclap_batch.extractors.base import FRAMES, Extractor, ExtractorSettings
from vemoclap_batch.media.sampling import SAMPLING_VERSION
from vemoclap_batch.models.references import content_hash

#: What version 0.1 hashed of an extractor, by its name: where its class lay then. Never change an entry, or stored
#: features are computed again. An extractor that is not here is hashed by its name.
HASHED_NAMES = {
    "beats": "vemoclap_batch.extractors.beats:Beats",
    "caption": "vemoclap_batch.extractors.caption:Caption",
    "efficientnet-lite0": "vemoclap_batch.extractors.efficientnet:EfficientNetLite",
    "face-expression": "vemoclap_batch.extractors.face_expression:FaceExpression",
    "minilm": "vemoclap_batch.extractors.minilm:MiniLM",
    "open-clip": "vemoclap_batch.extractors.open_clip:OpenClip",
    "paddleocr": "vemoclap_batch.extractors.ocr:PaddleOcr",
    "sentiment": "vemoclap_batch.extractors.sentiment:Sentiment",
    "translated-ocr": "vemoclap_batch.extractors.translated_ocr:TranslatedOcr",
    "voice": "vemoclap_batch.extractors.voice:Voice",
    "whisper": "vemoclap_batch.extractors.whisper:Whisper",
    "windowed-text": "vemoclap_batch.extractors.over_windows:OverWindows",
    "yolo-face": "vemoclap_batch.extractors.yolo_face:YoloFace",
}


def hashed_name(cls: type[Extractor]) -> str:
    """What a fingerprint says of an extractor's class: its name, as version 0.1 wrote it if it had it."""
    return HASHED_NAMES.get(cls.name, cls.name)


def identity(
    cls: type[Extractor],
    settings: ExtractorSettings,
    entry: ExtractorEntry,
    sampling: Sampling,
    models: Mapping[str, Path],
    fingerprints: Mapping[str, str],
) -> dict[str, Any]:
    """Everything that changes an extractor's output.

    Args:
        cls: the extractor.
        settings: its settings.
        entry: its entry in the profile, which names the extractors that it reads.
        sampling: how frames are chosen.
        models: its weights; they are hashed by their content, not by where they lie.
        fingerprints: of the extractors that it reads.
    """
    found: dict[str, Any] = {
        "class": hashed_name(cls),
        "version": cls.version,
        "settings": settings.model_dump(mode="json", exclude=set(models)),
        "weights": cls.weights(settings),
    }
    if models:
        found["models"] = {name: _content(path) for name, path in models.items()}
    if FRAMES in cls.inputs:
        found["sampling"] = {**sampling.model_dump(mode="json"), "version": SAMPLING_VERSION}
    if entry.input is not None:
        found["input"] = fingerprints[entry.input]
        # Other columns than this one came later.
        if entry.text_column != "text":
            found["text_column"] = entry.text_column
    if entry.detections:
        found["evidence"] = {name: fingerprints[name] for name in entry.detections}
    return found


def fingerprint(identity: Mapping[str, Any]) -> str:
    """12 hex digits of the SHA-256 of an :func:`identity`."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@cache
def _content(path: Path) -> str:
    return content_hash(path)
