"""Windows and chunks without a cluster: merging results, texts with their times, choosing tables, predictions."""

import numpy as np
import pyarrow as pa
import pytest

from tests.clips import make_clip, pattern, sine
from tests.pipeline.long_tiny import PROFILE, Speech, Windows
from tests.tiny import TinyFrames
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError, ErrorType, Failure
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.extractors.windowed_text import windowed
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.model import AttentionClassifier
from vemoclap_batch.fusion.predict import predict, prediction_fingerprint
from vemoclap_batch.fusion.selection import select, selected_from
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec
from vemoclap_batch.media.decode import decode_chunks
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.windows import Window
from vemoclap_batch.pipeline.chunks import merge, merged_extras
from vemoclap_batch.pipeline.commit import Committer
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.pipeline.rows import FRAMES, WAVEFORM, input_in, text_of, with_media, with_results
from vemoclap_batch.pipeline.run import Classifier
from vemoclap_batch.report.digest import digest, show
from vemoclap_batch.store.store import Store

VIDEO = {"video_id": "v", "content_key": "c", "uri": "v.mkv"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "long.yaml"
    path.write_text(PROFILE)
    return load_config(str(path))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """One minute in five parts, as decoding gives them."""
    times = np.arange(60 * 16_000) / 16_000
    audio = (sine(60, rate=16_000) * (np.mod(times, 5) > 1)).astype(np.float32)
    path = tmp_path_factory.mktemp("clips") / "v.mkv"
    make_clip(path, frames=pattern(120), fps=2, audio=audio, audio_rate=16_000, audio_codec="pcm_s16le")
    limits = Limits(whole_s=15, part_s=15, part_frames=30)
    return list(decode_chunks(str(path), "v", Sampling(every_s=1.0), limits))


def chunk_of(part, specs, failing=()):
    """The row of one chunk as a chain makes it."""
    clip, _ = part
    row = pa.Table.from_pylist([VIDEO]).append_column("wanted", pa.array([list(specs)]))
    rows = with_media(row, part, 1.0, 0.5).drop_columns([FRAMES, WAVEFORM])
    for cls, name in ((TinyFrames, "clip"), (Windows, "beats"), (Speech, "asr")):
        result = cls(specs[name].settings, Resources()).extract([clip])
        if (name, clip.chunk) in failing:
            result = [Failure(ErrorType.MODEL, "no")]
        rows = with_results(rows, specs[name], result, 0.1, 2.0)
    return rows


def test_chunks_become_one_row(parts, config):
    specs = resolve(config)
    [row] = merge([chunk_of(part, specs) for part in parts], specs).to_pylist()
    assert row["decoded"]["seconds"] == 2.5
    assert row["decoded"]["frame_times"] == pytest.approx(list(range(60)), abs=0.01)
    assert len(row["clip"]["feature"]) == 60
    assert np.all(np.diff(row["beats"]["start_s"]) > 0)
    assert len(row["beats"]["feature"]) == 16
    assert len(row["asr"]["segments"]) == 12
    assert row["asr"]["language"] == "en"


def test_a_chunk_that_failed_fails_its_extractor_alone(parts, config):
    specs = resolve(config)
    [row] = merge([chunk_of(part, specs, failing={("beats", 2)}) for part in parts], specs).to_pylist()
    assert (row["beats"]["error_type"], row["beats"]["message"]) == ("model", "no")
    assert row["clip"]["error_type"] is None
    assert len(row["clip"]["feature"]) == 60


def test_a_failure_to_decode_a_later_chunk_is_the_videos(parts, config):
    specs = resolve(config)
    row = pa.Table.from_pylist([VIDEO]).append_column("wanted", pa.array([list(specs)]))
    bad = with_media(row, Failure(ErrorType.TIMEOUT, "slow"), 1.0, 1.0, 2).drop_columns([FRAMES, WAVEFORM])
    for name in ("clip", "beats", "asr"):
        bad = with_results(bad, specs[name], [None], 0.0, 1.0)
    [merged] = merge([chunk_of(part, specs) for part in parts[:2]] + [bad], specs).to_pylist()
    assert merged["decoded"]["error_type"] == "timeout"
    assert merged["clip"] is merged["beats"] is merged["asr"] is None


def test_columns_of_parts():
    media = [
        {"first_frame": 0, "frame_shape": [10, 4, 4, 3], "own_samples": 160_000},
        {"first_frame": 10, "frame_shape": [30, 4, 4, 3], "own_samples": 0},
    ]
    line = pa.struct([("frame", pa.int32()), ("text", pa.string())])
    tag = pa.struct([("label", pa.string()), ("probability", pa.float32())])
    columns = {"lines": pa.list_(line), "text": pa.string(), "tags": pa.list_(tag)}
    found = merged_extras(
        [
            {"lines": [{"frame": 3, "text": "Exit"}], "text": "exit. way",
 "tags": [{"label": "a", "probability": 0.9}]},
            {"lines": [{"frame": 0, "text": "Way"}], "text": "way. out", "tags": [{"label": "b", "probability": 0.4}]},
        ],
        columns, media, True,
    )  # fmt: skip
    assert found["lines"] == [{"frame": 3, "text": "Exit"}, {"frame": 10, "text": "Way"}]
    assert found["text"] == "exit. way. out"
    assert [(tag["label"], round(tag["probability"], 3)) for tag in found["tags"]] == [("b", 0.3)]

    caption = {"caption": pa.string(), "frame": pa.int32(), "time_s": pa.float64()}
    rows = [{"caption": "a dog", "frame": 2, "time_s": 1.0}, {"caption": "a cat", "frame": 2, "time_s": 9.0}]
    assert merged_extras(rows, caption, media, True) == rows[0]
    levels = [{"loudness": -20.0}, {"loudness": None}]
    assert merged_extras(levels, {"loudness": pa.float32()}, media, False) == {"loudness": -20.0}


def test_a_windowed_profile_changes_texts_and_frames_alone(config):
    plain, first, other = (
        resolve(chosen) for chosen in (config, windowed(config, Window(10, 5)), windowed(config, Window(20, 5)))
    )
    assert first["asr"].fingerprint == plain["asr"].fingerprint
    for name in ("clip", "beats"):
        assert first[name].fingerprint == other[name].fingerprint != plain[name].fingerprint
    text = first["asr_sentiment"]
    assert text.fingerprint not in {plain["asr_sentiment"].fingerprint, other["asr_sentiment"].fingerprint}
    assert (text.space, text.width, text.cls.sequence) == ("tiny/words", 2, True)
    assert "every_s" not in str(plain["clip"].identity)


@pytest.fixture(scope="module")
def labelled(parts, config, tmp_path_factory):
    """A store with the windowed features of one video, a classifier, and what was run."""
    out = tmp_path_factory.mktemp("out")
    chosen = windowed(config, Window(10, 5))
    specs, store, videos = resolve(chosen), Store(str(out / "store")), pa.Table.from_pylist([VIDEO])
    pending = find_pending(store, videos, specs, 3)
    merged = merge([chunk_of(part, specs) for part in parts], {name: specs[name] for name in ("clip", "beats", "asr")})
    rows = with_results(merged, specs["asr_sentiment"], _texts(merged, specs), 0.1, 1.0)
    with Committer(store, specs, pending, "run") as committer:
        committer.add(rows)
    assert committer.totals.videos == 1
    shapes = {"clip": (3, True), "beats": (2, True), "asr_sentiment": (2, False)}
    features = {
        name: FeatureSpec(width=width, length=8 if sequence else 1, sequence=sequence, space=specs[name].space)
        for name, (width, sequence) in shapes.items()
    }
    Checkpoint(AttentionClassifier(FusionSpec(features=features, d_model=8, heads=2))).save(out / "model")
    return store, videos, specs, Classifier.load(str(out / "model"))


def _texts(rows, specs):
    spec = specs["asr_sentiment"]
    extractor = spec.cls(spec.settings, Resources())
    return extractor.extract([text_of(rows, row, spec, specs["asr"]) for row in range(rows.num_rows)])


def test_texts_of_a_long_video_are_read_as_a_whole(labelled):
    store, _, specs, _ = labelled
    [row] = store.features("asr_sentiment", specs["asr_sentiment"].fingerprint, _schema(specs)).read().to_pylist()
    assert row["start_s"] == [5.0 * number for number in range(12)]
    # Two bursts of speech lie in each window of 10 s, one in the last.
    assert [feature[0] for feature in row["feature"]] == [2.0] * 11 + [1.0]


def _schema(specs):
    from vemoclap_batch.store import schemas

    return schemas.features(True, {}, specs["asr_sentiment"].width)


def test_the_texts_of_the_store_serve_other_windows(labelled, config):
    store, videos, *_ = labelled
    specs = resolve(windowed(config, Window(20, 20)))
    pending = find_pending(store, videos, specs, 3)
    assert pending.wanted == {"asr_sentiment": 1}
    [result] = _texts(pending.rows, specs)
    assert isinstance(result, Result)
    assert result.start_s.tolist() == [0, 20, 40]
    assert result.feature[:, 0].tolist() == [4, 4, 4]


def test_a_prediction_for_every_window(labelled, capsys):
    store, videos, specs, model = labelled
    selected = selected_from(specs, sorted(model.description.spec.features))
    window = Window(10, 5)
    done = predict(store, videos, model, selected, "run", window=window)
    rows = done.table.read().sort_by("window_start_s").to_pylist()
    assert (done.new, done.skipped) == (1, 0)
    assert [row["window_start_s"] for row in rows] == [5.0 * number for number in range(11)]
    assert rows[-1]["window_end_s"] == pytest.approx(60, abs=0.5)
    # Not even sound's, of which a whole video keeps 16 windows.
    assert not any(row["missing"] for row in rows)
    again = predict(store, videos, model, selected, "run2", window=window)
    assert (again.new, again.skipped) == (0, 1)
    assert done.table.read().num_rows == 11
    names = {prediction_fingerprint("m", selected, w) for w in (None, window, Window(10, 10), Window(20, 5))}
    assert len(names) == 4

    [said] = digest(videos, done.table, {}, model.description.spec.labels)
    assert len(said["timeline"]) == 11
    assert said["label"] in model.description.spec.labels
    from rich.console import Console

    show([said], Console(width=160))
    assert "0:00" in capsys.readouterr().out


def test_tables_of_other_windows_do_not_serve(labelled):
    store, _, specs, model = labelled
    spaces = {name: feature.space for name, feature in model.description.spec.features.items()}
    chosen = select(store, spaces, window=Window(10, 5))
    assert chosen["asr_sentiment"].fingerprint == specs["asr_sentiment"].fingerprint
    for window, words in ((Window(20, 5), "windows of 20 s every 5 s"), (None, "whole videos")):
        with pytest.raises(ConfigError, match=words):
            select(store, spaces, window=window)


def test_what_frames_show_is_taken_in_english_where_it_was_translated():
    lines = [
        {"frame": 1, "time_s": 2.0, "text": "Bonjour"},
        {"frame": 1, "time_s": 2.0, "text": "TOI"},
        {"frame": 4, "time_s": 8.0, "text": "Exit", "note": None},
        {"frame": 4, "time_s": 8.0, "text": None, "note": "unknown script"},
        {"frame": 5, "time_s": 9.0, "text": "tixE", "note": "mirrored"},
    ]
    read = [{"text": "bonjour toi", "english": "hello you"}, {"text": "exit", "english": None}]
    pieces = [{"start_s": 2.0, "end_s": 2.0, "text": "bonjour toi"}, {"start_s": 8.0, "end_s": 8.0, "text": "exit"}]
    assert input_in({"lines": lines}, None, "pieces") == pieces
    assert [piece["text"] for piece in input_in({"lines": lines, "texts": read}, None, "pieces")] == ["hello you", ""]
    assert input_in({"lines": None}, None, "pieces") == []
