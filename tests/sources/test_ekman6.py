"""Ekman-6 from folders and lists to a manifest that the other commands take."""

import json
import random

import pytest

from vemoclap_batch.cli.imports import manifest_ekman6
from vemoclap_batch.config import LABELS
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.sources import manifest as M
from vemoclap_batch.sources.ekman6 import read_ekman6


def touch(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


@pytest.fixture
def classes(tmp_path):
    """Six class folders with four videos each, one of them deeper, and files that are none."""
    names = [f"{label.title()}/{label[:2]}{n}.mp4" for label in LABELS for n in range(3)]
    names += [f"{label.title()}/more/{label[:2]}3.webm" for label in LABELS]
    return touch(tmp_path / "ekman", [*names, "readme.txt", "Anger/notes.txt"])


@pytest.fixture
def flat(tmp_path):
    """The same videos in one folder, with a label file."""
    names = [f"{label[:2]}{n}.mp4" for label in LABELS for n in range(4)]
    folder = touch(tmp_path / "flat", names)
    lines = ["file,label", *[f"{label[:2]}{n}.mp4,{label.upper()}" for label in LABELS for n in range(4)]]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def rows(found):
    return {row["video_id"]: row for row in found.manifest.rows.to_pylist()}


def test_a_folder_per_class(classes):
    found = read_ekman6(str(classes))
    assert len(rows(found)) == 24
    for row in rows(found).values():
        assert row["label"][:2] == row["video_id"][:2]
        assert row["split_source"] == "stratified seed 1"
    deep = rows(found)["jo3"]
    assert deep["uri"] == str(classes / "Joy" / "more" / "jo3.webm")
    assert deep["content_key"] == M.read_sources([deep["uri"]]).rows["content_key"][0].as_py()
    assert found.counts() == {label: {"train": 2, "test": 2} for label in LABELS}
    assert found.manifest.ignored == {".txt": 2}
    assert found.notes == []


def test_the_drawn_split_is_the_published_sizes_and_depends_on_the_seed_alone(tmp_path):
    sizes = dict(zip(LABELS, (225, 239, 287, 305, 221, 360), strict=True))
    names = [f"{label}/{label}-{n}.mp4" for label, size in sizes.items() for n in range(size)]
    touch(tmp_path / "a", names)
    random.Random(0).shuffle(names)
    touch(tmp_path / "elsewhere" / "b", names)
    first, again = read_ekman6(str(tmp_path / "a")), read_ekman6(str(tmp_path / "elsewhere" / "b"))
    splits = {name: row["split"] for name, row in rows(first).items()}
    assert sum(split == "train" for split in splits.values()) == 819
    assert sum(split == "test" for split in splits.values()) == 818
    for label, size in sizes.items():
        assert abs(first.counts()[label]["train"] - size / 2) <= 0.5
    assert splits == {name: row["split"] for name, row in rows(again).items()}
    other = read_ekman6(str(tmp_path / "a"), seed=2)
    assert other.split_source == "stratified seed 2"
    same = sum(row["split"] == splits[name] for name, row in rows(other).items())
    assert 700 < same < 940


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.csv", "video_id,split\nan0,train\njo1.mp4,TEST\nJoy/jo2,training\n"),
        ("s.csv", "an0,train\njo1.mp4,test\nEkman6/Joy/jo2.avi,train\n"),
        ("s.tsv", "split\tname\ntrain\tan0\ntest\tjo1\ntrain\tJoy\\jo2.mp4\n"),
        ("s.txt", "# the usual split\nan0.mp4 train\n\njo1\ttest\n./Joy/jo2.mp4, train\n"),
        ("s.jsonl", '{"uri": "an0.mp4", "split": "train"}\n{"file": "jo1", "split": "test"}\n'
                    '{"video": "joy/jo2", "split": "train"}\n'),
    ],
)  # fmt: skip
def test_a_split_file_in_every_form(classes, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = read_ekman6(str(classes), str(tmp_path / name))
    given = {name: row["split"] for name, row in rows(found).items() if row["split"]}
    assert given == {"an0": "train", "jo1": "test", "jo2": "train"}
    assert found.split_source == f"file {name}"
    assert rows(found)["an0"]["split_source"] == f"file {name}"
    assert rows(found)["an1"]["split_source"] is None
    assert [note for note in found.notes if note.startswith(f"21 videos are not in {name} and have no split: ")]


def test_a_manifest_of_this_command_is_a_split_file_too(classes, tmp_path):
    drawn = read_ekman6(str(classes), seed=5)
    for name in ("m.csv", "m.jsonl"):
        M.write_manifest(drawn.manifest, str(tmp_path / name))
        again = read_ekman6(str(classes), str(tmp_path / name))
        assert {k: row["split"] for k, row in rows(again).items()} == {k: v["split"] for k, v in rows(drawn).items()}
        assert again.notes == []


def test_a_flat_folder_with_a_label_file(flat):
    found = read_ekman6(str(flat))
    assert len(rows(found)) == 24
    assert rows(found)["su3"]["label"] == "surprise"
    (flat / "labels.csv").unlink()
    lines = [f"anger/{label[:2]}{n} {label}" for label in LABELS for n in range(4)]
    (flat / "labels.txt").write_text("\n".join(lines) + "\n")
    assert rows(read_ekman6(str(flat))) == rows(found)


def test_labels_and_splits_in_one_file(flat, tmp_path):
    names = [(label, f"{label[:2]}{n}") for label in LABELS for n in range(4)]
    lines = [json.dumps({"video_id": name, "label": label, "split": "test"}) for label, name in names]
    (flat / "labels.csv").unlink()
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    by_split = read_ekman6(str(flat), str(tmp_path / "all.jsonl"))
    assert by_split.counts()["joy"] == {"test": 4}
    assert by_split.split_source == "file all.jsonl"
    (flat / "labels.jsonl").write_text("\n".join(lines))
    assert read_ekman6(str(flat)).split_source == "file labels.jsonl"


def test_the_same_name_in_two_classes(tmp_path):
    touch(tmp_path / "e", [f"{label}/{n}.mp4" for label in LABELS for n in (1, 2)])
    (tmp_path / "s.txt").write_text("\n".join(f"{label}/{n}.avi train" for label in LABELS for n in (1, 2)))
    found = read_ekman6(str(tmp_path / "e"), str(tmp_path / "s.txt"))
    assert sorted(rows(found)) == sorted(f"{label}_{n}" for label in LABELS for n in (1, 2))
    assert not found.notes
    # Not to be taken for the video of that name in another class.
    (tmp_path / "e" / "joy" / "2.mp4").rename(tmp_path / "e" / "joy" / "3.mp4")
    assert "1 names in s.txt are no video here: joy/2.avi" in read_ekman6(
        str(tmp_path / "e"), str(tmp_path / "s.txt")
    ).notes  # fmt: skip
    (tmp_path / "s.txt").write_text("1.mp4 train\n")
    with pytest.raises(ConfigError, match=r"entry 1 \(1.mp4\): fits 6 videos"):
        read_ekman6(str(tmp_path / "e"), str(tmp_path / "s.txt"))


def test_the_blacklist_takes_videos_out_and_leaves_the_split_alone(classes, tmp_path):
    before = rows(read_ekman6(str(classes)))
    (tmp_path / "black.txt").write_text(
        "# by the authors\nan0\njo1.mp4  # a concert\n\nJoy/more/jo3.webm\ngone.mp4\nan0\n"
    )
    found = read_ekman6(str(classes), blacklist=str(tmp_path / "black.txt"))
    assert before.keys() - rows(found).keys() == {"an0", "jo1", "jo3"}
    assert {name: before[name] | {"blacklist": "black.txt"} for name in rows(found)} == rows(found)
    removed = [before[name]["split"] for name in ("an0", "jo1", "jo3")]
    assert found.removed == {name: removed.count(name) for name in set(removed)}
    assert found.notes[0].startswith("3 videos removed by black.txt (")
    assert "1 names in black.txt are no video here: gone.mp4" in found.notes


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_manifest_is_what_the_other_commands_take(classes, tmp_path, suffix):
    found = read_ekman6(str(classes))
    path = str(tmp_path / f"m{suffix}")
    M.write_manifest(found.manifest, path)
    wanted = found.manifest.rows.select(M.SCHEMA.names)
    assert M.read_sources([path]).rows.sort_by("uri").equals(wanted.sort_by("uri"))
    labels = M.read_labels(path)
    assert labels["video_id"] == wanted["video_id"].to_pylist()
    assert labels["label"] == wanted["label"].to_pylist()
    assert labels["split"] == wanted["split"].to_pylist()
    assert set(labels["split_source"]) == {"stratified seed 1"}


def test_all_mistakes_are_named_at_once(classes, tmp_path):
    touch(classes, ["Happy/x.mp4", "loose.mp4", "Joy/again/jo1.mp4"])
    (tmp_path / "s.csv").write_text("video,split\nan0,train\nan0,test\nan1,both\n")
    with pytest.raises(ConfigError) as caught:
        read_ekman6(str(classes), str(tmp_path / "s.csv"), str(tmp_path / "none.txt"))
    text = str(caught.value)
    for expected in (
        "none.txt': no such file",
        "2 videos are in none of the class folders anger, ",
        "surprise: loose.mp4, Happy/x.mp4",
        "two videos of one class and name: Joy/jo1.mp4 and Joy/again/jo1.mp4",
        "entry 2 (an0): split test, but an earlier entry says train",
        "entry 3 (an1): split 'both'; expected train, test or validation",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no such folder"),
        (["a.txt"], "no video found"),
        (["a.mp4"], "neither class folders (anger, "),
        (["a.mp4", "labels.csv", "labels.txt"], "more than one label file (labels.csv, labels.txt)"),
    ],
)
def test_other_folders_are_named(tmp_path, names, message):
    touch(tmp_path / "e", names)
    with pytest.raises(ConfigError) as caught:
        read_ekman6(str(tmp_path / "e"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.csv", "", "no entry with a split"),
        ("s.csv", "video_id,label\nan0,anger\n", "no entry with a split"),
        ("s.csv", "an0,train,x\n", "entry 1: 3 columns, expected 2"),
        ("s.csv", "x.mp4,train\ny,test\n", "none of its 2 names is a video here: x.mp4, y"),
        ("s.jsonl", "[1]\n", "line 1 is no JSON object"),
        ("s.jsonl", '{"split": "train"}\n', "no name in 'train'; expected a column video_id"),
        ("s.txt", "\udcff", "cannot be read"),
    ],
)
def test_mistakes_in_a_split_file_are_named(classes, tmp_path, name, text, message):
    (tmp_path / name).write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigError) as caught:
        read_ekman6(str(classes), str(tmp_path / name))
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_labels_that_are_wrong_or_lacking_are_named(flat, tmp_path):
    text = (flat / "labels.csv").read_text().replace("an0.mp4,ANGER", "an0.mp4,furious").replace("jo1.mp4,JOY\n", "")
    (flat / "labels.csv").write_text(text + "other.mp4,joy\n")
    with pytest.raises(ConfigError) as caught:
        read_ekman6(str(flat))
    assert "entry 1 (an0.mp4): label 'furious'; expected one of anger" in str(caught.value)
    assert "2 videos have no label in labels.csv: an0.mp4, jo1.mp4" in str(caught.value)


def test_a_set_that_lacks_a_class_says_so(tmp_path):
    touch(tmp_path / "e", ["joy/a.mp4", "joy/b.mp4", "anger/c.mp4"])
    (tmp_path / "b.txt").write_text("c\n")
    found = read_ekman6(str(tmp_path / "e"), blacklist=str(tmp_path / "b.txt"))
    assert "no video of anger, disgust, fear, sadness, surprise" in found.notes
    (tmp_path / "b.txt").write_text("a\nb\nc\n")
    with pytest.raises(ConfigError, match="the blacklist leaves no video"):
        read_ekman6(str(tmp_path / "e"), blacklist=str(tmp_path / "b.txt"))


def test_the_command_says_what_it_wrote(classes, tmp_path, capsys):
    manifest_ekman6([str(classes)], str(tmp_path / "m.csv"), None, None, None)
    printed = capsys.readouterr().out
    assert "joy           2 test,    2 train" in printed
    assert printed.endswith("24 videos written to " + str(tmp_path / "m.csv") + "; split: stratified seed 1\n")
    assert len(M.read_labels(str(tmp_path / "m.csv"))["label"]) == 24
    for folders in ([], ["a", "b"]):
        with pytest.raises(ConfigError, match="expected one folder"):
            manifest_ekman6(folders, str(tmp_path / "m.csv"), None, None, None)
