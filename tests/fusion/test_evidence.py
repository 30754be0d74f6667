"""Videos in which there is nothing to go by get no label."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.clips import make_clip, sine
from tests.pipeline.feature_store import make_store
from vemoclap_batch.config import LABELS, load_config
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.evidence import INAUDIBLE_DB, is_audible, nothing_to_go_by
from vemoclap_batch.fusion.model import AttentionClassifier
from vemoclap_batch.fusion.predict import predict
from vemoclap_batch.fusion.selection import selected_from
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.windows import Window
from vemoclap_batch.pipeline.run import Classifier
from vemoclap_batch.report.digest import digest, show
from vemoclap_batch.store.store import Store

FEATURES = ("clip", "beats", "face_emotion", "asr_sentiment")


@given(st.lists(st.tuples(*[st.booleans()] * (len(FEATURES) + 1)), min_size=1))
def test_what_is_found_or_heard_is_something_to_go_by(rows):
    present = {name: np.array([row[at] for row in rows]) for at, name in enumerate(FEATURES)}
    nothing = nothing_to_go_by(present, np.array([row[-1] for row in rows]))
    for row, empty in zip(rows, nothing, strict=True):
        clip, beats, face, text, audible = row
        assert empty == (not face and not text and not (beats and audible))
        assert clip or beats or face or text or empty


@pytest.mark.parametrize("names", [("clip",), ("beats",), ("clip", "beats"), ("clip", "face_emotion")])
def test_a_classifier_of_fewer_features_goes_by_any_of_them(names):
    rows = [[True] * len(names), [False] * len(names), [True] + [False] * (len(names) - 1)]
    present = {name: np.array([row[at] for row in rows]) for at, name in enumerate(names)}
    assert nothing_to_go_by(present, np.zeros(3, bool)).tolist() == [False, True, False]


def test_how_loud_every_second_is(tmp_path):
    loud, quiet = sine(2, rate=16_000), sine(1.5, rate=16_000) * 1e-3
    path = make_clip(tmp_path / "v.mkv", seconds=3.5, audio=np.concatenate([loud, quiet]), audio_rate=16_000,
                     audio_codec="pcm_s16le")  # fmt: skip
    _, info = decode(str(path), "v")
    power = 10 * np.log10(np.mean(loud.astype(float) ** 2))
    assert info.sound_db == pytest.approx([power, power, power - 60, power - 60], abs=0.2)
    assert is_audible(info.sound_db)
    assert is_audible(info.sound_db, 1.5, 3.0)
    assert not is_audible(info.sound_db, 2.0, 3.5)
    make_clip(tmp_path / "still.mp4", audio=False)
    _, info = decode(str(tmp_path / "still.mp4"), "v")
    assert info.sound_db == []
    assert not is_audible(info.sound_db)


def stored(folder, found, sound_db):
    """A store of six videos without faces, every second with a text; and a classifier with what it takes."""
    make_store(folder, per_label=1, sound_db=sound_db, faceless=True)
    specs = resolve(load_config(str(folder / "tiny.yaml")))
    names = ("clip", "beats", found)
    shape = {
        name: FeatureSpec(width=spec.width, length=16 if sequence else 1, sequence=sequence, space=spec.space)
        for name in names
        for spec in [specs[name]]
        for sequence in [spec.cls.sequence]
    }
    model = AttentionClassifier(FusionSpec(features=shape, labels=LABELS, d_model=8, heads=2))
    Checkpoint(model).save(folder / "model")
    return Store(str(folder / "out")), Classifier.load(str(folder / "model")), selected_from(specs, sorted(names))


def test_windows_in_which_nothing_is_heard_get_no_label(tmp_path, capsys):
    out, model, selected = stored(tmp_path, "face_emotion", [-20.0, INAUDIBLE_DB - 1])
    videos = out.videos().read(["uri"])
    done = predict(out, videos, model, selected, "run", window=Window(1, 1))
    rows = done.table.read().to_pylist()
    assert len(rows) == 2 * videos.num_rows
    silent = [row for row in rows if row["window_start_s"] == 1]
    for row in rows:
        if row in silent:
            assert row["label"] is row["confidence"] is row["p_joy"] is row["valence"] is row["arousal"] is None
            assert row["missing"] == sorted(selected)
        else:
            assert (row["label"] in LABELS, row["missing"]) == (True, ["face_emotion"])
            assert sum(row[f"p_{label}"] for label in LABELS) == pytest.approx(1)
    found = digest(videos, done.table, {}, LABELS)
    # The video's emotion is that of the window that has one.
    first = next(row for row in rows if row["video_id"] == found[0]["video_id"] and row not in silent)
    assert (found[0]["label"], found[0]["confidence"]) == (first["label"], pytest.approx(first["confidence"]))
    assert [window["label"] for window in found[0]["timeline"]] == [first["label"], None]
    show(found[:1], Console(width=200))
    assert f"0:00 {first['label']}, 0:01 nothing to go by" in capsys.readouterr().out


def test_a_video_without_anything_to_go_by_is_shown_as_such(tmp_path, capsys):
    out, model, selected = stored(tmp_path, "asr_sentiment", [])
    videos = out.videos().read(["uri"])
    done = predict(out, videos, model, selected, "run")
    labels = [row["label"] for row in done.table.read().sort_by("video_id").to_pylist()]
    # Those with a text are v1, v3 and v5.
    assert [label is None for label in labels] == [True, False] * 3
    found = sorted(digest(videos, done.table, {}, LABELS), key=lambda row: row["video_id"])
    assert [row["label"] for row in found] == labels
    assert found[0]["confidence"] is found[0]["runner_up"] is None
    show(found[:1], Console(width=200))
    assert "nothing to go by" in capsys.readouterr().out
