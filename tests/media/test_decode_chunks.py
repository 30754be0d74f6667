"""Chunks of long videos: every sample, window and frame is in exactly one of them."""

from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clips import make_clip, pattern, sine
from vemoclap_batch.media.audio import AudioBuffer, to_float
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip
from vemoclap_batch.media.decode import LOOKAHEAD_S, Chunk, cuts, decode, decode_chunks, divide, quietest
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.windows import clip_windows, evenly_spaced, window_starts
from vemoclap_batch.media.worker import DecodeWorker


def buffer_of(pcm, in_memory=1000):
    audio = AudioBuffer(in_memory)
    for block in np.array_split(pcm, 7):
        audio.append(block)
    return audio


def noise(samples, seed=0):
    return np.random.default_rng(seed).integers(-3000, 3000, samples).astype(np.int16)


@given(samples=st.integers(0, 5000), start=st.integers(-10, 6000), end=st.integers(-10, 6000))
def test_audio_is_the_same_in_memory_and_on_disk(samples, start, end):
    pcm = noise(samples)
    expected = pcm[max(start, 0) : max(end, 0)] if start < end else pcm[:0]
    for in_memory in (0, 100, 10_000):
        audio = buffer_of(pcm, in_memory)
        assert len(audio) == samples
        assert np.array_equal(audio.between(start, end), expected)
        audio.close()


@given(
    samples=st.integers(0, 300_000),
    frames=st.integers(0, 500),
    part_frames=st.integers(1, 120),
    part_samples=st.integers(1000, 120_000),
    whole_frames=st.integers(0, 500),
    whole_samples=st.integers(0, 300_000),
)
def test_chunks_cover_everything_once_and_keep_the_bounds(
    samples, frames, part_frames, part_samples, whole_frames, whole_samples
):
    limits = Limits(
        part_s=part_samples / SAMPLE_RATE, part_frames=part_frames,
        whole_s=whole_samples / SAMPLE_RATE, whole_frames=whole_frames,
    )  # fmt: skip
    chunks = divide(frames, buffer_of(noise(samples)), limits)
    if frames <= whole_frames and samples <= whole_samples:
        assert chunks == [Chunk(0, 1, 0, frames, 0, samples)]
        return

    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert {chunk.of for chunk in chunks} == {len(chunks)}
    assert len(chunks) == 1 or frames > part_frames or samples > part_samples
    for size, most, ranges in (
        (frames, part_frames, [(chunk.first_frame, chunk.last_frame) for chunk in chunks]),
        (samples, part_samples, [(chunk.start, chunk.end) for chunk in chunks]),
    ):
        assert ranges[0][0] == 0
        assert ranges[-1][1] == size
        assert all(before[1] == after[0] for before, after in pairwise(ranges))
        assert all(0 <= end - start <= most for start, end in ranges)


@given(
    samples=st.integers(0, 60_000), longest=st.integers(400, 20_000), size=st.integers(1, 3000),
    hop=st.integers(1, 2000), most=st.one_of(st.none(), st.integers(1, 20)),
)  # fmt: skip
def test_the_windows_of_all_chunks_are_those_of_one_piece(samples, longest, size, hop, most):
    pcm = noise(samples)
    ends = cuts(buffer_of(pcm), longest) or [0]
    starts = [0, *ends[:-1]]
    found, waveforms = [], []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        clip = Clip(
            "v", np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0), to_float(pcm[start:end]), 0.0,
            start_s=start / SAMPLE_RATE, chunk=number, chunks=len(ends), audio_samples=samples,
            lookahead=to_float(pcm[end : end + size]),
        )  # fmt: skip
        begin_s, own = clip_windows(clip, size, hop, most)
        found += np.rint(begin_s * SAMPLE_RATE).astype(int).tolist()
        waveforms += own
    expected = np.array(window_starts(samples, size, hop), int)
    expected = expected if most is None else expected[evenly_spaced(len(expected), most)]
    assert found == expected.tolist()
    for start, audio in zip(expected, waveforms, strict=True):
        assert np.array_equal(audio, to_float(pcm[start : start + size]))


def test_audio_is_cut_where_it_is_quietest():
    pcm = noise(20 * SAMPLE_RATE)
    pcm[int(16.8 * SAMPLE_RATE) : int(17.6 * SAMPLE_RATE)] //= 100
    [first, last] = cuts(buffer_of(pcm), 18 * SAMPLE_RATE)
    assert first / SAMPLE_RATE == pytest.approx(17.2, abs=0.25)
    assert last == len(pcm)
    # In silence as late as can be.
    silence = cuts(buffer_of(np.zeros(20 * SAMPLE_RATE, np.int16)), 18 * SAMPLE_RATE)[0]
    assert silence / SAMPLE_RATE == pytest.approx(17.8, abs=0.05)
    assert quietest(np.zeros(0, np.int16)) == 0


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """65 s with a tone that changes its level, pauses and moving frames."""
    times = np.arange(65 * 16_000) / 16_000
    audio = sine(65, rate=16_000) * (np.sin(times / 3) ** 2) * (np.mod(times, 5) > 0.7)
    options = {"g": "25", "bf": "2"}
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return str(make_clip(path, frames=pattern(650), fps=10, audio=audio.astype(np.float32), audio_rate=16_000,
                         options=options))  # fmt: skip


LIMITS = Limits(whole_s=20, whole_frames=7, part_s=20, part_frames=7)
EVERY = Sampling(every_s=1.0)


def test_chunks_put_together_are_the_video_in_one_piece(long):
    whole, whole_info = decode(long, sampling=EVERY, limits=LIMITS)
    chunks = [clip for clip, _ in decode_chunks(long, "v", EVERY, LIMITS)]

    assert len(whole.frames) == 65
    assert len(chunks) == 10
    assert whole_info.warnings == []
    assert np.array_equal(np.concatenate([chunk.frames for chunk in chunks if len(chunk.frames)]), whole.frames)
    assert np.array_equal(np.concatenate([chunk.frame_times for chunk in chunks]), whole.frame_times)
    assert np.array_equal(np.concatenate([chunk.waveform for chunk in chunks]), whole.waveform)
    assert [chunk.first_frame for chunk in chunks] == list(range(0, 65, 7))
    assert {chunk.audio_samples for chunk in chunks} == {len(whole.waveform)}
    for chunk in chunks:
        assert len(chunk.waveform) <= 20 * SAMPLE_RATE
        assert len(chunk.frames) <= 7
        assert chunk.duration_s == whole.duration_s
        end = round(chunk.start_s * SAMPLE_RATE) + len(chunk.waveform)
        assert np.array_equal(chunk.lookahead, whole.waveform[end : end + int(LOOKAHEAD_S * SAMPLE_RATE)])
        # Each was cut in a pause.
        if len(chunk.lookahead):
            assert np.abs(chunk.waveform[-800:]).max() < 1e-3


def test_the_worker_gives_the_same_chunks_and_stays_usable(long):
    expected = [clip for clip, _ in decode_chunks(long, "v", EVERY, LIMITS)]
    with DecodeWorker(EVERY, LIMITS) as worker:
        chunks = list(worker.chunks("v", long))
        pid = worker.pid
        for (clip, _), other in zip(chunks, expected, strict=True):
            assert (clip.chunk, clip.chunks, clip.start_s, clip.first_frame) == (
                other.chunk, other.chunks, other.start_s, other.first_frame,
            )  # fmt: skip
            for name in ("frames", "waveform", "lookahead"):
                assert np.array_equal(getattr(clip, name), getattr(other, name))
        # The first alone can be asked for; one that is left in the middle costs the process, not the next answer.
        assert worker.decode("v", long)[0].chunk == 0
        assert worker.pid == pid
        with closing(worker.chunks("v", long)) as chunks_left:
            assert next(chunks_left)[0].chunk == 0
        assert len(list(worker.chunks("v", long))) == len(chunks)
        assert worker.pid != pid


def test_a_file_without_times_gives_the_same_frames_in_chunks(tmp_path):
    path = str(make_clip(tmp_path / "h264.avi", frames=pattern(90), codec="libx264", options={"bf": "2", "g": "12"}))
    sampling = Sampling(frames=40)
    whole, _ = decode(path, sampling=sampling)
    limits = Limits(whole_frames=9, part_frames=9)
    chunks = [clip for clip, _ in decode_chunks(path, "v", sampling, limits)]
    assert [len(chunk.frames) for chunk in chunks] == [9, 9, 9, 9, 4]
    assert np.array_equal(np.concatenate([chunk.frames for chunk in chunks]), whole.frames)
    assert np.array_equal(np.concatenate([chunk.frame_times for chunk in chunks]), whole.frame_times)


def test_frames_every_second_and_never_fewer_than_without(tmp_path, long):
    whole, _ = decode(long, sampling=EVERY)
    assert whole.frame_times == pytest.approx(np.arange(65), abs=0.01)
    short = str(make_clip(tmp_path / "short.mp4", seconds=5))
    assert np.array_equal(decode(short, sampling=EVERY)[0].frames, decode(short)[0].frames)
    # Shown when the moment comes, in a video whose frames do not come at regular times.
    times = [*np.arange(20) / 10, *(2 + np.arange(28))]
    uneven = make_clip(tmp_path / "uneven.mkv", frames=pattern(48), times=times, audio=False)
    assert decode(str(uneven), sampling=EVERY)[0].frame_times == pytest.approx(np.arange(30), abs=0.01)


def test_a_broken_end_is_said_once(tmp_path):
    path = tmp_path / "broken.mkv"
    make_clip(path, frames=pattern(300), fps=10)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    infos = [info for _, info in decode_chunks(str(path), "v", EVERY, LIMITS)]
    assert len(infos) > 1
    assert any("truncated" in warning for warning in infos[-1].warnings)
