"""Real encoders make the clips, real decoders read them; a plain sequential decode is what they are compared with."""

import av
import numpy as np
import pytest

from tests.clips import make_clip, pattern, sine
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.frames import scaled_down
from vemoclap_batch.media.sampling import Limits, Sampling

LONG_GOP = {"bf": "3", "g": "50", "b-pyramid": "normal"}


def in_sequence(path):
    """Every frame as plain PyAV decodes it, with its time stamp."""
    with av.open(str(path)) as container:
        return [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]


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
    if "times" in options:  # By time, then: the frame at or before each moment.
        times = np.array([time for _, time in every])
        wanted = np.searchsorted(times, np.linspace(times[0], times[-1], 16) + 1e-6, side="right") - 1

    clip, info = decode(str(path), limits=Limits(decoder=decoder))

    assert len(every) == 60
    assert np.array_equal(clip.frames, np.stack([every[i][0] for i in wanted]))
    if name != "h264.avi":  # AVI stores no times; what PyAV makes up for this one is not even increasing.
        times = np.array([every[i][1] for i in wanted])
        assert clip.frame_times - clip.frame_times[0] == pytest.approx(times - times[0], abs=1e-3)
    assert 0 <= clip.frame_times[0] < 0.03  # The audio of a transport stream starts a little before the first frame.
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


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_the_frame_is_turned_upright(tmp_path, rotation, decoder):
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


def test_large_frames_are_scaled_down_and_small_ones_left_alone(tmp_path):
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


def test_one_frame(tmp_path, decoder):
    path = make_clip(tmp_path / "one.mp4", frames=list(pattern(1)), audio=False)

    clip, info = decode(str(path), limits=Limits(decoder=decoder))

    assert clip.frames.shape == (1, 48, 64, 3)
    assert clip.frame_times.tolist() == [0]
    assert info.duration_s == pytest.approx(0.1)
    assert decode(str(make_clip(tmp_path / "n.mp4")), sampling=Sampling(frames=1))[0].frame_times.tolist() == [0]


def test_without_audio(tmp_path, decoder):
    clip, info = decode(str(make_clip(tmp_path / "silent.mp4", audio=False)), limits=Limits(decoder=decoder))

    assert clip.waveform.shape == (0,)
    assert (info.has_video, info.has_audio, info.decoder) == (True, False, decoder)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a", "a.flac"])
def test_without_video(tmp_path, name):
    clip, info = decode(str(make_clip(tmp_path / name, video=False)))

    assert clip.frames.shape == (0, 0, 0, 3)
    assert clip.frame_times.shape == (0,)
    assert len(clip.waveform) == pytest.approx(32_000, abs=1000)
    assert (info.has_video, info.has_audio, info.width, info.rotation) == (False, True, None, None)


def test_cover_art_is_no_video(tmp_path):
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("mp3", rate=44_100, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition |= av.stream.Disposition.attached_pic
        for packet in cover.encode(av.VideoFrame.from_ndarray(next(iter(pattern(1))), format="rgb24")):
            container.mux(packet)
        frame = av.AudioFrame.from_ndarray(sine(1)[None], format="fltp", layout="mono")
        frame.sample_rate = 44_100
        container.mux(audio.encode(frame) + audio.encode())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1

    clip, info = decode(str(path))

    assert not info.has_video
    assert len(clip.waveform) > 15_000


def test_what_is_not_wanted_stays_empty_and_the_rest_is_the_same(tmp_path):
    path = str(make_clip(tmp_path / "both.mp4", audio_start=0.3))
    both, info = decode(path)

    frames, frames_info = decode(path, want_audio=False)
    audio, audio_info = decode(path, want_frames=False)

    assert np.array_equal(frames.frames, both.frames)
    assert np.array_equal(frames.frame_times, both.frame_times)
    assert np.array_equal(audio.waveform, both.waveform)
    assert len(frames.waveform) == len(audio.frames) == 0
    for other in (frames_info, audio_info):
        assert (other.has_video, other.has_audio, other.width, other.fps) == (True, True, info.width, info.fps)
        assert other.duration_s == pytest.approx(info.duration_s, abs=0.05)
