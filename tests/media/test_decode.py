"""Real encoders make the clips, real decoders read them; a plain sequential decode is what they are compared with."""

import os
import sys

import av
import fsspec
import numpy as np
import pytest

from tests.clips import make_clip, mutate, pattern, sine, truncate
from vemoclap_batch.failure import ErrorType
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.error import MediaError
from vemoclap_batch.media.pictures import scaled_down
from vemoclap_batch.media.sampling import Limits, Sampling

LONG_GOP = {"bf": "3", "g": "50", "b-pyramid": "normal"}
DECODERS = [
    "pyav",
    pytest.param("decord", marks=pytest.mark.skipif(sys.platform != "linux", reason="decord has no wheel here")),
]


def in_sequence(path):
    """Every frame as plain PyAV decodes it, with its time stamp."""
    with av.open(str(path)) as container:
        return [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]


def failure_of(address, **options):
    with pytest.raises(MediaError) as caught:
        decode(str(address), **options)
    return caught.value.failure


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b_frames.mp4", {"options": LONG_GOP}),
        ("key_frames_only.mp4", {"options": {"g": "1"}}),
        ("open_groups.mp4", {"options": {"bf": "3", "g": "12", "x264-params": "open-gop=1"}}),
        ("variable_rate.mkv", {"times": [0, *np.cumsum(np.random.default_rng(1).integers(20, 400, 59)) / 1000]}),
        ("vp9.webm", {}),
        ("vp8.webm", {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}}),
        ("hevc.mp4", {"codec": "libx265", "options": {"x265-params": "bframes=3:keyint=20:log-level=none"}}),
        ("mpeg2.ts", {"codec": "mpeg2video", "options": {"bf": "2"}}),
        ("transport.ts", {"options": {"bf": "2", "g": "12"}}),
        ("mpeg4.avi", {"options": {"bf": "2"}}),
        ("h264.avi", {"codec": "libx264", "options": {"bf": "2", "g": "12"}}),
        ("animation.gif", {"audio": False}),
    ],
)
def test_evenly_spaced_frames_equal_a_sequential_decode(tmp_path, name, options, decoder):
    path = make_clip(tmp_path / name, frames=list(pattern(60, (96, 80))), **options)
    every = in_sequence(path)
    wanted = np.round(np.linspace(0, len(every) - 1, 16)).astype(int)

    clip, info = decode(str(path), limits=Limits(decoder=decoder))

    assert len(every) == 60
    assert np.array_equal(clip.frames, np.stack([every[i][0] for i in wanted]))
    if name != "h264.avi":  # AVI stores no times; what PyAV makes up for this one is not even increasing.
        times = np.array([every[i][1] for i in wanted])
        assert clip.frame_times - clip.frame_times[0] == pytest.approx(times - times[0], abs=1e-3)
    assert 0 <= clip.frame_times[0] < 0.03  # The sound of a transport stream starts a little before the picture.
    assert (np.diff(clip.frame_times) > 0).all()
    assert info.has_video
    assert info.warnings == []


def test_a_frame_hidden_by_an_edit_list_is_not_counted(tmp_path):
    path = make_clip(tmp_path / "whole.mp4", frames=list(pattern(40)), options={"bf": "0", "g": "40"}, audio=False)
    cut = tmp_path / "cut.mp4"
    with (
        av.open(str(path)) as source,
        av.open(str(cut), "w") as target,
    ):  # Copied from frame 7 on, without a key frame there.
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts -= 7 * 1024
                packet.dts -= 7 * 1024
                packet.stream = stream
                target.mux(packet)
    every = in_sequence(cut)

    clip, _ = decode(str(cut), limits=Limits(decoder="decord"), sampling=Sampling(frames=5))

    wanted = np.round(np.linspace(0, len(every) - 1, 5)).astype(int)
    assert np.array_equal(clip.frames, np.stack([every[i][0] for i in wanted]))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_the_picture_is_turned_upright(tmp_path, rotation, decoder):
    upright = np.zeros((96, 128, 3), np.uint8)
    upright[:48, :64] = (255, 0, 0)  # top left
    upright[:48, 64:] = (0, 255, 0)
    stored = np.ascontiguousarray(np.rot90(upright, rotation // 90))  # counter-clockwise
    path = make_clip(tmp_path / "turned.mp4", frames=[stored] * 5, rotation=rotation, audio=False)

    clip, info = decode(str(path), limits=Limits(decoder=decoder))

    assert clip.frames.shape == (5, 96, 128, 3)
    assert np.abs(clip.frames[0, 10:38, 10:54].astype(int) - (255, 0, 0)).max() < 12
    assert np.abs(clip.frames[0, 10:38, 74:118].astype(int) - (0, 255, 0)).max() < 12
    assert (info.width, info.height, info.rotation) == (128, 96, rotation)
    assert decode(str(path), want_frames=False)[1].rotation == rotation


def test_a_portrait_of_a_narrow_phone(tmp_path):
    path = make_clip(tmp_path / "narrow.mp4", size=(64, 48), rotation=90)

    frames = [decode(str(path), limits=Limits(decoder=decoder))[0].frames for decoder in ("pyav", "decord")]

    assert frames[0].shape == (16, 64, 48, 3)
    assert np.array_equal(*frames)


def test_large_pictures_are_scaled_down_and_small_ones_left_alone(tmp_path):
    large = make_clip(tmp_path / "uhd.mp4", frames=list(pattern(3, (3840, 2160))), options={"preset": "ultrafast"})
    portrait = make_clip(tmp_path / "portrait.mp4", frames=list(pattern(3, (480, 854))))
    small = make_clip(tmp_path / "small.mp4", size=(96, 80))

    clip, info = decode(str(large))
    assert clip.frames.shape == (3, 360, 640, 3)
    assert (info.width, info.height) == (3840, 2160)
    full = in_sequence(large)[0][0].astype(float)
    areas = full.reshape(360, 6, 640, 6, 3).mean(axis=(1, 3))
    assert np.abs(clip.frames[0] - areas).max() <= 1
    assert decode(str(portrait))[0].frames.shape == (3, 640, 360, 3)
    assert decode(str(portrait), sampling=Sampling(short_side=48))[0].frames.shape == (3, 85, 48, 3)
    assert decode(str(small))[0].frames.shape == (16, 80, 96, 3)
    assert scaled_down(np.zeros((2, 5000, 3), np.uint8), 1).shape == (1, 2500, 3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_one_frame(tmp_path, decoder):
    path = make_clip(tmp_path / "one.mp4", frames=list(pattern(1)), audio=False)

    clip, info = decode(str(path), limits=Limits(decoder=decoder))

    assert clip.frames.shape == (1, 48, 64, 3)
    assert clip.frame_times.tolist() == [0]
    assert info.duration_s == pytest.approx(0.1)
    assert decode(str(make_clip(tmp_path / "n.mp4")), sampling=Sampling(frames=1))[0].frame_times.tolist() == [0]


@pytest.mark.parametrize("decoder", DECODERS)
def test_without_sound(tmp_path, decoder):
    clip, info = decode(str(make_clip(tmp_path / "silent.mp4", audio=False)), limits=Limits(decoder=decoder))

    assert clip.waveform.shape == (0,)
    assert (info.has_video, info.has_audio, info.decoder) == (True, False, decoder)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a", "a.flac"])
def test_without_picture(tmp_path, name):
    clip, info = decode(str(make_clip(tmp_path / name, video=False)))

    assert clip.frames.shape == (0, 0, 0, 3)
    assert clip.frame_times.shape == (0,)
    assert len(clip.waveform) == pytest.approx(32_000, abs=1000)
    assert (info.has_video, info.has_audio, info.width, info.rotation) == (False, True, None, None)


def test_cover_art_is_no_video(tmp_path):
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("mp3", rate=44_100, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition |= av.stream.Disposition.attached_pic
        for packet in cover.encode(av.VideoFrame.from_ndarray(next(iter(pattern(1))), format="rgb24")):
            container.mux(packet)
        frame = av.AudioFrame.from_ndarray(sine(1)[None], format="fltp", layout="mono")
        frame.sample_rate = 44_100
        container.mux(sound.encode(frame) + sound.encode())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1

    clip, info = decode(str(path))

    assert not info.has_video
    assert len(clip.waveform) > 15_000


def test_what_is_not_wanted_stays_empty_and_the_rest_is_the_same(tmp_path):
    path = str(make_clip(tmp_path / "both.mp4", audio_start=0.3))
    both, info = decode(path)

    frames, frames_info = decode(path, want_audio=False)
    sound, sound_info = decode(path, want_frames=False)

    assert np.array_equal(frames.frames, both.frames)
    assert np.array_equal(frames.frame_times, both.frame_times)
    assert np.array_equal(sound.waveform, both.waveform)
    assert len(frames.waveform) == len(sound.frames) == 0
    for other in (frames_info, sound_info):
        assert (other.has_video, other.has_audio, other.width, other.fps) == (True, True, info.width, info.fps)
        assert other.duration_s == pytest.approx(info.duration_s, abs=0.05)


class TestSound:
    def test_channels_are_averaged(self, tmp_path):
        left = sine(2, amplitude=0.8)
        stereo = decode(str(make_clip(tmp_path / "s.wav", audio=np.stack([left, 0 * left]), video=False)))[0].waveform
        both = decode(str(make_clip(tmp_path / "b.wav", audio=np.stack([left, left]), video=False)))[0].waveform

        middle = slice(4000, 28_000)
        assert np.sqrt(np.mean(stereo[middle] ** 2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.01)
        assert np.sqrt(np.mean(both[middle] ** 2)) == pytest.approx(0.8 / np.sqrt(2), rel=0.01)

    @pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
    def test_lossy_stereo_keeps_its_level(self, tmp_path, name):
        tone = sine(3, amplitude=0.5)
        waveform = decode(str(make_clip(tmp_path / name, seconds=3, audio=np.stack([tone, tone]))))[0].waveform

        assert np.sqrt(np.mean(waveform[8000:40_000] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)

    @pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000, 96_000])
    def test_pitch_and_place_survive_resampling(self, tmp_path, rate):
        tone = sine(2, 440, rate=rate)
        path = make_clip(tmp_path / "tone.wav", audio=tone, audio_rate=rate, video=False)

        waveform = decode(str(path))[0].waveform

        expected = sine(2, 440, rate=16_000)
        assert len(waveform) == pytest.approx(len(expected), abs=2)
        inner = slice(1000, 31_000)
        assert np.abs(waveform[inner] - expected[inner]).max() < 2e-3  # a shift by one sample would be 0.08

    def test_what_16_khz_cannot_hold_is_filtered_out(self, tmp_path):
        path = make_clip(tmp_path / "high.wav", audio=sine(1, 11_000), video=False)

        waveform = decode(str(path))[0].waveform

        assert np.abs(waveform[1000:-1000]).max() < 0.005

    def test_values_are_int16_steps(self, tmp_path):
        waveform = decode(str(make_clip(tmp_path / "v.mp4", audio=sine(1, amplitude=1.0))))[0].waveform

        assert waveform.dtype == np.float32
        assert np.array_equal(waveform * 32768, np.rint(waveform * 32768))
        assert waveform.min() >= -1
        assert waveform.max() < 1

    @pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
    def test_sound_that_starts_late_stays_beside_its_picture(self, tmp_path, name):
        path = make_clip(tmp_path / name, seconds=3, audio=sine(2), audio_start=0.7)

        clip, _ = decode(str(path))

        first = np.flatnonzero(np.abs(clip.waveform) > 0.1)[0] / 16_000
        assert first == pytest.approx(0.7, abs=0.03)
        assert clip.frame_times[0] == 0

    def test_it_is_cut_at_the_limit(self, tmp_path):
        path = make_clip(tmp_path / "long.wav", seconds=5, video=False)

        clip, info = decode(str(path), limits=Limits(max_duration_s=2))

        assert len(clip.waveform) == 32_000
        assert info.duration_s == pytest.approx(5, abs=0.1)
        assert info.warnings == ["the sound after 2 s is left out"]

    @pytest.mark.parametrize("field", [(24, 2**31 - 1), (24, 1), (22, 65_535), (24, 0)])
    def test_an_absurd_header_costs_nothing(self, tmp_path, field):
        path = make_clip(tmp_path / "odd.wav", video=False)
        content = bytearray(path.read_bytes())
        offset, value = field
        content[offset : offset + (4 if offset == 24 else 2)] = value.to_bytes(4 if offset == 24 else 2, "little")
        path.write_bytes(content)

        assert failure_of(path).error_type in (ErrorType.UNDECODABLE, ErrorType.NOT_MEDIA)


class TestBroken:
    @pytest.mark.parametrize("decoder", DECODERS)
    def test_a_truncated_file_is_salvaged(self, tmp_path, decoder):
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

    def test_a_truncated_file_without_an_index_is_one_failure(self, tmp_path):
        failure = failure_of(truncate(make_clip(tmp_path / "cut.mp4"), 0.9))

        assert failure.error_type is ErrorType.UNDECODABLE
        assert "truncated" in failure.message

    def test_pictures_that_do_not_decode_leave_the_sound(self, tmp_path):
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
    def test_mutated_bytes_give_a_clip_or_one_failure(self, tmp_path, name):
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

    def test_empty(self, tmp_path):
        (tmp_path / "empty.mp4").touch()

        assert failure_of(tmp_path / "empty.mp4").error_type is ErrorType.EMPTY

    def test_text_named_mp4(self, tmp_path):
        (tmp_path / "notes.mp4").write_text("these are notes\n" * 100)

        failure = failure_of(tmp_path / "notes.mp4")

        assert failure.error_type is ErrorType.NOT_MEDIA
        assert "notes.mp4 is not a video or sound file" in failure.message

    def test_subtitles_are_no_media(self, tmp_path):
        (tmp_path / "s.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n\n")

        assert failure_of(tmp_path / "s.srt").error_type is ErrorType.NOT_MEDIA

    def test_a_playlist_opens_no_other_file(self, tmp_path):
        make_clip(tmp_path / "part.ts")
        playlist = tmp_path / "list.m3u8"
        playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\npart.ts\n#EXT-X-ENDLIST\n")

        failure = failure_of(playlist)

        assert failure.error_type is ErrorType.NOT_MEDIA

    def test_missing_and_unreadable(self, tmp_path):
        assert failure_of(tmp_path / "none.mp4").error_type is ErrorType.NOT_FOUND
        assert failure_of(tmp_path).error_type is ErrorType.IO
        assert failure_of(str(tmp_path / "nul\0.mp4")).error_type is ErrorType.IO
        os.mkfifo(tmp_path / "pipe.mp4")
        assert failure_of(tmp_path / "pipe.mp4").error_type is ErrorType.IO

    def test_a_picture_beyond_the_limit_leaves_the_sound(self, tmp_path):
        wide = {"frames": [np.zeros((16, 16_400, 3), np.uint8)] * 5, "codec": "ffv1"}

        clip, info = decode(str(make_clip(tmp_path / "wide.mkv", audio_codec="aac", **wide)))
        failure = failure_of(make_clip(tmp_path / "silent.mkv", audio=False, **wide))

        assert clip.frames.shape == (0, 0, 0, 3)
        assert len(clip.waveform) > 4000
        assert not info.has_video
        assert info.warnings == ["the picture is left out: 16400x16 pixels are more than allowed"]
        assert failure.error_type is ErrorType.UNDECODABLE
        assert "16400x16" in failure.message

    def test_a_header_that_declares_30000_by_30000(self, tmp_path):
        path = make_clip(tmp_path / "raw.avi", codec="rawvideo", audio=False)
        content = path.read_bytes()
        sizes = np.array([64, 48], "<i4").tobytes()
        assert content.count(sizes) == 2
        path.write_bytes(content.replace(sizes, np.array([30_000, 30_000], "<i4").tobytes()))

        assert failure_of(path).error_type is ErrorType.UNDECODABLE


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


class TestAddress:
    def test_file_scheme(self, tmp_path):
        path = make_clip(tmp_path / "my clip.mp4")

        assert len(decode(f"file://{path}")[0].frames) == 16

    @pytest.mark.parametrize("decoder", DECODERS)
    def test_a_remote_file_is_fetched_and_nothing_is_left(self, tmp_path, monkeypatch, decoder):
        path = make_clip(tmp_path / "v.mp4")
        with fsspec.open("memory://bucket/v.mp4", "wb") as target:
            target.write(path.read_bytes())
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()

        clip, info = decode("memory://bucket/v.mp4", "v", limits=Limits(decoder=decoder))

        assert np.array_equal(clip.frames, decode(str(path))[0].frames)
        assert info.decoder.startswith(decoder)
        assert list((tmp_path / "temporary").iterdir()) == []

    def test_remote_failures(self):
        with fsspec.open("memory://bucket/empty.mp4", "wb"):
            pass

        assert failure_of("memory://bucket/none.mp4").error_type is ErrorType.NOT_FOUND
        assert failure_of("memory://bucket/empty.mp4").error_type is ErrorType.EMPTY

    def test_a_missing_package_is_named(self):
        failure = failure_of("sftp://host/v.mp4")

        assert failure.error_type is ErrorType.IO
        assert "paramiko" in failure.message
