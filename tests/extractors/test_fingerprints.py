"""Fingerprints: those of version 0.1, which outlive every move and rename of a class."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.tiny import TinyFrames, TinyText
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.efficientnet import EfficientNetLite
from vemoclap_batch.extractors.minilm import MiniLM
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.extractors.whisper import Whisper
from vemoclap_batch.extractors.windowed_text import windowed
from vemoclap_batch.media.windows import Window

STORED = json.loads((Path(__file__).parents[1] / "data" / "output-0.1-fingerprints.json").read_text())


@pytest.fixture
def elsewhere(monkeypatch):
    """A module of another name, empty."""
    module = ModuleType("elsewhere")
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    return module


def fingerprints(config):
    return {name: spec.fingerprint for name, spec in resolve(config).items()}


def profile(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(f"extractors: {{{text}}}")
    return load_config(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("overrides", list(STORED))
def test_lite_has_the_fingerprints_of_version_0_1_where_it_computes_the_same(overrides):
    changed = set()
    # Those that read from others come after them.
    for name, spec in resolve(load_config("lite", overrides.split())).items():
        if spec.cls.version > 1 or changed & set(spec.reads):
            changed.add(name)
        assert (spec.fingerprint != STORED[overrides][name]) == (name in changed), name
    assert not changed & {"clip", "beats"}


def test_a_class_that_moved_and_was_renamed_keeps_its_fingerprint(elsewhere):
    elsewhere.Seen, elsewhere.Heard, elsewhere.Read = EfficientNetLite, Whisper, MiniLM
    moved = [
        "extractors.clip.class=elsewhere:Seen",
        "extractors.asr.class=elsewhere:Heard",
        "extractors.asr_sentiment.class=elsewhere:Read",
    ]
    assert fingerprints(load_config("lite", moved)) == fingerprints(load_config("lite"))


def test_windowed_text_keeps_its_fingerprint_when_the_extractor_that_it_runs_moved(elsewhere):
    elsewhere.Read = MiniLM
    window = Window(10.0, 5.0)
    there = windowed(load_config("lite", ["extractors.asr_sentiment.class=elsewhere:Read"]), window)
    assert fingerprints(there) == fingerprints(windowed(load_config("lite"), window))


def test_a_configuration_of_windows_is_not_cut_again():
    once = windowed(load_config("lite"), Window(10.0, 5.0))
    assert windowed(once, Window(10.0, 5.0)) == once


def test_names_and_versions_tell_extractors_apart(tmp_path, elsewhere):
    class Other(TinyFrames):
        name = "tiny-other"

    class Newer(TinyFrames):
        name = TinyFrames.name
        version = 2

    elsewhere.Other, elsewhere.Newer = Other, Newer
    config = profile(
        tmp_path, 'a: {class: "tests.tiny:TinyFrames"}, b: {class: "elsewhere:Other"}, c: {class: "elsewhere:Newer"}'
    )
    assert len(set(fingerprints(config).values())) == 3


def test_a_new_extractor_is_hashed_by_its_name(tmp_path, elsewhere):
    class Other(TinyText):
        name = "its.module:Class"

    elsewhere.Other = Other
    config = profile(tmp_path, 'asr: {class: "tests.tiny:TinySound"}, t: {class: "elsewhere:Other", input: asr}')
    assert resolve(config)["t"].identity["class"] == "its.module:Class"


def test_a_class_without_a_name_of_its_own_is_refused(tmp_path, elsewhere):
    class Other(TinyFrames):
        pass

    elsewhere.Other = Other
    with pytest.raises(ConfigError) as caught:
        resolve(profile(tmp_path, 'clip: {class: "elsewhere:Other"}'))
    assert caught.value.mistakes == [
        "extractors.clip.class: 'elsewhere:Other' declares no name. Add one that no other extractor has, such as "
        "name = 'other': its stored features are found by it. To keep the features that version 0.1 stored, add "
        "name = 'elsewhere:Other'"
    ]


def test_two_classes_of_one_name_are_refused_and_one_class_twice_is_not(tmp_path, elsewhere):
    class Other(TinyFrames):
        name = TinyFrames.name

    elsewhere.Other, elsewhere.Same = Other, TinyFrames
    config = profile(tmp_path, 'a: {class: "tests.tiny:TinyFrames"}, b: {class: "elsewhere:Other"}')
    with pytest.raises(ConfigError, match=r"extractors\.b\.class: .*Other has the name 'tiny-frames' and version 1"):
        resolve(config)
    config = profile(tmp_path, 'a: {class: "tests.tiny:TinyFrames"}, b: {class: "elsewhere:Same"}')
    assert len(set(fingerprints(config).values())) == 1


def test_detections_may_still_be_called_evidence(tmp_path, elsewhere):
    class Detector(TinyFrames):
        name = "tiny-detector"
        detections = "faces"

    elsewhere.Detector = Detector
    both = 'faces: {class: "elsewhere:Detector"}, caption: {class: "tests.tiny:TinyFrames", %s: [faces]}'
    specs = [resolve(profile(tmp_path, both % key))["caption"] for key in ("detections", "evidence")]
    assert [spec.detections for spec in specs] == [("faces",)] * 2
    assert specs[0].identity["evidence"] == {
        "faces": resolve(profile(tmp_path, both % "evidence"))["faces"].fingerprint
    }
    assert specs[0].fingerprint == specs[1].fingerprint


def test_an_extractor_that_detects_nothing_is_no_source_of_detections(tmp_path):
    text = 'a: {class: "tests.tiny:TinyFrames"}, b: {class: "tests.tiny:TinyFrames", detections: [a]}'
    with pytest.raises(ConfigError, match=r"extractors\.b\.detections: a has no detections"):
        resolve(profile(tmp_path, text))
