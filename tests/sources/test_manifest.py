"""Sources: files, folders, globs and manifests; mistakes before anything starts."""

import contextlib
import csv
import hashlib
import io
import json
import os
from collections import Counter

import av
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.clips import pattern, sine
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.media.decode import decode
from vemoclap_batch.report.failures import describe_ignored
from vemoclap_batch.sources import listing
from vemoclap_batch.sources import manifest as M


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    for name in ("a/one.mp4", "a/deep/two.MKV", "a/notes.txt", "a/.hidden.mp4", "three ' \" é 名.webm"):
        (tmp_path / name).write_bytes(b"x" * len(name))
    return tmp_path


def names(found):
    return sorted(os.path.basename(uri) for uri in found.rows["uri"].to_pylist())


def test_a_folder_is_searched_for_media(folder):
    found = M.read_sources([str(folder)])
    assert names(found) == ["one.mp4", "three ' \" é 名.webm", "two.MKV"]
    assert dict(found.ignored) == {".txt": 1, "(hidden)": 1}


def test_a_folder_gives_every_kind_that_people_have(tmp_path):
    kinds = (
        ".vob .mxf .asf .f4v .dv .mod .tod .3g2 .3gpp .rm .wma .amr .ogm .mts .MP4 .mkv .webm .avi .wmv .flac .wav .mp3"
    ).split()
    for kind in [*kinds, ".txt", ".srt", ".jpg", ".m3u8", ".part"]:
        (tmp_path / f"clip{kind}").write_bytes(b"x")
    (tmp_path / "._clip.mp4").write_bytes(b"x")
    found = M.read_sources([str(tmp_path)])
    assert names(found) == sorted(f"clip{kind}" for kind in kinds)
    assert found.ignored.total() == 6
    assert found.ignored["(hidden)"] == 1


def test_what_was_left_out_is_said_by_suffix():
    assert describe_ignored(Counter()) == "left out no file"
    assert describe_ignored(Counter({".txt": 1})) == "left out 1 file: 1 .txt"
    assert describe_ignored(Counter({".txt": 3, ".srt": 2})) == "left out 5 files: 3 .txt, 2 .srt"
    many = Counter({f".{number}": 20 - number for number in range(12)})
    assert describe_ignored(many).endswith("11 .9, 19 of 2 other kinds")


@pytest.mark.parametrize("kind", [".vob", ".mxf", ".asf", ".f4v", ".3g2", ".3gpp", ".wma", ".m2ts", ".m4v", ".mka"])
def test_a_suffix_that_is_taken_can_be_decoded(tmp_path, kind):
    muxer = {".3gpp": "3gp", ".f4v": "mp4", ".m4v": "mp4", ".mka": "matroska"}.get(kind)
    codecs = {".vob": ("mpeg2video", "mp2"), ".mxf": ("mpeg2video", "pcm_s16le"), ".asf": ("wmv2", "wmav2"),
              ".wma": (None, "wmav2")}  # fmt: skip
    video, audio = codecs.get(kind, ("libx264", "aac"))
    path = tmp_path / f"clip{kind}"
    with av.open(str(path), "w", format=muxer) as container:
        video_stream = container.add_stream(video, rate=25) if video is not None and kind != ".mka" else None
        audio_stream = container.add_stream(audio, rate=48_000, layout="mono")
        audio_stream.bit_rate = 64_000
        if video_stream is not None:
            video_stream.width, video_stream.height, video_stream.pix_fmt = 96, 80, "yuv420p"
            for image in pattern(25, (96, 80)):
                container.mux(video_stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(video_stream.encode())
        resampler = av.AudioResampler(
            audio_stream.format, audio_stream.layout, audio_stream.rate, frame_size=audio_stream.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(sine(1, rate=48_000)[None], format="fltp", layout="mono")
        frame.sample_rate = 48_000
        for converted in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(audio_stream.encode(converted))
        container.mux(audio_stream.encode())
    [uri] = M.read_sources([str(tmp_path)]).rows["uri"].to_pylist()
    clip, info = decode(uri)
    assert info.has_audio
    assert len(clip.waveform) > 12_000
    assert len(clip.frames) == (16 if video_stream is not None else 0)


def test_the_id_and_the_content_key_are_as_designed(folder):
    [row] = M.read_sources([str(folder / "a" / "one.mp4")]).rows.to_pylist()
    path = str(folder / "a" / "one.mp4")
    assert row["video_id"] == "one-" + hashlib.sha256(path.encode()).hexdigest()[:10]
    found = os.stat(path)
    assert row["content_key"] == f"{found.st_size}-{found.st_mtime_ns}"


def test_a_replaced_file_has_another_content_key(folder):
    before = M.read_sources([str(folder / "a" / "one.mp4")]).rows["content_key"][0]
    (folder / "a" / "one.mp4").write_bytes(b"another")
    assert M.read_sources([str(folder / "a" / "one.mp4")]).rows["content_key"][0] != before


def test_a_link_loop_ends_and_a_linked_folder_counts_once(folder):
    (folder / "a" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "again").symlink_to(folder / "a", target_is_directory=True)
    assert len(names(M.read_sources([str(folder)]))) == 3


def test_pipes_and_broken_links_are_passed_over(folder):
    os.mkfifo(folder / "pipe.mp4")
    (folder / "broken.mp4").symlink_to(folder / "nowhere.mp4")
    assert len(names(M.read_sources([str(folder)]))) == 3


def test_a_name_that_is_not_utf8_is_counted_as_ignored(folder):
    with open(os.fsencode(folder) + b"/bad\xff.mp4", "wb") as file:
        file.write(b"x")
    found = M.read_sources([str(folder)])
    assert len(names(found)) == 3
    assert found.ignored["(unprintable name)"] == 1


def test_a_glob(folder):
    assert names(M.read_sources([f"{folder}/a/**/*.*"])) == ["one.mp4", "two.MKV"]


def test_two_sources_that_overlap_count_a_video_once(folder):
    assert len(names(M.read_sources([str(folder), f"{folder}/a/*.mp4"]))) == 3


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_manifest_written_is_read_back(folder, tmp_path_factory, suffix):
    found = M.read_sources([str(folder)])
    path = str(tmp_path_factory.mktemp("m") / f"videos{suffix}")
    M.write_manifest(found, path)
    assert M.read_sources([path]).rows.sort_by("uri").equals(found.rows.sort_by("uri"))


def test_a_relative_address_is_relative_to_the_manifest(folder):
    (folder / "list.csv").write_text("uri,label\na/one.mp4,Joy\n")
    [row] = M.read_sources([str(folder / "list.csv")]).rows.to_pylist()
    assert row["uri"] == str(folder / "a" / "one.mp4")
    assert row["label"] == "joy"


def test_a_video_that_is_not_there_is_left_to_the_run(folder):
    (folder / "list.jsonl").write_text('{"uri": "gone.mp4"}\n')
    [row] = M.read_sources([str(folder / "list.jsonl")]).rows.to_pylist()
    assert row["content_key"] == listing.ABSENT


def test_given_ids_and_content_keys_are_kept(folder):
    pq.write_table(pa.table({"uri": ["a/one.mp4"], "video_id": ["v1"], "content_key": ["k"]}), folder / "m.parquet")
    [row] = M.read_sources([str(folder / "m.parquet")]).rows.to_pylist()
    assert (row["video_id"], row["content_key"]) == ("v1", "k")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\na.mp4\n", "no column 'uri'; found path"),
        ("uri,video_id\na.mp4,x\nb.mp4,x\n", "row 2: a video that an earlier row names ('x', as in row 1"),
        ("uri,label\na.mp4,happy\n", "row 1: label is not one of anger"),
        ("uri\n", "no rows"),
        ("uri,label\na,joy,3\n", "cannot be read as a manifest"),
        ("uri,label\n,joy\n", "row 1: no uri"),
    ],
)
def test_mistakes_in_a_manifest_are_named(tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ConfigError) as caught:
        M.read_sources([str(tmp_path / "bad.csv")])
    assert message in str(caught.value)
    assert "bad.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"uri": "a.mp4"}\n\n{"uri": ["b.mp4"]}\n', "line 3: column uri: expected text, found ['b.mp4']"),
        ('{"uri": "a.mp4"}\n{"uri": "b.m', "line 2: Unterminated string"),
        ('"a.mp4"\n', "line 1: expected an object"),
        ("[" * 100_000, "line 1: "),
        ('{"path": "a.mp4"}\n', "no column 'uri'; found path"),
    ],
)
def test_mistakes_in_lines_of_json_are_named(tmp_path, text, message):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(ConfigError) as caught:
        M.read_sources([str(tmp_path / "bad.jsonl")])
    assert message in str(caught.value)


def test_all_mistakes_of_all_sources_are_named(tmp_path):
    (tmp_path / "bad.csv").write_text("uri,label,video_id\na.mp4,happy,x\nb.mp4,joy,x\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        M.read_sources([str(tmp_path / "bad.csv"), str(tmp_path / "nowhere"), str(tmp_path / "empty")])
    assert len(caught.value.mistakes) == 4


def test_sources_without_a_video_are_no_mistake_where_they_may_be(folder):
    (folder / "none").mkdir()
    for name, text in (("rows.csv", "uri\n"), ("rows.jsonl", "")):
        (folder / "none" / name).write_text(text)
    empty = [f"{folder}/none", f"{folder}/*.mov", f"{folder}/none/rows.csv", f"{folder}/none/rows.jsonl"]
    found = M.read_sources([*empty, str(folder / "a")], may_be_empty=True)
    assert (found.empty, names(found)) == (empty, ["one.mp4", "two.MKV"])
    assert M.read_sources(empty, may_be_empty=True).rows.equals(M.SCHEMA.empty_table())
    with pytest.raises(ConfigError) as caught:
        M.read_sources([*empty, str(folder / "nowhere")])
    assert len(caught.value.mistakes) == 5
    with pytest.raises(ConfigError, match="nowhere"):
        M.read_sources([*empty, str(folder / "nowhere")], may_be_empty=True)


def test_another_filesystem_gives_its_own_content_keys():
    memory = fsspec.filesystem("memory")
    memory.pipe("/clips/a.mp4", b"1")
    memory.pipe("/clips/b.txt", b"1")
    found = M.read_sources(["memory://clips"])
    assert found.rows["uri"].to_pylist() == ["memory:///clips/a.mp4"]
    assert found.rows["content_key"][0].as_py().startswith("1-")
    memory.pipe("/lists/list.csv", b"uri\nmemory://clips/a.mp4\n../clips/./a.mp4\n")
    with pytest.raises(ConfigError, match="a video that an earlier row names"):
        M.read_sources(["memory://lists/list.csv"])


def test_an_etag_is_the_content_key():
    assert listing.remote_content_key({"ETag": '"abc"', "size": 3}) == "abc"
    assert listing.remote_content_key({"size": 3, "mtime": 1.5}) == "3-1.5"
    assert listing.remote_content_key({"size": 3}) == listing.UNKNOWN_CONTENT


@given(st.lists(st.sampled_from(["a", "b", ".", "..", "c d"]), min_size=1, max_size=6))
def test_normalising_is_idempotent_and_ids_depend_on_the_normal_form_only(parts):
    address = "/".join(parts)
    once = listing.normalise(address, "/base")
    assert listing.normalise(once) == once
    assert os.path.isabs(once)
    assert M.video_id(once) == M.video_id(listing.normalise("/base/./" + address))


def test_labels_may_name_videos_by_id_alone(tmp_path):
    (tmp_path / "l.csv").write_text("video_id,label,split\na,JOY,train\nb,,test\nc,anger,test\n")
    found = M.read_labels(str(tmp_path / "l.csv"))
    assert found["video_id"] == ["a", "c"]
    assert found["label"] == ["joy", "anger"]
    (tmp_path / "l.csv").write_text("video_id,label\na,joy\na,fear\n")
    with pytest.raises(ConfigError, match="a video that an earlier row names"):
        M.read_labels(str(tmp_path / "l.csv"))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


def read_any(path, content):
    """What becomes of a manifest with any content: its rows, or None where its mistakes are named."""
    path.write_bytes(content)
    with contextlib.suppress(ConfigError):
        M.read_labels(str(path))
    try:
        rows = M.read_sources([str(path)]).rows
    except ConfigError as caught:
        unnamed = [mistake for mistake in caught.mistakes or [""] if path.name not in mistake]
        rows = None
    else:
        unnamed = []
    assert not unnamed
    if rows is None:
        return None
    assert rows.schema == M.SCHEMA
    assert rows.num_rows > 0
    for name in ("video_id", "content_key", "uri"):
        assert all(rows[name].to_pylist())
    assert len(set(rows["video_id"].to_pylist())) == rows.num_rows
    return rows


#: What could lie in a cell: no scheme, so that nothing is asked of a network.
cells = st.text(st.characters(exclude_characters=":"), max_size=12) | st.sampled_from(
    ["", " ", "a.mp4", "../b", "~", "~x/y", "joy", "2026-01-02", "\0", "1e999", "\ufeffuri", '"', "'", "é\n"]
)
columns = st.sampled_from([*M.SCHEMA.names, "note", "uri "])
values = st.recursive(
    cells | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(cells, inner, max_size=3),
    max_leaves=4,
)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f"uri\n{text}".encode("utf-8", "replace")))
@example(b"uri,uri\na,b\n")
@example("\ufeffuri\na.mp4\n".encode())
@example("uri\na.mp4\n".encode("utf-16"))
@example(b"uri\n\xff.mp4\n")
def test_any_bytes_are_rows_or_named_mistakes(scratch, content):
    for suffix in M.MANIFEST_SUFFIXES:
        read_any(scratch / f"bytes{suffix}", content)


@given(st.lists(columns, min_size=1, max_size=4), st.lists(st.lists(cells, min_size=1, max_size=5), max_size=4))
@example(["video_id", "uri"], [["2026-01-02", "a.mp4"]])
def test_any_table_as_csv_is_rows_or_named_mistakes(scratch, header, rows):
    sink = io.StringIO()
    csv.writer(sink).writerows([header, *rows])
    read_any(scratch / "table.csv", sink.getvalue().encode("utf-8", "replace"))


@given(st.lists(st.dictionaries(columns, values, max_size=4) | values, max_size=4))
@example([{"uri": ["a.mp4"]}])
@example([{"uri": {"a": "b"}}])
@example([{"uri": "a.mp4", "video_id": 7}, {"uri": "b.mp4", "video_id": "x"}])
@example([{"uri": "\ud800.mp4"}])
def test_any_objects_as_jsonl_are_rows_or_named_mistakes(scratch, rows):
    read_any(scratch / "table.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


@given(
    st.lists(cells.filter(lambda text: text.strip() and text.strip().isprintable()), min_size=1, unique_by=str.strip)
)
@example(["2026-01-02"])
@example(["7"])
@example(["true"])
def test_ids_are_kept_as_they_are_written(scratch, ids):
    rows = [{"uri": f"{at}.mp4", "video_id": name} for at, name in enumerate(ids)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    found = read_any(scratch / "ids.jsonl", text.encode())
    assert found["video_id"].to_pylist() == [name.strip() for name in ids]
