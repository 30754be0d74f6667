"""Folders that version 0.1 wrote: converted by command or by the next run, and nothing in them is computed again."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.store.old_folders import OLD, put_old
from vemoclap_batch.cli.app import main
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError, RunBroken
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.extractors.windowed_text import windowed
from vemoclap_batch.media.windows import Window
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.sources.manifest import read_sources
from vemoclap_batch.store.store import Store

DATA = Path(__file__).parents[1] / "data"
MANIFEST = DATA / "output-0.1-manifest.csv"
#: What the lite profile computes as version 0.1 did. Of the others, the versions are higher now.
SAME = """
extractors:
  clip: {class: "vemoclap_batch.extractors.efficientnet:EfficientNetLite"}
  beats: {class: "vemoclap_batch.extractors.voice:Voice"}
"""


@pytest.fixture
def out(tmp_path):
    shutil.copytree(DATA / "output-0.1", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def profile(tmp_path):
    (tmp_path / "same.yaml").write_text(SAME)
    return str(tmp_path / "same.yaml")


def command(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code or 0


def tables(out):
    """The rows of each table, as any Parquet reader sees them."""
    folders = {path.parent for path in out.rglob("part-*.parquet")}
    return {
        str(folder.relative_to(out)): ds.dataset(sorted(map(str, folder.glob("*.parquet"))))
        .to_table()
        .sort_by("video_id")
        for folder in folders
    }


def missing(store, config):
    return find_pending(store, read_sources([str(MANIFEST)]).rows, resolve(config), 3).rows.num_rows


def test_the_command_converts_every_table_and_no_cell_is_missing(out, profile, capsys):
    before = tables(out)
    assert command("upgrade", out, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1]) == {"out": str(out), "converted": 17}
    assert tables(out) == before
    store, same = Store(str(out)), load_config(profile)
    for name, rows in before.items():
        kind, *rest = name.split("/")
        table = store.features(*rest, rows.schema) if kind == "features" else store._table(name, rows.schema)
        assert table.read().sort_by("video_id").equals(rows), name
    assert missing(store, same) == missing(store, windowed(same, Window(1, 1))) == 0
    [size] = [size for size in store.sizes() if size.table.startswith("features/beats")][:1]
    width = store.table(size.table).open().schema().to_arrow().field("feature").metadata
    assert width == {b"width": b"32"}
    # Once more, there is nothing to do.
    assert command("upgrade", out) == 0
    assert "0 tables were converted" in capsys.readouterr().out
    assert command("compact", out) == 0
    assert {name: rows.num_rows for name, rows in tables(out).items()} == {
        name: rows.num_rows for name, rows in before.items()
    }


def test_commands_that_only_read_name_the_command(out, capsys):
    assert command("status", out) == 2
    assert f"was written by version 0.1; run: vemoclap-batch upgrade {out}" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--window", "1"]], ids=["whole", "windows"])
def test_a_run_converts_it_and_has_nothing_to_do(out, profile, options, capsys, caplog, monkeypatch):
    def none(*_, **__):
        raise AssertionError("Ray is not needed")

    monkeypatch.setattr("ray.init", none)
    before = tables(out)
    # The broken video failed for good.
    assert command("extract", MANIFEST, "-o", out, "--profile", profile, *options, "--json") == 3
    assert f"{out}: 17 tables of version 0.1 became Delta tables" in caplog.text
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["counts"] == {
        "videos": 4,
        "done": 0,
        "skipped": 3,
        "failed": 1,
    }
    assert tables(out) == before


def test_only_rows_that_version_0_1_read_count(tmp_path):
    put_old(str(tmp_path))
    (tmp_path / "features/asr/whole/.part-9.parquet.1.tmp").write_bytes(b"half")
    store = Store(str(tmp_path))
    with pytest.raises(ConfigError, match="upgrade"):
        store.table("features/asr/whole").read()
    with store.writing("r"):
        assert store.upgraded == 2
    for name, expected in OLD.items():
        assert Counter(store.table(name).read()["video_id"].to_pylist()) == expected
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.suffix != ".json")
    assert not [path for path in left if "compacted" in path or ".tmp" in path or ".journal" in path]


def test_a_file_that_is_none_of_the_tables_is_left_for_its_owner(tmp_path):
    put_old(str(tmp_path))
    stranger = tmp_path / "features/asr/whole/mine.parquet"
    shutil.copy(tmp_path / "features/asr/whole/part-1.parquet", stranger)
    store = Store(str(tmp_path))
    with pytest.raises(RunBroken, match=r"holds mine.parquet, .* move it elsewhere"), store.writing("r"):
        pass
    stranger.unlink()
    with store.writing("r"):
        assert store.table("features/asr/whole").read().num_rows == 2


def test_a_shard_that_is_none_is_named(tmp_path):
    put_old(str(tmp_path))
    (tmp_path / "features/asr/whole/part-2.parquet").write_bytes(b"no Parquet")
    with pytest.raises(RunBroken, match=r"cannot convert .*features/asr/whole"), Store(str(tmp_path)).writing("r"):
        pass


UPGRADE = """
import sys
from vemoclap_batch.store.store import Store
store = Store(sys.argv[1])
print("begins", flush=True)
with store.writing("r"):
    pass
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_conversion_that_is_killed_is_gone_on_with(out, profile, seed):
    before = tables(out)
    process = subprocess.Popen([sys.executable, "-c", UPGRADE, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begins\n"
    time.sleep(random.Random(seed).uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    store = Store(str(out))
    with store.writing("the next run"):
        assert missing(store, load_config(profile)) == 0
    assert tables(out) == before
