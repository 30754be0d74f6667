"""Files that are damaged, absurd or no media at all end as a salvaged clip or one failure that says why."""

import os

import av
import numpy as np
import pytest

from tests.clips import make_clip, mutate, truncate
from vemoclap_batch.errors import ErrorType
from vemoclap_batch.media.clip import MediaError
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.sampling import Limits


def test_a_truncated_file_is_salvaged(tmp_path, decoder):
    path = make_clip(
        tmp_path / "cut.mp4",
        seconds=10,
        size=(160, 120),
        options={"g": "20"},
        container_options={"movflags": "faststart"},
    )
    truncate(path, 0.6)

    clip, info = decode(str(path), limits=Limits(decoder=decoder))

    assert len(clip.frames) >= 14
    assert 3 * 16_000 < len(clip.waveform) < 9 * 16_000
    assert clip.frame_times[-1] < info.duration_s < 9
    assert any("truncated after" in warning and "of 10.0 s" in warning for warning in info.warnings)


def test_a_truncated_file_without_an_index_is_one_failure(tmp_path, failure_of):
    failure = failure_of(truncate(make_clip(tmp_path / "cut.mp4"), 0.9))

    assert failure.error_type is ErrorType.INCOMPLETE
    assert "truncated" in failure.message


def test_frames_that_do_not_decode_leave_the_audio(tmp_path):
    path = make_clip(tmp_path / "v.mkv", audio_codec="aac")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for packet in packets:
        place = content.find(bytes(packet))
        content[place : place + packet.size] = bytes(packet.size)
    path.write_bytes(content)

    clip, info = decode(str(path))

    assert len(clip.frames) == 0
    assert len(clip.waveform) > 16_000
    assert not info.has_video
    assert "no frame of the video stream could be decoded" in info.warnings


@pytest.mark.parametrize("name", ["m.mp4", "m.mkv", "m.ts", "m.avi"])
def test_mutated_bytes_give_a_clip_or_one_failure(tmp_path, name):
    whole = make_clip(tmp_path / name, options={"g": "8"} if name != "m.avi" else None).read_bytes()
    outcomes = set()
    for seed in range(25):
        path = tmp_path / f"{seed}-{name}"
        path.write_bytes(whole)
        mutate(path, seed, changes=(5, 50, 500)[seed % 3])
        try:
            clip, info = decode(str(path))
        except (MediaError, MemoryError) as error:
            outcomes.add(type(error))
            continue
        outcomes.add("clip")
        assert len(clip.frames) == len(clip.frame_times)
        assert np.isfinite(clip.frame_times).all()
        assert info.has_video or info.has_audio
        assert 0 <= info.duration_s <= 7 * 24 * 3600
    assert "clip" in outcomes


def test_empty(tmp_path, failure_of):
    (tmp_path / "empty.mp4").touch()

    assert failure_of(tmp_path / "empty.mp4").error_type is ErrorType.EMPTY


def test_text_named_mp4(tmp_path, failure_of):
    (tmp_path / "notes.mp4").write_text("these are notes\n" * 100)

    failure = failure_of(tmp_path / "notes.mp4")

    assert failure.error_type is ErrorType.NOT_MEDIA
    assert "notes.mp4 is not a video or sound file" in failure.message


def test_subtitles_have_neither_frames_nor_audio(tmp_path, failure_of):
    (tmp_path / "s.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n\n")

    assert failure_of(tmp_path / "s.srt").error_type is ErrorType.NO_STREAMS


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\npart.ts\n#EXT-X-ENDLIST\n"),
        ("script.mp4", "ffconcat version 1.0\nfile part.ts\n"),
        ("part.idx", "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:01:000, filepos: 000000000\n"),
    ],
)
def test_what_names_other_files_opens_none(tmp_path, failure_of, name, text):
    # Whoever opens a pipe that nobody writes to waits until the time is out.
    for part in ("part.ts", "part.sub"):
        os.mkfifo(tmp_path / part)
    (tmp_path / name).write_text(text)

    kind = ErrorType.NOT_MEDIA if name == "part.idx" else ErrorType.PLAYLIST
    assert failure_of(tmp_path / name).error_type is kind


def test_missing_and_unreadable(tmp_path, failure_of):
    assert failure_of(tmp_path / "none.mp4").error_type is ErrorType.NOT_FOUND
    assert failure_of(tmp_path).error_type is ErrorType.IO
    assert failure_of(str(tmp_path / "nul\0.mp4")).error_type is ErrorType.IO
    os.mkfifo(tmp_path / "pipe.mp4")
    assert failure_of(tmp_path / "pipe.mp4").error_type is ErrorType.IO


def test_a_frame_beyond_the_limit_leaves_the_audio(tmp_path, failure_of):
    wide = {"frames": [np.zeros((16, 16_400, 3), np.uint8)] * 5, "codec": "ffv1"}

    clip, info = decode(str(make_clip(tmp_path / "wide.mkv", audio_codec="aac", **wide)))
    failure = failure_of(make_clip(tmp_path / "silent.mkv", audio=False, **wide))

    assert clip.frames.shape == (0, 0, 0, 3)
    assert len(clip.waveform) > 4000
    assert not info.has_video
    assert info.warnings == ["the picture is left out: 16400x16 pixels are more than allowed"]
    assert failure.error_type is ErrorType.UNDECODABLE
    assert "16400x16" in failure.message


def test_a_header_that_declares_30000_by_30000(tmp_path, failure_of):
    path = make_clip(tmp_path / "raw.avi", codec="rawvideo", audio=False)
    content = path.read_bytes()
    sizes = np.array([64, 48], "<i4").tobytes()
    assert content.count(sizes) == 2
    path.write_bytes(content.replace(sizes, np.array([30_000, 30_000], "<i4").tobytes()))

    assert failure_of(path).error_type is ErrorType.UNDECODABLE


@pytest.mark.parametrize("field", [(24, 2**31 - 1), (24, 1), (22, 65_535), (24, 0)])
def test_an_absurd_header_costs_nothing(tmp_path, field, failure_of):
    path = make_clip(tmp_path / "odd.wav", video=False)
    content = bytearray(path.read_bytes())
    offset, value = field
    content[offset : offset + (4 if offset == 24 else 2)] = value.to_bytes(4 if offset == 24 else 2, "little")
    path.write_bytes(content)

    assert failure_of(path).error_type in (ErrorType.UNDECODABLE, ErrorType.NOT_MEDIA)
