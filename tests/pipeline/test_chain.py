"""What a chain does: its extractors in order, long videos chunk by chunk, and the same in two stages as in one."""

import sys

import numpy as np
import psutil
import pyarrow as pa
import pytest

from tests.clips import make_clip, pattern, sine
from tests.pipeline.long_tiny import PROFILE
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ErrorType, Failure
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.media.worker import DecodeWorker
from vemoclap_batch.pipeline.chain import ChainActor, ChainOptions
from vemoclap_batch.pipeline.quarantine import start_quarantine
from vemoclap_batch.pipeline.rows import with_media

pytestmark = pytest.mark.usefixtures("cluster")

DROP = ("frames", "waveform")


def options(names, drop=DROP):
    return ChainOptions("chain", tuple(names), 1, "cpu", tuple(drop), yields_cores=False, timeout_s=60)


@pytest.fixture
def quarantine(cluster):
    with start_quarantine() as quarantine:
        yield quarantine


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux can be asked to")
def test_memory_that_is_free_goes_back_to_the_system_after_a_block(frames_profile, quarantine):
    config = load_config(str(frames_profile))
    specs = resolve(config)
    nothing_to_do = pa.table({
        "video_id": ["v"], "content_key": ["1"], "uri": ["v"], "wanted": pa.array([[]], pa.list_(pa.string())),
    })  # fmt: skip

    def megabytes():
        return psutil.Process().memory_info().rss / 2**20

    chain = ChainActor(options(specs), specs, config, quarantine)
    before = megabytes()
    # Too small to be mapped one by one, and the last one keeps the others' place from being given back.
    pieces = [np.ones(60_000, np.uint8) for _ in range(4000)]
    del pieces[:-1]
    assert megabytes() > before + 150
    chain(nothing_to_do)
    assert megabytes() < before + 80


SHARED = """
extractors:
  asr: {class: "tests.tiny:TinySound"}
  asr_sentiment: {class: "tests.tiny:TinyText", input: asr, calls: "CALLS"}
  asr_topic: {class: "tests.tiny:TinyText", input: asr, calls: "CALLS"}
"""


def test_extractors_run_in_order_and_a_model_that_two_share_is_loaded_once(tmp_path, quarantine):
    calls, profile = tmp_path / "calls.txt", tmp_path / "shared.yaml"
    profile.write_text(SHARED.replace("CALLS", str(calls)))
    config = load_config(str(profile))
    specs = resolve(config)
    row = pa.table({"video_id": ["v"], "content_key": ["1"], "uri": ["v"], "wanted": [list(specs)]})
    clip = Clip("v", np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0), np.full(16_000, 0.5, np.float32), 1.0)
    chain = ChainActor(options(specs), specs, config, quarantine)
    result = chain(with_media(row, (clip, MediaInfo(1.0, has_audio=True)), 0.0))
    assert result.column_names == [*row.column_names, "decoded", *specs]
    assert result["asr"][0]["text"].as_py() == "level 0.5000"
    # The length of that text, by both of its readers.
    assert [result[name][0]["feature"].as_py() for name in ("asr_sentiment", "asr_topic")] == [[[12.0, 1.0]]] * 2
    assert calls.read_text().splitlines() == ["load text", "text 1", "text 1"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A video of 40 s, one of 6 s, and one of 40 s whose second half is damaged."""
    folder = tmp_path_factory.mktemp("clips")
    for name, seconds in (("long", 40), ("short", 6)):
        audio = sine(seconds, rate=16_000) * (np.mod(np.arange(seconds * 16_000) / 16_000, 5) > 1)
        make_clip(
            folder / f"{name}.mkv", frames=pattern(2 * seconds), fps=2, audio=audio.astype(np.float32),
            audio_rate=16_000, audio_codec="pcm_s16le",
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Videos of more than 10 s come in chunks of 8 s."""
    path = tmp_path_factory.mktemp("profile") / "long.yaml"
    path.write_text(PROFILE)
    return load_config(str(path), ["decode.whole_s=10", "decode.part_s=8", "decode.part_frames=8"])


def rows_of(clips, *names):
    return pa.table({"uri": [str(clips / f"{name}.mkv") for name in names]})


def found(table):
    """The rows by the name of the video, without what differs between runs."""
    rows = {row["video_id"].rsplit("-", 1)[0]: row for row in table.to_pylist()}
    for row in rows.values():
        for column in filter(None, (value for value in row.values() if isinstance(value, dict))):
            for name in ("seconds", "ready_at"):
                column.pop(name, None)
    return rows


class Counted(DecodeWorker):
    """Notes how many chunks of each video were taken."""

    taken: list = []

    def chunks(self, video_id, uri, **wanted):
        for item in super().chunks(video_id, uri, **wanted):
            self.taken.append((video_id.rsplit("-", 1)[0], wanted["first_only"]))
            yield item


@pytest.fixture
def taken():
    Counted.taken = []
    return Counted.taken


STAGES = [
    (["decode", "clip"], ["beats", "asr", "asr_sentiment"]),
    (["decode", "beats", "asr"], ["clip"], ["asr_sentiment"]),
    (["decode"], ["clip", "beats", "asr", "asr_sentiment"]),
]


@pytest.mark.parametrize("stages", STAGES, ids=["frames apart", "three stages", "decoding alone"])
def test_several_stages_make_the_rows_that_one_makes(stages, clips, config, quarantine, taken):
    specs, rows = resolve(config), rows_of(clips, "long", "short")
    one = found(ChainActor(options(["decode", *specs]), specs, config, quarantine)(rows))
    assert one["long"]["decoded"]["chunks"] > 3
    assert len(one["long"]["asr_sentiment"]["feature"]) == 1
    for number, names in enumerate(stages):
        drop = DROP if number == len(stages) - 1 else ()
        rows = ChainActor(options(names, drop), specs, config, quarantine, Counted)(rows)
        if number == 0:
            # Frames of a long video do not travel.
            frames = dict(zip(rows["uri"].to_pylist(), rows["frames"].is_valid().to_pylist(), strict=True))
            assert sorted(frames.values()) == [False, True]
    assert found(rows) == one
    # A stage that reads none of a long video takes only its first chunk.
    assert taken.count(("long", True)) == (stages[0] == ["decode"])
    assert taken.count(("short", False)) + taken.count(("short", True)) == 1


class Failing(Counted):
    """Decodes two chunks of a long video when it is read for the first time, or again, and then fails."""

    def chunks(self, video_id, uri, **wanted):
        for number, item in enumerate(super().chunks(video_id, uri, **wanted)):
            if number == 2:
                yield Failure(ErrorType.TIMEOUT, "slow")
                return
            yield item


def test_a_long_video_that_cannot_be_decoded_again_fails_in_the_extractors_of_that_stage(
    clips, config, quarantine, taken
):  # fmt: skip
    specs = resolve(config)
    first = ChainActor(options(["decode", "clip"], ()), specs, config, quarantine)(rows_of(clips, "long"))
    second = ChainActor(options(["beats", "asr", "asr_sentiment"]), specs, config, quarantine, Failing)(first)
    row = found(second)["long"]
    assert (row["decoded"]["error_type"], row["clip"]["error_type"]) == (None, None)
    assert len(row["clip"]["feature"]) == 16
    assert [row[name]["error_type"] for name in ("beats", "asr")] == ["timeout"] * 2
    assert row["asr_sentiment"] is None


def test_a_long_video_of_which_no_stage_before_has_read_more_than_its_beginning_is_undecodable(
    clips, config, quarantine, taken
):  # fmt: skip
    specs = resolve(config)
    first = ChainActor(options(["decode"], ()), specs, config, quarantine)(rows_of(clips, "long"))
    second = ChainActor(options(list(specs)), specs, config, quarantine, Failing)(first)
    row = found(second)["long"]
    assert row["decoded"]["error_type"] == "timeout"
    assert {row[name] for name in specs} == {None}


def test_a_chain_that_is_to_stop_leaves_a_long_video_undone(clips, config, quarantine, taken):
    import ray

    specs = resolve(config)

    class Stopping(Counted):
        def chunks(self, video_id, uri, **wanted):
            for number, item in enumerate(super().chunks(video_id, uri, **wanted)):
                if number == 1:
                    ray.get(quarantine.stop.remote())
                yield item

    row = found(ChainActor(options(["decode", *specs]), specs, config, quarantine, Stopping)(rows_of(clips, "long")))[
        "long"
    ]
    assert row["decoded"] is None
    assert all(row.get(name) is None for name in specs)


def test_a_dataset_without_addresses_is_named(config, quarantine):
    specs = resolve(config)
    with pytest.raises(ValueError, match="no column uri, only path"):
        ChainActor(options(["decode", *specs]), specs, config, quarantine)(pa.table({"path": ["a.mp4"]}))
