"""Where a video may lie, and what it may be called."""

import os

import fsspec
import numpy as np
import pytest

from tests.clips import make_clip
from vemoclap_batch.errors import ErrorType
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.sampling import Limits


@pytest.mark.parametrize("name", ["two words.mp4", 'it\'s "quoted".mp4', "видео 動画.mp4", "a:b%20c#d?.mp4", "-x.mp4"])
def test_any_file_name(tmp_path, name):
    path = make_clip(tmp_path / "plain.mp4").rename(tmp_path / name)

    for decoder in ("pyav", "decord"):
        clip, info = decode(str(path), limits=Limits(decoder=decoder))
        assert clip.frames.shape == (16, 48, 64, 3)
        assert info.warnings == []


def test_a_file_name_that_is_not_utf_8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    os.rename(make_clip(tmp_path / "plain.mp4"), path)

    assert decode(os.fsdecode(path))[1].has_video


def test_file_scheme(tmp_path):
    path = make_clip(tmp_path / "my clip.mp4")

    assert len(decode(f"file://{path}")[0].frames) == 16


def test_a_remote_file_is_fetched_and_nothing_is_left(tmp_path, monkeypatch, decoder):
    path = make_clip(tmp_path / "v.mp4")
    with fsspec.open("memory://bucket/v.mp4", "wb") as target:
        target.write(path.read_bytes())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    clip, info = decode("memory://bucket/v.mp4", "v", limits=Limits(decoder=decoder))

    assert np.array_equal(clip.frames, decode(str(path))[0].frames)
    assert info.decoder.startswith(decoder)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_remote_failures(failure_of):
    with fsspec.open("memory://bucket/empty.mp4", "wb"):
        pass

    assert failure_of("memory://bucket/none.mp4").error_type is ErrorType.NOT_FOUND
    assert failure_of("memory://bucket/empty.mp4").error_type is ErrorType.EMPTY


def test_a_missing_package_is_named(failure_of):
    failure = failure_of("sftp://host/v.mp4")

    assert failure.error_type is ErrorType.IO
    assert "paramiko" in failure.message
