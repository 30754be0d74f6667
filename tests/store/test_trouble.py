"""A disk that is full, a folder that may not be written any more: a clear error, and nothing half done."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from vemoclap_batch.errors import RunBroken
from vemoclap_batch.store import schemas
from vemoclap_batch.store.schemas import feature_array
from vemoclap_batch.store.store import Store

SCHEMA = schemas.features(False, {}, 64)


def rows(first, count=200):
    ids = [f"v{at}" for at in range(first, first + count)]
    noise = np.random.default_rng(first).random((count, 4, 64), np.float32)
    features = feature_array(list(noise))
    same = {name: ["x"] * count for name in ("content_key", "run_id")}
    return pa.table({"video_id": ids, **same, "feature": features}).select(SCHEMA.names).cast(SCHEMA)


def table(store):
    return store.features("clip", "f", SCHEMA)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting needs privileges; the limit on file sizes is tested instead")
    yield disk
    # Lazily: a process that was started meanwhile may hold what was open here.
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def shards(folder):
    return sorted(path.name for path in folder.rglob("*.parquet*"))


def test_a_full_disk_is_said_and_leaves_what_was_whole(small_disk):
    store = Store(str(small_disk / "out"))
    done = table(store)

    def fill():
        with store.writing("r"):
            for at in range(20):
                done.append(rows(200 * at))

    with pytest.raises(RunBroken, match=rf"cannot write to {small_disk}/out/features/clip/f: No space left"):
        fill()
    before = shards(small_disk)
    assert 1 <= len(before) < 20
    assert all(name.startswith("part-") for name in before)
    (small_disk / "out" / "features" / "clip" / "f" / before[0]).unlink()
    # What did not fit goes through once there is room.
    assert done.append(rows(200 * len(before))) == 200


def test_a_compaction_without_room_changes_nothing(small_disk):
    store = Store(str(small_disk / "out"))
    for at in range(3):
        table(store).append(rows(200 * at))
    before = shards(small_disk)
    with pytest.raises(RunBroken, match="No space left"), store.writing("r"):
        store.compact()
    assert shards(small_disk) == before
    assert table(store).read().num_rows == 600


def test_a_lost_permission_is_said(small_disk):
    store = Store(str(small_disk / "out"))
    table(store).append(rows(0, 10))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunBroken, match=r"cannot write to .*: Read-only file system"):
        table(store).append(rows(10, 10))
    with pytest.raises(RunBroken, match=rf"cannot write to {small_disk}/out"), store.writing("r"):
        pass
    assert len(shards(small_disk)) == 1


LIMITED = """
import resource, signal, sys
from tests.store.test_trouble import rows, table
from vemoclap_batch.store.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
print(table(Store(sys.argv[1])).append(rows(0, 5)), flush=True)
table(Store(sys.argv[1])).append(rows(100, 500))
"""


def test_a_limit_on_file_sizes_is_said(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.stdout == "5\n"
    assert f"RunBroken: cannot write to {tmp_path}/out/features/clip/f: File too large" in done.stderr
    assert len(shards(tmp_path)) == 1
