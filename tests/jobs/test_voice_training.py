import csv

import av
import numpy as np
import pytest

from lite.voice_training import (
    augment,
    normalise_within_classes,
    read_utterances,
    train_voice_projection,
)
from tests.networks.test_voice_net import audio, whisper_arrays, write_ctranslate2
from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.networks.voice import load_voice_net

pytestmark = pytest.mark.numeric


def write_flac(path, waveform):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray((waveform * 2**15).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])


@pytest.fixture(scope="module")
def utterances(tmp_path_factory):
    """A manifest of eight recordings, four of either label, two of them in another split."""
    folder = tmp_path_factory.mktemp("utterances")
    with (folder / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "intensity", "split"])
        for number in range(8):
            write_flac(folder / f"{number}.flac", audio(1.0 + 0.1 * number, seed=number))
            rows.writerow(
                [f"{number}.flac", "anger" if number % 2 else "joy", "normal", "val" if number > 5 else "train"]
            )
    return folder / "manifest.csv"


def test_utterances_are_read_with_their_classes(utterances):
    found = read_utterances(utterances, "train")
    assert [len(waveform) for waveform in found.waveforms] == [16_000 + 1_600 * number for number in range(6)]
    assert found.waveforms[3] == pytest.approx(audio(1.3, seed=3), abs=2.0**-15)
    assert found.classes.tolist() == ["joy normal", "anger normal"] * 3
    assert len(read_utterances(utterances).waveforms) == 8
    with pytest.raises(ValueError, match="'test'"):
        read_utterances(utterances, "test")


def test_augmented_utterances_differ_and_repeat():
    waveform = audio(2.0)
    found = [augment(waveform, np.random.default_rng(seed)) for seed in range(20)]
    for other in found:
        assert other.dtype == np.float32
        assert np.isfinite(other).all()
        assert np.abs(other).max() <= 1
        assert 0.85 * len(waveform) < len(other) < 1.15 * len(waveform)
    assert len({other.tobytes() for other in found}) == 20
    assert np.array_equal(found[3], augment(waveform, np.random.default_rng(3)))


def test_silence_can_be_augmented():
    silence = np.zeros(SAMPLE_RATE, np.float32)
    assert all(np.isfinite(augment(silence, np.random.default_rng(seed))).all() for seed in range(20))


def test_what_varies_within_classes_is_shrunk():
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 500)
    points = rng.normal(size=(1000, 4)) * [1, 20, 1, 1] + 5
    points[:, 0] += 3 * classes
    mean, projection = normalise_within_classes(points, classes, kept=3, shrinkage=0.01)
    assert projection.shape == (4, 3)
    found = (points - mean) @ projection
    assert found.mean(0) == pytest.approx(0, abs=1e-9)
    assert found.var(0).mean() == pytest.approx(1, abs=0.01)
    # The direction that tells the classes apart comes first, the widest of all is not preferred.
    gap = np.abs(found[classes == 1].mean(0) - found[classes == 0].mean(0)) / found.std(0)
    assert gap[0] > 1.5
    assert gap[1:].max() < 0.2


def test_a_dimension_that_never_varies_is_harmless():
    points = np.random.default_rng(0).normal(size=(50, 3))
    points[:, 1] = 7
    mean, projection = normalise_within_classes(points, np.arange(50) % 2, kept=3)
    assert np.isfinite((points - mean) @ projection).all()


def test_training_writes_a_projection_and_repeats_itself(tmp_path, utterances):
    write_ctranslate2(tmp_path / "model.bin", whisper_arrays())
    said = []
    for name in ("once", "again"):
        train_voice_projection(
            utterances, tmp_path / "model.bin", tmp_path / name, copies=2, descriptors=5, progress=said.append
        )
    assert (tmp_path / "once").read_bytes() == (tmp_path / "again").read_bytes()
    assert said[2].startswith("pass 3 of 3: 18 windows")
    found = load_voice_net(tmp_path / "model.bin", tmp_path / "once").describe(audio(1.0))
    assert found.shape == (5,)
    assert np.isfinite(found).all()
