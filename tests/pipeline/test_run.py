"""The pipeline on real Ray, real Parquet and real clips, with tiny models: faults, reruns, changes."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.clips import make_clip
from tests.commands import dying
from vemoclap_batch.cli.app import main
from vemoclap_batch.config import load_config
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.pipeline.run import run
from vemoclap_batch.sources.manifest import read_sources

ROOT = Path(__file__).parents[2]
TABLES = ("videos", "errors", "features/clip", "features/asr", "features/asr_sentiment")


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for at in range(5):
        make_clip(folder / f"clip{at}.mp4", seconds=1)
    return folder


@pytest.fixture
def calls(tmp_path):
    path = tmp_path / "calls.txt"
    path.touch()
    return path


def extract(clips, out, profile, calls, *overrides):
    names = ("clip", "asr", "asr_sentiment")
    config = load_config(profile, [*[f"extractors.{name}.calls={calls}" for name in names], *overrides])
    return run(read_sources([str(clips)]).rows, str(out), config)


def read(out, table):
    # Plain pyarrow, no code of ours: what any user sees.
    folder = Path(out) / table
    return ds.dataset([str(p) for p in folder.rglob("part-*.parquet")]).to_table() if folder.exists() else None


def rows_of(out, table, *columns):
    found = read(out, table)
    return sorted(tuple(row[name] for name in columns) for row in found.to_pylist()) if found else []


def stems(out, table):
    return sorted(name.rsplit("-", 1)[0] for (name,) in rows_of(out, table, "video_id"))


def noted(calls):
    found = Counter(line.split(" ")[0] for line in calls.read_text().splitlines())
    calls.write_text("")
    return found


@pytest.mark.usefixtures("cluster")
def test_a_rerun_opens_nothing_and_loads_nothing_and_changes_are_done_alone(clips, tmp_path, device_profile, calls):
    out = tmp_path / "out"
    first = extract(clips, out, device_profile, calls)
    assert (first.done, first.skipped, first.failed) == (5, 0, 0)
    for table in TABLES[2:] + TABLES[:1]:
        assert stems(out, table) == [f"clip{at}" for at in range(5)]
    assert noted(calls)["frames"] == 5
    [summary] = first.store.runs()
    assert summary["counts"] == {"videos": 5, "done": 5, "skipped": 0, "failed": 0}
    assert summary["stages"]["decode"]["items"] == 5
    assert summary["stages"]["asr_sentiment"]["seconds"] >= 0

    again = extract(clips, out, device_profile, calls)
    assert (again.done, again.skipped, again.failed, again.plan) == (0, 5, 0, None)
    assert not noted(calls)

    # With one that was late, and one that was replaced.
    make_clip(clips / "late.mp4", seconds=1)
    os.utime(make_clip(clips / "clip0.mp4", seconds=2), (1, 1))
    changed = extract(clips, out, device_profile, calls, "extractors.asr.scale=2")
    assert (changed.done, changed.skipped) == (6, 0)
    found = noted(calls)
    assert (found["frames"], found["sound"]) == (2, 6)
    assert (len(stems(out, "features/clip")), len(stems(out, "features/asr"))) == (7, 11)

    changed = extract(clips, out, device_profile, calls, "extractors.asr.scale=2")
    assert (changed.skipped, changed.plan) == (6, None)

    reader = extract(clips, out, device_profile, calls, "extractors.asr.scale=2", "extractors.asr_sentiment.scale=3")
    assert [stage.extractors for stage in reader.plan.stages] == [("asr_sentiment",)]
    assert set(noted(calls)) == {"load", "text"}
    values = {feature[0][1] for (feature,) in rows_of(out, "features/asr_sentiment", "feature") if feature}
    assert values == {1.0, 3.0}


@pytest.mark.usefixtures("cluster")
def test_a_video_that_fails_or_kills_its_actor_costs_itself_alone(clips, tmp_path, device_profile, calls):
    for name in ("endless1", "raise", "crash-wave"):
        make_clip(clips / f"{name}.mp4", seconds=1)
    out = tmp_path / "out"
    done = extract(clips, out, device_profile, calls, "pipeline.block_videos=4", "pipeline.extract_timeout_s=2")
    assert (done.done, done.failed) == (5, 3)
    assert stems(out, "features/clip") == [f"clip{at}" for at in range(5)]
    # The sound of two of them is fine, and is there.
    assert set(stems(out, "features/asr")) == {*(f"clip{at}" for at in range(5)), "endless1", "raise"}
    errors = [
        (name.rsplit("-", 1)[0], *rest)
        for name, *rest in rows_of(out, "errors", "video_id", "extractor", "error_type", "attempts")
    ]
    assert errors == [
        ("crash-wave", "asr", "worker_died", 1), ("crash-wave", "clip", "worker_died", 1),
        ("endless1", "clip", "worker_died", 1), ("raise", "clip", "model", 1),
    ]  # fmt: skip
    messages = [message for (message,) in rows_of(out, "errors", "message")]
    assert any("cannot bear raise" in message for message in messages)

    # What died is tried again, what raised is final.
    pending = find_pending(done.store, read_sources([str(clips)]).rows, done.specs, max_attempts=3)
    assert pending.wanted == {"clip": 2, "asr": 1, "asr_sentiment": 1}


@pytest.mark.usefixtures("cluster")
def test_a_folder_of_every_kind_of_trouble(tmp_path, device_profile, calls):
    folder = tmp_path / "clips"
    folder.mkdir()
    make_clip(folder / "good é ' \" 名.mp4", seconds=1)
    make_clip(folder / "mute.mp4", seconds=1, audio=False)
    make_clip(folder / "blind.mp4", seconds=1, video=False)
    make_clip(folder / "short.mp4", seconds=0.1, fps=10)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video at all")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    done = extract(folder, tmp_path / "out", device_profile, calls)
    assert (done.done, done.failed) == (4, 2)
    errors = rows_of(tmp_path / "out", "errors", "uri", "stage", "error_type")
    assert [(Path(uri).name, *rest) for uri, *rest in errors] == [
        ("empty.mp4", "decode", "empty"), ("text.mp4", "decode", "not_media"),
    ]  # fmt: skip
    lengths = {
        name.rsplit("-", 1)[0]: len(feature)
        for name, feature in rows_of(tmp_path / "out", "features/clip", "video_id", "feature")
    }
    assert lengths == {"good é ' \" 名": 10, "mute": 10, "blind": 0, "short": 1}
    texts = {
        name.rsplit("-", 1)[0]: text for name, text in rows_of(tmp_path / "out", "features/asr", "video_id", "text")
    }
    assert texts["mute"] == ""
    assert texts["blind"].startswith("level 0.")
    # Nothing new is tried, and the exit status still says that something failed.
    again = extract(folder, tmp_path / "out", device_profile, calls)
    assert (again.failed, again.plan) == (2, None)


def cli(*arguments, **options):
    return subprocess.Popen([sys.executable, "-m", "vemoclap_batch", *map(str, arguments)], **options)


def here(*arguments):
    """Exit status of a command that is run in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code or 0


def test_a_run_that_is_killed_goes_on_where_it_was(clips, tmp_path, frames_profile, calls, address):
    for at in range(5, 9):
        make_clip(clips / f"clip{at}.mp4", seconds=1)
    out = tmp_path / "out"
    arguments = [
        "extract", clips, "-o", out, "--profile", frames_profile, "--set", f"extractors.clip.calls={calls}",
        "--set", "extractors.clip.delay_s=1.0", "--set", "pipeline.block_videos=1", "--address", address,
    ]  # fmt: skip
    # When it would commit its fourth block, which has one video as all of them.
    killed = subprocess.run(
        dying(r"/features/clip/\w+/?$", 4, ROOT / "jobs" / "extract.py", *arguments[1:]),
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(stems(out, "features/clip")) == 3
    first = noted(calls)["frames"]
    assert here(*arguments) == 0
    assert stems(out, "features/clip") == sorted(f"clip{at}" for at in range(9))
    for table in ("videos", "features/clip"):
        assert len(set(rows_of(out, table, "video_id", "content_key"))) == len(rows_of(out, table, "video_id")) == 9
    # Redone: at most what was under way, which is a block in each actor and those between them.
    assert first + noted(calls)["frames"] - 9 <= 4
    assert here(*arguments) == 0


@pytest.mark.usefixtures("cluster")
def test_a_model_that_does_not_load_is_one_clear_error(clips, tmp_path, capfd):
    (tmp_path / "sound.yaml").write_text('extractors: {asr: {class: "tests.tiny:TinySound", scale: -1}}')
    assert here("extract", clips, "-o", tmp_path / "out", "--profile", tmp_path / "sound.yaml") == 1
    text = capfd.readouterr().err
    assert "the run broke off" in text
    assert "this model does not load" in text
    assert "Traceback" not in text


@pytest.mark.usefixtures("cluster")
def test_a_model_that_kills_its_process_is_not_loaded_for_ever(clips, tmp_path, capsys):
    (tmp_path / "sound.yaml").write_text('extractors: {asr: {class: "tests.tiny:TinySound", scale: -2}}')
    assert here("extract", clips, "-o", tmp_path / "out", "--profile", tmp_path / "sound.yaml") == 1
    assert "the asr process died 3 times while it loaded its model" in capsys.readouterr().err


def test_wrong_usage_is_named_in_full_with_status_2(tmp_path, capsys):
    process = cli("extract", tmp_path / "nowhere", "-o", tmp_path / "out", stderr=subprocess.PIPE, text=True)
    assert "no such file or folder" in process.communicate()[1]
    assert process.returncode == 2
    assert here("extract", tmp_path, "--set", "sampling.frames=0", "-o", tmp_path, "--set", "a=1") == 2
    text = capsys.readouterr().err
    assert "sampling.frames = 0" in text
    assert "a = 1: no such setting" in text
    assert not (tmp_path / "out").exists()
