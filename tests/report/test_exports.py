"""Exports are read back by the tools' own libraries, or by what they document; what has no place is counted."""

import csv
import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import datasets
import jsonschema
import polars
import pyarrow.parquet as pq
import pympi
import pysrt
import pytest
import webvtt

from tests.commands import here
from tests.report.exported import NOTHING, NTSC, ODD, SAID, VIDEOS, add_predictions, make_out
from vemoclap_batch.cli.app import main
from vemoclap_batch.config import LABELS
from vemoclap_batch.media.windows import Window
from vemoclap_batch.report.exports.base import file_name
from vemoclap_batch.report.exports.formats import FORMATS
from vemoclap_batch.store.store import Store

WINDOW = Window(10.0, 5.0)
DATA = Path(__file__).parents[1] / "data"
WITH_FILE = [name for name, (*_, uri) in VIDEOS.items() if uri]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_out(tmp_path_factory.mktemp("whole") / "out")


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    return make_out(tmp_path_factory.mktemp("windowed") / "out", WINDOW)


def export(out, to, folder, *arguments):
    done = here(main, "export", out, "--to", to, "-o", folder, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def predicted(out):
    """Per video its predictions that have a label, in order of time."""
    rows = Store(out).predictions("ba9876543210", LABELS).read().sort_by("window_start_s").to_pylist()
    return {name: [row for row in rows if row["video_id"] == name and row["label"]] for name in VIDEOS}


# ---- tables


@pytest.mark.parametrize("to", ["csv", "jsonl", "parquet"])
def test_tables_hold_every_row_and_nothing_stays_nothing(windowed, tmp_path, to):
    result = export(windowed, to, tmp_path / "x")
    read = {"csv": polars.read_csv, "jsonl": polars.read_ndjson, "parquet": polars.read_parquet}[to]
    rows = read(tmp_path / "x" / f"emotions.{to}")
    assert (
        len(rows) == result["counts"]["emotions"] == sum(len(WINDOW.over(length)) for _, length, _ in VIDEOS.values())
    )
    assert rows["label"].null_count() == rows.filter(video_id=NOTHING).height == 1
    assert rows["valence"].null_count() == len(rows)  # NaN, which JSON does not have.
    [first] = rows.filter(video_id="a-1", window_start_s=0.0).to_dicts()
    assert first["label"] == predicted(windowed)["a-1"][0]["label"]
    assert first["missing"] == ("clip asr" if to == "csv" else ["clip", "asr"])
    said = read(tmp_path / "x" / f"speech.{to}").filter(video_id="a-1")["text"].to_list()
    wanted = ["".join(char for char in text if ord(char) >= 32 or char in "\n\r") for text in SAID]
    assert said == (wanted if to == "csv" else SAID)
    assert read(tmp_path / "x" / f"faces.{to}")["x"].to_list() == [7.0] * len(VIDEOS)
    assert read(tmp_path / "x" / f"text.{to}")["text"].to_list() == [SAID[0]] * len(VIDEOS)


def test_hugging_face_loads_each_configuration(windowed, tmp_path):
    result = export(windowed, "hf", tmp_path / "x", "--only", "content=emotions,speech,faces,features")
    cache = str(tmp_path / "cache")
    assert {*datasets.get_dataset_config_names(str(tmp_path / "x"))} >= {"emotions", "faces", "features_clip", "speech"}
    rows = datasets.load_dataset(str(tmp_path / "x"), "emotions", split="train", cache_dir=cache)
    assert len(rows) == result["counts"]["emotions"]
    assert {*rows["label"]} <= {*LABELS, None}
    assert rows.features["missing"] == datasets.List(datasets.Value("string"))
    clip = datasets.load_dataset(str(tmp_path / "x"), "features_clip", split="train", cache_dir=cache)
    assert clip.features["feature"] == datasets.List(datasets.List(datasets.Value("float32")))
    assert clip[0]["feature"] == [[1.0, 2.0], [3.0, 4.0]]


# ---- subtitles


def test_webvtt_says_every_word_at_its_time(windowed, tmp_path):
    export(windowed, "webvtt", tmp_path / "x")
    read = list(webvtt.read(tmp_path / "x" / "a-1.speech.vtt"))
    assert [cue.start for cue in read] == [
        "00:00:00.000",
        "00:00:02.000",
        "00:00:03.000",
        "00:00:04.000",
        "00:00:05.000",
    ]
    assert [cue.raw_text for cue in read] == [
        "&lt;b&gt;bold&lt;/b&gt; &amp; more --&gt; x", "one two three four", "[31mred", "=1+1,\"'", "喜び 😀",
    ]  # fmt: skip
    [original] = webvtt.read(tmp_path / "x" / "a-1.speech_original.vtt")
    assert original.text == "元の言葉"
    emotions = list(webvtt.read(tmp_path / "x" / "a-1.emotions.vtt"))
    assert [(cue.start, cue.end) for cue in emotions][:2] == [
        ("00:00:00.000", "00:00:10.000"), ("00:00:05.000", "00:00:15.000")
    ]  # fmt: skip
    assert not list((tmp_path / "x").glob(f"{NOTHING}.emotions*"))


def test_srt_parts_windows_that_overlap(windowed, tmp_path):
    export(windowed, "srt", tmp_path / "x", "--only", "content=emotions")
    found = []
    for file in ("a-1.emotions.srt", "a-1.emotions.2.srt"):
        track = pysrt.open(tmp_path / "x" / file)
        assert all(one.end <= other.start for one, other in pairwise(track))
        found += [(one.start.ordinal / 1000, one.end.ordinal / 1000, one.text.split()[0]) for one in track]
    wanted = [(row["window_start_s"], row["window_end_s"], row["label"]) for row in predicted(windowed)["a-1"]]
    assert sorted(found) == sorted(wanted)
    rows = list(csv.DictReader((tmp_path / "x" / "files.csv").open()))
    assert {row["video_id"] for row in rows} == {*VIDEOS} - {NOTHING}
    assert all((tmp_path / "x" / row["file"]).is_file() for row in rows)


# ---- tools of annotation


def label_studio_mistakes(task, config):
    """What is wrong with the predictions of a task, by the schema that label-studio-sdk 2.1.2 makes of the interface.

    It was written by ``LabelInterface(config).to_json_schema()``: the package needs an OpenCV that others here exclude.
    """
    schema = json.loads((DATA / "label_studio_schema.json").read_text())
    controls = {tag.get("name"): tag.tag.lower() for tag in config if tag.get("toName") == "video"}
    for prediction in task.get("predictions", []):
        assert 0 <= prediction["score"] <= 1
        assert len({one["id"] for one in prediction["result"]}) == len(prediction["result"])
        for one in prediction["result"]:
            assert one["type"] == controls[one["from_name"]]
            assert one["to_name"] == "video"
            assert 0 <= one["score"] <= 1
            value = one["value"]["choices"][0] if one["type"] == "choices" else one["value"]
            yield from jsonschema.Draft202012Validator(schema).iter_errors({one["from_name"]: value})


@pytest.mark.parametrize("out", ["whole", "windowed"])
def test_label_studio_takes_tasks_and_predictions(out, tmp_path, request):
    address = request.getfixturevalue(out)
    result = export(address, "label-studio", tmp_path / "x")
    config = ElementTree.parse(tmp_path / "x" / "config.xml").getroot()
    assert config.find("Video").get("frameRate") == "$fps"
    tasks = {task["data"]["video_id"]: task for task in json.loads((tmp_path / "x" / "tasks.json").read_text())}
    assert [*tasks] == sorted(WITH_FILE)
    assert result["left_out"]["videos without an address"] == 1
    for name, task in tasks.items():
        assert not list(label_studio_mistakes(task, config))
        assert not {*json.dumps(task, ensure_ascii=False)} & {*map(chr, range(32))}
        assert ("predictions" in task) == (name != NOTHING)
        shown = {tag.get("value")[1:] for tag in config if (tag.get("value") or "").startswith("$")}
        assert {*task["data"]} >= {*shown, "fps"}
    url = urlsplit(tasks["a-1"]["data"]["video"])
    assert (url.path, unquote(url.query)) == ("/data/local-files/", "d=clips/A & B ü 100%.mp4")
    assert tasks["b-2"]["data"]["video"] == "s3://bucket/b.v2.mkv"
    if out == "windowed":
        check_regions(tasks["b-2"], predicted(address)["b-2"])


def check_regions(task, wanted):
    regions = [one for one in task["predictions"][0]["result"] if one["type"] == "timelinelabels"]
    assert [one["value"]["timelinelabels"] for one in regions] == [[row["label"]] for row in wanted]
    assert task["data"]["fps"] == NTSC
    for one, row in zip(regions, wanted, strict=True):
        [of] = one["value"]["ranges"]
        assert type(of["start"]) is type(of["end"]) is int
        assert abs((of["start"] - 1) / NTSC - row["window_start_s"]) <= 1 / NTSC
        assert abs(of["end"] / NTSC - row["window_end_s"]) <= 1 / NTSC
        assert 1 <= of["start"] <= of["end"] <= round(12.345 * NTSC)


def test_fiftyone_has_a_support_for_each_window_and_a_file_for_each_video(windowed, tmp_path):
    """As ``FiftyOneTemporalDetectionDatasetImporter`` of FiftyOne 1.22.1 reads them: that part needs MongoDB."""
    result = export(windowed, "fiftyone", tmp_path / "x")
    labels, data = (json.loads((tmp_path / "x" / f"{name}.json").read_text()) for name in ("labels", "data"))
    assert labels["classes"] == list(LABELS)
    files = {name.rpartition(".")[0]: path for name, path in data.items()}
    assert {*files} == {*labels["labels"]}
    assert files[file_name(ODD)] == VIDEOS[ODD][2]
    assert labels["labels"][NOTHING] == []
    assert result["left_out"] == {
        "predictions with nothing to go by": 1, "videos without an address": 1, "videos without a frame rate": 1
    }  # fmt: skip
    wanted = predicted(windowed)["a-1"]
    detections = labels["labels"]["a-1"]
    assert [one["support"] for one in detections] == [[1, 250], [126, 375], [251, 500], [376, 550]]
    assert [one["label"] for one in detections] == [row["label"] for row in wanted]


def test_elan_has_tiers_without_overlap(windowed, tmp_path):
    export(windowed, "elan", tmp_path / "x", "--labels", labels_of(tmp_path, {"a-1": "fear"}))
    document = pympi.Elan.Eaf(tmp_path / "x" / "a-1.eaf")
    assert document.get_linked_files()[0]["MEDIA_URL"] == "file:///clips/A%20%26%20B%20%C3%BC%20100%25.mp4"
    assert document.get_linked_files()[0]["MIME_TYPE"] == "video/mp4"
    assert dict(document.properties) == {"video_id": "a-1", "uri": VIDEOS["a-1"][2]}
    times = list(document.timeslots.values())
    assert times == sorted(times)
    tiers = {name: sorted(document.get_annotation_data_for_tier(name)) for name in document.get_tier_names()}
    for found in tiers.values():
        assert all(one[1] <= other[0] for one, other in pairwise(found))
    found = sorted((start, end, text) for name in ("emotion", "emotion 2") for start, end, text, *_ in tiers[name])
    assert found == [
        (round(row["window_start_s"] * 1000), round(row["window_end_s"] * 1000), row["label"])
        for row in predicted(windowed)["a-1"]
    ]
    assert [one[2] for one in tiers["speech"]][2] == "[31mred"
    assert tiers["given"] == [(0, 22000, "fear")]
    assert {
        value for value, *_ in (entry[0][0] for entry in document.controlled_vocabularies["emotions"][1].values())
    } == {*LABELS}
    assert pympi.Elan.Eaf(tmp_path / "x" / f"{file_name(ODD)}.eaf").get_linked_files()[0]["MIME_TYPE"] == "video/mp2t"
    assert {file.stem for file in (tmp_path / "x").glob("*.eaf")} == {file_name(name) for name in WITH_FILE}


def test_via_has_a_segment_for_each_window(windowed, tmp_path):
    """By the editor's data format 3.1.1: a segment has two times and no shape, an option is named by its number."""
    export(windowed, "via", tmp_path / "x", "--labels", labels_of(tmp_path, {"a-1": "fear"}))
    project = json.loads((tmp_path / "x" / "project-001.json").read_text())
    assert {*project} == {"project", "config", "attribute", "file", "metadata", "view"}
    assert project["project"]["vid_list"] == [*project["view"]] == [*project["file"]]
    views = {project["file"][view["fid_list"][0]]["src"]: name for name, view in project["view"].items()}
    options = project["attribute"]["1"]["options"]
    segments = [
        (*one["z"], options[one["av"]["1"]])
        for one in project["metadata"].values()
        if one["vid"] == views["file:///clips/A%20%26%20B%20%C3%BC%20100%25.mp4"] and "1" in one["av"]
    ]
    wanted = [(row["window_start_s"], row["window_end_s"], row["label"]) for row in predicted(windowed)["a-1"]]
    assert segments == wanted
    given = [one for one in project["metadata"].values() if not one["z"]]
    assert [one["av"] for one in given] == [{"4": "fear"}]
    assert all(one["xy"] == [] and one["vid"] in project["view"] for one in project["metadata"].values())
    kinds = Counter((one["type"], one["loc"]) for one in project["file"].values())
    assert kinds == {(4, 3): 3, (4, 2): 1, (8, 3): 1}


# ---- which


def labels_of(folder, labels):
    file = folder / "labels.csv"
    file.write_text("video_id,label,split\n" + "".join(f"{name},{label},test\n" for name, label in labels.items()))
    return file


def test_the_least_confident_come_first(windowed, tmp_path):
    export(windowed, "label-studio", tmp_path / "x", "--pick", "uncertain", "--limit", 3)
    scores = [task["predictions"][0]["score"] for task in json.loads((tmp_path / "x" / "tasks.json").read_text())]
    assert len(scores) == 3
    assert scores == sorted(scores)
    everything = tmp_path / "all"
    export(windowed, "label-studio", everything)
    others = [task["predictions"][0]["score"] for task in json.loads((everything / "tasks.json").read_text())
              if "predictions" in task]  # fmt: skip
    assert min(others) == scores[0]


def test_a_list_comes_in_its_order(whole, tmp_path):
    """As suggest-blacklist writes it."""
    (tmp_path / "list.txt").write_text("b.v2.mkv  # joy, p 0.1\na-1\ngone\n")
    result = export(whole, "jsonl", tmp_path / "x", "--pick", tmp_path / "list.txt", "--only", "content=emotions")
    rows = [json.loads(line) for line in (tmp_path / "x" / "emotions.jsonl").read_text().splitlines()]
    assert [row["video_id"] for row in rows] == ["b-2", "a-1"]
    assert "gone" in result["notes"][0]
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["emotions.jsonl"]


def test_filters_leave_out_rows_and_say_how_many(windowed, tmp_path):
    arguments = ("--min-confidence", 0.6, "--only", "label=joy,fear", "--labels", labels_of(tmp_path, {"a-1": "joy"}))
    result = export(windowed, "parquet", tmp_path / "x", *arguments)
    rows = pq.read_table(tmp_path / "x" / "emotions.parquet").to_pylist()
    wanted = [row for of in predicted(windowed).values() for row in of]
    kept = [row for row in wanted if row["label"] in {"joy", "fear"} and row["confidence"] >= 0.6]
    assert 0 < len(kept) < len(wanted)
    assert len(rows) == len(kept)
    assert result["left_out"]["predictions with nothing to go by"] == 1
    assert sum(result["left_out"].values()) == len(wanted) + 1 - len(kept)
    assert {row["given_label"] for row in rows if row["video_id"] == "a-1"} <= {"joy"}
    there = {row["video_id"] for row in rows}
    assert {*pq.read_table(tmp_path / "x" / "speech.parquet")["video_id"].to_pylist()} == there
    few = tmp_path / "few"
    export(windowed, "csv", few, "--only", "video=A & B*", "--only", "video=s3://bucket/b.v2.mkv")
    assert {*polars.read_csv(few / "emotions.csv")["video_id"]} == {"a-1", "b-2"}


def test_tools_are_told_where_files_are(whole, tmp_path):
    export(whole, "label-studio", tmp_path / "x", "--media-url", "/clips/=http://media/", "--only", "video=a-1")
    [task] = json.loads((tmp_path / "x" / "tasks.json").read_text())
    assert task["data"]["video"] == "http://media/A & B ü 100%.mp4"
    assert task["data"]["uri"] == VIDEOS["a-1"][2]


# ---- what is wrong


def refused(*arguments):
    done = here(main, "export", *arguments)
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_every_mistake_is_named_and_nothing_written(whole, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    labels = labels_of(tmp_path, {"a-1": "joy", "stranger": "fear"})
    said = refused(
        whole, "--to", "excel", "-o", full, "--only", "color=red", "--only", "content=smell", "--only", "label=glee",
        "--only", "video=nobody", "--min-confidence", 98, "--limit", 0, "--labels", labels, "--pick", "none.txt",
        "--media-url", "x", "--predictions", "ba9876543210", "--features", "asr",
    )  # fmt: skip
    for mistake in (
        "--to 'excel': expected one of csv, jsonl, parquet, hf, webvtt, srt, label-studio, fiftyone, elan, via",
        "full' has files in it; expected a new", "--only 'color=red'", "content=smell", "label=glee", "video=nobody",
        "--min-confidence 98: expected 0 to 1", "--limit 0", "1 of its rows name no video of OUT: stranger",
        "expected uncertain or a list", "--media-url 'x'", "NAME=FINGERPRINT",
    ):  # fmt: skip
        assert mistake in said
    assert [file.name for file in full.iterdir()] == ["mine.txt"]
    assert "no place for given labels" in refused(whole, "--to", "srt", "-o", tmp_path / "x", "--labels", labels)
    assert "s3" in refused(whole, "--to", "csv", "-o", "s3://bucket/x")
    assert {file.name for file in tmp_path.iterdir()} == {"full", "labels.csv"}


def test_an_empty_folder_has_nothing_to_export(tmp_path):
    (tmp_path / "out").mkdir()
    assert "has no video yet" in refused(tmp_path / "out", "--to", "csv", "-o", tmp_path / "x")
    assert "no such output folder" in refused(tmp_path / "gone", "--to", "csv", "-o", tmp_path / "x")
    assert {file.name for file in tmp_path.iterdir()} == {"out"}


def test_nothing_that_is_left_is_a_mistake(whole, tmp_path):
    said = refused(whole, "--to", "fiftyone", "-o", tmp_path / "x", "--min-confidence", 1)
    assert "nothing is left to export of 6 videos (1 predictions with nothing to go by; 5 predictions below" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", [name for name, form in FORMATS.items() if form.may_be_blank])
def test_what_is_not_predicted_yet_can_be_labelled(tmp_path, to):
    out = make_out(tmp_path / "out", videos={"a-1": VIDEOS["a-1"]})
    for file in (tmp_path / "out" / "predictions").rglob("*"):
        if file.is_file():
            file.unlink()
    result = export(out, to, tmp_path / "x")
    assert "nothing is predicted yet" in result["notes"][0]
    assert result["counts"]["videos"] == 1


def test_a_run_may_write_meanwhile(tmp_path, monkeypatch):
    """Videos and predictions that are committed between two chunks; those of another model too."""
    monkeypatch.setattr("vemoclap_batch.report.exports.source.CHUNK", 2)
    out = make_out(tmp_path / "out")
    form = FORMATS["jsonl"]
    add = form.add

    def adding(self, chunk):
        add(self, chunk)
        late = {f"late-{chunk.videos['video_id'][0].as_py()}": (25.0, 5.0, "/clips/late.mp4")}
        add_predictions(Store(out), late, None)

    monkeypatch.setattr(form, "add", adding)
    export(out, "jsonl", tmp_path / "x", "--only", "content=emotions")
    rows = [json.loads(line) for line in (tmp_path / "x" / "emotions.jsonl").read_text().splitlines()]
    assert [row["video_id"] for row in rows] == sorted(VIDEOS)


_INTERRUPTED = """
import os, signal, sys
from vemoclap_batch.report.exports import captions
add = captions.Captions.add

def adding(self, chunk):
    add(self, chunk)
    os.kill(os.getpid(), getattr(signal, sys.argv.pop()))

captions.Captions.add = adding
from vemoclap_batch.cli.app import main
main(sys.argv[1:-1])
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_export_that_is_stopped_leaves_nothing(whole, tmp_path, name, status):
    arguments = ["export", whole, "--to", "webvtt", "-o", tmp_path / "x", "--", name]
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert "nothing was written" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(whole, tmp_path, monkeypatch):
    def full(self, chunk):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FORMATS["elan"], "add", full)
    done = here(main, "export", whole, "--to", "elan", "-o", tmp_path / "x")
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "No space left on device\nnothing was written" in done.stderr
