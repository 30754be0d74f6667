"""Configuration: profiles, overrides, and every mistake named at once."""

import pytest

from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.media.sampling import SAMPLING_VERSION


def test_lite_is_valid_and_resolves():
    specs = resolve(load_config("lite"))
    assert list(specs)[-2:] == ["asr_sentiment", "ocr_sentiment"]
    assert set(specs) == {"clip", "face_emotion", "ocr", "beats", "asr", "asr_sentiment", "ocr_sentiment"}


def test_an_override_reaches_the_extractor():
    config = load_config("lite", ["extractors.asr.beam_size=2", "sampling.frames=8"])
    assert resolve(config)["asr"].settings.beam_size == 2
    assert config.sampling.frames == 8


@pytest.mark.parametrize("name", ["detections", "evidence"])
def test_an_extractor_s_detections_are_set_by_either_name(name):
    config = load_config("paper", [f"extractors.caption.{name}=[ocr]"])
    assert config.extractors["caption"].detections == ("ocr",)


def test_every_mistake_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        load_config("lite", ["sampling.frames=none", "decode.timeout_s=-1", "nonsense", "pipeline.blocks=3"])
    text = str(caught.value)
    assert len(caught.value.mistakes) == 4
    assert "sampling.frames = 'none': expected a valid integer" in text
    assert "decode.timeout_s = -1" in text
    assert "greater than 0" in text
    assert "'nonsense': expected key=value" in text
    assert "pipeline.blocks = 3: no such setting" in text


def test_mistakes_of_several_extractors_are_reported_together():
    config = load_config("lite", ["extractors.asr.beam_size=zero", "extractors.ocr.colour=red"])
    with pytest.raises(ConfigError) as caught:
        resolve(config)
    assert any(m.startswith("extractors.asr.beam_size = 'zero'") for m in caught.value.mistakes)
    assert any(m.startswith("extractors.ocr.colour = 'red': no such setting") for m in caught.value.mistakes)


def test_unknown_names_suggest_the_right_one():
    with pytest.raises(ConfigError, match="no extractor 'aasr' in this profile; expected one of asr"):
        load_config("lite", ["extractors.aasr.model=x"])
    with pytest.raises(ConfigError, match="expected one of lite"):
        load_config("heavy")


def test_a_class_that_is_none_is_refused():
    config = load_config("lite", ["extractors.asr.class=os:path"])
    with pytest.raises(ConfigError, match=r"extractors.asr.class: 'os:path' is not an Extractor"):
        resolve(config)


def test_fingerprints_follow_what_changes_the_output():
    base = resolve(load_config("lite"))
    frames = resolve(load_config("lite", ["sampling.frames=8"]))
    # How frames are chosen is part of it, too.
    assert frames["clip"].identity["sampling"] == {"frames": 8, "short_side": 360, "version": SAMPLING_VERSION}
    assert "sampling" not in frames["asr"].identity
    beam = resolve(load_config("lite", ["extractors.asr.beam_size=2"]))
    pool = resolve(load_config("lite", ["extractors.asr.pool.memory_gb=2", "pipeline.block_videos=9"]))

    def changed(other):
        return {name for name in base if base[name].fingerprint != other[name].fingerprint}

    assert changed(frames) == {"clip", "face_emotion", "ocr", "ocr_sentiment"}
    assert changed(beam) == {"asr", "asr_sentiment"}
    assert changed(pool) == set()


@pytest.mark.parametrize(
    ("settings", "on_gpu"),
    [
        (["extractors.asr.resources.gpu=true"], True),
        (["extractors.asr.pool.gpus=0.4"], True),
        (["extractors.asr.pool.gpus=0.4", "extractors.asr.resources.gpu=false"], False),
        (["extractors.asr.resources.gpu=true", "extractors.asr.pool.gpus=0"], False),
        (["extractors.asr.pool={gpus: 1, memory_gb: 2}"], True),
    ],
)
def test_what_an_extractor_takes_is_set_by_either_name(settings, on_gpu):
    config = load_config("lite", ["accelerator=gpu", *settings])
    assert config.extractors["asr"].resources.gpu is on_gpu
    assert resolve(config)["asr"].resources.gpu is on_gpu
    assert resolve(config.model_copy(update={"accelerator": "cpu"}))["asr"].resources.gpu is False


def test_settings_that_are_gone_name_what_takes_their_place(tmp_path):
    (tmp_path / "old.yaml").write_text(
        "decode: {actors: 2}\n"
        "extractors: {t: {class: 'tests.tiny:TinyFrames', pool: {actors: 2, threads: 3, gpus: -1, memory_gb: 2}}}"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / "old.yaml"), ["extractors.t.resources.memory_gb=3"])
    assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == [
        "decode.actors = 2",
        "extractors.t.pool.gpus = -1",
        "extractors.t.pool.actors = 2",
        "extractors.t.pool.threads = 3",
    ]
    assert "pipeline.cpu_chains and pipeline.chains_per_gpu say how many" in caught.value.mistakes[0]
    assert "a smaller pipeline.cpu_chains" in caught.value.mistakes[3]


def test_precision_follows_the_torch_device(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "accelerator: gpu\n"
        "extractors: {asr: {class: 'vemoclap_batch.extractors.whisper:Whisper', precision: auto, pool: {gpus: 0.4}}}"
    )

    def precision(*settings):
        return resolve(load_config(str(tmp_path / "mine.yaml"), settings))["asr"].settings.precision

    assert precision() == "float16"
    assert precision("accelerator=cpu") == precision("pipeline.gpu_device=cpu") == "float32"


def test_a_profile_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("extractors: {t: {class: 'vemoclap_batch.extractors.minilm:MiniLM'}}\n")
    config = load_config(str(tmp_path / "mine.yaml"))
    assert config.profile == str(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=r"extractors.t.input: missing"):
        resolve(config)
