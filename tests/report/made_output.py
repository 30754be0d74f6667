"""An output folder written by hand: whatever its videos are said to show, with predictions of windows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from vemoclap_batch.config import LABELS
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store

FINGERPRINT = "0" * 12
TIMES = [0.0, 0.4, 0.8, 1.2, 1.6]
_TEXT = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string())])
_LINE = pa.struct([("frame", pa.int32()), ("time_s", pa.float64()), ("text", pa.string()), ("note", pa.string())])
_FACE = pa.struct(
    [(name, pa.float64()) for name in ("time_s", "x", "y", "w", "h", "score", "probability", "turn")]
    + [("frame", pa.int32()), ("expression", pa.string())]
)
_TAGS = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))
COLUMNS = {
    "asr": {
        "text": pa.string(), "language": pa.string(), "segments": pa.list_(_TEXT), "words": pa.list_(_TEXT),
        "segments_original": pa.list_(_TEXT),
    },
    "ocr": {"text": pa.string(), "lines": pa.list_(_LINE)},
    "face_emotion": {"faces": pa.list_(_FACE)},
    "beats": {"events": _TAGS, "loudness_db": pa.float32()},
    "clip": {"tags": _TAGS},
    "caption": {"caption": pa.string(), "time_s": pa.float64()},
}  # fmt: skip


def made_output(folder, videos, said="so it goes", written="exit", windows=True):
    """Write ``folder``.

    Args:
        folder: of the output.
        videos: id → address.
        said: what every video says, writes, and is called by its tags and caption.
        written: what is read in each.
        windows: two windows a video; the second has nothing to go by.
    """
    store = Store(str(folder))
    names = [{"video_id": name, "content_key": "1"} for name in videos]
    rows = []
    for name, uri in zip(names, videos.values(), strict=True):
        rows.append(dict.fromkeys(schemas.VIDEOS.names) | name)
        rows[-1] |= {
            "uri": uri, "duration_s": 2.0, "width": 64, "height": 48, "has_video": True, "has_audio": True,
            "frame_times": TIMES, "warnings": [said], "run_id": "20260102T030405-abc", "video_codec": "h264",
        }  # fmt: skip
    store.videos().append(pa.Table.from_pylist(rows, schema=schemas.VIDEOS))
    piece = [{"start_s": 0.5, "end_s": 1.5, "text": said}]
    face = {"time_s": 0.8, "x": 16.0, "y": 12.0, "w": 32.0, "h": 24.0, "frame": 2, "expression": said}
    tags = [{"label": said, "probability": 0.5}]
    extras = {
        "asr": {"text": said, "language": "en", "segments": piece, "words": [], "segments_original": []},
        "ocr": {"text": written, "lines": [{"frame": 0, "time_s": 0.4, "text": written}]},
        "face_emotion": {"faces": [{**face, "score": 0.9, "probability": 0.7}]},
        "beats": {"events": tags, "loudness_db": -20.0},
        "clip": {"tags": tags},
        "caption": {"caption": said, "time_s": 0.4},
    }
    for extractor, columns in COLUMNS.items():
        width = 3 if extractor in {"face_emotion", "beats", "clip"} else 0
        table = store.features(extractor, FINGERPRINT, schemas.features(width > 0, columns, width))
        store.describe_features(
            extractor, FINGERPRINT, {"width": width, "space": extractor, "sequence": width > 0, "identity": {}}
        )
        rng = np.random.default_rng(0)
        features = [rng.normal(size=(len(TIMES), width)).tolist() if width else [] for _ in names]
        own = [{"feature": feature, "run_id": "r", **extras[extractor]} for feature in features]
        if width:
            own = [row | {"start_s": TIMES, "end_s": TIMES} for row in own]
        rows = [name | row for name, row in zip(names, own, strict=True)]
        table.append(pa.Table.from_pylist(rows, schema=table.schema))
    predictions = []
    for at, name in enumerate(names):
        shares = np.roll([0.6, 0.2, 0.1, 0.05, 0.03, 0.02], at)
        told = {f"p_{label}": share for label, share in zip(LABELS, shares.tolist(), strict=True)}
        first = name | {"window_start_s": 0.0, "window_end_s": 1.0 if windows else 2.0, "confidence": 0.6, **told}
        first |= {"label": LABELS[int(shares.argmax())], "valence": 0.5, "arousal": -0.5, "missing": ["asr_sentiment"]}
        predictions.append(first)
        if windows:
            predictions.append(
                name | {"window_start_s": 1.0, "window_end_s": 2.0, "missing": ["beats", "face_emotion"]}
            )
    table = store.predictions(FINGERPRINT, LABELS)
    table.unique = False
    rows = [dict.fromkeys(table.schema.names) | row | {"run_id": "20260102T030405-abc"} for row in predictions]
    table.append(pa.Table.from_pylist(rows, schema=table.schema))
    store.write_json(
        f"predictions/{FINGERPRINT}/model.json",
        {
            "fingerprint": FINGERPRINT, "model": "m", "labels": LABELS, "window": None,
            "features": {"beats": FINGERPRINT, "face_emotion": FINGERPRINT},
        },
    )  # fmt: skip
    explained = {
        "label": "joy", "probability": 0.6, "empty_probability": 0.2,
        "contributions": [{"feature": "beats", "present": True, "value": 0.4, "values": []}],
        "items": [{"feature": "beats", "start_s": 0.8, "end_s": 0.8, "drop": 0.3}],
    }  # fmt: skip
    rows = [name | explained | {"window_start_s": 0.0, "window_end_s": 1.0, "run_id": "r"} for name in names]
    store.explanations(FINGERPRINT).append(pa.Table.from_pylist(rows, schema=schemas.EXPLANATIONS))
    failed = {"uri": "", "extractor": "asr_sentiment", "stage": "extract", "error_type": "model", "message": said}
    rows = [dict.fromkeys(schemas.ERRORS.names) | names[0] | failed | {"attempts": 1, "run_id": "r"}]
    store.errors().append(pa.Table.from_pylist(rows, schema=schemas.ERRORS))
    return store
