import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tests.extractors.conftest import NO_AUDIO, audio_clip, broken_clip
from tests.extractors.tiny_models import build, hostile_pickle, hostile_weights, little_memory
from tests.networks.random_beats import SMALL, plain_tokens, random_checkpoint, random_weights
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.beats import CPU_BATCH, HOP, PUBLISHED, WINDOW, Beats, audioset_names
from vemoclap_batch.media.clip import Clip

pytestmark = pytest.mark.numeric

DATA = Path(__file__).parents[1] / "data"
WIDTH = SMALL["encoder_embed_dim"]
IDS = ["/m/09x0r", "/m/04rlf", "/m/01j3sz", "/m/0bt9lr", "/t/dd00013", "/g/122z_qxw", "/m/none"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("beats") / "small.pt", labels=IDS, **SMALL)


@pytest.fixture
def beats(checkpoint):
    return build(Beats, checkpoint, width=WIDTH)


def noise(samples, seed=0):
    """Noise as decoding gives it, with a loudness that changes."""
    random = np.random.default_rng(seed)
    loudness = 10 ** random.uniform(-3, -0.7, samples // 4000 + 1).repeat(4000)[:samples]
    return (np.round(loudness * random.normal(size=samples) * 2**15).clip(-(2**15), 2**15 - 1) / 2**15).astype(
        np.float32
    )


def difference(one, other):
    return np.abs(one - other).max() / np.abs(other).max()


def test_equals_the_published_embedding_and_events():
    expected = load_file(DATA / "beats_tiny_expected.safetensors")
    extractor = build(Beats, DATA / "beats_tiny.pt", width=48)
    clips = [audio_clip(waveform) for waveform in expected["waveform"].numpy()]
    results = extractor.extract(clips)
    embeddings = np.concatenate([result.feature for result in results])
    assert difference(embeddings, expected["embedding"].numpy()) < 1e-5
    # A video of both windows: half a window lies between them, which is no window of its own if there are two to keep.
    gap = np.concatenate([clips[0].waveform, clips[1].waveform])
    pair = build(Beats, DATA / "beats_tiny.pt", width=48, windows=2)
    [result] = pair.extract([audio_clip(gap)])
    assert difference(result.feature, expected["embedding"].numpy()) < 1e-5
    probabilities = expected["clip_probabilities"].numpy()
    likeliest = np.argsort(-probabilities)[:5]
    assert [event["id"] for event in result.extras["events"]] == [f"/m/{index:04d}" for index in likeliest]
    found = np.array([event["probability"] for event in result.extras["events"]])
    assert difference(found, probabilities[likeliest]) < 1e-5


def test_windows_of_three_seconds_half_overlapping(beats):
    audio = noise(7 * HOP + 100)
    [result] = beats.extract([audio_clip(audio)])
    assert result.start_s.tolist() == [0, 1.5, 3, 4.5, 6, 7.5]
    assert result.end_s.tolist() == [3, 4.5, 6, 7.5, 9, 10.5]
    assert result.feature.shape == (6, WIDTH)
    assert result.feature.dtype == np.float32
    weights = random_weights(SMALL)
    for row in (1, 4):
        window = torch.from_numpy(audio[row * HOP : row * HOP + WINDOW])
        fbank = beats._network.fbank(window[None])[0]
        assert difference(result.feature[row], plain_tokens(SMALL, weights, fbank).mean(0).numpy()) < 1e-5


@pytest.mark.parametrize(("samples", "starts"), [(WINDOW, [0]), (WINDOW + HOP - 1, [0]), (WINDOW + HOP, [0, 1.5])])
def test_a_window_that_fits_exactly_counts(beats, samples, starts):
    [result] = beats.extract([audio_clip(noise(samples))])
    assert result.start_s.tolist() == starts


def test_long_audio_keeps_evenly_spaced_windows(checkpoint):
    audio = noise(12 * HOP)
    every = build(Beats, checkpoint, width=WIDTH, windows=11).extract([audio_clip(audio)])[0]
    few = build(Beats, checkpoint, width=WIDTH, windows=4).extract([audio_clip(audio)])[0]
    assert len(every.feature) == 11
    assert few.start_s.tolist() == [0, 4.5, 10.5, 15]
    assert difference(few.feature, every.feature[[0, 3, 7, 10]]) < 1e-5
    # The events are those of the windows that are kept.
    assert few.extras["events"] != every.extras["events"]


def test_the_parts_of_a_video_give_what_it_gives_in_one_piece(checkpoint):
    # The third of the five windows starts in one part and ends in the other.
    audio, cut = noise(12 * HOP), 6 * HOP - 7777
    beats = build(Beats, checkpoint, width=WIDTH, windows=5)
    [whole] = beats.extract([audio_clip(audio)])
    empty = np.zeros((0, 0, 0, 3), np.uint8)
    places = {"duration_s": 18.0, "chunks": 2, "audio_samples": len(audio)}
    parts = [
        Clip("clip", empty, np.zeros(0), audio[:cut], lookahead=audio[cut : cut + 160_000], **places),
        Clip("clip", empty, np.zeros(0), audio[cut:], start_s=cut / 16_000, chunk=1, **places),
    ]
    results = beats.extract(parts)
    assert [len(result.feature) for result in results] == [3, 2]
    assert difference(np.concatenate([result.feature for result in results]), whole.feature) < 1e-5
    assert np.concatenate([result.start_s for result in results]) == pytest.approx(whole.start_s, abs=1e-9)
    assert np.concatenate([result.end_s for result in results]) == pytest.approx(whole.end_s, abs=1e-9)


@pytest.mark.parametrize("samples", [1, 2000, 20_000, WINDOW - 1])
def test_short_audio_is_one_window_of_its_own_length(beats, checkpoint, samples):
    [result] = beats.extract([audio_clip(noise(samples))])
    assert result.feature.shape == (1, WIDTH)
    assert result.start_s.tolist() == [0]
    assert result.end_s[0] == pytest.approx(samples / 16_000)
    assert len(result.extras["events"]) == 5
    # Too short for a token, it is filled up to one with silence.
    audio = np.pad(noise(samples), (0, max(0, 2800 - samples)))
    expected = beats._network(torch.from_numpy(audio)[None]).mean(1)[0]
    assert difference(result.feature[0], expected.numpy()) < 1e-5
    strict = build(Beats, checkpoint, width=WIDTH, pad_short=False)
    [thrown, kept] = strict.extract([audio_clip(noise(samples)), audio_clip(noise(WINDOW))])
    assert thrown.feature.shape == (0, WIDTH)
    assert len(thrown.start_s) == len(thrown.end_s) == len(thrown.extras["events"]) == 0
    assert len(kept.feature) == 1


def test_without_audio_there_is_nothing(beats):
    [result] = beats.extract([audio_clip(NO_AUDIO, start_s=5)])
    assert result.feature.shape == (0, WIDTH)
    assert result.feature.dtype == np.float32
    assert len(result.start_s) == len(result.end_s) == 0
    assert result.extras == {"events": []}


def test_silence_is_heard_as_the_published_program_hears_it(beats):
    [result] = beats.extract([audio_clip(np.zeros(WINDOW, np.float32))])
    fbank = beats._network.fbank(torch.zeros(1, WINDOW))[0]
    expected = plain_tokens(SMALL, random_weights(SMALL), fbank).mean(0)
    assert difference(result.feature[0], expected.numpy()) < 1e-5


def test_a_batch_gives_what_each_clip_gives_alone(beats):
    lengths = [5 * HOP, 0, 1000, WINDOW, 30_000, 9 * HOP]
    clips = [audio_clip(noise(length, seed)) for seed, length in enumerate(lengths)]
    together = beats.extract(clips)
    assert [len(result.feature) for result in together] == [4, 0, 1, 1, 1, 8]
    for result, clip in zip(together, clips, strict=True):
        [alone] = beats.extract([clip])
        assert np.array_equal(result.start_s, alone.start_s)
        if len(alone.feature):
            assert difference(result.feature, alone.feature) < 1e-5
        found, expected = result.extras["events"], alone.extras["events"]
        assert [event["id"] for event in found] == [event["id"] for event in expected]
        for one, other in zip(found, expected, strict=True):
            assert one["probability"] == pytest.approx(other["probability"], rel=1e-5)


def test_batches_are_full_across_clips_and_halve_when_memory_is_short(beats, checkpoint):
    clips = [audio_clip(noise(6 * HOP, seed)) for seed in range(4)]
    with little_memory(beats._network.encoder, most=CPU_BATCH) as seen:
        expected = beats.extract(clips)
    assert seen == [8, 8, 4]
    poor = build(Beats, checkpoint, width=WIDTH)
    with little_memory(poor._network.encoder, most=3) as seen:
        found = poor.extract(clips)
    assert seen == [8, 4, 2, *[2] * 9]
    assert isinstance(poor._batches, Batches)
    for one, other in zip(found, expected, strict=True):
        assert difference(one.feature, other.feature) < 1e-5


def test_a_broken_clip_fails_alone(beats):
    clips = [audio_clip(noise(WINDOW)), broken_clip(), audio_clip(noise(WINDOW))]
    first, broken, last = beats.extract(clips)
    assert isinstance(broken, Failure)
    assert isinstance(first, Result)
    assert difference(first.feature, last.feature) < 1e-5


def test_events_are_the_likeliest_classes_with_their_names(beats):
    [result] = beats.extract([audio_clip(noise(5 * HOP))])
    weights = random_weights(SMALL)
    mean = torch.from_numpy(result.feature.mean(0))
    probabilities = (weights["predictor.weight"] @ mean + weights["predictor.bias"]).sigmoid().tolist()
    order = sorted(range(7), key=lambda index: -probabilities[index])[:5]
    names = ["Speech", "Music", "Laughter", "Dog", "Children playing", "Firecracker", "/m/none"]
    events = result.extras["events"]
    assert [(event["id"], event["label"]) for event in events] == [(IDS[index], names[index]) for index in order]
    assert [event["probability"] for event in events] == pytest.approx(
        [probabilities[index] for index in order], rel=1e-5
    )
    table = pa.Table.from_pylist([result.extras], pa.schema(list(Beats.columns.items())))
    assert table.to_pylist()[0]["events"][0]["label"] == events[0]["label"]


def test_a_checkpoint_without_a_predictor_hears_no_events(tmp_path):
    path = random_checkpoint(tmp_path / "pretrained.pt", **(SMALL | {"finetuned_model": False}))
    [result] = build(Beats, path, width=WIDTH).extract([audio_clip(noise(WINDOW))])
    assert result.feature.shape == (1, WIDTH)
    assert result.extras == {"events": []}


def test_audioset_names():
    names = audioset_names()
    assert len(names) == len(set(names.values())) == 527
    assert all(id_.startswith(("/m/", "/t/", "/g/")) for id_ in names)
    assert all(name and name == name.strip() for name in names.values())
    assert names["/m/09x0r"] == "Speech"
    assert names["/m/05zppz"] == "Male speech, man speaking"
    assert names["/m/04rlf"] == "Music"
    assert names["/m/028v0c"] == "Silence"
    assert names["/m/07hvw1"] == "Field recording"


def test_reduced_precision(checkpoint, beats):
    clip = audio_clip(noise(3 * HOP))
    [exact] = beats.extract([clip])
    [reduced] = build(Beats, checkpoint, width=WIDTH, precision="bfloat16").extract([clip])
    assert reduced.feature.dtype == np.float32
    assert 1e-5 < difference(reduced.feature, exact.feature) < 0.05


def test_what_the_settings_and_the_checkpoint_have_to_agree_on(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"width = 768: .*small\.pt makes embeddings of 16; set width=16"):
        build(Beats, checkpoint)
    path = tmp_path / "nameless.pt"
    torch.save({"cfg": SMALL, "model": random_weights(SMALL)}, path)
    with pytest.raises(ValueError, match="no label_dict"):
        build(Beats, path, width=WIDTH)
    for wrong in ({"windows": 0}, {"width": 0}, {"precision": "int8"}, {"unknown": 1}):
        with pytest.raises(ValidationError):
            Beats.Settings(**wrong)


def test_broken_and_hostile_checkpoints_are_refused(checkpoint, tmp_path):
    path, marker = tmp_path / "broken.pt", tmp_path / "run"
    path.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"broken\.pt is broken"):
        build(Beats, path, width=WIDTH)
    hostile_weights(path, marker, torch.load(checkpoint, weights_only=True))
    with pytest.raises(ValueError, match="more than weights"):
        build(Beats, path, width=WIDTH)
    hostile_pickle(path, marker)
    with pytest.raises(ValueError, match="more than weights"):
        build(Beats, path, width=WIDTH)
    assert not marker.exists()
    with pytest.raises(IsADirectoryError):
        build(Beats, tmp_path, width=WIDTH)
    with pytest.raises(FileNotFoundError):
        Beats(Beats.Settings(), Resources(models={"model": tmp_path / "absent.pt"}))


def test_identity():
    settings = Beats.Settings()
    assert Beats.references(settings) == {"model": PUBLISHED}
    assert Beats.space(settings) == "vemoclap/beats-iter3plus-as2m-cpt2"
    assert Beats.width(settings) == 768
    assert Beats.space(Beats.Settings(model="hf:owner/name/file.pt")) == "hub/owner/name/file.pt"
    assert Beats.space(Beats.Settings(model="/models/mine.pt", width=640)) == "local/mine.pt"
    assert Beats.space(Beats.Settings(model="/models/mine.pt", space="lab/mine")) == "lab/mine"
    assert Beats.width(Beats.Settings(width=640)) == 640


def test_importing_the_module_and_asking_its_width_loads_no_torch():
    code = (
        "import sys; from vemoclap_batch.extractors.beats import Beats, audioset_names; s = Beats.Settings();"
        "Beats.width(s), Beats.space(s), audioset_names(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
