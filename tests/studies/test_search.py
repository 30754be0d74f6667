"""Frames found by a text or an example: the order of a plain loop, on the tables that a run left."""

import json

import cv2
import numpy as np
import pytest

from tests.clips import make_clip
from tests.commands import here
from tests.extractors.tiny_models import CLIP_WIDTH, clip_config, clip_folder
from tests.report.made_output import FINGERPRINT, made_output
from vemoclap_batch.cli.app import main
from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.open_clip_text import embed_texts
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.media.decode import decode
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.studies import search as studies

PROFILE = """
extractors:
  clip: {{class: "vemoclap_batch.extractors.open_clip:OpenClip", model: "{model}", width: {width}}}
"""


def embedded(tmp_path, clips, profile):
    """A store of clips whose embeddings the profile's own extractor has made; the extractor's spec."""
    store = made_output(tmp_path / "out", {clip.stem: str(clip) for clip in clips})
    spec = resolve(load_config(str(profile)))["clip"]
    extractor = spec.cls(spec.settings, studies.Resources(models=spec.models))
    schema = schemas.features(True, spec.cls.columns, spec.width)
    table = store.features("clip", spec.fingerprint, schema)
    described = {"space": spec.space, "width": spec.width, "sequence": True, "identity": spec.identity}
    store.describe_features("clip", spec.fingerprint, described)
    results = extractor.extract([decode(str(clip))[0] for clip in clips])
    rows = [
        dict.fromkeys(schema.names) | {"video_id": clip.stem, "content_key": "1", "feature": result.feature.tolist()}
        | {"start_s": result.start_s.tolist(), "end_s": result.end_s.tolist()}
        for clip, result in zip(clips, results, strict=True)
    ]  # fmt: skip
    table.append(studies.pa.Table.from_pylist(rows, schema=schema))
    return store, spec


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    colours = {"red": (200, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 200)}
    made = []
    for name, colour in colours.items():
        noise = np.random.default_rng(len(name)).integers(0, 50, (16, 48, 64, 3))
        frames = [(noise[at] + np.array(colour)).astype(np.uint8) for at in range(16)]
        made.append(make_clip(folder / f"{name}.mp4", frames=frames, fps=8, audio=False))
    return made


def test_text_and_examples_find_the_frames_that_a_plain_loop_finds(tmp_path, clips):
    config = clip_config()
    config["text_cfg"]["vocab_size"] = 49_408  # what open_clip's tokenizer has
    model = clip_folder(tmp_path / "tiny-clip", config)
    profile = tmp_path / "tiny.yaml"
    profile.write_text(PROFILE.format(model=model, width=CLIP_WIDTH))
    store, spec = embedded(tmp_path, clips, profile)
    rows = store.stored_features("clip", spec.fingerprint).read().to_pylist()
    [query] = embed_texts(model, spec.settings, ["a crying child"])
    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)
    expected = []
    for row in rows:
        for vector, time in zip(np.array(row["feature"]), row["start_s"], strict=True):
            expected.append((-vector @ query / np.linalg.norm(vector), row["video_id"], time))
    expected.sort()
    options = ["--profile", profile, "--json"]
    ended = here(main, "search", tmp_path / "out", "a crying child", "--top", 7, *options)
    assert ended.returncode == 0, ended.stderr
    hits = json.loads(ended.stdout.splitlines()[-1])["hits"]
    assert [hit["score"] for hit in hits] == pytest.approx([-score for score, *_ in expected[:7]], abs=1e-3)
    assert {hit["video_id"] for hit in hits} <= {clip.stem for clip in clips}
    assert all(hit["thumbnail"] for hit in hits)
    assert all(hit["label"] for hit in hits if hit["time_s"] < 1)
    assert all(hit["label"] is None for hit in hits if hit["time_s"] >= 1.01)
    # A picture finds the video that it is of, and so does the video itself.
    frame = decode(str(clips[1]))[0].frames[7]
    cv2.imwrite(str(tmp_path / "frame.png"), frame[..., ::-1])
    for like in (tmp_path / "frame.png", clips[1]):
        page = tmp_path / "found.html"
        ended = here(main, "search", tmp_path / "out", "--like", like, "--top", 2, "--html", page, *options)
        assert ended.returncode == 0, ended.stderr
        first = json.loads(ended.stdout.splitlines()[-1])["hits"][0]
        assert (first["video_id"], round(first["score"], 2)) == ("green", 1.0)
        assert "green.mp4" in page.read_text()
        assert page.read_text().count("data:image/webp") == 2


def test_scores_are_cosines_in_parts_as_in_one(tmp_path, monkeypatch):
    store = made_output(tmp_path / "out", {f"v{number}": None for number in range(40)})
    table = store.stored_features("clip", FINGERPRINT)
    query = studies.normalised(np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32))
    whole = studies.search(table, store.current_videos(), query, 3, 25)
    monkeypatch.setattr(studies, "_ROWS", 7)
    parts = studies.search(table, store.current_videos(), query, 3, 25)
    assert [(hit.key, hit.time_s) for hit in parts] == [(hit.key, hit.time_s) for hit in whole]
    assert len(whole) == 25
    vectors = np.concatenate([row["feature"] for row in table.read().to_pylist()])
    cosines = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ query.T
    assert whole[0].score == pytest.approx(cosines.max(), abs=1e-5)


def test_searches_that_cannot_be_are_refused_and_nothing_is_written(tmp_path, clips):
    made_output(tmp_path / "out", {"a": str(clips[0])})
    ended = here(main, "search", tmp_path / "none", "x", "--like", tmp_path / "y", "--top", 0, "--html", "a.pdf")
    assert ended.returncode == 2
    wanted = ("either a TEXT or --like", "--top 0", "no such file", "a.pdf", "no such output folder")
    assert [words for words in wanted if words not in ended.stderr] == []
    ended = here(main, "search", tmp_path / "out", "a crying child")
    assert ended.returncode == 2
    assert "no text tower" in ended.stderr
    page = tmp_path / "s.html"
    ended = here(main, "search", tmp_path / "out", "--like", clips[0], "--html", page)
    assert ended.returncode == 2
    assert f"only {FINGERPRINT}" in ended.stderr
    assert not page.exists()
    assert Store(str(tmp_path / "out")).fingerprints("clip").keys() == {FINGERPRINT}
