"""An output folder made of tables alone: videos that have what goes wrong in exports."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from vemoclap_batch.config import LABELS
from vemoclap_batch.media.windows import Window
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store

SEGMENT = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string())])
FACE = ("x", "y", "w", "h", "score", "probability")
SEGMENTS = pa.list_(pa.struct([*SEGMENT, ("language", pa.string())]))
COLUMNS = {
    "asr": {"text": pa.string(), "language": pa.string(), "segments": SEGMENTS, "segments_original": pa.list_(SEGMENT)},
    "ocr": {
        "text": pa.string(),
        "lines": pa.list_(pa.struct([("frame", pa.int32()), ("time_s", pa.float64()), ("text", pa.string()),
                                     ("score", pa.float32()), ("note", pa.string())])),
    },
    "face_emotion": {
        "faces": pa.list_(pa.struct([("frame", pa.int32()), ("time_s", pa.float64()),
                                     *[(name, pa.float32()) for name in ("x", "y", "w", "h", "score")],
                                     ("expression", pa.string()), ("probability", pa.float32())])),
    },
    "clip": {},
}  # fmt: skip
#: What people and pictures say: tags, arrows, lines, control characters, a text in another script, nothing.
SAID = ["<b>bold</b> & more --> x", "  ", "one\n\ntwo\r\nthree\u2028four", "\x00\x1b[31mred\x07", "=1+1,\"'", "喜び 😀"]
NTSC = 30000 / 1001
ODD = "f.v2/6 <x>"
#: id → rate, length, where it is.
VIDEOS = {
    "a-1": (25.0, 22.0, "/clips/A & B ü 100%.mp4"),
    "b-2": (NTSC, 12.345, "s3://bucket/b.v2.mkv"),
    "c-3": (25.0, 4.0, "/clips/nothing.mp4"),
    "d-4": (25.0, 8.0, None),
    "e-5": (None, 31.0, "/clips/sound.wav"),
    ODD: (59.94, 10.0, "/clips/odd.ts"),
}
NOTHING = "c-3"


def make_out(folder, window: Window | None = None, videos=None):
    """Fill ``folder``; with a window, predictions of windows. Returns its address."""
    videos, store = VIDEOS if videos is None else videos, Store(str(folder))
    key = {"content_key": "1", "run_id": "r1"}
    empty = dict.fromkeys(schemas.VIDEOS.names)
    rows = [
        empty | key | {"video_id": name, "uri": uri, "fps": fps, "duration_s": length, "has_video": fps is not None}
        for name, (fps, length, uri) in videos.items()
    ]
    store.videos().append(pa.Table.from_pylist(rows, schema=schemas.VIDEOS))
    found = {
        "asr": lambda name: {
            "text": " ".join(SAID), "language": "ja",
            "segments": [{"start_s": at + 0.0004, "end_s": at + 0.9, "text": text, "language": "ja"}
                         for at, text in enumerate(SAID)],
            "segments_original": [{"start_s": 0.0, "end_s": 6.0, "text": "元の言葉"}],
        },
        "ocr": lambda name: {
            "text": SAID[0], "lines": [{"frame": 0, "time_s": 0.0, "text": SAID[0], "score": 0.9, "note": None}]
        },
        "face_emotion": lambda name: {"faces": [dict.fromkeys(FACE, 1.0) | {"frame": 1, "time_s": 0.5, "x": 7.0}]},
        "clip": lambda name: {"feature": [[1.0, 2.0], [3.0, 4.0]], "start_s": [0.0, 1.0], "end_s": [0.0, 1.0]},
    }  # fmt: skip
    for extractor, columns in COLUMNS.items():
        sequence = extractor == "clip"
        made = {"space": None, "width": 2 if sequence else 0, "sequence": sequence, "identity": {}}
        store.describe_features(extractor, "0123456789ab", made)
        schema = schemas.features(sequence, columns, made["width"])
        content = [
            dict.fromkeys(schema.names) | key | {"video_id": name, "feature": []} | found[extractor](name)
            for name in videos
        ]
        store.features(extractor, "0123456789ab", schema).append(pa.Table.from_pylist(content, schema=schema))
    add_predictions(store, videos, window)
    return store.address


def add_predictions(store, videos, window):
    described = {
        "fingerprint": "ba9876543210", "model": "m0de1", "labels": list(LABELS), "features": {},
        "window": {"window_s": window.window_s, "hop_s": window.hop_s} if window else None,
    }  # fmt: skip
    store.write_json("predictions/ba9876543210/model.json", described)
    rng = np.random.default_rng(1)
    rows = []
    for name, (_, length, uri) in videos.items():
        for start, end in window.over(length) if window else [(0.0, length)]:
            shares = rng.dirichlet(np.full(6, 0.3))
            row = {"video_id": name, "content_key": "1", "uri": uri, "run_id": "r1", "missing": ["clip", "asr"]}
            row |= {"window_start_s": start, "window_end_s": end, "valence": float("nan"), "arousal": 0.5}
            if name != NOTHING:
                row |= {"label": LABELS[int(shares.argmax())], "confidence": float(shares.max())}
                row |= {f"p_{label}": float(share) for label, share in zip(LABELS, shares, strict=True)}
            rows.append(row)
    schema = schemas.predictions(LABELS)
    table = store.predictions("ba9876543210", LABELS)
    table.unique = window is None
    table.append(pa.Table.from_pylist([dict.fromkeys(schema.names) | row for row in rows], schema=schema))
