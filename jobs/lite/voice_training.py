"""What the lite profile's voice descriptor learns: which directions of the encoder's output tell emotions apart.

The encoder itself stays as it is. Within-class covariance normalisation (Hatch et al., 2006) shrinks whatever varies
among utterances of one emotion: speakers, words and, since every utterance is also heard through noise, rooms and
other microphones, the recording. A classifier that is then trained on clean speech alone still works in noise.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.signal import fftconvolve, resample_poly

from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.windows import window_starts
from vemoclap_batch.networks.prosody import loudness
from vemoclap_batch.networks.voice import VoiceNet, load_encoder, save_projection, trim_and_level

WINDOW = 3 * SAMPLE_RATE
#: How often every utterance is heard anew, besides as it is.
COPIES = 4
#: Descriptors that are kept, those of the largest variance after the normalisation first. More tell the speakers of
#: the training set apart a little better, but speakers of the other sex, other sentences and noisy recordings worse.
DESCRIPTORS = 32
#: How far the covariance within classes is drawn towards the identity: about 1,000 utterances of 16 speakers leave
#: its smaller axes unsure.
SHRINKAGE = 0.2


@dataclass
class Utterances:
    """Utterances and what is known of them.

    Attributes:
        waveforms: float32 [samples], 16 kHz each.
        classes: what should be told apart, one per utterance.
    """

    waveforms: list[np.ndarray]
    classes: np.ndarray


def read_utterances(manifest: str | Path, split: str | None = None) -> Utterances:
    """Read a CSV with the columns ``path`` (relative to it), ``label`` and, for a split, ``split``.

    Where there is a column ``intensity``, each intensity of an emotion is a class of its own.

    Raises:
        ValueError: nothing is in the split.
    """
    with Path(manifest).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if split in (None, row.get("split"))]
    if not rows:
        raise ValueError(f"{manifest} has nothing in the split {split!r}")
    waveforms = [read_waveform(Path(manifest).parent / row["path"]) for row in rows]
    return Utterances(waveforms, np.array([f"{row['label']} {row.get('intensity', '')}" for row in rows]))


def read_waveform(path: str | Path) -> np.ndarray:
    """A sound file as float32 [samples], mono, 16 kHz, as the pipeline decodes it."""
    return decode(str(path), want_frames=False)[0].waveform


def augment(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An utterance as another voice, room, microphone and neighbourhood would give it; float32, of another length."""
    sound = np.asarray(waveform, np.float64)
    if rng.random() < 0.6:
        sound = resample_poly(sound, int(rng.integers(90, 112)), 100)
    if rng.random() < 0.4:
        sound = _in_a_room(sound, rng)
    if rng.random() < 0.7:
        sound = _through_a_microphone(sound, rng)
    if rng.random() < 0.6:
        sound = _among_noise(sound, rng)
    return np.clip(sound * 10 ** (rng.uniform(-15, 6) / 20), -1, 1).astype(np.float32)


def _in_a_room(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reverberate: noise that dies away by 60 dB within 0.15 to 0.5 s."""
    length = int(SAMPLE_RATE * rng.uniform(0.15, 0.5))
    response = rng.normal(size=length) * np.exp(-6.9 * np.arange(length) / length) * rng.uniform(0.02, 0.12)
    response[0] = 1
    return fftconvolve(sound, response)[: len(sound)]


def _through_a_microphone(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Raise and lower parts of the spectrum; now and then leave only a band of it, as a telephone does."""
    frequency = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    knots = np.log([100, 200, 350, 650, 1250, 2450, 4850, 8050])
    gain_db = np.interp(np.log(frequency + 50), knots, rng.normal(0, 4, len(knots)))
    if rng.random() < 0.3:
        low, high = rng.choice([50, 150, 300]), rng.choice([3400, 4000, 5500])
        gain_db -= 40 * ((frequency < low) | (frequency > high))
    return np.fft.irfft(np.fft.rfft(sound) * 10 ** (gain_db / 20), len(sound))


def _among_noise(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise or music, 3 to 25 dB under the speech."""
    noise = _music(len(sound), rng) if rng.random() < 0.5 else _coloured_noise(len(sound), rng)
    ratio = 10 ** (-rng.uniform(3, 25) / 20)
    return sound + noise * (ratio * _speech_level(sound) / np.sqrt(np.square(noise).mean() + 1e-12))


def _speech_level(sound: np.ndarray) -> float:
    """Root mean square of the parts that are at most 30 dB under the loudest."""
    levels = loudness(sound)
    return float(np.sqrt((10 ** (levels[levels > levels.max() - 30] / 10)).mean())) if len(levels) else 0.0


def _coloured_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose spectrum falls like that of a fan, a street or neither."""
    frequency = np.fft.rfftfreq(length, 1 / SAMPLE_RATE) + 30
    return np.fft.irfft(np.fft.rfft(rng.normal(size=length)) * frequency ** -rng.uniform(0, 1), length)


def _music(length: int, rng: np.random.Generator) -> np.ndarray:
    """Plucked chords, one after another."""
    time = np.arange(length) / SAMPLE_RATE
    music, start = np.zeros(length), 0
    while start < length:
        end = min(length, start + int(rng.uniform(0.2, 0.8) * SAMPLE_RATE))
        root, third = 110 * 2 ** (rng.integers(0, 24) / 12), rng.choice([3, 4])
        tones = [(root * 2 ** (step / 12) * harmonic, harmonic) for step in (0, third, 7) for harmonic in range(1, 6)]
        chord = sum(np.sin(2 * np.pi * tone * time[start:end] + rng.uniform(0, 6)) / part for tone, part in tones)
        music[start:end] = chord * np.exp(-(time[start:end] - time[start]) * rng.uniform(1, 5))
        start = end
    return music


def normalise_within_classes(
    embeddings: np.ndarray, classes: np.ndarray, kept: int = DESCRIPTORS, shrinkage: float = SHRINKAGE
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the mean [width] and projection [width, kept] that make the variance within classes the same everywhere.

    Args:
        embeddings: float [n, width].
        classes: [n]; how often each occurs makes no difference to which directions are shrunk, only to the mean.
        kept: directions to keep, of the largest variance first; their variances are made 1 on average.
        shrinkage: 0 trusts the measured covariance, 1 only scales each dimension.
    """
    mean, spread = embeddings.mean(0), np.maximum(embeddings.std(0), 1e-6)
    standard = (embeddings - mean) / spread
    inside = standard.copy()
    for name in np.unique(classes):
        inside[classes == name] -= inside[classes == name].mean(0)
    covariance = (1 - shrinkage) * inside.T @ inside / len(inside) + shrinkage * np.eye(len(mean))
    values, axes = np.linalg.eigh(covariance)
    whitened = standard @ (axes / np.sqrt(values))
    variance, order = np.linalg.eigh(np.cov(whitened.T))
    variance, order = variance[::-1][:kept], order[:, ::-1][:, :kept]
    projection = (axes / np.sqrt(values)) @ order / np.sqrt(variance.mean())
    return mean, projection / spread[:, None]


def _sounds(waveform: np.ndarray) -> Iterator[np.ndarray]:
    """What is heard in each window that is not silent."""
    for start in window_starts(len(waveform)):
        sound = trim_and_level(waveform[start : start + WINDOW])
        if len(sound):
            yield sound


def train_voice_projection(
    manifest: str | Path,
    model_bin: str | Path,
    out_path: str | Path,
    *,
    split: str | None = "train",
    copies: int = COPIES,
    descriptors: int = DESCRIPTORS,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[str], None] = print,
) -> None:
    """Fit the projection on the utterances of a split and write it to ``out_path``.

    Args:
        manifest: see :func:`read_utterances`.
        model_bin: CTranslate2 file of the Whisper model whose encoder listens.
        out_path: the .safetensors file to write.
        split: whose utterances; None for all.
        copies: augmented versions of each utterance, besides itself.
        descriptors: width of the feature.
        seed: of the augmentation.
        threads: of torch.
        progress: told how it goes.
    """
    torch.set_num_threads(threads)
    utterances = read_utterances(manifest, split)
    encoder = load_encoder(model_bin)
    width = encoder.positions.shape[1]
    net = VoiceNet(encoder, torch.zeros(width), torch.eye(width))
    embeddings, classes = [], []
    for copy in range(copies + 1):
        for index, (waveform, name) in enumerate(zip(utterances.waveforms, utterances.classes, strict=True)):
            rng = np.random.default_rng([seed, copy, index])
            for sound in _sounds(augment(waveform, rng) if copy else waveform):
                embeddings.append(net.embed(sound).numpy())
                classes.append(name)
        progress(f"pass {copy + 1} of {copies + 1}: {len(embeddings)} windows")
    mean, projection = normalise_within_classes(np.stack(embeddings), np.array(classes), descriptors)
    save_projection(torch.from_numpy(mean), torch.from_numpy(projection), out_path)
