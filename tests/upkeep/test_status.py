"""How a folder stands, which failures are tried again, what may go."""

import datetime
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.clips import make_clip
from tests.tiny import PROFILE
from vemoclap_batch.cli.app import main
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.base import Result
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.extractors.windowed_text import windowed
from vemoclap_batch.media.windows import Window
from vemoclap_batch.pipeline.commit import Committer
from vemoclap_batch.pipeline.pending import features_table, find_pending
from vemoclap_batch.pipeline.rows import with_results
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.upkeep.gc import collect, find_garbage, newest_model
from vemoclap_batch.upkeep.status import failed_again, status

VIDEOS = pa.table({"video_id": list("abcd"), "content_key": ["1"] * 4, "uri": [f"/{name}" for name in "abcd"]})


@pytest.fixture
def profile(tmp_path):
    (tmp_path / "p.yaml").write_text(PROFILE)
    return str(tmp_path / "p.yaml")


@pytest.fixture
def config(profile):
    return load_config(profile)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "out"))


def seen(store, ids, run_id="20260101", content="1"):
    row = dict.fromkeys(schemas.VIDEOS.names)
    rows = [row | {"video_id": name, "content_key": content, "uri": f"/{name}", "run_id": run_id} for name in ids]
    store.videos().append(pa.Table.from_pylist(rows, schema=schemas.VIDEOS))


def commit(store, config, name, ids, run_id="20260101"):
    specs = resolve(config)
    spec = specs[name]
    rows = VIDEOS.filter(pa.array([video in ids for video in VIDEOS["video_id"].to_pylist()]))
    times = np.zeros(1) if spec.cls.sequence else None
    extras = {"text": "hello"} if "text" in spec.cls.columns else {}
    result = Result(np.ones((1 if spec.width else 0, spec.width), np.float32), times, times, extras)
    pending = find_pending(store, VIDEOS, specs, 3)
    with Committer(store, specs, pending, run_id) as committer:
        committer.add(with_results(rows, spec, [result] * rows.num_rows, 0.0, 0.0))


def fail(store, video, error_type, spec=None, attempts=1, run_id="20260101"):
    row = {
        "video_id": video, "content_key": "1", "uri": f"/{video}", "extractor": spec and spec.name,
        "stage": "extract" if spec else "decode", "fingerprint": spec and spec.fingerprint, "error_type": error_type,
        "message": "m", "attempts": attempts, "run_id": run_id, "time": datetime.datetime.now(datetime.UTC),
    }  # fmt: skip
    store.errors().append(pa.Table.from_pylist([row], schema=schemas.ERRORS))


@pytest.fixture
def troubled(store, config):
    """a is done, b has failures of two extractors (one passed since), c cannot be decoded, d was only seen."""
    specs = resolve(config)
    seen(store, "abd")
    for name in specs:
        commit(store, config, name, {"a"})
    fail(store, "b", "timeout", specs["clip"])
    fail(store, "b", "timeout", specs["clip"], attempts=2, run_id="20260102")
    fail(store, "b", "model", specs["asr"])
    fail(store, "a", "model", specs["clip"])
    fail(store, "c", "undecodable")
    fail(store, "d", "timeout", run_id="20251231")
    return specs


def test_status_tells_done_missing_and_failed_apart(store, config, troubled):
    found = status(store, config)
    assert found["videos"] == 4
    counts = {
        name: tuple(cells[key] for key in ("done", "missing", "failed", "given_up"))
        for name, cells in found["extractors"].items()
    }
    # b's clip may pass; its asr is final and takes asr_sentiment along; c is final; d was decoded since it failed.
    assert counts == {"clip": (1, 1, 2, 1), "asr": (1, 1, 2, 2), "asr_sentiment": (1, 1, 2, 2)}
    assert {(row["stage"], row["extractor"], row["error_type"], row["count"]) for row in found["failures"]} == {
        ("decode", None, "undecodable", 1), ("extract", "clip", "timeout", 1), ("extract", "asr", "model", 1),
    }  # fmt: skip
    rows = {table["table"]: (table["rows"], table["current"]) for table in found["tables"]}
    assert rows["videos"] == (3, True)
    assert rows[f"features/clip/{troubled['clip'].fingerprint}"] == (1, True)
    assert found["bytes"] > 0
    json.dumps(found)


def test_with_other_settings_nothing_is_done_nor_failed_but_what_cannot_be_decoded(store, profile, troubled):
    found = status(store, load_config(profile, ["extractors.clip.scale=2"]))
    clip = found["extractors"]["clip"]
    assert (clip["done"], clip["missing"], clip["failed"]) == (0, 3, 1)
    assert [table["current"] for table in found["tables"] if table["table"].startswith("features/clip/")] == [False]


def test_a_video_that_was_decoded_before_and_fails_now_is_told_and_can_be_tried_again(store, config):
    seen(store, "a")
    commit(store, config, "clip", {"a"})
    fail(store, "a", "undecodable", run_id="20260102")
    found = status(store, config)
    assert (found["extractors"]["asr"]["failed"], found["extractors"]["asr"]["given_up"]) == (1, 1)
    assert [(row["stage"], row["error_type"]) for row in found["failures"]] == [("decode", "undecodable")]
    assert failed_again(store, config, "decode").cells == {("a\0001", None)}
    for name in ("asr", "asr_sentiment"):
        commit(store, config, name, {"a"}, run_id="20260103")
    assert status(store, config)["failures"] == []
    assert not failed_again(store, config).cells


def test_status_of_a_folder_of_other_things_is_all_zero(tmp_path, config):
    (tmp_path / "out").mkdir()
    found = status(Store(str(tmp_path / "out")), config)
    assert (found["videos"], found["failures"], found["tables"], found["runs"]["count"]) == (0, [], [], 0)


@pytest.mark.parametrize(
    ("stage", "error_type", "again"),
    [
        (None, None, {("b", "clip"), ("b", "asr"), ("c", None)}),
        ("decode", None, {("c", None)}),
        ("extract", None, {("b", "clip"), ("b", "asr")}),
        ("asr", None, {("b", "asr")}),
        (None, "timeout", {("b", "clip")}),
        ("asr", "timeout", set()),
    ],
)
def test_failures_are_selected_by_stage_and_type(store, config, troubled, stage, error_type, again):
    found = failed_again(store, config, stage, error_type)
    names = {spec.fingerprint: name for name, spec in troubled.items()} | {None: None}
    assert {(key.split("\0")[0], names[fingerprint]) for key, fingerprint in found.cells} == again
    assert sorted(found.videos["uri"].to_pylist()) == sorted({f"/{video}" for video, _ in again})


def test_what_is_selected_is_wanted_again_and_the_attempts_count_on(store, config, troubled):
    found = failed_again(store, config, "asr")
    pending = find_pending(store, found.videos, troubled, 3, found.cells)
    assert pending.rows["wanted"].to_pylist() == [["clip", "asr", "asr_sentiment"]]
    assert pending.attempts["b\0001", troubled["asr"].fingerprint] == 1
    assert find_pending(store, found.videos, troubled, 3).rows["wanted"].to_pylist() == [["clip"]]
    fail(store, "b", "model", troubled["asr"], attempts=2, run_id="20260103")
    assert status(store, config)["failures"].count(
        {"stage": "extract", "extractor": "asr", "error_type": "model", "count": 1}
    )


def test_wrong_selections_are_all_named(store, config):
    with pytest.raises(ConfigError) as error:
        failed_again(store, config, "beats", "bad_luck")
    assert "--stage 'beats': expected one of decode, extract, clip" in str(error.value)
    assert "--type 'bad_luck': expected one of not_found" in str(error.value)


def predictions(store, fingerprint, run_id, features, window=None):
    description = {"model": f"m-{fingerprint}", "features": features, "window": window}
    store.write_json(f"predictions/{fingerprint}/model.json", description)
    table = store.predictions(fingerprint, ["joy"])
    row = dict.fromkeys(table.schema.names) | {"video_id": "a", "content_key": "1", "run_id": run_id}
    table.append(pa.Table.from_pylist([row], schema=table.schema))


def folders(store):
    return {size.table for size in store.sizes() if "/" in size.table}


def test_gc_keeps_what_is_current_and_what_the_newest_predictions_need(store, profile, tmp_path):
    first, second, now = (load_config(profile, [f"extractors.clip.scale={scale}"]) for scale in (1, 2, 3))
    clips = [f"features/clip/{resolve(config)['clip'].fingerprint}" for config in (first, second, now)]
    for config in (first, second, now):
        commit(store, config, "clip", {"a", "b"})
    commit(store, first, "asr", {"a"})
    imported = "features/clip/0000imported"
    store.describe_features("clip", "0000imported", {"space": "s", "identity": {"imported_from": "f.pkl"}})
    store.features("clip", "0000imported", schemas.features(True, {}, 3)).append(
        features_table(store, resolve(now)["clip"]).read(["run_id", "feature", "start_s", "end_s"])
    )
    predictions(store, "old", "20260101", {"clip": clips[0][-12:]})
    predictions(store, "new", "20260102", {"clip": clips[1][-12:]})
    leftover = tmp_path / "out" / clips[2] / ".part-1.parquet.0.tmp"
    fresh = tmp_path / "out" / clips[2] / ".part-2.parquet.0.tmp"
    for path in (leftover, fresh):
        path.write_bytes(b"half")
    os.utime(leftover, (time.time() - 2 * 86400,) * 2)
    everything = folders(store)

    found = find_garbage(store, [now])
    assert {(removal.size.table, removal.size.rows) for removal in found.tables} == {
        (clips[0], 2),
        ("predictions/old", 1),
    }
    assert found.leftovers == [str(leftover)]
    assert found.as_dict()["rows"] == 3
    assert folders(store) == everything
    assert newest_model(store) == "m-new"

    with store.writing("r"):
        collect(store, find_garbage(store, [now]))
    assert everything - folders(store) == {clips[0], "predictions/old"}
    assert imported in folders(store)
    assert (leftover.exists(), fresh.exists()) == (False, True)
    assert not (tmp_path / "out" / clips[0]).exists()
    with store.writing("r"):
        assert find_garbage(store, [now]).as_dict() == {
            "tables": [], "kept": [], "rows": 0, "bytes": 0, "leftovers": {"count": 0, "bytes": 0}
        }  # fmt: skip


def test_gc_keeps_features_that_the_current_settings_have_not_made_yet(store, profile):
    seen(store, "abc")
    older, now = (load_config(profile, [f"extractors.clip.scale={scale}"]) for scale in (1, 2))
    commit(store, older, "clip", {"a", "b", "c"})
    commit(store, now, "clip", {"a"})
    table = f"features/clip/{resolve(older)['clip'].fingerprint}"
    found = find_garbage(store, [now])
    assert (found.tables, found.kept) == ([], {table: 2})
    assert [removal.size.table for removal in find_garbage(store, [now], uncovered=True).tables] == [table]
    # b has changed since, so that its older features serve nothing.
    seen(store, "b", run_id="20260102", content="2")
    assert find_garbage(store, [now]).kept == {table: 1}
    commit(store, now, "clip", {"c"})
    assert [removal.size.table for removal in find_garbage(store, [now]).tables] == [table]


def test_gc_keeps_the_newest_predictions_of_whole_videos_and_of_each_window(store, config):
    two, ten = ({"window_s": seconds, "hop_s": seconds} for seconds in (2, 10))
    for run, (name, window) in enumerate([("a", None), ("b", two), ("c", None), ("d", ten), ("e", two)]):
        predictions(store, name, f"2026010{run}", {}, window)
    assert {removal.size.table for removal in find_garbage(store, [config]).tables} == {
        "predictions/a",
        "predictions/b",
    }
    assert newest_model(store) == "m-e"


def test_a_folder_that_is_being_compacted_can_be_looked_at(store, config):
    def write():
        with store.writing("r"):
            for at in range(60):
                fail(store, str(at), "timeout")
                fail(store, str(at), "timeout")
                store.compact()

    reader = Store(store.address)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        looked = 0
        while not writing.done():
            status(reader, config)
            looked += 1
        writing.result()
    assert looked > 5
    assert [table["rows"] for table in status(reader, config)["tables"]] == [120]


def test_gc_with_settings_that_have_made_nothing_yet_removes_nothing(store, config, profile):
    commit(store, config, "clip", {"a"})
    assert find_garbage(store, [load_config(profile, ["extractors.clip.scale=9"])]).tables == []


@pytest.fixture
def command(capsys):
    """Runs a command in this process: exit status, standard output's last line as JSON if asked for, standard error."""

    def run_command(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return left.value.code or 0, json.loads(said.out.splitlines()[-1]) if "--json" in arguments else {}, said.err

    return run_command


def test_the_commands_end_with_one_object(store, profile, command, troubled):
    out, settings = store.address, ["--profile", profile]
    _, before, _ = command("status", out, *settings, "--json")
    assert before["extractors"]["asr"]["failed"] == 2
    _, compacted, _ = command("compact", out, "--json")
    assert compacted["shards_before"] == before["shards"]
    assert compacted["shards_after"] < before["shards"]
    _, after, _ = command("status", out, *settings, "--json")
    assert after["extractors"] == before["extractors"]
    assert after["failures"] == before["failures"]
    assert command("gc", out, "--dry-run", *settings, "--json")[1]["tables"] == []
    code, _, said = command("retry", out, *settings, "--type", "bad_luck")
    assert (code, "bad_luck" in said) == (2, True)
    code, nothing, _ = command("retry", out, *settings, "--type", "out_of_memory", "--json")
    assert (code, nothing["again"]) == (0, 0)
    with store.writing("the other run"):
        for words in (["compact", out], ["gc", out, *settings]):
            code, _, said = command(*words, "--no-wait")
            assert (code, "the other run" in said) == (4, True)


def test_what_failed_of_windows_is_found_with_them(store, profile, config, command):
    seen(store, "b")
    fail(store, "b", "model", resolve(windowed(config, Window(5, 5)))["asr_sentiment"])
    for options, failed in (("", 0), ("--window 5", 1), ("--window 6", 0), ("--window 5 --hop 2", 0)):
        _, said, _ = command("status", store.address, "--profile", profile, *options.split(), "--json")
        assert said["extractors"]["asr_sentiment"]["failed"] == failed, options
    code, _, said = command("retry", store.address, "--profile", profile, "--window", "0")
    assert (code, "--window 0" in said) == (2, True)


@pytest.mark.usefixtures("cluster")
def test_retry_runs_what_has_failed_for_good(tmp_path, frames_profile, command):
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    make_clip(clips / "raise.mp4", seconds=1)
    make_clip(clips / "fine.mp4", seconds=1)
    (clips / "text.mp4").write_text("not a video")
    settings = ["--profile", frames_profile, "--json"]
    assert command("extract", clips, "-o", out, *settings)[0] == 3
    code, said, _ = command("retry", out, "--stage", "clip", *settings)
    assert (code, said["counts"]) == (3, {"videos": 1, "done": 0, "skipped": 0, "failed": 1})
    log = Store(str(out)).errors().read(["extractor", "attempts"]).to_pylist()
    assert sorted((row["extractor"] or "decode", row["attempts"]) for row in log) == [
        ("clip", 1), ("clip", 2), ("decode", 1),
    ]  # fmt: skip
    code, said, _ = command("status", out, *settings)
    assert (code, said["extractors"]["clip"]["failed"], said["runs"]["count"]) == (0, 2, 2)
    # A file that was replaced is done as what it is now, and is so to the next run.
    make_clip(clips / "text.mp4", seconds=1)
    code, said, _ = command("retry", out, "--type", "not_media", *settings)
    assert (code, said["counts"]) == (0, {"videos": 1, "done": 1, "skipped": 0, "failed": 0})
    code, said, _ = command("plan", clips, "-o", out, *settings)
    assert (code, said["videos"], said["videos_to_do"], said["cells"]["clip"]["done"]) == (0, 3, 0, 2)


def test_what_windows_need_is_no_garbage(tmp_path, capsys):
    """The folder has whole videos and windows of a second; clip has a table for each, and no prediction reads it."""
    shutil.copytree(Path(__file__).parents[1] / "data" / "output-0.1", tmp_path / "out")
    with pytest.raises(SystemExit):
        main(["upgrade", str(tmp_path / "out")])
    capsys.readouterr()

    def removed(*options):
        with pytest.raises(SystemExit) as ended:
            main(["gc", str(tmp_path / "out"), "--dry-run", "--json", *options])
        assert ended.value.code == 0
        return [table["table"] for table in json.loads(capsys.readouterr().out.splitlines()[-1])["tables"]]

    # ocr of windows stays all the same: ocr_sentiment reads it, and the newest predictions of windows read that.
    assert removed() == ["features/clip/dbc2f6bd773b"]
    assert removed("--window", "1") == []
