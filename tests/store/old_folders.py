"""Output folders as version 0.1 left them, a replacement of files by another half done among them."""

import json

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vemoclap_batch.store.filesystem import resolve

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()), ("content_key", pa.string()), ("run_id", pa.string()),
        ("feature", pa.list_(pa.list_(pa.float32()))),
    ],
    metadata={"width": "2"},
)  # fmt: skip
#: The rows that version 0.1 read of each table of :func:`put_old`.
OLD = {
    "features/asr/whole": {"a": 1, "b": 1},
    "features/asr/merged": {"a": 1, "b": 1, "c": 1},
    "features/asr/dropped": {},
}


def put_old(address):
    """Write one table as it is, one whose compaction died in the middle, one whose removal did."""
    filesystem, root = resolve(address)

    def put(name, *videos):
        path = f"{root}/features/asr/{name}"
        rows = [{"video_id": video, "content_key": "c", "run_id": "r", "feature": [[1, 2]]} for video in videos]
        with _open(filesystem, path) as file:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file)

    put("whole/part-1.parquet", "a")
    put("whole/part-2.parquet", "b")
    put("whole/.compacted-9.parquet", "a", "b")  # Of a merge that came to nothing.
    # Decided: 1, which is gone by now, and 2 go, the hidden file takes their place.
    put("merged/part-2.parquet", "b")
    put("merged/part-3.parquet", "c")
    put("merged/.compacted-1.parquet", "a", "b")
    put("dropped/part-1.parquet", "a")
    merged = {"old": ["part-1.parquet", "part-2.parquet"], "new": {".compacted-1.parquet": "part-4.parquet"}}
    for name, entry in (
        ("1", {"folder": "features/asr/merged", **merged, "dropped": False}),
        ("2", {"folder": "features/asr/dropped", "old": ["part-1.parquet"], "new": {}, "dropped": True}),
    ):
        with _open(filesystem, f"{root}/.journal/{name}.json") as file:
            file.write(json.dumps(entry).encode())
    with _open(filesystem, f"{root}/.journal/done-0"):
        pass


def _open(filesystem, path):
    if isinstance(filesystem, pafs.LocalFileSystem):
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    return filesystem.open_output_stream(path)
