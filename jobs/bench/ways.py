"""The same extractors over the same videos in the ways that others have: a loop, Ray Data with a pool each, Daft.

Every way ends at the first failure: only the pipeline keeps it to its video.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.extractors import checked
from bench.report import cores
from vemoclap_batch import api
from vemoclap_batch.config import Config, load_config
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.registry import Spec, resolve
from vemoclap_batch.media.clip import Clip
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.sampling import Limits, Sampling

#: Videos that Daft hands to an extractor at once. On CPUs more are no quicker in all, and the first results come late.
DAFT_BATCH = 1
#: Share of the CPUs that the actors of the pools reserve; Ray Data's own tasks need the rest.
_RESERVED = 0.85

_PICTURES = pa.struct(
    [
        ("pixels", pa.large_binary()),  # uint8 [n, height, width, 3]
        ("shape", pa.list_(pa.int64())),
        ("times", pa.list_(pa.float64())),
        ("duration_s", pa.float64()),
    ]
)
_SOUND = pa.struct([("pcm", pa.large_binary()), ("duration_s", pa.float64())])  # int16 [samples]
_MEDIA = pa.struct([("pictures", _PICTURES), ("sound", _SOUND)])
_RESULT = pa.struct(
    [
        ("feature", pa.list_(pa.list_(pa.float32()))),
        ("text", pa.string()),
        ("detections", pa.list_(pa.int64())),
    ]
)
#: The columns of what :func:`main` writes.
WRITTEN = pa.schema([("video_id", pa.string()), ("extractor", pa.string()), *list(_RESULT)[:2]])

#: A video's id, and what each extractor found in it: a value of the type above.
Found: TypeAlias = tuple[str, dict[str, dict[str, Any]]]


class Decoder:
    """Decodes videos in its own process."""

    def __init__(self, config: Config) -> None:
        self._sampling = Sampling(**config.sampling.model_dump())
        self._limits = Limits(decoder=config.decode.decoder, policy=config.sources.policy)

    def clip(self, video_id: str, uri: str) -> Clip:
        """Decode one video as a whole."""
        return decode(uri, video_id, sampling=self._sampling, limits=self._limits)[0]

    def media(self, video_ids: pa.Array, uris: pa.Array) -> pa.StructArray:
        """Decode videos into a column of frames and audio; samples are multiples of 2**-15, so int16 loses nothing."""
        rows = []
        for video_id, uri in zip(video_ids.to_pylist(), uris.to_pylist(), strict=True):
            clip = self.clip(video_id, uri)
            pictures = {"pixels": clip.frames.tobytes(), "shape": clip.frames.shape, "times": clip.frame_times}
            pcm = (clip.waveform * 32768).astype(np.int16).tobytes()
            length = {"duration_s": clip.duration_s}
            rows.append({"pictures": {**pictures, **length}, "sound": {"pcm": pcm, **length}})
        return pa.array(rows, _MEDIA)


class Step:
    """One extractor with its model."""

    def __init__(self, spec: Spec, threads: int = 1) -> None:
        self._spec = spec
        self._extractor = spec.cls(spec.settings, Resources(threads, "cpu", spec.models))

    def found(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """Extract from clips or texts."""
        return [self._plain(result) for result in checked(self._extractor, items)]

    def column(self, video_ids: pa.Array, source: pa.Array, *detections: pa.Array) -> pa.StructArray:
        """Extract from a column of frames, of audio, or of what another extractor found."""
        if self._spec.source:
            return pa.array(self.found([row["text"].as_py() for row in source]), _RESULT)
        clips = [_clip(video_id.as_py(), row) for video_id, row in zip(video_ids, source, strict=True)]
        for name, found in zip(self._spec.detections, detections, strict=True):
            for clip, row in zip(clips, found, strict=True):
                clip.detections[name] = np.array(row["detections"].as_py(), np.int32)
        return pa.array(self.found(clips), _RESULT)

    def _plain(self, result: Result) -> dict[str, Any]:
        listed = result.extras.get(self._spec.cls.detections or "") or []
        return {
            "feature": list(np.asarray(result.feature, np.float32)),
            "text": result.extras.get("text"),
            "detections": [each["frame"] for each in listed],
        }


def _clip(video_id: str, row: pa.StructScalar) -> Clip:
    """A clip with frames or with audio, its frames a view of the column."""
    frames, times = np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0)
    waveform: np.ndarray = np.zeros(0, np.float32)
    if "pixels" in row.type.names:
        frames = np.frombuffer(row["pixels"].as_buffer(), np.uint8).reshape(row["shape"].as_py())
        times = np.array(row["times"].as_py())
    else:
        waveform = np.frombuffer(row["pcm"].as_buffer(), np.int16).astype(np.float32) / 32768
    return Clip(video_id, frames, times, waveform, row["duration_s"].as_py())


def in_order(specs: Mapping[str, Spec]) -> list[Spec]:
    """Those that read frames first, so that these can leave the rows, then audio, then texts."""
    return sorted(specs.values(), key=lambda spec: 0 if spec.reads_frames else 1 if spec.reads_waveform else 2)


def source_of(spec: Spec) -> str:
    """The column that an extractor reads."""
    return spec.source or ("pictures" if spec.reads_frames else "sound")


def even_share(stages: int) -> int:
    """Actors of a stage, where each has as many and there is at least one."""
    return max(1, cores() // stages)


def loop(videos: pa.Table, config: Config, specs: Mapping[str, Spec]) -> Iterator[Found]:
    """One video after another in one process; every library may use all cores, which is its default."""
    steps = {spec.name: Step(spec, cores()) for spec in in_order(specs)}
    decoder = Decoder(config)
    for video_id, uri in zip(videos["video_id"].to_pylist(), videos["uri"].to_pylist(), strict=True):
        clip = decoder.clip(video_id, uri)
        found: dict[str, dict[str, Any]] = {}
        for name, step in steps.items():
            spec = specs[name]
            clip.detections = {source: np.array(found[source]["detections"], np.int32) for source in spec.detections}
            [found[name]] = step.found([found[spec.source]["text"] if spec.source else clip])
        yield video_id, found


class _DecodePool:
    """Ray Data's actor that decodes."""

    def __init__(self, config: Config) -> None:
        self._decoder = Decoder(config)

    def __call__(self, rows: pa.Table) -> pa.Table:
        media = self._decoder.media(rows["video_id"].combine_chunks(), rows["uri"].combine_chunks())
        return pa.table({"video_id": rows["video_id"], "pictures": media.field(0), "sound": media.field(1)})


class _StepPool:
    """Ray Data's actor with one extractor; drops the columns that none after it reads."""

    def __init__(self, spec: Spec, drop: Sequence[str]) -> None:
        self._spec, self._drop, self._step = spec, drop, Step(spec)

    def __call__(self, rows: pa.Table) -> pa.Table:
        columns = [rows[name].combine_chunks() for name in (source_of(self._spec), *self._spec.detections)]
        found = self._step.column(rows["video_id"].combine_chunks(), *columns)
        return rows.append_column(self._spec.name, found).drop_columns(list(self._drop))


def pools(videos: pa.Table, config: Config, specs: Mapping[str, Spec]) -> Iterator[Found]:
    """A Ray Data graph as one writes it first: a pool of actors for decoding and for every extractor."""
    import logging

    import ray

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    order = in_order(specs)
    actors = even_share(1 + len(order))
    options = {
        "batch_size": 1,
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
        "compute": ray.data.ActorPoolStrategy(size=actors),
        "num_cpus": _RESERVED * cores() / (actors * (1 + len(order))),
    }
    dataset = ray.data.from_blocks([videos.slice(at, 1) for at in range(videos.num_rows)])
    dataset = dataset.map_batches(_DecodePool, fn_constructor_args=[config], **options)
    for at, spec in enumerate(order):
        read = {source_of(later) for later in order[at + 1 :]}
        drop = [name for name in (source_of(spec),) if name in _MEDIA.names and name not in read]
        dataset = dataset.map_batches(_StepPool, fn_constructor_args=[spec, drop], **options)
    for rows in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from _found_in(rows, specs)


def daft_classes(videos: pa.Table, config: Config, specs: Mapping[str, Spec]) -> Iterator[Found]:
    """Daft's class UDFs, each in processes of its own; rows stream from one to the next."""
    import daft
    from daft import DataType

    order = in_order(specs)
    actors = even_share(1 + len(order))
    media_type, result_type = (DataType.from_arrow_type(kind) for kind in (_MEDIA, _RESULT))

    # Daft has no progress bar where standard error is no terminal. Its classes are made here, since their options are
    # those of the class and Daft need not be installed.
    @daft.cls(use_process=True, max_concurrency=actors)
    class DaftDecoder:
        def __init__(self, config: Config) -> None:
            self._decoder = Decoder(config)

        @daft.method.batch(return_dtype=media_type, batch_size=1)
        def media(self, video_ids: daft.Series, uris: daft.Series) -> pa.Array:
            return self._decoder.media(video_ids.to_arrow(), uris.to_arrow())

    @daft.cls(use_process=True, max_concurrency=actors)
    class DaftStep:
        def __init__(self, spec: Spec) -> None:
            self._step = Step(spec)

        @daft.method.batch(return_dtype=result_type, batch_size=DAFT_BATCH)
        def found(self, video_ids: daft.Series, source: daft.Series, *detections: daft.Series) -> pa.Array:
            return self._step.column(*(column.to_arrow() for column in (video_ids, source, *detections)))

    frame = daft.from_arrow(videos)
    # A column of the name of an extractor would be read in its place.
    frame = frame.select("video_id", DaftDecoder(config).media(frame["video_id"], frame["uri"]).alias("decoded_media"))
    frame = frame.select("video_id", *(frame["decoded_media"][name].alias(name) for name in _MEDIA.names))
    for at, spec in enumerate(order):
        columns = [frame[name] for name in (source_of(spec), *spec.detections)]
        frame = frame.with_column(spec.name, DaftStep(spec).found(frame["video_id"], *columns))
        read = {source_of(later) for later in order[at + 1 :]}
        frame = frame.exclude(*(name for name in _MEDIA.names if name in frame.column_names and name not in read))
    for rows in frame.to_arrow_iter():
        yield from _found_in(pa.Table.from_batches([rows]), specs)


def _found_in(rows: pa.Table, specs: Mapping[str, Spec]) -> Iterator[Found]:
    columns = {name: rows[name].to_pylist() for name in specs}
    for at, video_id in enumerate(rows["video_id"].to_pylist()):
        yield video_id, {name: column[at] for name, column in columns.items()}


def ours(uris: Sequence[str], out: str, profile: str, settings: Sequence[str]) -> None:
    """The pipeline, which commits to Delta tables."""
    api.extract(uris, out, profile=profile, settings=list(settings))


_WAYS: dict[str, Callable[[pa.Table, Config, Mapping[str, Spec]], Iterator[Found]]] = {
    "loop": loop,
    "pools": pools,
    "daft": daft_classes,
}
#: Those that :func:`main` knows, in the order of the table.
WAYS = (*_WAYS, "ours")


def main() -> None:
    """Go one way through some videos, as the JSON file says that is the only argument; writes what was found."""
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    folder = Path(job["folder"])
    if job["way"] == "ours":
        ours(job["uris"], str(folder / "out"), job["profile"], job["settings"])
        return
    config = load_config(job["profile"], job["settings"])
    videos = pq.read_table(job["videos"])
    written: list[dict[str, Any]] = []
    for video_id, found in _WAYS[job["way"]](videos, config, resolve(config)):
        if not written:
            (folder / "first").write_text(str(time.time()))
        written += [{"video_id": video_id, "extractor": name, **result} for name, result in found.items()]
    pq.write_table(pa.Table.from_pylist(written, WRITTEN), folder / "found.parquet")
