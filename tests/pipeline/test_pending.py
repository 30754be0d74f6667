"""What is missing: done cells, failed cells, texts from the store."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from tests.tiny import PROFILE, TinyFrames
from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.base import Result
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.pipeline.commit import Committer
from vemoclap_batch.pipeline.pending import features_table, find_pending
from vemoclap_batch.pipeline.rows import detections_of, with_media, with_results
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store


class Detector(TinyFrames):
    """Tells others in which frames it found something; its results are made up here."""

    name = "tiny-detector"
    columns = {"faces": pa.list_(pa.struct([("frame", pa.int32())]))}
    detections = "faces"


VIDEOS = pa.table({"video_id": ["a", "b", "c"], "content_key": ["1"] * 3, "uri": ["/a", "/b", "/c"]})


@pytest.fixture
def specs(tmp_path):
    (tmp_path / "p.yaml").write_text(PROFILE)
    return resolve(load_config(str(tmp_path / "p.yaml")))


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "out"))


def commit(store, specs, name, ids, **extras):
    """Commit a result of one extractor for some videos, as the driver does."""
    pending = find_pending(store, VIDEOS, specs, 3)
    rows = VIDEOS.filter(pa.array([video in ids for video in VIDEOS["video_id"].to_pylist()]))
    spec = specs[name]
    times = np.zeros(1) if spec.cls.sequence else None
    extras = ({"text": "hello"} if "text" in spec.cls.columns else {}) | extras
    result = Result(np.ones((1 if spec.width else 0, spec.width), np.float32), times, times, extras)
    block = with_results(rows, spec, [result] * rows.num_rows, 0.0, 0.0)
    with Committer(store, specs, pending, "r1") as committer:
        committer.add(block)


def fail(store, video, error_type, attempts=1, fingerprint=None, stage="decode", run_id="r0"):
    row = dict.fromkeys(schemas.ERRORS.names) | {
        "video_id": video, "content_key": "1", "stage": stage, "error_type": error_type, "attempts": attempts,
        "fingerprint": fingerprint, "run_id": run_id, "time": datetime.datetime.now(datetime.UTC),
    }  # fmt: skip
    store.errors().append(pa.Table.from_pylist([row], schema=schemas.ERRORS))


def wanted(pending):
    return dict(zip(pending.rows["video_id"].to_pylist(), pending.rows["wanted"].to_pylist(), strict=True))


def test_everything_is_missing_at_first(store, specs):
    assert wanted(find_pending(store, VIDEOS, specs, 3)) == {key: ["clip", "asr", "asr_sentiment"] for key in "abc"}


def test_what_is_committed_is_not_wanted_again(store, specs):
    for name in specs:
        commit(store, specs, name, {"a", "b"})
    pending = find_pending(store, VIDEOS, specs, 3)
    assert wanted(pending) == {"c": ["clip", "asr", "asr_sentiment"]}
    assert pending.incomplete["video_id"].to_pylist() == ["c"]
    assert pending.done == dict.fromkeys(specs, 2)


def test_replaced_content_is_wanted_again(store, specs):
    for name in specs:
        commit(store, specs, name, {"a", "b", "c"})
    changed = VIDEOS.set_column(1, "content_key", pa.array(["1", "2", "1"]))
    assert list(wanted(find_pending(store, changed, specs, 3))) == ["b"]


def test_a_text_in_the_store_opens_no_video(store, specs):
    commit(store, specs, "clip", {"a", "b", "c"})
    commit(store, specs, "asr", {"a", "b"})
    pending = find_pending(store, VIDEOS, specs, 3)
    assert wanted(pending) == {"a": ["asr_sentiment"], "b": ["asr_sentiment"], "c": ["asr", "asr_sentiment"]}
    assert pending.rows["text_asr"].to_pylist() == ["hello", "hello", None]


def test_frames_in_which_something_was_found_come_from_the_store_too(store, tmp_path):
    names = '{clip: {class: "tests.tiny:TinyFrames", detections: [face_emotion]}, face_emotion: {class: "%s:Detector"}}'
    (tmp_path / "detections.yaml").write_text("extractors: " + names % __name__)
    specs = resolve(load_config(str(tmp_path / "detections.yaml")))
    commit(store, specs, "face_emotion", {"a"}, faces=[{"frame": at} for at in (0, 2, 2, 3)])
    pending = find_pending(store, VIDEOS, specs, 3)
    assert wanted(pending) == {"a": ["clip"], "b": ["face_emotion", "clip"], "c": ["face_emotion", "clip"]}
    assert pending.rows["detections_face_emotion"].to_pylist() == [[0, 2, 2, 3], None, None]
    # A chunk, of the frames 1 and 2 of its video.
    clip = Clip("a", np.zeros((2, 4, 4, 3), np.uint8), np.arange(2.0), np.zeros(0, np.float32), 4.0, first_frame=1)
    rows = [with_media(pending.rows.slice(row, 1), (clip, MediaInfo(4.0)), 0.0) for row in range(2)]
    assert [detections_of(row, 0, specs["face_emotion"]).tolist() for row in rows] == [[1, 1], []]


@pytest.mark.parametrize(
    ("error_type", "attempts", "again"),
    [("timeout", 1, True), ("timeout", 3, False), ("worker_died", 2, True), ("undecodable", 1, False), ("io", 1, True)],
)
def test_a_failure_to_decode_is_tried_again_if_it_may_pass(store, specs, error_type, attempts, again):
    fail(store, "a", error_type, attempts)
    pending = find_pending(store, VIDEOS, specs, 3)
    assert ("a" in wanted(pending)) == again
    assert pending.given_up == dict.fromkeys(specs, 0 if again else 1)
    assert "a" in pending.incomplete["video_id"].to_pylist()
    assert pending.attempts["a\0001", None] == attempts


def test_a_failed_source_takes_its_reader_along_and_nothing_else(store, specs):
    fail(store, "a", "model", fingerprint=specs["asr"].fingerprint, stage="extract")
    assert wanted(find_pending(store, VIDEOS, specs, 3))["a"] == ["clip"]


def test_a_failure_of_another_fingerprint_does_not_count(store, specs):
    fail(store, "a", "model", fingerprint="another", stage="extract")
    assert len(wanted(find_pending(store, VIDEOS, specs, 3))["a"]) == 3


def decoded(store, video, run_id):
    row = dict.fromkeys(schemas.VIDEOS.names) | {"video_id": video, "content_key": "1", "run_id": run_id}
    store.videos().append(pa.Table.from_pylist([row], schema=schemas.VIDEOS))


def test_a_failure_to_decode_is_over_once_a_later_run_gave_the_video_its_row(store, specs):
    fail(store, "a", "timeout", attempts=3)
    decoded(store, "a", "r1")
    pending = find_pending(store, VIDEOS, specs, 3)
    assert "a" in wanted(pending)
    assert pending.attempts == {}


@pytest.mark.parametrize("since", [None, "feature", "text", "failure of an extractor", "failure of a reader of texts"])
def test_a_video_that_was_decoded_before_it_failed_needs_more_than_its_row(store, specs, since):
    decoded(store, "a", "q")
    fail(store, "a", "timeout", attempts=2)
    fail(store, "a", "timeout", attempts=3)
    if since == "feature":
        commit(store, specs, "asr", {"a"})
    elif since == "text":
        commit(store, specs, "asr_sentiment", {"a"})
    elif since is not None:
        name = "clip" if since == "failure of an extractor" else "asr_sentiment"
        fail(store, "a", "timeout", fingerprint=specs[name].fingerprint, stage="extract", run_id="r1")
    pending = find_pending(store, VIDEOS, specs, 3)
    if since in ("feature", "failure of an extractor"):
        assert "clip" in wanted(pending)["a"]
        assert ("a\0001", None) not in pending.attempts
    else:
        assert "a" not in wanted(pending)
        assert (pending.given_up["clip"], pending.failed["clip"], pending.attempts["a\0001", None]) == (1, 1, 3)


def test_cells_named_to_be_tried_again_are_wanted_whatever_their_failure(store, specs):
    fail(store, "a", "undecodable")
    fail(store, "b", "timeout", 7, fingerprint=specs["asr"].fingerprint, stage="extract")
    fail(store, "c", "model", fingerprint=specs["clip"].fingerprint, stage="extract")
    pending = find_pending(store, VIDEOS, specs, 3, {("a\0001", None), ("b\0001", specs["asr"].fingerprint)})
    everything = ["clip", "asr", "asr_sentiment"]
    assert wanted(pending) == {"a": everything, "b": everything, "c": ["asr", "asr_sentiment"]}
    assert (pending.failed, pending.given_up["clip"]) == ({"clip": 2, "asr": 2, "asr_sentiment": 2}, 1)


def test_twenty_thousand_videos_in_two_hundred_shards(store, specs):
    count, shards = 20_000, 200
    ids = np.array([f"video {at}" for at in range(count)])
    videos = pa.table({"video_id": ids, "content_key": ["1"] * count, "uri": ids})
    order = np.random.default_rng(0).permutation(count)
    lacking = {"clip": set(order[:3].tolist()), "asr": set(order[2:5].tolist())}
    for name, some in lacking.items():
        table = features_table(store, specs[name])
        for part in np.array_split(order, shards):
            kept = [at for at in part.tolist() if at not in some]
            row = dict.fromkeys(table.schema.names) | {"content_key": "1", "run_id": "r", "feature": []}
            rows = [row | {"video_id": f"video {at}"} | ({"text": str(at)} if name == "asr" else {}) for at in kept]
            table.append(pa.Table.from_pylist(rows, schema=table.schema))
        assert len(table.shards()) == shards
    pending = find_pending(store, videos, specs, 3)
    assert pending.done == {"clip": count - 3, "asr": count - 3, "asr_sentiment": 0}
    for row in pending.rows.to_pylist():
        at = int(row["video_id"].split()[1])
        lacks = [name for name, some in lacking.items() if at in some]
        assert row["wanted"] == [*lacks, "asr_sentiment"]
        assert row["text_asr"] == (None if at in lacking["asr"] else str(at))
    two = {name: specs[name] for name in lacking}
    assert find_pending(store, videos, two, 3).wanted == {"clip": 3, "asr": 3}
