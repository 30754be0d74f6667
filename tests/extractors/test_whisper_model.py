"""Whisper models of the user's own, tiny and random: loading, batching, languages, limits."""

import shutil

import numpy as np
import pytest
from pydantic import ValidationError

from tests.extractors.conftest import audio_clip, spoken
from tests.extractors.tiny_speech import whisper_folders
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.whisper import Whisper, WhisperSettings
from vemoclap_batch.extractors.whisper_weights import load_cublas

pytestmark = pytest.mark.numeric

SILENT = {
    **{"text": "", "text_original": "", "language": None, "language_probability": None, "language_uncertain": None},
    **{"segments": [], "words": [], "segments_original": [], "dropped": []},
}
MOST = 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same model in transformers' format and in CTranslate2's."""
    return whisper_folders(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """With the 128 mel bands and the tokens of large-v3."""
    return whisper_folders(tmp_path_factory.mktemp("large"), mels=128, seed=2)


def build(folder, **settings):
    settings = {"compute_type": "float32", "beam_size": 1, "vad_filter": False, "max_tokens": MOST} | settings
    return Whisper(WhisperSettings(model=str(folder), **settings), Resources(models={"model": folder}))


def tone(seed, seconds):
    """Three gliding whistles."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16000)) / 16000
    glides = [(random.uniform(0.05, 0.2), random.uniform(100, 4000), random.uniform(0, 800)) for _ in range(3)]
    return sum(
        loud * np.sin(2 * np.pi * (start * time + slope * time**2)) for loud, start, slope in glides
    ).astype(np.float32)  # fmt: skip


def plainly(folder, audio, task="translate"):
    """Language, probability and words of audio that fits one window, by torch alone: one audio, token by token."""
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    network = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    heard = WhisperFeatureExtractor.from_pretrained(folder)(audio, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        encoded = network.model.encoder(**heard).last_hidden_state
    config = network.generation_config
    first_stamp, end = config.no_timestamps_token_id + 1, config.eos_token_id

    @torch.no_grad()
    def logits(tokens):
        last = network.model.decoder(torch.tensor([tokens]), encoder_hidden_states=encoded).last_hidden_state[0, -1]
        return network.proj_out(last)

    numbers = list(config.lang_to_id.values())
    shares = logits([config.decoder_start_token_id])[numbers].softmax(0)
    language = list(config.lang_to_id)[int(shares.argmax())]
    prompt = [config.decoder_start_token_id, config.lang_to_id[language], config.task_to_id[task]]
    tokens = []
    while len(tokens) < MOST:
        scores = logits(prompt + tokens)
        scores[[*config.suppress_tokens, config.no_timestamps_token_id]] = -torch.inf
        forbid_by_stamps(scores, tokens, first_stamp, end)
        if scores[first_stamp:].logsumexp(0) > scores[:first_stamp].max():
            scores[:first_stamp] = -torch.inf
        tokens.append(int(scores.argmax()))
        if tokens[-1] == end:
            break
    # The numbers of the letters are those of their bytes.
    return language[2:-2], float(shares.max()), "".join(chr(token) for token in tokens if token < end)


def forbid_by_stamps(scores, tokens, first_stamp, end):
    """What Whisper's decoding forbids: stamps come first, in pairs, and never go back."""
    stamps = [token for token in tokens if token >= first_stamp]
    if not tokens:
        scores[:first_stamp] = -np.inf
        scores[first_stamp + 51 :] = -np.inf
        return
    opens = len(tokens) < 2 or tokens[-2] >= first_stamp
    if tokens[-1] >= first_stamp:
        if opens:
            scores[first_stamp:] = -np.inf
        else:
            scores[:end] = -np.inf
    closing = tokens[-1] >= first_stamp and not opens
    scores[first_stamp : stamps[-1] + (not closing)] = -np.inf


def letters(text):
    return text.replace(" ", "")


@pytest.mark.parametrize("which", ["folders", "large"])
def test_agrees_with_plain_transformers(which, request):
    source, converted = request.getfixturevalue(which)
    waveforms = [tone(seed, seconds) for seed, seconds in ((0, 3), (2, 11), (4, 19), (5, 23))]
    results = build(converted).extract([audio_clip(audio) for audio in waveforms])
    told = []
    for audio, result in zip(waveforms, results, strict=True):
        language, share, words = plainly(source, audio)
        assert letters(result.extras["text"]) == words
        assert result.extras["language"] == language
        assert result.extras["language_probability"] == pytest.approx(share, abs=1e-3)
        told.append((language, words))
    # Foreign languages did occur, words were written, and the task made a difference.
    assert len({language for language, _ in told} - {"en"}) > 1
    assert len({words for _, words in told}) == len(told)
    assert all(len(words) > 10 for _, words in told)
    assert plainly(source, waveforms[0], "transcribe")[2] != told[0][1]


def test_batching_changes_nothing(folders):
    whisper = build(folders[1])
    # The last one has two windows.
    clips = [audio_clip(tone(seed, seconds)) for seed, seconds in ((0, 3), (1, 29), (4, 8), (5, 5), (6, 47))]
    together = whisper.extract(clips)
    assert len({result.extras["language"] for result in together} - {"en", None}) > 1
    for clip, result in zip(clips, together, strict=True):
        (alone,) = whisper.extract([clip])
        assert alone.extras["text"] == result.extras["text"] != ""
        assert alone.extras["language"] == result.extras["language"]
        assert_same(alone.extras["segments"], result.extras["segments"])
        assert " ".join(segment["text"] for segment in alone.extras["segments"]) == alone.extras["text"]
    assert together[4].extras["segments"][-1]["end_s"] > 30


def assert_same(some, others):
    for segment, other in zip(some, others, strict=True):
        assert segment["text"] == other["text"]
        for name in ("start_s", "end_s", "no_speech_probability", "average_log_probability"):
            assert segment[name] == pytest.approx(other[name], abs=1e-4)


def test_only_speech_is_encoded(folders, monkeypatch):
    whisper = build(folders[1], vad_filter=True)
    sizes, encode = [], whisper._model.encode
    monkeypatch.setattr(whisper._model, "encode", lambda spectra: sizes.append(len(spectra)) or encode(spectra))
    noise = np.random.default_rng(0).normal(0, 1e-3, 10 * 16000).astype(np.float32)
    quiet = [audio_clip(np.zeros(16000 * 20, np.float32)), audio_clip(noise), audio_clip(noise[:0])]
    assert [result.extras for result in whisper.extract(quiet)] == [SILENT] * 3
    assert sizes == []
    first, heard, _ = whisper.extract([quiet[0], audio_clip(spoken("beckett.wav", seconds=4)), quiet[1]])
    assert sizes == [1]
    assert first.extras == SILENT != heard.extras


def test_short_windows_are_heard_as_if_alone(folders, monkeypatch):
    whisper = build(folders[1], silence_s=2)
    shapes, encode = [], whisper._model.encode
    monkeypatch.setattr(whisper._model, "encode", lambda spectra: shapes.append(spectra.shape) or encode(spectra))
    clips = [audio_clip(tone(seed, seconds)) for seed, seconds in ((0, 3), (1, 11), (2, 2.5), (3, 29))]
    together = whisper.extract(clips)
    # Windows of one size in one batch, none longer than its speech and 2 s to 3 s of silence, or than 30 s.
    assert shapes[:3] == [(2, 80, 500), (1, 80, 1300), (1, 80, 3000)]
    for clip, result in zip(clips, together, strict=True):
        (alone,) = whisper.extract([clip])
        assert (alone.extras["text"], alone.extras["language"]) == (result.extras["text"], result.extras["language"])
        assert_same(alone.extras["segments"], result.extras["segments"])
    with pytest.raises(ValidationError, match="silence_s"):
        WhisperSettings(silence_s=0.5)


def test_too_little_memory_halves_the_batches(folders, monkeypatch):
    whisper = build(folders[1])
    clips = [audio_clip(tone(seed, 4)) for seed in range(3)]
    whole = [result.extras["text"] for result in whisper.extract(clips)]
    encode, sizes = whisper._model.encode, []

    def short_of_memory(spectra):
        sizes.append(len(spectra))
        if len(spectra) > 1:
            # What CTranslate2 raises.
            raise RuntimeError("CUDA failed with error out of memory")
        return encode(spectra)

    monkeypatch.setattr(whisper._model, "encode", short_of_memory)
    assert [result.extras["text"] for result in whisper.extract(clips)] == whole
    assert sizes == [2, 1, 1, 1]


def test_the_limit_on_tokens(folders, monkeypatch):
    for most in (7, MOST):
        whisper = build(folders[1], max_tokens=most)
        counts, generate = [], whisper._generate

        def counted(*given, generate=generate, counts=counts, **options):
            found = generate(*given, **options)
            counts.extend(len(words.tokens) for words in found)
            return found

        monkeypatch.setattr(whisper, "_generate", counted)
        whisper.extract([audio_clip(tone(0, 3))])
        assert counts[0] == most


def test_int8_on_any_device(folders):
    assert WhisperSettings(compute_type="int8", precision="float16").arithmetic == "int8_float16"
    whisper = build(folders[1], compute_type="int8", precision="float32")
    assert whisper._model.model.compute_type == "int8_float32"
    (result,) = whisper.extract([audio_clip(tone(0, 3))])
    assert result.extras["text"]
    with pytest.raises(ValidationError, match="compute_type 'float16' leaves no precision open"):
        WhisperSettings(compute_type="float16", precision="float32")


def test_what_is_as_ever_is_not_in_fingerprints():
    names = {"model", "compute_type", "task", "beam_size", "vad_filter", "language"}
    assert set(WhisperSettings().model_dump(mode="json")) == names
    assert WhisperSettings(silence_s=2.5).model_dump(mode="json")["silence_s"] == 2.5
    stated = WhisperSettings(precision="float32", max_tokens=64).model_dump(mode="json")
    assert (stated["precision"], stated["max_tokens"]) == ("float32", 64)
    assert WhisperSettings(**stated) == WhisperSettings(precision="float32", max_tokens=64)


@pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json", "vocabulary.json"])
def test_a_folder_that_is_not_whole(folders, tmp_path, name):
    broken = shutil.copytree(folders[1], tmp_path / "broken")
    (broken / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        build(broken)


def test_a_folder_that_does_not_say_how_many_bands_it_takes(large, tmp_path):
    broken = shutil.copytree(large[1], tmp_path / "broken")
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"takes 128 mel bands, its preprocessor_config\.json describes 80"):
        build(broken)


def test_a_gpu_without_cublas(folders):
    try:
        load_cublas()
    except RuntimeError:
        settings = WhisperSettings(model=str(folders[1]))
        with pytest.raises(RuntimeError, match=r"needs libcublas.*pip install nvidia-cublas-cu12"):
            Whisper(settings, Resources(device="cuda:0", models={"model": folders[1]}))
    else:
        pytest.skip("cuBLAS 12 is installed here")
