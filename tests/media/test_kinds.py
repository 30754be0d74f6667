"""Kinds of files that people have: made by the ffmpeg program, and compared with it and with what they were made of."""

from dataclasses import replace

import pytest

from fuzz import second_decoder
from fuzz.comparison import compare
from fuzz.make_media import make
from fuzz.numbered import read_number
from fuzz.random_media import Recipe
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.sampling import Limits, Sampling

PROGRAM = second_decoder.find_program()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no ffmpeg program is at hand")

#: An ordinary file; each kind below says what is special about it.
PLAIN = Recipe(
    suffix=".mp4", video="h264", pixels="yuv420p", size=(160, 120), group=25, b_frames=2, rate="25", frames=(75,),
    slow="none", variant=(), audio="aac", audio_rates=(48_000,), channels=1, cut="none", cut_share=0.0, join="none",
    matrix="none", shape="1/1", late_s=0.0,
)  # fmt: skip
JOINED, JUMPS, IN_TURN, PACKED, MIRROR = "starts again", "stamps jump", "decoded in turn", "packed", "in a mirror"


def joined(suffix, video, audio, parts=2, join="restart", rates=(48_000,), **others):
    return replace(
        PLAIN, suffix=suffix, video=video, audio=audio, join=join, frames=(60, 75, 50, 40)[:parts], b_frames=0,
        audio_rates=tuple(rates[part % len(rates)] for part in range(parts)), **others,
    )  # fmt: skip


#: Name: the recipe and what the warnings have to say; None for no warning at all.
KINDS = {
    "plain": (PLAIN, None),
    "mpeg 1": (replace(PLAIN, suffix=".mpg", video="mpeg1", audio="mp2"), None),
    "packed B-frames, mp4": (replace(PLAIN, video="mpeg4 packed", audio="mp3"), PACKED),
    "packed B-frames, mkv": (replace(PLAIN, suffix=".mkv", video="mpeg4 packed", audio="mp3"), PACKED),
    "packed B-frames, avi": (replace(PLAIN, suffix=".avi", video="mpeg4 packed", audio="mp3"), None),
    "mirrored, mp4": (replace(PLAIN, matrix="mirrored"), MIRROR),
    "turned and mirrored, mov": (replace(PLAIN, suffix=".mov", matrix="turned 90, mirrored"), MIRROR),
    "upside down and mirrored, mkv": (replace(PLAIN, suffix=".mkv", matrix="turned 180, mirrored"), MIRROR),
    "turned, mkv": (replace(PLAIN, suffix=".mkv", matrix="turned 270"), None),
    "joined mkv": (joined(".mkv", "h264", "aac", variant=("-live", "1")), JOINED),
    "three joined mkv": (joined(".mkv", "mpeg4", "mp3", parts=3), JOINED),
    "joined webm": (joined(".webm", "vp8", "opus"), JOINED),
    "four joined webm": (joined(".webm", "vp9", "vorbis", parts=4), JOINED),
    "joined ts": (joined(".ts", "h264", "aac", parts=3), JOINED),
    "joined vob": (joined(".vob", "mpeg2", "ac3", parts=3), JOINED),
    "joined mpg without sound": (joined(".mpg", "mpeg2", "none"), JOINED),
    "chained ogg": (joined(".ogv", "theora", "none", parts=3), JOINED),
    "time stamps that jump": (joined(".ts", "h264", "mp2", parts=3, join="jump"), JUMPS),
    "time stamps that wrap at 33 bits": (joined(".ts", "mpeg2", "mp2", join="wrap"), ""),
    "several sampling rates": (joined(".ts", "h264", "aac", 4, "other audio rate", (24_000, 48_000, 16_000)), JOINED),
    "intra refresh, mp4": (replace(PLAIN, video="h264 refresh", b_frames=0, group=50), IN_TURN),
    "intra refresh, ts": (replace(PLAIN, suffix=".ts", video="h264 refresh", b_frames=0, group=50), ""),
    "cut start, ts": (replace(PLAIN, suffix=".ts", cut="start", cut_share=0.2), "could be decoded"),
    "cut start, mpg": (replace(PLAIN, suffix=".mpg", video="mpeg2", audio="mp2", cut="start", cut_share=0.3), ""),
    "cut within a group, mp4": (replace(PLAIN, cut="copy mid-group", cut_share=0.3), ""),
    "variable rate": (replace(PLAIN, slow="first", rate="30", frames=(60,)), None),
    "variable rate, webm": (replace(PLAIN, suffix=".webm", video="vp9", audio="opus", b_frames=0, slow="last"), None),
    "variable rate, B-frames, mkv": (replace(PLAIN, suffix=".mkv", slow="first", rate="30", frames=(45,)), None),
    "whole pictures, avi": (replace(PLAIN, suffix=".avi", audio="mp3", group=1, b_frames=0), None),
    "cut end, mxf": (replace(PLAIN, suffix=".mxf", video="mpeg2", audio="pcm", group=12, cut="end", cut_share=0.3), ""),
    "palette, smc": (replace(PLAIN, suffix=".mov", video="smc", pixels="pal8", b_frames=0), None),
    "palette, raw avi": (replace(PLAIN, suffix=".avi", video="raw", pixels="pal8", group=1, audio="pcm"), None),
    "palette, gif": (replace(PLAIN, suffix=".gif", video="gif", pixels="pal8", audio="none"), None),
    "key frames that are none": (replace(PLAIN, suffix=".mov", video="rpza", pixels="rgb555le"), IN_TURN),
    "oblong pixels": (replace(PLAIN, shape="2/1"), None),
    "oblong pixels, upright": (replace(PLAIN, suffix=".mkv", shape="3/4"), None),
}  # fmt: skip


def made(recipe, folder):
    path = folder / f"clip{recipe.suffix}"
    scratch = folder / "scratch"
    scratch.mkdir()
    make(recipe, path, PROGRAM, scratch)
    return path, scratch


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_out_is_what_went_in(tmp_path, kind):
    recipe, said = KINDS[kind]
    path, scratch = made(recipe, tmp_path)

    clip, info = decode(str(path))

    assert compare(recipe, second_decoder.decode(PROGRAM, path, scratch), (clip, info)) == {}
    assert len(clip.frames) == 16
    assert info.has_audio == (recipe.audio != "none")
    if said is None:
        assert info.warnings == []
    else:
        assert said in "; ".join(info.warnings)


@pytest.mark.parametrize("kind", ["joined mkv", "intra refresh, mp4", "packed B-frames, mkv", "cut start, ts"])
def test_chunks_of_such_a_file_are_the_file_in_one_piece(tmp_path, kind):
    from vemoclap_batch.media.decode import decode_chunks

    recipe, _ = KINDS[kind]
    path, _ = made(recipe, tmp_path)
    sampling = Sampling(frames=40)
    whole, _ = decode(str(path), sampling=sampling)
    limits = Limits(whole_frames=9, part_frames=9)
    chunks = [clip for clip, _ in decode_chunks(str(path), "v", sampling, limits)]
    numbers = [read_number(frame, recipe.size) for chunk in chunks for frame in chunk.frames]
    assert [len(chunk.frames) for chunk in chunks][:4] == [9, 9, 9, 9]
    assert [chunk.first_frame for chunk in chunks] == [0, 9, 18, 27, 36]
    if kind in ("joined mkv", "packed B-frames, mkv"):
        assert numbers == [read_number(frame, recipe.size) for frame in whole.frames]
    assert all(number is not None for number in numbers)
    assert len(set(numbers)) == len(numbers) >= 36


def test_decoding_in_turn_has_its_time(tmp_path):
    """What was sought is given, then, without what is broken."""
    recipe, _ = KINDS["intra refresh, mp4"]
    path, _ = made(recipe, tmp_path)
    clip, info = decode(str(path), limits=Limits(timeout_s=0))
    assert 0 < len(clip.frames) < 16
    numbers = [read_number(frame, recipe.size) for frame in clip.frames]
    assert sorted(set(numbers)) == numbers
    assert "decoding in turn was given up after 0 s: pictures may be broken or missing" in info.warnings
    assert f"{len(clip.frames)} of 16 frames could be read" in info.warnings
