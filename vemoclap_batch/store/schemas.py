"""The columns of every table; plain Arrow types only, so that any Parquet reader can read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

FEATURE = pa.list_(pa.list_(pa.float32()))
SECONDS = pa.list_(pa.float64())

VIDEOS = pa.schema(
    [
        ("video_id", pa.string()),
        ("content_key", pa.string()),
        ("uri", pa.string()),
        ("duration_s", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("rotation", pa.int32()),
        ("video_codec", pa.string()),
        ("has_video", pa.bool_()),
        ("has_audio", pa.bool_()),
        ("frame_times", SECONDS),
        ("decoder", pa.string()),
        ("sound_db", pa.list_(pa.float32())),
        ("warnings", pa.list_(pa.string())),
        ("run_id", pa.string()),
    ]
)

ERRORS = pa.schema(
    [
        ("video_id", pa.string()),
        ("content_key", pa.string()),
        ("uri", pa.string()),
        ("extractor", pa.string()),  # null for a failure of the whole video (stage decode)
        ("stage", pa.string()),
        ("fingerprint", pa.string()),  # of the extractor that failed; null at stage decode
        ("error_type", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("run_id", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
    ]
)

_CONTRIBUTION = pa.struct(
    [
        ("feature", pa.string()),
        ("present", pa.bool_()),
        ("value", pa.float64()),  # to the label's probability
        ("values", pa.list_(pa.float64())),  # to that of each label
    ]
)
_SECONDS = ("start_s", "end_s", "drop")
_ITEM = pa.struct([("feature", pa.string()), *[(name, pa.float64()) for name in _SECONDS]])
#: Why a prediction is what it is; see :mod:`vemoclap_batch.fusion.explain`.
EXPLANATIONS = pa.schema(
    [
        ("video_id", pa.string()),
        ("content_key", pa.string()),
        ("window_start_s", pa.float64()),
        ("window_end_s", pa.float64()),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("empty_probability", pa.float64()),  # of the label, without any feature
        ("contributions", pa.list_(_CONTRIBUTION)),
        ("items", pa.list_(_ITEM)),  # of sequences; how much less likely the label is without each
        ("run_id", pa.string()),
    ]
)

#: What each stage of a run says of a row, in the struct column that it adds.
STATUS = pa.schema(
    [
        ("error_type", pa.string()),
        ("message", pa.string()),
        ("seconds", pa.float64()),  # of the stage's own time, an equal share of its batch's
        ("ready_at", pa.float64()),  # when the stage's actor had its model, seconds since the epoch
    ]
)
#: The struct column that decoding adds; a row is a chunk of a video. Frames and waveform are columns of their own.
DECODED = pa.struct(
    [
        *STATUS,
        ("frame_shape", pa.list_(pa.int32())),
        ("start_s", pa.float64()),
        ("chunk", pa.int32()),
        ("chunks", pa.int32()),
        ("first_frame", pa.int32()),
        ("audio_samples", pa.int64()),
        ("own_samples", pa.int64()),  # the rest of the waveform is the beginning of the next chunk's
        *[field for field in VIDEOS if field.name not in {"video_id", "content_key", "uri", "run_id"}],
    ]
)
_PIECES = pa.list_(pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string())]))
#: Columns that bring to a run what the store has already: a text, the same in pieces with their times, both in the
#: language that was spoken, frame numbers.
STORED: dict[str, pa.DataType] = {
    "text": pa.string(),
    "pieces": _PIECES,
    "text_original": pa.string(),
    "pieces_original": _PIECES,
    "detections": pa.list_(pa.int32()),
}


def features(sequence: bool, columns: Mapping[str, pa.DataType], width: int = 0) -> pa.Schema:
    """The schema of one extractor's table: keys, the feature, its times if it is a sequence, the extra columns.

    The feature's width is in the metadata of its field, which Delta keeps in the table's log and in each data file.
    """
    fields = [(name, pa.string()) for name in ("video_id", "content_key", "run_id")]
    fields.append(pa.field("feature", FEATURE, metadata={"width": str(width)}))
    if sequence:
        fields += [("start_s", SECONDS), ("end_s", SECONDS)]
    return pa.schema([*fields, *columns.items()])


def predictions(labels: Sequence[str]) -> pa.Schema:
    """The schema of a predictions table for a model with these labels."""
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("content_key", pa.string()),
            ("uri", pa.string()),
            ("window_start_s", pa.float64()),
            ("window_end_s", pa.float64()),
            ("label", pa.string()),
            ("confidence", pa.float64()),
            *[(f"p_{label}", pa.float64()) for label in labels],
            ("valence", pa.float64()),
            ("arousal", pa.float64()),
            ("label_set", pa.list_(pa.string())),
            ("missing", pa.list_(pa.string())),
            ("run_id", pa.string()),
        ]
    )


def feature_array(features: Sequence[np.ndarray]) -> pa.ListArray:
    """Arrays [length, width] as one list<list<float32>> column, without a Python object per number."""
    lengths = np.array([len(feature) for feature in features], np.int64)
    widths = np.repeat([feature.shape[-1] for feature in features], lengths)
    flat = [np.ascontiguousarray(feature, np.float32).reshape(-1) for feature in features]
    numbers = pa.array(np.concatenate(flat) if flat else np.zeros(0, np.float32))
    inner = pa.ListArray.from_arrays(_offsets(widths), numbers)
    return pa.ListArray.from_arrays(_offsets(lengths), inner)


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
