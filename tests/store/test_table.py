"""Shards appear whole or not at all, no key twice, readable by anyone."""

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from tests.s3 import Server
from tests.store.conftest import bucket_on
from vemoclap_batch.errors import ConfigError, RunBroken
from vemoclap_batch.store import location, schemas
from vemoclap_batch.store.keyset import KeyFilter
from vemoclap_batch.store.schemas import feature_array
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import keys

SCHEMA = schemas.features(True, {"text": pa.string()}, 3)


def rows(ids, content="c", value=1.0):
    features = [np.full((at % 3, 3), value, np.float32) for at in range(len(ids))]
    return pa.table(
        {
            "video_id": ids, "content_key": [content] * len(ids), "run_id": ["r"] * len(ids),
            "feature": feature_array(features), "start_s": [[0.0] * len(f) for f in features],
            "end_s": [[1.0] * len(f) for f in features], "text": ids,
        },
    ).cast(SCHEMA)  # fmt: skip


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    return Store(str(tmp_path / "out") if request.param == "local" else request.getfixturevalue("s3_out"))


def test_rows_come_back_and_none_is_written_twice(store):
    table = store.features("asr", "f", SCHEMA)
    assert table.append(rows(["a", "b", "b"])) == 2
    assert table.append(rows(["b", "c"])) == 1
    assert store.features("asr", "f", SCHEMA).append(rows(["a", "b", "c"])) == 0
    found = table.read().sort_by("video_id")
    assert found["video_id"].to_pylist() == ["a", "b", "c"]
    assert found["feature"].to_pylist() == [[], [[1, 1, 1]], [[1, 1, 1]]]


def test_another_content_is_another_row(store):
    table = store.features("asr", "f", SCHEMA)
    table.append(rows(["a"], "old"))
    table.append(rows(["a"], "new"))
    wanted = keys(rows(["a", "z"], "new"))
    assert table.committed(wanted).tolist() == [True, False]
    assert table.read(["text"], of=wanted)["content_key"].to_pylist() == ["new"]


def test_half_written_and_foreign_files_are_not_read(tmp_path):
    table = Store(str(tmp_path)).features("asr", "f", SCHEMA)
    table.append(rows(["a"]))
    folder = tmp_path / "features" / "asr" / "f"
    (folder / ".part-1.parquet.abc.tmp").write_bytes(b"PAR1")
    (folder / "extractor.json").write_text("{}")
    assert table.read().num_rows == 1


def test_a_failed_write_leaves_nothing(tmp_path):
    table = Store(str(tmp_path)).features("asr", "f", SCHEMA)
    folder = tmp_path / "features" / "asr" / "f"
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    with pytest.raises(RunBroken, match=f"cannot .* {folder}: .*Path does not exist"):
        table.append(rows(["a"]))
    folder.unlink()
    # What was not written is not taken for written.
    assert table.append(rows(["a"])) == 1
    assert sorted(p.name[:5] for p in folder.iterdir()) == ["_delt", "part-"]


def test_duckdb_pandas_and_pyarrow_read_it(tmp_path):
    Store(str(tmp_path)).features("asr", "f", SCHEMA).append(rows(["a", "b", "c"]))
    glob = f"{tmp_path}/features/asr/f/part-*.parquet"
    assert duckdb.sql(f"select video_id, len(feature) from '{glob}' order by 1").fetchall() == [
        ("a", 0),
        ("b", 1),
        ("c", 2),
    ]
    frame = pd.read_parquet([str(path) for path in (tmp_path / "features" / "asr" / "f").glob("*.parquet")])
    assert frame.sort_values("video_id")["feature"].map(len).tolist() == [0, 1, 2]
    [shard] = (tmp_path / "features" / "asr" / "f").glob("part-*.parquet")
    assert pq.read_schema(shard).field("feature").metadata[b"width"] == b"3"


def test_numbers_that_never_repeat_are_written_without_a_dictionary(tmp_path):
    nested = {"lines": pa.list_(pa.struct([("text", pa.string()), ("score", pa.float32())]))}
    schema = schemas.features(False, nested, 1000)
    store = Store(str(tmp_path))
    feature = np.random.default_rng(0).normal(size=(20, 1000)).astype(np.float32)
    row = {"video_id": ["v"], "content_key": ["c"], "run_id": ["r"], "feature": feature_array([feature])}
    wanted = pa.table(row | {"lines": [[{"text": "a", "score": 0.5}] * 9]}).cast(schema)
    sent = store.features("asr", "f", schema)
    assert sent.append(wanted) == 1
    assert sent.read().drop_columns(["run_id"]).equals(wanted.drop_columns(["run_id"]))
    [shard] = (tmp_path / "features" / "asr" / "f").glob("part-*.parquet")
    group = pq.read_metadata(shard).row_group(0)
    columns = {group.column(at).path_in_schema: group.column(at) for at in range(group.num_columns)}
    has = {path for path, column in columns.items() if column.has_dictionary_page}
    assert has == {"video_id", "content_key", "run_id"}
    assert columns["feature.list.element.list.element"].compression == "ZSTD"


def test_the_current_content_of_a_video_is_the_latest_runs(tmp_path):
    store = Store(str(tmp_path))
    for run, content in (("20260102", "new"), ("20260101", "old")):
        row = dict.fromkeys(schemas.VIDEOS.names) | {"video_id": "a", "content_key": content, "run_id": run}
        store.videos().append(pa.Table.from_pylist([row, row | {"video_id": "b" + content}], schema=schemas.VIDEOS))
    found = store.current_videos()
    assert dict(zip(found["video_id"].to_pylist(), found["content_key"].to_pylist(), strict=True)) == {
        "a": "new", "bnew": "new", "bold": "old",
    }  # fmt: skip


def test_some_rows_of_many_shards_are_read_as_they_are(store):
    table = store.features("asr", "f", SCHEMA)
    for at in range(12):
        table.append(rows([f"{at}-{row}" for row in range(5)], value=float(at)))
    # A column that came later is null in the shards before it.
    older = pa.schema([field for field in SCHEMA if field.name != "text"])
    store.features("asr", "f", older).append(rows(["old"]).select(older.names))
    wanted = keys(rows(["3-2", "11-4", "old", "nowhere"]))
    found = table.read(["text", "feature"], of=wanted).sort_by("video_id")
    assert found["video_id"].to_pylist() == ["11-4", "3-2", "old"]
    assert found["text"].to_pylist() == ["11-4", "3-2", None]
    assert found["feature"].to_pylist() == [[[11] * 3], [[3] * 3] * 2, []]
    assert found.schema.field("feature") == SCHEMA.field("feature")
    assert table.read(["text"], of=keys(rows(["nowhere"]))).num_rows == 0


def test_a_row_is_not_lost_to_equal_hashes(store):
    class Suspicious(KeyFilter):
        def may_hold(self, keys):
            return np.ones(len(keys), bool)

    table = store.features("asr", "f", SCHEMA)
    table._there = Suspicious()
    assert [table.append(rows(ids)) for ids in (["a", "b", "a"], ["b", "c"])] == [2, 1]


@given(st.lists(st.lists(st.text(max_size=3), max_size=40), max_size=4), st.lists(st.text(max_size=3), max_size=40))
def test_a_key_filter_misses_no_key(added, asked):
    found = KeyFilter(added[0] if added else [])
    for keys_ in added[1:]:
        found.add(keys_)
    there = {key for keys_ in added for key in keys_}
    assert found.may_hold(asked).tolist() == [key in there for key in asked]


def test_a_key_filter_of_many_keys():
    many = [f"video-{at}" for at in range(30_000)]
    found = KeyFilter(many[:10_000])
    for at in range(10_000, 30_000, 3_000):
        found.add(many[at : at + 3_000])
    assert found.may_hold(many).all()
    assert not found.may_hold([f"other-{at}" for at in range(1000)]).any()


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(1, 5))
def test_features_survive_arrow(lengths, width):
    features = [np.random.default_rng(n).random((n, width), np.float32) for n in lengths]
    column = feature_array(features)
    assert [np.array(item, np.float32).reshape(-1, width).tolist() for item in column.to_pylist()] == [
        f.tolist() for f in features
    ]


@pytest.mark.parametrize("address", ["memory://tables", "https://host/out", "/data/a%20b"])
def test_what_delta_cannot_write_to_is_said_before_anything_starts(address):
    with pytest.raises(ConfigError, match=r"Delta|tables can be written to") as wrong:
        Store(address)
    assert address in str(wrong.value)


@pytest.mark.parametrize("name", ["a b", "who? #1", "100% é"])
def test_a_folder_may_have_any_other_name(tmp_path, name):
    store = Store(str(tmp_path / name))
    with store.writing("r"):
        assert store.features("asr", "f", SCHEMA).append(rows(["a"])) == 1
        assert store.compact()[0].rows == 1
    assert store.features("asr", "f", SCHEMA).read().num_rows == 1


def test_credentials_of_a_profile_serve_tables_and_lock(s3_out, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    profile = tmp_path / "credentials"
    profile.write_text("[default]\naws_access_key_id = other\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    location._s3_credentials.cache_clear()
    try:
        store = Store(s3_out)
        with store.writing("r"):
            assert store.features("asr", "f", SCHEMA).append(rows(["a"])) == 1
        assert "secret" not in repr(store.table("features/asr/f").__dict__)
    finally:
        location._s3_credentials.cache_clear()


def test_an_older_state_can_be_read_back_to_the_last_compaction(tmp_path):
    store = Store(str(tmp_path))
    table = store.features("asr", "f", SCHEMA)
    for name in "ab":
        table.append(rows([name]))
    with store.writing("r"):
        store.compact()
    compacted = table.open().version()
    table.append(rows(["c"]))

    def names(version):
        return sorted(DeltaTable(table.folder, version=version).to_pyarrow_table()["video_id"].to_pylist())

    assert (names(compacted), names(compacted + 1)) == (["a", "b"], ["a", "b", "c"])
    with pytest.raises(FileNotFoundError):
        names(compacted - 1)


class Loses:
    """Stands before a server: makes so many commits without saying so."""

    left = 0

    def __call__(self, app):
        def serve(environ, start_response):
            if self.left and environ["REQUEST_METHOD"] == "PUT" and "/_delta_log/" in environ["PATH_INFO"]:
                self.left -= 1
                list(app(environ, lambda *_: None))
                start_response("500 Internal Server Error", [])
                return [b""]
            return app(environ, start_response)

        return serve


def test_a_commit_whose_answer_is_lost_is_not_made_twice(monkeypatch):
    loses = Loses()
    server = Server(loses)
    with bucket_on(server, monkeypatch) as out:
        errors = Store(out).errors()
        row = dict.fromkeys(schemas.ERRORS.names) | {"video_id": "v", "content_key": "c"}
        failures = pa.Table.from_pylist([row], schema=schemas.ERRORS)
        assert errors.append(failures) == 1
        loses.left = 1
        assert errors.append(failures) == 1
        assert errors.read().num_rows == 2
        assert len(errors.shards()) == len(errors._data_files()) == 2
    server.close()
