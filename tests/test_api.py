"""The Python interface: its example runs as it stands, and what the functions return is what the commands print."""

import json
import textwrap

import numpy as np
import pyarrow as pa
import pytest

import vemoclap_batch
from tests.clips import make_clip, sine
from tests.commands import here
from tests.tiny import PROFILE, tiny_checkpoint
from vemoclap_batch import ConfigError, Output, api, extract, label, predict
from vemoclap_batch.cli.app import main
from vemoclap_batch.config import LABELS

COLOURS = ((220, 30, 30), (30, 160, 30), (30, 30, 200), (230, 220, 40), (60, 60, 60), (200, 60, 200))
PER_LABEL = 4


def example():
    """The code in the docstring of the interface."""
    code = api.__doc__.partition("::\n")[2].partition("\nThe commands")[0]
    return textwrap.dedent(code)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cluster):
    """What the example works on: videos, whose colours tell their label, a labels file, and a profile called mine."""
    top = tmp_path_factory.mktemp("example")
    lines = ["uri,label,split"]
    for at, name in enumerate(LABELS):
        for number in range(PER_LABEL):
            path = top / "videos" / f"{name}_{number}.mp4"
            path.parent.mkdir(exist_ok=True)
            picture = np.full((48, 64, 3), COLOURS[at], np.uint8)
            make_clip(path, frames=[picture] * 6, audio=sine(0.5))
            lines.append(f"{path},{name},{'test' if number == 0 else 'train'}")
    (top / "videos" / "notes.txt").write_text("no video")
    (top / "labels.csv").write_text("\n".join(lines) + "\n")
    (top / "mine.yaml").write_text(f"checkpoint: {tiny_checkpoint(top / 'model')}\n{PROFILE}")
    return top


@pytest.fixture(scope="module")
def ran(folder):
    """The names that the example's code leaves, and what it printed; a small profile stands for lite's models."""
    code = example().replace('"lite"', '"mine.yaml"')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names: dict = {}

        def run(_):
            exec(compile(code, "example", "exec"), names)
            raise SystemExit

        done = here(run)
    return names, done.stdout


def test_the_example_runs(ran, folder):
    names, printed = ran
    assert set(names) > {"summary", "output", "card"}
    assert names["summary"]["counts"] == {"videos": 24, "done": 24, "skipped": 0, "failed": 0}
    assert f"{names['summary']['counts']}" in example()
    assert names["card"]["n_train"] + names["card"]["n_validation"] == 6 * (PER_LABEL - 1)
    accuracy = float(printed.splitlines()[-1])
    assert accuracy > 0.5
    assert (folder / "classifier" / "model.json").exists()


@pytest.mark.usefixtures("ran")
def test_tables_are_pyarrow_tables(folder):
    output = Output(folder / "out")
    assert isinstance(output.predictions(), pa.Table)
    assert set(output.predictions()["label"].to_pylist()) <= set(LABELS)
    # The newest are those of the classifier that the example trained, and the profile's own are still there.
    tables = [path.name for path in (folder / "out" / "predictions").iterdir()]
    assert len(tables) == 2
    assert [output.predictions(name).num_rows for name in tables] == [24, 24]
    clip = output.features("clip")
    assert clip.num_rows == 24
    assert {"video_id", "content_key", "run_id", "feature", "start_s", "end_s", "brightness"} <= set(clip.schema.names)
    assert all(len(item) == 3 for feature in clip["feature"].to_pylist() for item in feature)
    assert output.videos().num_rows == 24
    assert output.errors().num_rows == 0
    assert [run["command"] for run in output.runs()] == ["label"]


@pytest.mark.usefixtures("ran")
def test_a_command_prints_what_the_function_returns(folder, caplog):
    given = {"profile": str(folder / "mine.yaml"), "settings": {"sampling.frames": 16}}
    returned = label([folder / "videos"], folder / "out", **given, wait=False)
    assert "left out 1 file: 1 .txt" in caplog.text
    done = here(
        main, "label", folder / "videos", "-o", folder / "out", "--profile", given["profile"], "--set",
        "sampling.frames=16", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed.keys() == returned.keys()
    # What a run with nothing to do takes differs, and its name.
    same = printed.keys() - {"run_id", "wall_s", "config"}
    assert {name: printed[name] for name in same} == {name: json.loads(json.dumps(returned[name])) for name in same}
    assert (returned["counts"]["skipped"], len(returned["rows"])) == (24, 24)


def test_a_failure_is_in_the_summary_and_in_the_table(folder, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    summary = extract(str(tmp_path / "broken.mp4"), tmp_path / "out", profile=str(folder / "mine.yaml"))
    assert summary["counts"] == {"videos": 1, "done": 0, "skipped": 0, "failed": 1}
    [failure] = summary["failed"]
    assert summary["failures"] == {failure["error_type"]: 1}
    [row] = Output(tmp_path / "out").errors().to_pylist()
    assert (row["error_type"], row["message"]) == (failure["error_type"], failure["message"])
    with pytest.raises(ConfigError, match="has no predictions yet"):
        Output(tmp_path / "out").predictions()


@pytest.mark.usefixtures("ran")
def test_mistakes_are_exceptions_of_the_package(folder, tmp_path):
    with pytest.raises(ConfigError, match="no such output folder"):
        Output(tmp_path / "nowhere")
    with pytest.raises(ConfigError) as caught:
        label([folder / "videos"], tmp_path / "out", settings={"sampling.frames": -1, "decode.timeout_s": "soon"})
    assert len(caught.value.mistakes) == 2
    with pytest.raises(ConfigError, match="--hop: needs --window"):
        predict(folder / "out", folder / "classifier", hop=2.0)
    for wrong, expected in {"ocr": "there are none", "clip/0000": "expected one fingerprint of"}.items():
        with pytest.raises(ConfigError, match=f"features {wrong}: {expected}"):
            Output(folder / "out").features(*wrong.split("/"))
    with pytest.raises(ConfigError, match="has no predictions 0000"):
        Output(folder / "out").predictions("0000")


def test_the_interface_is_what_all_names():
    assert set(vemoclap_batch.__all__) == set(api.__all__)
    assert 6 <= len(api.__all__) <= 10
    for name in vemoclap_batch.__all__:
        assert getattr(vemoclap_batch, name) is getattr(api, name)
        assert getattr(api, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        vemoclap_batch.nosuch  # noqa: B018
