"""The arguments of a run: what is wrong with any of them comes in one message."""

import pytest

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.request import request, run_config

WRONG = ["extractors.asr.language=Klingon", "extractors.ocr.bogus=1", "sampling.frames=0", "decode.bogus=1"]
OF_SETTINGS = ("'Klingon': Whisper knows no such", "ocr.bogus = 1: no such", "sampling.frames = 0", "decode.bogus = 1")


def test_the_mistakes_of_all_arguments_come_together(tmp_path):
    with pytest.raises(ConfigError) as refused:
        request(
            [tmp_path / "none.mp4"], "lite", WRONG, window=-1.0, model=tmp_path / "no model", predicts=True
        )  # fmt: skip
    message = str(refused.value)
    for mistake in (*OF_SETTINGS, "--window -1", "no model/model.json", "none.mp4': no such file"):
        assert mistake in message
    assert len(set(refused.value.mistakes)) == len(refused.value.mistakes)


def test_settings_and_windows_are_checked_together():
    with pytest.raises(ConfigError) as refused:
        run_config("lite", WRONG, hop=1.0)
    for mistake in (*OF_SETTINGS, "--hop: needs --window"):
        assert mistake in str(refused.value)


def test_what_is_missing_hides_no_other_mistake(tmp_path):
    profile = tmp_path / "own.yaml"
    profile.write_text("extractors: {clip: {}}\ndecode: {bogus: 1}\n", "utf-8")
    with pytest.raises(ConfigError) as refused:
        request([tmp_path], str(profile), window=0.0)
    for mistake in ("extractors.clip.class", "decode.bogus = 1", "--window 0"):
        assert mistake in str(refused.value)
