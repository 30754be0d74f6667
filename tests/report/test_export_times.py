"""Times, frames and texts keep what each tool's convention asks for, whatever the rate, the windows and the words."""

import itertools
import tempfile
from html import unescape

import pympi
import pysrt
import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.config import LABELS
from vemoclap_batch.media.windows import Window
from vemoclap_batch.report.exports.base import file_name
from vemoclap_batch.report.exports.captions import Srt, WebVtt
from vemoclap_batch.report.exports.elan import document
from vemoclap_batch.report.exports.source import Filter, Record, Source
from vemoclap_batch.report.exports.times import Span, cues, frames, one_line, told, tracks

RATES = st.sampled_from([24.0, 25.0, 30.0, 24000 / 1001, 30000 / 1001, 60000 / 1001, 12.5, 1.0, 119.88])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["a --> b", "<i>x", "&amp;", "1\n\n2\n00:00:01,000 --> 00:00:02,000\nx", "\x00", "NOTE x", "WEBVTT", "{\\an8}x"]
)
SPANS = st.lists(
    st.tuples(st.floats(0, 5000), st.floats(0, 100), TEXTS).map(lambda of: Span(of[0], of[0] + of[1], of[2])),
    max_size=12,
)


@given(RATES, st.floats(0.5, 4000), st.floats(0.05, 30), st.floats(0.1, 1.0))
def test_frames_of_windows_lie_in_the_file_and_cover_it(fps, duration_s, window_s, share):
    window = Window(window_s, max(window_s * share, duration_s / 50))
    most = max(round(duration_s * fps), 1)
    for start_s, end_s in window.over(duration_s):
        first, last = frames(start_s, end_s, fps, duration_s)
        assert 1 <= first <= last <= most
        # To one frame: the first is shown at the start, the last one at the end.
        assert abs((first - 1) / fps - min(start_s, (most - 1) / fps)) <= 1.001 / fps
        assert abs(last / fps - end_s) <= 1.001 / fps


@given(RATES, st.floats(0, 4000), st.floats(0.2, 60), st.floats(0.2, 60))
def test_windows_that_touch_share_no_frame_and_leave_none_out(fps, start_s, length_s, next_s):
    middle_s = start_s + max(length_s, 1.01 / fps)
    (_, last), (first, _) = frames(start_s, middle_s, fps), frames(middle_s, middle_s + max(next_s, 1.01 / fps), fps)
    assert first == last + 1


def test_frames_at_25_a_second():
    assert frames(0, 5, 25) == (1, 125)
    assert frames(5, 10, 25) == (126, 250)
    assert frames(9.99, 10.0, 25, 10.0) == (250, 250)
    assert frames(1.001, 1.002, 25) == (26, 26)


@given(SPANS)
def test_no_cue_of_a_track_overlaps_another(spans):
    made = cues(spans)
    assert len(made) == len(spans)
    for cue in made:
        assert abs(cue.start_ms - cue.span.start_s * 1000) <= 0.5 + 1e-6
        assert cue.end_ms > cue.start_ms
        assert abs(cue.end_ms - cue.span.end_s * 1000) <= 1.5  # One that has no length is given a millisecond.
    parts = tracks(made)
    assert sorted(cue.start_ms for track in parts for cue in track) == [cue.start_ms for cue in made]
    for track in parts:
        assert all(one.end_ms <= other.start_ms for one, other in itertools.pairwise(track))
    at_once = max((sum(one.start_ms <= at.start_ms < one.end_ms for one in made) for at in made), default=0)
    assert len(parts) == at_once


@given(SPANS)
def test_every_cue_is_read_back_by_webvtt_py(spans):
    made = cues(told(spans))
    read = list(webvtt.from_string(WebVtt.text(None, made)))
    for cue, one in zip(made, read, strict=True):
        assert (milliseconds(one.start), milliseconds(one.end)) == (cue.start_ms, cue.end_ms)
        # It takes tags out of a text, and leaves escapes to whoever shows it.
        assert unescape(one.text) == cue.span.text


def milliseconds(clock):
    hours, minutes, seconds = clock.split(":")
    return round((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * 1000)


@given(SPANS)
def test_every_cue_is_read_back_by_pysrt(spans):
    for track in tracks(cues(told(spans))):
        read = pysrt.from_string(Srt.text(None, track))
        assert [one.index for one in read] == list(range(1, len(track) + 1))
        assert [(one.start.ordinal, one.end.ordinal) for one in read] == [(cue.start_ms, cue.end_ms) for cue in track]
        assert [one.text for one in read] == [cue.span.text for cue in track]


@given(SPANS, TEXTS)
def test_every_annotation_is_read_back_by_pympi(spans, name):
    source = Source(None, None, None, LABELS, {}, Filter())
    video = {"video_id": name, "uri": f"/clips/{name}", "duration_s": 9.0, "fps": 25.0, "has_video": True}
    record = Record(video | {"given_label": None}, [], {}, "", source)
    made = tracks(cues(told(spans)))
    tiers = [(f"emotion {number}", track) for number, track in enumerate(made)]
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/clip.eaf"
        document(record, record.uri, tiers, LABELS).write(file, encoding="utf-8", xml_declaration=True)
        read = pympi.Elan.Eaf(file)
    slots = list(read.timeslots.values())
    assert slots == sorted(slots)
    assert len(read.timeslots) == 2 * sum(map(len, made))
    for number, track in enumerate(made):
        found = sorted(read.get_annotation_data_for_tier(f"emotion {number}"))
        assert [(start, end) for start, end, *_ in found] == [(cue.start_ms, cue.end_ms) for cue in track]
        assert [text for _, _, text, *_ in found] == [cue.span.text for cue in track]


@given(st.lists(TEXTS, unique=True, max_size=6))
def test_names_of_files_are_names_and_unique(names):
    files = [file_name(name) for name in names]
    assert len({*files}) == len(files)
    assert all(name and not {*name} & {*'/\\:*?"<>|\0\n'} and not name.startswith(".") for name in files)
    assert all(len(name.encode()) < 200 for name in files)


@pytest.mark.parametrize("name", ["clip-0123456789", "ü.v2-1"])
def test_ordinary_ids_are_names_of_files(name):
    assert file_name(name) == name


@given(TEXTS)
def test_one_line_is_one_line_that_xml_takes(text):
    line = one_line(text)
    assert line == one_line(line)
    assert len(line.splitlines()) <= 1
    assert all(char == "\t" or ord(char) >= 32 for char in line)
