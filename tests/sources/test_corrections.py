"""What people labelled in other tools becomes one label a video, and trains a classifier that labels again."""

import csv
import json

import krippendorff
import numpy as np
import pyarrow.parquet as pq
import pympi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clips import make_clip, pattern, sine
from tests.commands import here
from tests.tiny import tiny_checkpoint
from vemoclap_batch.cli.app import main
from vemoclap_batch.config import LABELS
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.sources.corrections import agreement_of, read_corrections
from vemoclap_batch.sources.manifest import read_labels
from vemoclap_batch.store.store import Store


def run(*arguments, status=0):
    done = here(main, *arguments)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if status == 0 else done.stderr


def choice(label):
    return {"id": "x", "type": "choices", "from_name": "emotion", "to_name": "video", "value": {"choices": [label]}}


def region(label, start, end):
    value = {"ranges": [{"start": start, "end": end}], "timelinelabels": [label]}
    return {"type": "timelinelabels", "from_name": "emotions", "to_name": "video", "value": value}


def task(name, *annotations):
    """As Label Studio exports it: who labelled, and the results."""
    made = [
        {
            "id": at,
            "completed_by": by,
            "was_cancelled": False,
            "updated_at": f"2026-11-28T08:00:0{at}Z",
            "result": results,
        }
        for at, (by, results) in enumerate(annotations)
    ]
    return {"id": 1, "data": {"video_id": name, "uri": f"/clips/{name}.mp4"}, "annotations": made, "predictions": []}


def labels_in(done):
    return {row["video_id"]: row["label"] for row in done.rows.to_pylist()}


def test_the_majority_of_annotators_counts_and_their_agreement_is_told(tmp_path):
    tasks = [
        task("all", (1, [choice("joy")]), (2, [choice("joy")]), ({"id": 3, "email": "c@x"}, [choice("joy")])),
        task("most", (1, [choice("fear")]), (2, [choice("anger")]), ({"id": 3, "email": "c@x"}, [choice("Fear ")])),
        task("tie", (1, [choice("fear")]), (2, [choice("anger")])),
        task("mind changed", (1, [choice("fear")]), (1, [choice("sadness")])),
        task("regions", (1, [region("joy", 1, 10), region("fear", 11, 100), region("joy", 101, 120)])),
        task("nobody", (1, [])),
    ]
    skipped = task("skipped", (1, [choice("joy")]))
    skipped["annotations"][0]["was_cancelled"] = True
    (tmp_path / "export.json").write_text(json.dumps([*tasks, skipped]))
    done = read_corrections(str(tmp_path / "export.json"), "label-studio")
    assert labels_in(done) == {
        "all": "joy", "most": "fear", "tie": None, "mind changed": "sadness", "regions": "fear"
    }  # fmt: skip
    assert (done.annotators, done.ties, done.without_label) == (3, ["tie"], 2)
    unknown = np.nan
    ratings = [[3, 2, 2, 4, 2], [3, 0, 0, unknown, unknown], [3, 2, unknown, unknown, unknown]]
    assert done.alpha == pytest.approx(krippendorff.alpha(ratings, level_of_measurement="nominal"))
    [row] = [row for row in done.rows.to_pylist() if row["video_id"] == "most"]
    assert (row["annotators"], row["agreement"], row["uri"]) == (3, pytest.approx(2 / 3), "/clips/most.mp4")


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(LABELS[:3])), max_size=8))
def test_agreement_is_krippendorffs_alpha_wherever_that_is_defined(labels):
    ratings = np.array([[LABELS.index(of[by]) if by in of else np.nan for of in labels] for by in "abcd"])
    given = {label for of in labels if len(of) > 1 for label in of.values()}
    found = agreement_of(labels) if labels else None
    assert (found is None) == (len(given) < 2)
    if found is not None:
        assert found == pytest.approx(krippendorff.alpha(ratings, level_of_measurement="nominal"))


def test_label_studios_short_export_is_read_too(tmp_path):
    rows = [
        {"video_id": "a", "annotator": 1, "emotion": "joy"},
        {"video_id": "b", "annotator": 1, "emotion": {"choices": ["fear"]}},
        {"video": "/data/local-files/?d=clips/my%20clip.mp4", "emotion": "anger"},
        {"video": "s3://bucket/c.mp4", "emotions": [{"ranges": [{"start": 1, "end": 9}], "timelinelabels": ["joy"]}]},
    ]
    (tmp_path / "min.json").write_text(json.dumps(rows))
    found = read_corrections(str(tmp_path / "min.json"), "label-studio").rows.to_pylist()
    assert [(row["video_id"], row["uri"], row["label"]) for row in found] == [
        ("a", None, "joy"), ("b", None, "fear"), (None, "/clips/my clip.mp4", "anger"),
        (None, "s3://bucket/c.mp4", "joy"),
    ]  # fmt: skip


def test_tables_of_spreadsheets_are_read(tmp_path):
    """With a byte order mark, semicolons, several annotators; windows by their seconds."""
    (tmp_path / "a.csv").write_text("\ufeffvideo_id;label;annotator\na;Joy;x\na;fear;y\na;joy;z\nb;;x\n", "utf-8")
    done = read_corrections(str(tmp_path / "a.csv"), "csv")
    assert (labels_in(done), done.without_label) == ({"a": "joy"}, 1)
    (tmp_path / "w.csv").write_text(
        'uri,window_start_s,window_end_s,label\n"b, c.mp4",0,10,joy\n"b, c.mp4",5,15,fear\n"b, c.mp4",10,20,fear\n'
    )
    [row] = read_corrections(str(tmp_path / "w.csv"), "csv").rows.to_pylist()
    assert (row["uri"], row["label"]) == (str(tmp_path / "b, c.mp4"), "fear")


def test_elan_documents_of_several_annotators_are_read(tmp_path):
    """Documents that pympi wrote: one folder an annotator, addresses alone, another tier that is no emotion."""
    for by, spans in {
        "ann": [(0, 900, "joy"), (900, 2000, "fear")],
        "ben": [(0, 2000, "Joy")],
        "eve": [(5, 9, "joy")],
    }.items():
        document = pympi.Elan.Eaf()
        document.add_linked_file("file:///clips/A%20%26%20B.mp4", mimetype="video/mp4")
        document.add_tier("emotion")
        document.add_tier("speech")
        document.add_annotation("speech", 0, 10, "glee")
        for start, end, label in spans:
            document.add_annotation("emotion", start, end, label)
        (tmp_path / by).mkdir()
        document.to_file(tmp_path / by / "clip.eaf")
    done = read_corrections(str(tmp_path), "elan")
    [row] = done.rows.to_pylist()
    assert (row["uri"], row["label"], row["annotators"]) == ("/clips/A & B.mp4", "joy", 3)


@pytest.mark.parametrize(
    ("kind", "name", "content", "said"),
    [
        ("csv", "a.csv", "name,label\nx,joy\n", "expected columns label and video_id or uri; found name, label"),
        ("csv", "a.csv", "video_id,label\na,glee\n,joy\nb,c\n", "line 2: label 'glee' is not one of anger, disgust"),
        ("csv", "a.csv", "video_id,label\na,glee\n,joy\nb,c\n", "line 3: no video_id and no uri"),
        ("csv", "a.csv", "video_id,label\na,glee\n,joy\nb,c\n", "line 4: label 'c' is not"),
        ("csv", "a.csv", "video_id,label\na,joy\na,joy\n", "'a' has several rows of one annotator"),
        ("csv", "a.csv", "video_id,label\na,\n", "nobody labelled a video"),
        ("label-studio", "a.json", "{", "cannot be read as JSON"),
        ("label-studio", "a.json", '{"a": 1}', "expected a list of tasks"),
        (
            "label-studio",
            "a.json",
            '[{"annotations": [{"result": [{"value": {"choices": 7}}]}]}]',
            "unexpected content",
        ),
        ("elan", "a.eaf", "<x", "cannot be read as an ELAN document"),
        ("excel", "a.xls", "", "--from 'excel': expected one of label-studio, csv, elan"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(tmp_path, kind, name, content, said):
    (tmp_path / name).write_text(content)
    found = run("import", "labels", tmp_path / name, "--from", kind, "-o", tmp_path / "labels.xlsx", status=2)
    assert said in found
    assert "expected a name ending in .parquet, .csv, .jsonl" in found
    assert {file.name for file in tmp_path.iterdir()} == {name}


def test_files_that_are_not_there_are_named(tmp_path):
    for kind in ("label-studio", "csv", "elan"):
        with pytest.raises(ConfigError, match=r"gone.*[Nn]o such file"):
            read_corrections(str(tmp_path / "gone"), kind)


def test_exported_corrected_trained_and_labelled_again(tmp_path, tiny_profile, cluster):
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(8):
        pictures = [picture // (1 + 3 * (number % 2)) for picture in pattern(10, seed=number)]
        make_clip(clips / f"{number}, <b>.mp4", frames=pictures, fps=5, audio=sine(2.0))
    out, common = tmp_path / "out", ("--profile", tiny_profile, "--json")
    run("label", clips, "-o", out, "--model", tiny_checkpoint(tmp_path / "first"), *common)
    run("export", out, "--to", "label-studio", "-o", tmp_path / "ls", "--pick", "uncertain", *common)

    # Two people correct all of them: dark clips are sad, the others joyful. A third knows one only.
    tasks = json.loads((tmp_path / "ls" / "tasks.json").read_text())
    truth = {one["data"]["video_id"]: "sadness" if int(one["data"]["name"][0]) % 2 else "joy" for one in tasks}
    assert len(truth) == 8
    for number, one in enumerate(tasks):
        right = truth[one["data"]["video_id"]]
        results = [(1, [choice(right)]), (2, [choice(right)])] + ([(3, [choice("fear")])] if not number else [])
        one["annotations"] = task("", *results)["annotations"]
    (tmp_path / "corrected.json").write_text(json.dumps(tasks))
    labels = tmp_path / "labels.parquet"
    arguments = ("import", "labels", tmp_path / "corrected.json", "--from", "label-studio", "-o", labels, "--json")
    result = run(*arguments, "--of", out)
    assert (result["labels"], result["annotators"]) == ({"joy": 4, "sadness": 4}, 3)
    assert 0.5 < result["alpha"] < 1
    assert {row["video_id"]: row["label"] for row in pq.read_table(labels).to_pylist()} == truth
    assert read_labels(str(labels))["label"] == [truth[name] for name in read_labels(str(labels))["video_id"]]

    run(
        "train", out, "--labels", labels, "-o", tmp_path / "second", "--preset", "quick", "--d-model", 16,
        "--hyper", "max_steps=300", "--hyper", "evaluate_every=100", *common,
    )  # fmt: skip
    summary = run("label", clips, "-o", out, "--model", tmp_path / "second", *common)
    assert {row["video_id"]: row["label"] for row in summary["rows"]} == truth
    assert len(Store(str(out)).extractors()) == 3
    run("export", out, "--to", "csv", "-o", tmp_path / "csv", "--labels", labels, *common)
    rows = list(csv.DictReader((tmp_path / "csv" / "emotions.csv").open(encoding="utf-8")))
    assert (
        {row["video_id"]: row["label"] for row in rows}
        == {row["video_id"]: row["given_label"] for row in rows}
        == truth
    )

    tasks[0]["data"] |= {"video_id": "stranger"}
    (tmp_path / "corrected.json").write_text(json.dumps(tasks))
    assert "1 videos that OUT does not have: stranger" in run(*arguments, "--of", out, status=2)
