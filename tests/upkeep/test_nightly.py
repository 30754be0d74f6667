"""A night: what is left for the next one, drift, the summary, the hook; and a second night that overlaps."""

import datetime
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clips import make_clip
from tests.commands import telling
from tests.pipeline.faulty import held, held_profile
from tests.s3 import ENVIRONMENT, Server
from tests.waiting import wait_for
from vemoclap_batch.api import Output
from vemoclap_batch.config import LABELS, load_config
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.fusion.predict import Predicted
from vemoclap_batch.pipeline.cluster import Cluster, Node
from vemoclap_batch.pipeline.commit import StageTotals
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.pipeline.run import Run, compact_if_large
from vemoclap_batch.pipeline.stages import Plan, StagePlan
from vemoclap_batch.sources.manifest import SCHEMA, Manifest, read_sources
from vemoclap_batch.store.lock import writer
from vemoclap_batch.store.store import Store
from vemoclap_batch.upkeep.nightly import call_hook, split_settled
from vemoclap_batch.upkeep.nightly_report import as_markdown, drift, summarise

ROOT = Path(__file__).parents[2]
NOTHING = Manifest(SCHEMA.empty_table())
counts = st.dictionaries(st.sampled_from(LABELS), st.integers(0, 200))


def test_a_file_that_may_still_be_uploading_waits(tmp_path):
    # One has a clock that is a day ahead, one is in the manifest already.
    for name, age in (("old.mp4", 1000), ("new.mp4", 10), ("ahead.mp4", -86400)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / "m.csv").write_text("uri\nold.mp4\nnew.mp4\nahead.mp4\nannounced.mp4\ns3://b/clip.mp4\n")
    with_keys = read_sources([str(tmp_path)]).rows
    assert [Path(uri).name for uri in split_settled(with_keys, 600)[0]["uri"].to_pylist()] == ["ahead.mp4", "old.mp4"]
    rows = pa.table({"uri": [*(str(tmp_path / f"{name}.mp4") for name in ("old", "new", "announced")), "s3://b/c.mp4"]})
    settled, waiting = split_settled(rows, settle_s=600)
    assert [Path(uri).name for uri in settled["uri"].to_pylist()] == ["old.mp4", "c.mp4"]
    assert [Path(uri).name for uri in waiting] == ["new.mp4", "announced.mp4"]


def test_drift_is_flagged_when_it_is_large_and_no_accident():
    steady = {"joy": 500, "anger": 500}
    assert drift({"joy": 90, "anger": 10}, steady)["flagged"]
    assert not drift({"joy": 52, "anger": 48}, steady)["flagged"]
    assert drift({"joy": 9, "anger": 1}, steady) == {"flagged": False, "p_value": None, "distance": None, "shift": {}}
    # So many labels that a tiny difference is no accident is no drift yet.
    tiny = drift({"joy": 52_000, "anger": 48_000}, {"joy": 50_000, "anger": 50_000})
    assert tiny["p_value"] < 1e-6
    assert not tiny["flagged"]


@given(counts, counts)
def test_drift_is_a_distance(tonight, before):
    there, back = drift(tonight, before), drift(before, tonight)
    if there["distance"] is not None:
        assert 0 <= there["distance"] <= 1
        assert there["distance"] == pytest.approx(back["distance"])
        assert sum(there["shift"].values()) == pytest.approx(0, abs=1e-9)
    assert not drift(tonight, tonight)["flagged"]


def test_the_hook_gets_the_summary_and_no_shell(tmp_path, capfd):
    seen = tmp_path / "seen.txt"
    script = f"import os, sys; open({str(seen)!r}, 'w').write(os.environ['VEMOCLAP_STATUS'] + sys.stdin.read())"
    call_hook(f'{sys.executable} -c "{script}" ; touch {tmp_path}/shell', "attention", "text")
    assert seen.read_text() == "attentiontext"
    assert not (tmp_path / "shell").exists()
    call_hook("/no/such/command", "ok", "")
    assert "the hook failed" in capfd.readouterr().err


@pytest.fixture
def model(tmp_path):
    """A fusion checkpoint for the tiny extractor of frames."""
    from tests.tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path / "model", ["clip"])


def job(*arguments, env=None):
    command = [sys.executable, ROOT / "jobs" / "nightly.py", *map(str, arguments)]
    return subprocess.run(command, text=True, capture_output=True, check=False, env={**os.environ, **(env or {})})


@pytest.fixture
def job_here(monkeypatch, capfd):
    """Runs the job in this process, which has imported most of what a new one would; what its hook says counts, too."""
    program = runpy.run_path(str(ROOT / "jobs" / "nightly.py"))

    def once(*arguments):
        monkeypatch.setattr(sys, "argv", ["nightly.py", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            program["main"]()
        said = capfd.readouterr()
        return subprocess.CompletedProcess(sys.argv, left.value.code or 0, said.out, said.err)

    return once


def aged(path, seconds=3600):
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def last(night):
    return json.loads(night.stdout.splitlines()[-1])


def test_nights(tmp_path, frames_profile, model, address, job_here):
    clips, out, empty = tmp_path / "clips", tmp_path / "out", tmp_path / "empty"
    clips.mkdir()
    empty.mkdir()
    first = aged(make_clip(clips / "first.mp4", seconds=1))
    late = make_clip(clips / "late.mp4", seconds=1)
    (clips / "notes.*txt").write_text("")
    seen = tmp_path / "seen.json"
    # What a hook says comes before the last line.
    hook = f"{sys.executable} -c \"import sys; print('hook'); open({str(seen)!r}, 'w').write(sys.stdin.read())\""
    arguments = ["--source", clips, empty, "--out", out, "--profile", frames_profile, "--model", model, "--hook", hook]
    arguments += ["--address", address]

    night = job(*arguments)
    assert night.returncode == 0, night.stderr
    summary = last(night)
    assert summary["counts"] == {"videos": 1, "done": 1, "skipped": 0, "failed": 0, "left_for_next_night": 1}
    assert (summary["status"], summary["empty_sources"]) == ("ok", [str(empty)])
    assert sum(summary["labels"].values()) == 1
    assert not seen.exists()
    text = (out / "nightly" / f"{summary['run_id']}.md").read_text()
    assert text == as_markdown(json.loads((out / "nightly" / f"{summary['run_id']}.json").read_text()))
    assert f"{str(empty).replace('_', chr(92) + '_')}: no video there" in text
    assert summary["ignored"] == {".*txt": 1}
    assert "left out: 1 .\\*txt" in text

    # One that was late, one that has changed, one that is broken.
    aged(late)
    make_clip(first, seconds=2)
    aged(first, 1800)
    (clips / "bro*ken.mp4").write_bytes(b"no video")
    aged(clips / "bro*ken.mp4")
    night = job_here(*arguments, "--set", "pipeline.compact_shards=1")
    assert night.returncode == 3, night.stderr
    summary = last(night)
    assert summary["counts"] == {"videos": 3, "done": 2, "skipped": 0, "failed": 1, "left_for_next_night": 0}
    assert (summary["failures"], summary["still_failing"]) == ({"not_media": 1}, {})
    assert "bro*ken.mp4 (decode): not_media" in night.stdout
    assert "bro\\*ken.mp4" in as_markdown(summary)
    assert sum(summary["labels_before"].values()) == 1
    assert json.loads(seen.read_text()) == summary
    # More shards than it was told to bear.
    assert any("shards were compacted to" in note for note in summary["notes"])
    assert len(list(out.rglob("features/clip/*/part-*.parquet"))) == 1

    # What has failed for good does not call anybody again.
    seen.unlink()
    night = job_here(*arguments)
    assert night.returncode == 0, night.stderr
    assert (last(night)["failures"], last(night)["still_failing"]) == ({}, {"not_media": 1})
    assert last(night)["counts"]["failed"] == 1
    assert not seen.exists()

    with writer(str(out), "the night before"):
        night = job_here(*arguments)
    assert night.returncode == 4
    assert json.loads(seen.read_text()) == last(night)
    assert (last(night)["status"], last(night)["exit_status"]) == ("held", 4)
    assert "the night before" in last(night)["error"]


def test_whatever_ends_a_night_the_hook_hears_of_it(tmp_path, frames_profile, model, job_here):
    seen = tmp_path / "seen.txt"
    hook = f"{sys.executable} -c \"import sys; open({str(seen)!r}, 'w').write(sys.stdin.read())\""
    common = ["--out", tmp_path / "out", "--profile", frames_profile, "--model", model]
    night = job_here("--source", tmp_path / "nowhere", *common, "--hook", hook)
    assert (night.returncode, last(night)["status"]) == (2, "broken")
    assert "no such file or folder" in json.loads(seen.read_text())["error"]
    # A store that refuses: no wrong usage, and no traceback.
    seen.unlink()
    credentials = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    nobody = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true", **credentials}
    night = job("--source", "s3://bucket/incoming", *common, "--hook", hook, env=nobody)
    assert (night.returncode, last(night)["status"]) == (1, "broken")
    assert "cannot list 's3://bucket/incoming'" in json.loads(seen.read_text())["error"]
    assert "Traceback" not in night.stderr
    # What nobody foresaw: a shard of the tables that is none.
    seen.unlink()
    errors = Store(str(tmp_path / "out")).errors()
    row = dict.fromkeys(errors.schema.names) | {"video_id": "v", "content_key": "c"}
    errors.append(pa.Table.from_pylist([row], schema=errors.schema))
    (tmp_path / "clips").mkdir()
    for path in (*errors.shards(), tmp_path / "clips" / "clip.mp4"):
        Path(path).write_bytes(b"")
    night = job_here("--source", tmp_path / "clips", "--settle", 0, *common, "--hook", hook)
    assert (night.returncode, last(night)["status"], "Traceback" in night.stderr) == (1, "broken", True)
    assert json.loads(seen.read_text()) == last(night)


WRONG = [("--hook", "notify 'oops"), ("--hook", "/no/such/command"), ("--weeks", 10**9), ("--settle", "nan")]


@pytest.mark.parametrize(("option", "value"), WRONG)
def test_wrong_options_are_told_before_the_night(capsys, option, value):
    program = runpy.run_path(str(ROOT / "jobs" / "nightly.py"))
    with pytest.raises(SystemExit) as caught:
        program["main"](["--source", "clips", "--out", "out", option, str(value)])
    assert caught.value.code == 2
    assert f"error: {option} " in capsys.readouterr().err


def test_a_night_that_is_stopped_says_so(tmp_path, model, address):
    clips, out, seen = tmp_path / "clips", tmp_path / "out", tmp_path / "seen.txt"
    clips.mkdir()
    for at in range(8):
        aged(make_clip(clips / f"clip{at}.mp4", seconds=1))
    hook = f"{sys.executable} -c \"import os; open({str(seen)!r}, 'w').write(os.environ['VEMOCLAP_STATUS'])\""
    arguments = ["--source", clips, "--out", out, "--profile", held_profile(tmp_path), "--model", model]
    arguments += ["--hook", hook, "--address", address]
    command = telling(tmp_path / "told", ROOT / "jobs" / "nightly.py", *arguments)
    (tmp_path / "hold").touch()
    night = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: held(tmp_path / "calls.txt") or night.poll() is not None)
    night.send_signal(signal.SIGTERM)
    wait_for(lambda: (tmp_path / "told").exists() or night.poll() is not None)
    (tmp_path / "hold").unlink()
    said = night.communicate(timeout=300)[0]
    summary = json.loads(said.splitlines()[-1])
    assert (night.returncode, summary["status"], seen.read_text()) == (143, "stopped", "stopped")
    assert summary["counts"]["done"] == 3
    # What was finished is predicted as well.
    assert Output(str(out)).predictions().num_rows == 3


def test_a_night_that_is_stopped_while_it_lists_says_so(tmp_path, frames_profile, model):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(300)
        env = {**os.environ, **ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        arguments = ["--source", "s3://bucket/incoming", "--out", tmp_path / "out", "--profile", frames_profile]
        command = [sys.executable, ROOT / "jobs" / "nightly.py", *arguments, "--model", model]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as night:
            silent.accept()[0].close()
            night.send_signal(signal.SIGTERM)
            summary = json.loads(night.communicate(timeout=300)[0].splitlines()[-1])
    assert (night.returncode, summary["status"], summary["exit_status"]) == (143, "stopped", 143)


@pytest.fixture
def bucket(monkeypatch):
    """A client of a server with the bucket ``videos``, for this process, its jobs and the actors of its jobs."""
    server = Server()
    # As ray job submit does with --runtime-env.
    as_submitted = json.dumps({"runtime_env": {"env_vars": server.environment}})
    for name, value in {**server.environment, "RAY_JOB_CONFIG_JSON_ENV_VAR": as_submitted}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="videos")
    yield client
    server.close()


def test_nights_in_a_bucket(bucket, tmp_path, frames_profile, model, address, job_here):
    arguments = ["--source", "s3://videos/incoming", "s3://videos/drained", "--out", "s3://videos/labelled"]
    arguments += ["--profile", frames_profile, "--model", model, "--address", address]
    bucket.upload_file(str(make_clip(tmp_path / "clip.mp4", seconds=1)), "videos", "incoming/clip.mp4")
    night = job(*arguments)
    assert night.returncode == 0, night.stderr
    summary = last(night)
    assert summary["counts"] == {"videos": 1, "done": 1, "skipped": 0, "failed": 0, "left_for_next_night": 0}
    assert summary["empty_sources"] == ["s3://videos/drained"]
    written = bucket.get_object(Bucket="videos", Key=f"labelled/nightly/{summary['run_id']}.json")["Body"].read()
    assert json.loads(written).items() <= summary.items()

    with writer("s3://videos/labelled", "the night before"):
        night = job_here(*arguments)
    assert (night.returncode, last(night)["status"]) == (4, "held")
    assert "the night before" in last(night)["error"]


def test_what_was_made_good_since_is_no_failure(tmp_path, frames_profile):
    config = load_config(frames_profile)
    run = Run(Store(str(tmp_path / "out")), config, resolve(config), "2", "label")
    clip = run.specs["clip"].fingerprint
    failure = {"video_id": "v", "content_key": "1", "uri": "v.mp4", "message": "", "attempts": 1}
    log = [
        failure | {"error_type": "io", "run_id": "1"},  # read since
        failure | {"error_type": "model", "run_id": "1", "extractor": "clip", "fingerprint": "older settings"},
        failure | {"error_type": "timeout", "run_id": "1", "extractor": "clip", "fingerprint": clip},
        failure | {"error_type": "out_of_memory", "run_id": "2", "extractor": "clip", "fingerprint": clip},
        failure | {"video_id": "w", "error_type": "undecodable", "run_id": "1"},
    ]
    for table, rows in ((run.store.errors(), log), (run.store.videos(), [failure | {"run_id": "2"}])):
        blank = dict.fromkeys(table.schema.names)
        table.append(pa.Table.from_pylist([blank | row for row in rows], schema=table.schema))
    videos = pa.table({"video_id": ["v", "w"], "content_key": ["1", "1"], "uri": ["v.mp4", "w.mp4"]})
    run.pending = find_pending(run.store, videos, run.specs, max_attempts=3)
    found = summarise(run, NOTHING, [], weeks=2, gpu_hour_cost=None)
    assert (found["failures"], found["still_failing"]) == ({"out_of_memory": 1}, {"undecodable": 1})


def test_a_shard_that_cannot_be_read_keeps_no_night_from_its_summary(tmp_path):
    store = Store(str(tmp_path / "out"))
    for name in "ab":
        predictions(store, [name])
    for path in (tmp_path / "out" / "predictions" / "table").glob("*.parquet"):
        path.write_bytes(b"")
    [note] = compact_if_large(store, 1)
    assert "the tables were not compacted" in note
    assert (compact_if_large(store, 2), compact_if_large(store, 0)) == ([], [])


def predictions(store, run_ids):
    table = store.predictions("table", ["joy"])
    rows = [
        dict.fromkeys(table.schema.names)
        | {"video_id": f"{run_id} {at}", "content_key": "1", "run_id": run_id, "label": "joy"}
        for at, run_id in enumerate(run_ids)
    ]
    table.append(pa.Table.from_pylist(rows, schema=table.schema))
    return Predicted(table, "table")


def test_a_night_is_compared_with_the_last_weeks_and_gpus_cost_while_they_are_held(tmp_path, frames_profile):
    store = Store(str(tmp_path / "out"))
    now = datetime.datetime.now(datetime.UTC)
    days = {name: f"{now - datetime.timedelta(days=age):%Y%m%dT%H%M%S}-x" for name, age in (("in", 13), ("out", 15))}
    run = Run(store, load_config(frames_profile), {}, "tonight", "label", held_s=7200.0)
    run.predicted = predictions(store, ["tonight", days["in"], days["in"], days["out"]])
    stages = [
        StagePlan(name, (name,), 3, 9, 0.0, gpus, 1, 1.0, 1.0, 1.0) for name, gpus in (("clip", 0.5), ("ocr", 0.0))
    ]
    run.plan = Plan(tuple(stages), Cluster((Node(8, 2, 32),)))
    run.totals.stages["clip"] = StageTotals(items=1, seconds=720.0)
    found = summarise(run, NOTHING, [], weeks=2, gpu_hour_cost=4.0)
    assert (found["labels"], found["labels_before"]) == ({"joy": 1}, {"joy": 2})
    # Three actors with half a GPU each had them for two hours, and worked for 12 minutes in all.
    assert (found["gpu_hours_held"], found["gpu_hours"], found["gpu_cost"]) == (3.0, 0.1, 12.0)
    assert "3.00 GPU-hours held, 0.10 of them at work, 12.00 spent" in as_markdown(found)
