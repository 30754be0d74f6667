"""The commands around the main job, on a store that the test fills: train, evaluate, predict, plan, manifest."""

import json
import os

import pytest

from tests.commands import here
from tests.pipeline.feature_store import make_store
from vemoclap_batch.cli.app import main
from vemoclap_batch.cli.common import INTERRUPTED, program, run_program
from vemoclap_batch.config import LABELS
from vemoclap_batch.store.store import Store

PER_LABEL = 30


def command(*arguments):
    """Run a command in this process."""
    return here(main, *arguments)


def last(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store whose videos' features tell their label, a labels file without split and the profile."""
    return make_store(tmp_path_factory.mktemp("store"), PER_LABEL)


@pytest.fixture(scope="module")
def trained(filled):
    done = command(
        "train", filled / "out", "--labels", filled / "labels.csv", "-o", filled / "ckpt", "--profile",
        filled / "tiny.yaml", "--preset", "quick", "--d-model", 32, "--json",
    )  # fmt: skip
    return last(done)


def test_training_learns_and_evaluation_says_so(filled, trained):
    assert trained["features"] == ["asr_sentiment", "beats", "clip"]
    assert trained["n_train"] + trained["n_validation"] == 6 * PER_LABEL * 0.8
    done = command(
        "evaluate", filled / "out", "--model", filled / "ckpt", "--labels", filled / "labels.csv",
        "-o", filled / "eval", "--profile", filled / "tiny.yaml", "--json",
    )  # fmt: skip
    scores = last(done)
    assert scores["n"] == 6 * PER_LABEL * 0.2
    assert scores["accuracy"] > 0.8
    assert "stratified by label" in scores["split_source"]
    assert json.loads((filled / "eval" / "metrics.json").read_text())["accuracy"] == scores["accuracy"]
    assert (filled / "eval" / "confusion.png").stat().st_size > 5_000


@pytest.mark.usefixtures("trained")
def test_predict_fills_the_table_once(filled):
    arguments = ("predict", filled / "out", "--model", filled / "ckpt", "--profile", filled / "tiny.yaml", "--json")
    first, second = last(command(*arguments)), last(command(*arguments))
    assert first["counts"] == {"new": 180, "skipped": 0, "incomplete": 0}
    assert second["counts"] == {"new": 0, "skipped": 180, "incomplete": 0}
    rows = Store(str(filled / "out")).predictions(first["table"], LABELS).read().to_pylist()
    for row in rows:
        shares = [row[f"p_{label}"] for label in LABELS]
        assert abs(sum(shares) - 1) < 1e-6
        assert row["confidence"] == max(shares) == row[f"p_{row['label']}"]
        silent = int(row["video_id"][1:]) % 2 == 0
        assert (row["window_start_s"], row["window_end_s"]) == (0.0, 2.0)
        assert row["missing"] == ["asr_sentiment"] * silent


@pytest.mark.usefixtures("trained")
def test_features_of_another_space_are_refused_by_name(filled, tmp_path):
    done = command("label", filled, "-o", tmp_path / "o", "--profile", "lite", "--model", filled / "ckpt")
    assert done.returncode == 2
    (tmp_path / "clip.mp4").write_bytes(b"x")
    done = command("label", tmp_path, "-o", tmp_path / "o", "--profile", "lite", "--model", filled / "ckpt")
    assert done.returncode == 2
    assert "the model was trained on space tiny/colour, this is lite/" in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_profile_without_a_checkpoint_names_the_ways_out(filled, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"x")
    done = command("label", tmp_path, "-o", tmp_path / "o", "--profile", filled / "tiny.yaml")
    assert done.returncode == 2
    assert "--model" in done.stderr
    assert "extract" in done.stderr


def test_plan_starts_nothing(filled, tmp_path):
    (tmp_path / "new.mp4").write_bytes(b"x")
    found = last(command("plan", tmp_path, "-o", filled / "out", "--profile", filled / "tiny.yaml", "--json"))
    assert found["cells"]["clip"] == {"done": 0, "missing": 1, "given_up": 0}
    [stage] = found["plan"]["stages"]
    assert (stage["name"], stage["extractors"]) == ("cpu chain", ["decode", "clip", "beats", "asr", "asr_sentiment"])


def test_manifest_and_its_mistakes(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    done = command("manifest", tmp_path, "-o", tmp_path / "list.csv")
    assert done.returncode == 0
    assert "1 videos written" in done.stdout
    assert str(tmp_path / "a.mp4") in (tmp_path / "list.csv").read_text()
    done = command("manifest", tmp_path, "-o", tmp_path / "list.txt")
    assert done.returncode == 2
    assert ".csv" in done.stderr


def test_help_explains_every_command():
    done = command("--help")
    for name in (
        "label",
        "extract",
        "predict",
        "train",
        "evaluate",
        "analyze",
        "suggest-blacklist",
        "plan",
        "manifest",
        "models",
        "import",
        "status",
        "retry",
        "compact",
        "gc",
        "demo",
    ):
        assert name in done.stdout
        assert command(name, "--help").returncode == 0
    assert command("compact", "-h").stdout == command("compact", "--help").stdout


def test_addresses_that_may_not_be_read_are_refused_before_anything_starts(tmp_path):
    (tmp_path / "list.csv").write_text("uri\n/etc/passwd.mp4\nftp://host/a.mp4\n")
    done = command("plan", tmp_path / "list.csv", "--set", f"sources.roots=[{tmp_path}]")
    assert done.returncode == 2
    assert "may not be read ('/etc/passwd.mp4': it lies outside" in done.stderr
    assert "may not be read ('ftp://host/a.mp4': scheme 'ftp'" in done.stderr


def test_what_a_terminal_would_take_for_a_command_is_spelled_out(tmp_path, capsys):
    (tmp_path / "m.csv").write_text("uri,video_id\na.mp4,same\nb\x1b[31m.mp4,same\n")
    with pytest.raises(SystemExit) as left:
        main(["extract", str(tmp_path / "m.csv"), "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert "a control character in uri" in said
    assert "\x1b" not in said


def test_a_name_that_is_no_text_is_a_mistake(tmp_path, capsys):
    path = os.path.join(os.fsencode(tmp_path), b"\xff\x1b.mp4")
    with open(path, "wb") as stream:
        stream.write(b"x")
    with pytest.raises(SystemExit) as left:
        main(["extract", os.fsdecode(path), "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert (left.value.code, "in the name" in said, "\x1b" in said) == (2, True, False)


def test_ctrl_c_says_that_what_was_finished_is_kept(capsys):
    waits = program()

    @waits.command()
    def wait():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        run_program(waits, [])
    assert left.value.code == INTERRUPTED
    assert "interrupted; what was finished is kept" in capsys.readouterr().err
