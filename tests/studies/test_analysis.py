"""What is said of a data set is what is in its tables, and labels that a test flipped are found and listed."""

import csv
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import typer

from vemoclap_batch.cli import analysis as cli_analysis
from vemoclap_batch.config import LABELS
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.training import PRESETS
from vemoclap_batch.sources.blacklist import VideoNames, find_listed, read_blacklist
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.studies.analysis import analyze, current_table
from vemoclap_batch.studies.analysis_page import write_analysis
from vemoclap_batch.studies.label_errors import Options, as_list, files_beside, line_of, suggest_blacklist

pytestmark = pytest.mark.numeric

FACES = pa.list_(pa.struct([("frame", pa.int32()), ("expression", pa.string()), ("score", pa.float32())]))
TEXT = {"text": pa.string(), "language": pa.string()}
# What a hostile video may say: lines, colours, comments, a change of direction.
NASTY = "ha\nv1  # x\r\x1b[31m # \u202e\u2028end\x00"


def add_table(store, name, fingerprint, rows, columns=None, width=0, sequence=False, run_id="r1"):
    """Rows of one extractor: per video id what its columns hold."""
    made = {"space": f"made/{name}" if width else None, "width": width, "sequence": sequence, "identity": {}}
    store.describe_features(name, fingerprint, made)
    schema = schemas.features(sequence, columns or {}, width)
    key = {"content_key": "1", "run_id": run_id}
    full = [dict.fromkeys(schema.names) | key | {"video_id": video} | row for video, row in rows.items()]
    store.features(name, fingerprint, schema).append(pa.Table.from_pylist(full, schema=schema))


def add_videos(store, rows):
    empty = dict.fromkeys(schemas.VIDEOS.names) | {"content_key": "1", "run_id": "r1"}
    full = [empty | {"video_id": video, "uri": f"/clips/{video}.mp4"} | row for video, row in rows.items()]
    store.videos().append(pa.Table.from_pylist(full, schema=schemas.VIDEOS))


def write_labels(path, labels):
    path.write_text("video_id,label\n" + "".join(f"{name},{label}\n" for name, label in labels.items()))
    return str(path)


def run(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(cli_analysis.analyze)
    app.command()(cli_analysis.suggest_blacklist)
    app([*map(str, arguments)], standalone_mode=False)


# ---- analyze


@pytest.fixture
def small(tmp_path):
    """Ten videos of joy and ten of fear; of joy 0–7 are long and speak, of fear 0–1; all of joy are wide."""
    store = Store(str(tmp_path / "out"))
    names = [f"{label}{n}" for label in ("joy", "fear") for n in range(10)]
    speaks = {name: int(name[-1]) < (8 if name[0] == "j" else 2) for name in names}
    add_videos(store, {
        name: {"duration_s": 90.0 if speaks[name] else 10.0, "width": 640, "height": 480 if name[0] == "j" else 1200}
        for name in names
    })  # fmt: skip
    add_table(store, "asr", "new", {n: {"text": "so it is" if speaks[n] else " \n"} for n in names}, TEXT, run_id="r2")
    add_table(store, "asr", "old", {n: {"text": "old"} for n in names}, TEXT)
    some = [{"frame": 0, "expression": "happy", "score": 0.9}]
    add_table(
        store, "face_emotion", "f", {n: {"faces": some if n[0] == "j" else []} for n in names if n != "joy9"},
        {"faces": FACES}, 2, True,
    )  # fmt: skip
    write_labels(tmp_path / "labels.csv", {name: name[:-1] for name in names} | {"gone": "joy"})
    return tmp_path


def test_counts_before_and_after_are_those_of_the_tables(small):
    (small / "list.txt").write_text("joy0\n/clips/joy1.mp4  # a reason\njoy2.webm\nfear/fear9\nabsent.mp4\n# joy3\n")
    result = analyze(Store(str(small / "out")), str(small / "labels.csv"), str(small / "list.txt"))
    assert result["blacklist"] == {"file": "list.txt", "names": 5, "removed": 4, "unknown": ["absent.mp4"]}
    before, after, removed = (result["groups"][name] for name in ("before", "after", "removed"))
    assert {name: before[name]["n"] for name in ("all", "joy", "fear", "anger")} == {
        "all": 20, "joy": 10, "fear": 10, "anger": 0,
    }  # fmt: skip
    assert [group["joy"]["n"] for group in (after, removed)] == [7, 3]
    assert after["joy"]["share"] == 7 / 16
    assert before["joy"]["duration_s"] == {"known": 10, "quartiles": [90.0, 90.0, 90.0], "total": 740.0}
    assert before["all"]["durations"] == [10, 0, 0, 10, 0, 0]
    assert removed["all"]["durations"] == [1, 0, 0, 3, 0, 0]
    assert before["all"]["resolutions"] == [0, 0, 0, 20, 0, 0]
    assert before["fear"]["short_side"]["quartiles"] == [640.0] * 3
    # The newest of two tables of asr is read: white space is no speech.
    assert result["tables"]["speech"] == "asr/new, column text"
    assert before["joy"]["speech"] == {"known": 10, "present": 8}
    assert after["fear"]["speech"] == {"known": 9, "present": 2}
    assert before["joy"]["face"] == {"known": 9, "present": 9}
    assert "text" not in before["all"]
    assert result["notes"] == [
        "1 labelled rows have no video in OUT and are not counted",
        "face: not known of 1 videos, which have no row in face_emotion/f, column faces",
        "text: not known, OUT has no table ocr or ocr_sentiment",
        "1 names in list.txt are no labelled video in OUT",
    ]


def test_tests_are_of_kept_against_removed(small):
    (small / "list.txt").write_text("".join(f"joy{n}\n" for n in range(10)))
    result = analyze(Store(str(small / "out")), str(small / "labels.csv"), str(small / "list.txt"))
    tests = {test["what"]: test for test in result["tests"]}
    assert list(tests) == ["class", "duration", "resolution", "speech", "face"]
    by_class = tests["class"]
    assert by_class["kept"] == [0, 0, 10, 0, 0, 0]
    assert by_class["removed"] == [0, 0, 0, 10, 0, 0]
    assert (by_class["test"], by_class["statistic"], by_class["dof"]) == ("chi-square", pytest.approx(20), 1)
    assert by_class["p"] == pytest.approx(7.744e-6, rel=1e-3)
    # Fisher's p of 8 and 2 against 2 and 8: 2 (45 · 45 + 10 · 10 + 1) / C(20, 10).
    speech = tests["speech"]
    assert (speech["kept"], speech["removed"]) == ([2, 8], [8, 2])
    assert (speech["test"], speech["statistic"]) == ("chi-square", pytest.approx(7.2))
    assert tests["resolution"]["why"] == "no test: all videos are of one kind"
    assert tests["face"]["test"] == "Fisher's exact"
    assert tests["face"]["p"] == pytest.approx(2 / 92378 / 2)
    assert all(test["p"] is None or test["p"] <= test["p_holm"] <= 1 for test in tests.values())


def test_a_list_that_was_applied_already_and_one_that_is_ambiguous(small):
    store, labels, path = Store(str(small / "out")), str(small / "labels.csv"), small / "list.txt"
    path.write_text("other1\nother2\n")
    result = analyze(store, labels, str(path))
    assert result["blacklist"]["unknown"] == ["other1", "other2"]
    assert "were its videos left out of the labels file already?" in result["notes"][-1]
    assert {test["p"] for test in result["tests"]} == {None}
    add_videos(store, {"other": {"uri": "/clips/more/joy0.mp4"}})
    write_labels(small / "labels.csv", {"joy0": "joy", "other": "joy"})
    path.write_text("joy0.mp4\n")
    with pytest.raises(ConfigError, match=r"fit more than one video: joy0\.mp4"):
        analyze(store, labels, str(path))


def test_imported_features_tell_presence_by_their_length(tmp_path):
    store = Store(str(tmp_path / "out"))
    add_videos(store, {name: {"uri": None} for name in ("a", "b", "c")})
    for name in ("asr_sentiment", "face_emotion"):
        full = {"feature": [[1.0, 2.0]]}
        add_table(store, name, "i", {"a": full, "b": {"feature": []}, "c": full}, width=2, sequence=name[0] == "f")
    result = analyze(store, write_labels(tmp_path / "l.csv", {"a": "joy", "b": "joy", "c": "fear"}))
    assert result["tables"] == {
        "speech": "asr_sentiment/i, column feature", "face": "face_emotion/i, column feature",
    }  # fmt: skip
    assert result["groups"]["before"]["joy"]["face"] == {"known": 2, "present": 1}
    assert list(result["groups"]) == ["before"]
    assert result["groups"]["before"]["all"]["duration_s"] == {"known": 0, "quartiles": None, "total": 0.0}
    assert "duration: not known of 3 videos" in result["notes"]
    assert write_analysis(result, str(tmp_path / "page"))[-1] == "presence.png"


def test_the_preferred_table_goes_before_the_newest(small):
    store = Store(str(small / "out"))
    assert current_table(store, "asr").folder.endswith("/new")
    assert current_table(store, "asr", "old").folder.endswith("/old")
    assert current_table(store, "asr", "never made").folder.endswith("/new")
    assert current_table(store, "clip") is None


def test_the_command_prints_and_writes_it_all(small, capsys):
    evil = "no|body\x1b[31m`<script>"
    (small / "list.txt").write_text(f"joy0\njoy1\njoy2\n{evil}\n")
    # The profile's own fingerprint is that of neither table.
    run("analyze", small / "out", "--labels", small / "labels.csv", "--blacklist", small / "list.txt",
        "-o", small / "page", "--profile", tiny_profile(small), "--json")  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines.pop())
    assert result == {"out": str(small / "out")} | json.loads((small / "page" / "analysis.json").read_text())
    assert all(line.isprintable() for line in lines)
    assert "no labelled video in OUT: no|body [31m`<script>" in lines
    assert "20 labelled videos; list.txt (4 names) removes 3 (15.0 %)." in lines
    [joy] = [line.split() for line in lines if line.startswith("  joy ") and "30.0" in line]
    assert joy == ["joy", "10", "50.0", "%", "7", "41.2", "%", "3", "100.0", "%", "30.0", "%"]
    page = (small / "page" / "analysis.md").read_text()
    assert "| joy | 10 | 50.0 % | 7 | 41.2 % | 3 | 100.0 % | 30.0 % |" in page
    assert "* `no|body [31m'<script>`" in page
    for name in ("classes.png", "kinds.png", "presence.png"):
        assert f"![{name}]({name})" in page
        assert (small / "page" / name).read_bytes()[:4] == b"\x89PNG"


def tiny_profile(folder):
    (folder / "tiny.yaml").write_text('extractors: {asr: {class: "tests.tiny:TinySound"}}\n')
    return folder / "tiny.yaml"


# ---- suggest-blacklist


def made(folder, per_label, share=0.1, noise=0.3, seed=0):
    """A store whose features point at the true label, most of them, and a labels file with some labels flipped."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(6), per_label))
    ids = [f"v{row}" for row in range(len(truth))]
    flipped = set(rng.choice(len(ids), round(share * len(ids)), replace=False).tolist())
    given = {name: int((truth[row] + rng.integers(1, 6) * (row in flipped)) % 6) for row, name in enumerate(ids)}

    def points(row, most):
        n = int(rng.integers(1, most + 1)) if rng.random() < 0.8 else 0
        return (np.eye(6)[truth[row]] + noise * rng.normal(size=(n, 6))).tolist()

    store = Store(str(folder / "out"))
    add_videos(store, {name: {"duration_s": 20.0} for name in ids})
    for name in ("asr_sentiment", "ocr_sentiment"):
        add_table(store, name, "s", {v: {"feature": points(row, 1)} for row, v in enumerate(ids)}, width=6)
    face = [{"frame": 0, "expression": "happy", "score": 0.9}]
    seen = {v: {"feature": points(row, 5), "faces": face * (row % 3)} for row, v in enumerate(ids)}
    add_table(store, "face_emotion", "s", seen, {"faces": FACES}, 6, True)
    add_table(store, "asr", "s", {v: {"text": NASTY, "language": "en"} for v in ids}, TEXT)
    labels = write_labels(folder / "labels.csv", {name: LABELS[label] for name, label in given.items()})
    return store, labels, truth, {ids[row] for row in flipped}


OPTIONS = Options(
    frames=4, d_model=32, heads=2, dropout=0.2,
    settings=PRESETS["quick"].model_copy(update={"lr": 1e-2, "max_steps": 250, "evaluate_every": 20}),
)  # fmt: skip


@pytest.fixture(scope="module")
def suggested(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flipped")
    store, labels, truth, flipped = made(folder, 50)
    return store, labels, truth, flipped, suggest_blacklist(store, labels, OPTIONS)


def test_most_flipped_labels_are_found(suggested):
    _, _, truth, flipped, result = suggested
    names = [suspect["video_id"] for suspect in result["suspects"]]
    hits = [name for name in names if name in flipped]
    precision, recall = len(hits) / len(names), len(hits) / len(flipped)
    print(f"precision {precision:.2f}, recall {recall:.2f}, {len(names)} suspects, accuracy {result['accuracy']:.2f}")
    assert precision >= 0.7
    assert recall >= 0.7
    # The first ones are the surest.
    assert sum(name in flipped for name in names[:15]) >= 13
    right = [s["likelier"] == LABELS[truth[int(s["video_id"][1:])]] for s in result["suspects"]]
    assert np.mean([ok for ok, name in zip(right, names, strict=True) if name in flipped]) > 0.85


def test_the_report_of_it_adds_up(suggested):
    _, _, _, _, result = suggested
    assert result["n"] == 300
    assert {video["video_id"] for video in result["videos"]} == {f"v{row}" for row in range(300)}
    assert set(Counter(video["fold"] for video in result["videos"]).values()) == {60}
    agree = [max(LABELS, key=lambda name: video[f"p_{name}"]) == video["given"] for video in result["videos"]]
    assert np.mean(agree) == pytest.approx(result["accuracy"])
    assert [v["video_id"] for v in result["videos"] if v["suggested"]] == [s["video_id"] for s in result["suspects"]]
    assert sum(row["suspected"] for row in result["per_class"].values()) == len(result["suspects"])
    for suspect in result["suspects"]:
        assert suspect["p_given"] < suspect["p_likelier"]
        assert suspect["uri"] == f"/clips/{suspect['video_id']}.mp4"
        faces = int(suspect["video_id"][1:]) % 3
        assert suspect["seen"] == ("no face", "1 face, mostly happy", "2 faces, mostly happy")[faces]
    assert result["preset"] == "quick, lr=0.01, max_steps=250, evaluate_every=20"
    assert result["fingerprints"] == dict.fromkeys(("asr_sentiment", "face_emotion", "ocr_sentiment"), "s")


def test_the_list_has_one_safe_line_a_video_and_removes_just_these(suggested, tmp_path):
    store, labels, _, _, result = suggested
    text = as_list(result)
    lines = text.split("\n")
    assert all(line.isprintable() for line in lines)
    entries = [line for line in lines if line and not line.startswith("#")]
    assert len(entries) == len(result["suspects"])
    first = result["suspects"][0]
    given, likelier = (f"{first[n]} ({100 * first[f'p_{n}']:.0f} %)" for n in ("given", "likelier"))
    assert entries[0].startswith(f'{first["video_id"]}  # given {given}, looks like {likelier}: heard "ha v1 # x')
    assert entries[0].endswith(first["uri"])
    (tmp_path / "list.txt").write_text(text)
    listed = analyze(store, labels, str(tmp_path / "list.txt"))["blacklist"]
    assert listed == {
        "file": "list.txt", "names": len(entries), "removed": len(result["suspects"]), "unknown": [],
    }  # fmt: skip


def test_an_id_that_no_list_can_hold_is_said(tmp_path):
    suspect = {"given": "joy", "p_given": 0.03, "likelier": "fear", "p_likelier": 0.91, "uri": None}
    assert line_of(suspect | {"video_id": "v1"}) == "v1  # given joy (3 %), looks like fear (91 %)"
    for name in ("a\nv2", "#a", "a #b", "v2\u2028"):
        line = line_of(suspect | {"video_id": name})
        assert line.startswith("# its id cannot stand in a list: ")
        assert line.isprintable()
        (tmp_path / "list.txt").write_text(line + "\n")
        found = find_listed(read_blacklist(str(tmp_path / "list.txt")), VideoNames(["v2"], [None], ["joy"]), "list")
        assert found.rows == []


def test_the_command_writes_the_same_list_again(tmp_path, capsys):
    made(tmp_path, 8, share=0)
    profile = tiny_profile(tmp_path)
    outputs = []
    for name in ("first.txt", "again.txt"):
        run("suggest-blacklist", tmp_path / "out", "--labels", tmp_path / "labels.csv", "-o", tmp_path / name,
            "--profile", profile, "--folds", "2", "--d-model", "4", "--heads", "1", "--use", "asr_sentiment",
            "--hyper", "max_steps=40", "--hyper", "evaluate_every=20", "--json")  # fmt: skip
        outputs.append(capsys.readouterr())
    result = json.loads(outputs[0].out.splitlines()[-1])
    assert result["files"] == {
        "list": str(tmp_path / "first.txt"), "csv": str(tmp_path / "first.csv"), "json": str(tmp_path / "first.json"),
    }  # fmt: skip
    assert (result["n"], result["folds"], list(result["fingerprints"])) == (48, 2, ["asr_sentiment"])
    assert f"{len(result['suspects'])} of 48 labels look wrong" in outputs[0].out
    for suffix in ("txt", "csv", "json"):
        assert (tmp_path / f"first.{suffix}").read_text() == (tmp_path / f"again.{suffix}").read_text()
    with (tmp_path / "first.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48
    assert [row["video_id"] for row in rows if row["suggested"] == "True"] == [
        suspect["video_id"] for suspect in result["suspects"]
    ]


def test_mistakes_are_named(tmp_path):
    store, labels, _, _ = made(tmp_path, 3, share=0)
    for options, expected in (
        (Options(folds=1), r"--folds 1: expected 2 to 18"),
        (Options(folds=19), "--folds 19"),
        (Options(heads=3), "multiple of heads"),
        (Options(split="nothing"), "--split nothing"),
    ):
        with pytest.raises(ConfigError, match=expected):
            suggest_blacklist(store, labels, options)
    with pytest.raises(ConfigError, match=r"--use 'asr': expected one of asr_sentiment, face_emotion, ocr_sentiment"):
        suggest_blacklist(store, labels, Options(), names=["asr"])
    with pytest.raises(ConfigError, match="label 'fear': one video only"):
        suggest_blacklist(store, write_labels(tmp_path / "l.csv", {"v0": "fear", "v1": "joy", "v2": "joy"}), Options())
    with pytest.raises(ConfigError, match="holds no features"):
        suggest_blacklist(Store(str(tmp_path / "none")), labels, Options())
    for name in ("x.csv", "x.json", "folder/"):
        with pytest.raises(ConfigError, match="expected a text file"):
            files_beside(name)
