"""The columns of every table; plain Arrow types only, so that any Parquet reader can read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def features(sequence: bool, columns: Mapping[str, pa.DataType], width: int = 0) -> pa.Schema:
    """The schema of one extractor's table: keys, the feature, its times if it is a sequence, the extra columns."""
    fields = [("video_id", pa.string()), ("content_key", pa.string()), ("run_id", pa.string()), ("feature", FEATURE)]
    if sequence:
        fields += [("start_s", SECONDS), ("end_s", SECONDS)]
    return pa.schema([*fields, *columns.items()], metadata={"width": str(width)})


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
            ("missing", pa.list_(pa.string())),
            ("run_id", pa.string()),
        ]
    )
