"""Files that say something special of their frames or audio, or are no video at all, each made here."""

import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from fuzz.numbered import numbered_frame, read_number
from tests.clips import face, make_clip, pattern, sine, truncate
from vemoclap_batch.errors import TRANSIENT, ErrorType
from vemoclap_batch.media.container import matroska_tracks
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.frames import Crop
from vemoclap_batch.media.sampling import Limits

SIZE = (160, 120)


def numbered(count=75):
    return [numbered_frame(number, SIZE) for number in range(count)]


def numbers(clip):
    return [read_number(frame, SIZE) for frame in clip.frames]


def spread(count=75):
    return np.round(np.linspace(0, count - 1, 16)).astype(int).tolist()


# --- Matroska


def element(number, content):
    kind = number.to_bytes((number.bit_length() + 7) // 8)
    return kind + (len(content) | 1 << 56).to_bytes(8) + content


def integer(number, value):
    return element(number, value.to_bytes(2))


def variable(content, at, keep_mark=False):
    """A number of variable length, and where it ends."""
    length = 9 - content[at].bit_length()
    value = int.from_bytes(content[at : at + length])
    return value if keep_mark else value & (1 << 7 * length) - 1, at + length


def find(content, at, end, wanted):
    """Where the size of an element among its siblings lies, and where its content begins and ends."""
    while at < end:
        kind, size_at = variable(content, at, keep_mark=True)
        size, start = variable(content, size_at)
        if kind == wanted:
            return size_at, start, min(start + size, end)
        at = start + size
    raise LookupError(hex(wanted))


def with_in_track(path, target, added):
    """A copy of a live Matroska file, which has no index to keep right, with more elements in its first track.

    ``target`` is the number of the element of the track that they go into, or None for the track itself.
    """
    content = path.read_bytes()
    _, start, end = find(content, 0, len(content), 0x18538067)
    places = []
    for parent in (0x1654AE6B, 0xAE, *([] if target is None else [target])):
        size_at, start, end = find(content, start, end, parent)
        places.append((size_at, start, end))
    content = content[:end] + added + content[end:]
    grown = len(added)
    for size_at, start, end in reversed(places):
        # Sizes of one byte would not hold more: all of them are written in eight.
        content = content[:size_at] + (end - start + grown | 1 << 56).to_bytes(8) + content[start:]
        grown += 8 - (start - size_at)
    found = path.with_stem(path.stem + "-changed")
    found.write_bytes(content)
    return found


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_what_matroska_crops_is_not_shown(tmp_path, suffix):
    codec = {".mkv": "libx264", ".webm": "libvpx-vp9"}[suffix]
    options = {"live": "1"}
    path = make_clip(tmp_path / f"v{suffix}", frames=list(pattern(30, (160, 120))), codec=codec, fps=10,
                     container_options=options)  # fmt: skip
    whole, _ = decode(str(path))
    crop = integer(0x54CC, 20) + integer(0x54BB, 8) + integer(0x54DD, 12) + integer(0x54AA, 4)
    changed = with_in_track(path, 0xE0, crop)
    assert [track.crop for track in matroska_tracks(str(changed)) if track.is_video] == [Crop(20, 8, 12, 4)]

    clip, info = decode(str(changed))

    assert np.array_equal(clip.frames, whole.frames[:, 8:116, 20:148])
    assert (info.width, info.height, info.warnings) == (128, 108, [])


def test_encrypted_matroska(tmp_path, failure_of):
    path = make_clip(tmp_path / "v.webm", container_options={"live": "1"})
    encoding = element(0x6D80, element(0x6240, integer(0x5033, 1) + element(0x5035, integer(0x47E1, 5))))
    failure = failure_of(with_in_track(path, None, encoding))
    assert failure.error_type is ErrorType.ENCRYPTED


def test_matroska_that_is_no_matroska(tmp_path):
    path = make_clip(tmp_path / "v.mkv")
    content = path.read_bytes()
    for length in range(0, 700, 7):
        path.write_bytes(content[:length])
        assert len(matroska_tracks(str(path))) <= 2
    path.write_bytes(b"\x1a\x45\xdf\xa3" + b"\xff" * 5000)
    assert matroska_tracks(str(path)) == []


# --- Encryption


@pytest.mark.parametrize("movflags", ["", "frag_keyframe+empty_moov"])
def test_encrypted_mp4(tmp_path, failure_of, movflags):
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "01" * 16, "encryption_kid": "02" * 16}
    path = make_clip(tmp_path / "v.mp4", container_options=options | ({"movflags": movflags} if movflags else {}))
    failure = failure_of(path)
    assert failure.error_type is ErrorType.ENCRYPTED
    assert failure.message == (
        f"{path} is encrypted (protected against copying) and cannot be decoded: give a copy without protection"
    )


def test_scrambled_transport_stream(tmp_path, failure_of):
    path = make_clip(tmp_path / "v.ts")
    content = bytearray(path.read_bytes())
    for at in range(0, len(content), 188):
        if (content[at + 1] & 0x1F) << 8 | content[at + 2] >= 256:  # The tables are never scrambled.
            content[at + 3] |= 0x80
            content[at + 12 : at + 188] = bytes(byte ^ 0x5A for byte in content[at + 12 : at + 188])
    path.write_bytes(content)
    assert failure_of(path).error_type is ErrorType.ENCRYPTED


# --- No video at all

PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXTINF:2,\npart.ts\n", "list.pls": "[playlist]\nFile1=http://radio.example/stream\n",
    "list.mpd": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>', "list.asx": "<ASX></ASX>",
    "list.mp4": "\ufeff#EXTM3U\nhttp://example.org/a.mp4\n",
}  # fmt: skip
PAGES = ["<!DOCTYPE html>\n<html><body>Log in</body></html>", "\n  <html></html>", '{"error": "no access"}',
         '<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>']  # fmt: skip


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist(tmp_path, failure_of, name):
    (tmp_path / name).write_text(PLAYLISTS[name])
    failure = failure_of(tmp_path / name)
    assert failure.error_type is ErrorType.PLAYLIST
    assert failure.message.endswith("is a playlist, which only names other files: give those, or save the stream as one"
                                    " file")  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_a_web_page_under_the_name_of_a_video(tmp_path, failure_of, page):
    (tmp_path / "v.mp4").write_text(page * 100)
    failure = failure_of(tmp_path / "v.mp4")
    assert failure.error_type is ErrorType.WEB_PAGE
    assert "download the video itself again" in failure.message


@pytest.mark.parametrize("brand", [True, False])
def test_still_being_uploaded(tmp_path, failure_of, brand):
    path = truncate(make_clip(tmp_path / "v.mp4"), 0.7)
    if not brand:  # Old cameras begin with the media data.
        content = path.read_bytes()
        path.write_bytes(content[struct.unpack(">I", content[:4])[0] :])
    failure = failure_of(path)
    assert failure.error_type is ErrorType.INCOMPLETE
    assert "its index (moov) is missing" in failure.message
    assert "give it again once it is whole" in failure.message


def test_room_for_a_download(tmp_path, failure_of):
    (tmp_path / "v.mkv").write_bytes(bytes(100_000))
    assert failure_of(tmp_path / "v.mkv").error_type is ErrorType.INCOMPLETE


def test_a_recording_just_begun(tmp_path, failure_of):
    """The beginning of a live stream, before its first frame."""
    path = make_clip(tmp_path / "v.mp4", container_options={"movflags": "frag_keyframe+empty_moov"})
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moof") - 4])
    failure = failure_of(path)
    assert failure.error_type is ErrorType.NO_STREAMS
    assert "holds neither pictures nor sound" in failure.message


def test_no_kind_of_file_is_tried_again_before_it_changes():
    kinds = {ErrorType.INCOMPLETE, ErrorType.WEB_PAGE, ErrorType.PLAYLIST, ErrorType.NO_STREAMS, ErrorType.ENCRYPTED}
    assert not kinds & TRANSIENT


# --- Audio


def stereo(tmp_path, name, left, right, **options):
    return decode(str(make_clip(tmp_path / name, audio=np.stack([left, right]), video=False, **options)))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.m4a", "a.mkv"])
def test_channels_in_opposite_phase_do_not_cancel(tmp_path, name):
    tone = sine(3, amplitude=0.4)
    clip, info = stereo(tmp_path, name, tone, -0.9 * tone)
    assert np.sqrt(np.mean(clip.waveform[4000:40_000] ** 2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.03)
    assert info.warnings == ["channels in opposite phase cancel each other: the louder one was taken there"]


def test_the_louder_channel_is_kept_to(tmp_path):
    """What changes sides would click."""
    tone = sine(4, amplitude=0.4)
    steps = np.where(np.arange(len(tone)) // 44_100 % 2, 1.0, 0.95).astype(np.float32)
    clip, _ = stereo(tmp_path, "a.wav", tone * steps, -tone * (1.95 - steps))
    assert np.abs(np.diff(clip.waveform)).max() < 0.4 * 2 * np.pi * 440 / 16_000 * 1.2


def test_what_is_only_wide_is_averaged(tmp_path):
    random = np.random.default_rng(0)
    left = random.normal(0, 0.1, 3 * 44_100).astype(np.float32)
    right = (-0.8 * left + random.normal(0, 0.06, len(left))).astype(np.float32)
    clip, info = stereo(tmp_path, "a.wav", left, right)
    expected, _ = decode(str(make_clip(tmp_path / "m.wav", audio=(left + right) / 2, video=False)))
    assert np.abs(clip.waveform - expected.waveform).max() < 2e-4
    assert info.warnings == []


# --- Colours and shape


def test_colours_that_ffmpeg_does_not_convert_leave_frames_and_audio(tmp_path):
    options = {"x264-params": "colormatrix=YCgCo"}
    path = make_clip(tmp_path / "v.mp4", frames=[face((160, 120))] * 20, pix_fmt="yuv444p", options=options)

    clip, info = decode(str(path))

    assert clip.frames.shape == (16, 120, 160, 3)
    assert len(clip.waveform) > 20_000
    assert info.warnings == ["FFmpeg cannot convert the colours (matrix 8): they were taken for BT.601's"]


@pytest.mark.parametrize(("aspect", "shown"), [("2/1", (200, 100)), ("1/2", (100, 200)), ("100/1", (100, 100))])
@pytest.mark.parametrize("rotation", [0, 90])
def test_oblong_pixels_in_a_turned_frame(tmp_path, decoder, aspect, shown, rotation):
    path = tmp_path / "v.mp4"
    make_clip(
        path,
        frames=list(pattern(20, (100, 100))),
        rotation=rotation,
        audio=False,
    )
    path = with_pixel_aspect(path, *map(int, aspect.split("/")))
    clip, info = decode(str(path), limits=Limits(decoder=decoder))
    expected = shown if rotation == 0 else shown[::-1]
    assert clip.frames.shape[1:3] == expected[::-1]
    assert (info.width, info.height, info.rotation) == (*expected, rotation)


def with_pixel_aspect(path, width, height):
    """The file with a pasp box in its sample entry, by rewriting it with PyAV."""
    changed = path.with_name("changed.mp4")
    with av.open(str(path)) as source, av.open(str(changed), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.sample_aspect_ratio = Fraction(width, height)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return changed


def test_high_dynamic_range_is_mapped_turned_and_scaled(tmp_path):
    path = make_clip(
        tmp_path / "hdr.mp4", frames=[cv2.resize(face(), (960, 720))] * 5, codec="libx265", pix_fmt="yuv420p10le",
        options={"x265-params": "log-level=none:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc:bframes=0"},
        rotation=90, audio=False,
    )  # fmt: skip
    plain = make_clip(
        tmp_path / "sdr.mp4", frames=[cv2.resize(face(), (960, 720))] * 5, codec="libx265", pix_fmt="yuv420p10le",
        options={"x265-params": "log-level=none:bframes=0"}, rotation=90, audio=False,
    )  # fmt: skip
    clip, info = decode(str(path))
    other, other_info = decode(str(plain))
    assert clip.frames.shape == other.frames.shape == (5, 480, 360, 3)
    assert (info.width, info.height, info.rotation) == (other_info.width, other_info.height, 90) == (720, 960, 90)
    assert info.warnings == []
    assert np.abs(clip.frames[0].astype(int) - other.frames[0]).mean() > 5


# --- Damage and false promises


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "25", "bf": "2"}), ("mpeg4", {"g": "25"}), ("libvpx-vp9", {"g": "25"}),
        ("libx265", {"x265-params": "keyint=25:log-level=none"}),
    ],
)  # fmt: skip
def test_an_index_that_calls_every_frame_a_key_frame(tmp_path, decoder, codec, options):
    path = make_clip(tmp_path / "v.mp4", frames=numbered(), fps=25, codec=codec, options=options)
    content = path.read_bytes()
    assert content.count(b"stss") == 1
    path.write_bytes(content.replace(b"stss", b"free"))
    clip, _ = decode(str(path), limits=Limits(decoder=decoder))
    assert numbers(clip) == spread()


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("v.ts", "mpeg2video", {"g": "12"}),
        ("v.mkv", "libx264", {"g": "25", "bf": "0"}),
        ("v.mkv", "mpeg4", {"g": "12"}),
    ],
)
def test_no_damaged_frame_is_taken_while_others_are_there(tmp_path, name, codec, options):
    path = make_clip(tmp_path / name, frames=numbered(), fps=25, codec=codec, options=options)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    damaged = spread()[3::4]
    for number in damaged:
        at = content.find(packets[number][:60])
        content[at + 40 : at + 120] = bytes(80)
    path.write_bytes(content)
    marked = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            marked += [frame.pts for frame in packet.decode() if frame.is_corrupt]
        seconds = {round(float(pts * container.streams.video[0].time_base), 2) for pts in marked}
    assert marked

    clip, info = decode(str(path))

    first = 1.4 if name == "v.ts" else 0.0
    times = {round(time + first, 2) for time in clip.frame_times}
    assert len(clip.frames) == 16
    assert not times & seconds
    assert "seeking gave missing or broken pictures: the video was decoded in turn" in info.warnings
    assert any("damaged frames were left out" in warning for warning in info.warnings)


# --- Streams and lengths


def test_a_programme_that_changes_midway_leaves_the_first(tmp_path):
    """The streams of the second part have other numbers, as after an advert."""
    parts = []
    for name, numbers_of in (("a.ts", {}), ("b.ts", {"mpegts_start_pid": "512", "mpegts_pmt_start_pid": "1280"})):
        path = make_clip(tmp_path / name, frames=numbered(), fps=25, container_options=numbers_of)
        parts.append(path.read_bytes())
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    clip, info = decode(str(path))
    assert numbers(clip) == spread()
    assert info.duration_s == pytest.approx(3, abs=0.1)
    assert "what begins only midway, in a stream of its own, was left out" in info.warnings


def test_a_frame_that_stands_long_before_b_frames_makes_no_video_longer(tmp_path):
    times = [0.0, 8.0, *(8.04 + np.arange(50) * 0.04)]
    path = make_clip(tmp_path / "v.mp4", frames=numbered(52), times=times, options={"bf": "3", "g": "100"}, audio=False)
    clip, info = decode(str(path))
    assert info.duration_s == pytest.approx(10.04, abs=0.1)
    # It counts for as long as it stands.
    assert numbers(clip)[:12] == [0] * 12
    assert numbers(clip)[-1] == 51
