"""A few random files through both decoders, what is said of a decoder that errs, and what needs no ffmpeg program."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fuzz import second_decoder
from fuzz.comparison import compare
from fuzz.differential import differential
from fuzz.make_media import make
from fuzz.media_kinds import AUDIO_CODECS, CODECS, CONTAINERS, MATRICES
from fuzz.numbered import WINDOW_S, AudioFinder, difference, numbered_frame, read_number, tones
from fuzz.random_media import Recipe, draw
from vemoclap_batch.errors import ErrorType, Failure
from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.decode import decode

ROOT = Path(__file__).parents[2]
PROGRAM = second_decoder.find_program()
needs_ffmpeg = pytest.mark.skipif(PROGRAM is None, reason="no ffmpeg program is at hand")
ENCODERS = [codec.encoder for codec in CODECS.values()] + [encoder for encoder, *_ in AUDIO_CODECS.values()]
PLAIN = Recipe(
    suffix=".mp4", video="mpeg4", pixels="yuv420p", size=(96, 80), group=12, b_frames=0, rate="10", frames=(30,),
    slow="none", variant=(), audio="aac", audio_rates=(44_100,), channels=1, cut="none", cut_share=0.3, join="none",
    matrix="none", shape="1/1", late_s=0.0,
)  # fmt: skip


def job(*arguments):
    command = [sys.executable, "jobs/fuzz_media.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def first_frames(name, path):
    """A decoder that gives the first frames of a video instead of evenly spaced ones."""
    clip, info = decode(path, name)
    return replace(clip, frames=clip.frames[[0] * len(clip.frames)]), info


@needs_ffmpeg
def test_the_job_agrees_on_plain_kinds_and_counts(tmp_path):
    done = job("--against", "ffmpeg", "--count", 4, "--seed", 11, "--keep", tmp_path / "kept", "--json")
    assert done.returncode in (0, 1), done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["files"] + len(said["not_made"]) == 4
    assert said["agree"] + said["disagree"] == said["files"]
    for values in said["by_kind"].values():
        assert sum(count["agree"] + count["disagree"] for count in values.values()) == said["files"]
    assert done.returncode == (1 if said["disagree"] else 0)
    assert sorted(outcome["name"] for outcome in said["disagreeing"]) == (
        sorted(path.name for path in (tmp_path / "kept").iterdir()) if said["disagree"] else []
    )


@needs_ffmpeg
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"video": "h264", "suffix": ".mkv", "b_frames": 2, "group": 50, "audio": "vorbis", "late_s": 0.4},
        {"suffix": ".mov", "matrix": "turned 90", "audio": "none"},
        {"suffix": ".webm", "video": "vp8", "audio": "opus", "audio_rates": (48_000,), "channels": 2},
        {"suffix": ".ts", "video": "mpeg2", "rate": "25", "frames": (50,), "audio": "mp2"},
    ],
    ids=["plain", "late sound", "turned", "webm", "ts"],
)
def test_kinds_that_both_decoders_get_right(changes, tmp_path):
    recipe = replace(PLAIN, **changes)
    path = tmp_path / f"a{recipe.suffix}"
    make(recipe, path, PROGRAM, tmp_path)
    assert compare(recipe, second_decoder.decode(PROGRAM, path, tmp_path), decode(str(path))) == {}


@needs_ffmpeg
def test_a_decoder_that_errs_is_noticed(tmp_path):
    path = tmp_path / "a.mp4"
    make(PLAIN, path, PROGRAM, tmp_path)
    other = second_decoder.decode(PROGRAM, path, tmp_path)
    clip, info = decode(str(path))
    count = len(clip.frames)

    def said(**changes):
        return set(compare(PLAIN, other, (replace(clip, **changes), info)))

    assert said() == set()
    assert said(frames=clip.frames[:, ::-1]) == {"images"}
    assert said(frames=clip.frames[:, :, ::-1]) >= {"images"}
    assert said(frames=np.full_like(clip.frames, 128)) == {"images"}
    assert said(frames=clip.frames[[0] * count]) >= {"order", "frames"}
    assert said(frames=clip.frames[:12], frame_times=clip.frame_times[:12]) == {"frames"}
    assert said(frame_times=clip.frame_times * 2) >= {"times"}
    assert said(frames=np.repeat(clip.frames, 2, axis=2)) == {"shape"}
    silence = np.zeros(SAMPLE_RATE // 2, np.float32)
    middle = len(clip.waveform) // 2
    assert said(waveform=np.zeros_like(clip.waveform)) >= {"audio"}
    assert said(waveform=clip.waveform[:middle]) >= {"audio"}
    assert said(waveform=np.concatenate([silence, clip.waveform])) == {"audio place"}
    longer = np.concatenate([clip.waveform[:middle], silence, clip.waveform[middle:]])
    assert said(waveform=longer) >= {"audio place"}
    assert set(compare(PLAIN, other, (clip, replace(info, duration_s=5.0)))) == {"length"}
    assert set(compare(PLAIN, other, Failure(ErrorType.UNDECODABLE, "no"))) == {"failure"}


@needs_ffmpeg
def test_the_report_names_and_keeps_what_differs(tmp_path):
    keep = tmp_path / "kept"
    found = differential(PROGRAM, 3, 5, keep, first_frames).as_dict()
    assert found["disagree"] == found["files"] == 3
    assert found["differences"]["order"] == 3
    assert found["kept_in"] == str(keep)
    assert sorted(path.name for path in keep.iterdir()) == sorted(one["name"] for one in found["disagreeing"])
    for outcome in found["disagreeing"]:
        assert "twice" in outcome["differences"]["order"]


def test_without_a_program(tmp_path):
    for program in (tmp_path / "nowhere", sys.executable):
        done = job("--against", "ffmpeg", "--ffmpeg", program)
        assert done.returncode == 2
        assert "is no ffmpeg program" in done.stderr
    done = job("--count", 3)
    assert done.returncode == 2
    assert "expected either clips to damage or --against ffmpeg" in done.stderr


def test_recipes_fit_together():
    drawn = [draw(np.random.default_rng([3, number]), ENCODERS) for number in range(2000)]
    assert [str(recipe) for recipe in drawn[:5]] == [
        str(draw(np.random.default_rng([3, number]), ENCODERS)) for number in range(5)
    ]
    for recipe in drawn:
        container = CONTAINERS[recipe.suffix]
        assert recipe.video in container.video
        assert recipe.audio in (*container.audio, "none")
        assert len(recipe.frames) == len(recipe.audio_rates)
        assert (len(recipe.frames) > 1) == (recipe.join != "none")
        assert sum(recipe.frames) <= 240
        assert recipe.slow == "none" or container.variable
    for kind in ("container", "codec", "cut", "join", "matrix"):
        seen = {recipe.kinds()[kind] for recipe in drawn}
        expected = {
            "container": set(CONTAINERS),
            "codec": set(CODECS),
            "cut": {"none", *(cut for container in CONTAINERS.values() for cut in container.cuts)},
            "join": {"none", *(join for container in CONTAINERS.values() for join in container.joins)},
            "matrix": {"none", *MATRICES},
        }[kind]
        assert seen == expected


def test_only_what_can_be_encoded_is_drawn():
    few = ["libx264", "aac"]
    drawn = [draw(np.random.default_rng(number), few) for number in range(50)]
    assert {recipe.codec.encoder for recipe in drawn} == {"libx264"}
    assert {recipe.audio for recipe in drawn} <= {"aac", "none"}


def test_numbers_are_read():
    for size in ((96, 80), (226, 166), (128, 96)):
        for number in (0, 1, 255, 256, 513, 1023):
            shown = numbered_frame(number, size)
            assert read_number(shown, size) == number
            assert difference(shown, numbered_frame(number, size)) == 0
            assert read_number(np.repeat(shown, 2, axis=1), size) == number
        assert read_number(np.full((80, 96, 3), 128, np.uint8), size) is None


def test_audio_is_found_where_it_is():
    audio = tones(1, 3.0, SAMPLE_RATE)
    size = int(WINDOW_S * SAMPLE_RATE)
    place, likeness = AudioFinder(np.concatenate([np.zeros(1000, np.float32), audio])).find(
        audio[16_000 : 16_000 + size]
    )
    assert (place, round(likeness, 3)) == (17_000 / SAMPLE_RATE, 1.0)
    assert AudioFinder(tones(2, 3.0, SAMPLE_RATE)).find(audio[:size])[1] < 0.8
    assert AudioFinder(np.zeros(0, np.float32)).find(audio[:size]) == (0.0, 0.0)
    np.testing.assert_allclose(tones(0, 2.0, 32_000)[::2], tones(0, 2.0, 16_000), atol=1e-5)
