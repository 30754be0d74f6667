"""Lists of videos: how they are read, and which video a name means."""

import pytest

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.sources.blacklist import VideoNames, can_be_listed, find_listed, read_blacklist

IDS = ["joy_12", "fear_12", "a.b", "clip#1", "deep-0123456789", "imported"]
URIS = ["/d/Joy/12.mp4", "/d/fear/12.mp4", "/d/x/a.b.webm", "/d/x/clip#1.mp4", "s3://bucket/b/deep.mov", None]
NAMES = VideoNames(IDS, URIS, ["joy", "fear", "joy", "anger", "anger", "anger"])


def test_comments_empty_lines_and_repeats(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes('\ufeff# all\r\n\r\n joy_12 \t# why: "# no"\r\nclip#1.mp4\r\n#x\r\njoy_12\r\nà b.mp4#\n'.encode())
    assert read_blacklist(str(path)) == ["joy_12", "clip#1.mp4", "à b.mp4#"]


@pytest.mark.parametrize(("name", "said"), [("none.txt", "no such file"), ("bytes.txt", "cannot be read")])
def test_a_list_that_cannot_be_read_is_named(tmp_path, name, said):
    (tmp_path / "bytes.txt").write_bytes(b"a\xff\n")
    with pytest.raises(ConfigError, match=f"{name}.*{said}"):
        read_blacklist(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("joy_12", {0}), ("/d/Joy/12.mp4", {0}), ("joy/12.mp4", {0}), ("FEAR\\12.avi", {1}), ("./Fear/12", {1}),
        ("12", {0, 1}), ("12.mp4", {0, 1}), ("a.b", {2}), ("a.b.webm", {2}), ("a.b.mp4", {2}), ("a", set()),
        ("clip#1", {3}), ("deep", {4}), ("deep.mov", {4}), ("b/deep", {4}), ("imported", {5}), ("imported.mp4", {5}),
        ("anger/imported", {5}), ("joy/imported", set()), ("", set()), ("joy/", set()), ("nothing", set()),
    ],
)  # fmt: skip
def test_what_a_name_means(name, rows):
    assert NAMES.rows(name) == rows


def test_folders_tell_files_of_one_name_apart():
    names = VideoNames(["a-1", "b-2"], ["/set/train/x/7.mp4", "/set/test/x/7.mp4"], ["joy", "joy"])
    assert names.rows("test/x/7.mp4") == {1}
    assert names.rows("train/x/7") == {0}
    assert names.rows("x/7.mp4") == {0, 1}


def test_an_id_goes_before_a_file_name():
    names = VideoNames(["7", "other"], ["/x/8.mp4", "/x/7.mp4"], ["joy", "joy"])
    assert names.rows("7") == {0}
    assert names.rows("7.mp4") == {1}


def test_what_matches_nothing_or_too_much_is_named():
    found = find_listed(["joy_12", "nothing", "deep.mov", "b/deep"], NAMES, "list.txt")
    assert (found.rows, found.unknown) == ([0, 4], ["nothing"])
    with pytest.raises(ConfigError, match=r"'list.txt': names that fit more than one video: 12, 12\.mp4"):
        find_listed(["12", "a", "12.mp4"], NAMES, "list.txt")


@pytest.mark.parametrize(
    ("name", "can"),
    [("a b", True), ("clip#1", True), ("-x", True), ("a #b", False), ("#a", False), ("a\nb", False), (" a", False)],
)
def test_which_ids_can_stand_in_a_list(name, can):
    assert can_be_listed(name) == can
