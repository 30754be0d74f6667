"""Speech whose words are known: recorded prompts of a telephone exchange, and sentences that espeak-ng says."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.text_sounds import unpacked, waveform
from vemoclap_batch.media.clip import SAMPLE_RATE

#: Languages in which a person's recordings are packaged, as their packages spell them.
RECORDED = ("en", "es", "fr", "it", "ru")
#: Language → sentences that espeak-ng says.
SENTENCES = {
    "en": (
        "I am so happy that you came to see us today.",
        "The train was late again and nobody told us why.",
        "She never wanted to live in that house by the sea.",
        "They opened the letter and could not believe what it said.",
        "My brother is afraid of the dog next door.",
    ),
    "de": (
        "Ich bin so froh, dass du uns heute besuchst.",
        "Der Zug kam wieder zu spät und niemand sagte uns warum.",
        "Sie wollte nie in diesem Haus am Meer leben.",
        "Sie öffneten den Brief und konnten nicht glauben, was darin stand.",
        "Mein Bruder hat Angst vor dem Hund von nebenan.",
    ),
    "fr": (
        "Je suis si heureux que tu sois venu nous voir aujourd'hui.",
        "Le train était encore en retard et personne ne nous a dit pourquoi.",
        "Elle n'a jamais voulu vivre dans cette maison au bord de la mer.",
        "Ils ont ouvert la lettre et ne pouvaient pas croire ce qu'elle disait.",
        "Mon frère a peur du chien des voisins.",
    ),
    "es": (
        "Estoy muy contento de que hayas venido a vernos hoy.",
        "El tren llegó tarde otra vez y nadie nos dijo por qué.",
        "Ella nunca quiso vivir en esa casa junto al mar.",
        "Abrieron la carta y no podían creer lo que decía.",
        "Mi hermano tiene miedo del perro de los vecinos.",
    ),
    "tr": (
        "Bugün bizi görmeye geldiğin için çok mutluyum.",
        "Tren yine geç kaldı ve kimse bize nedenini söylemedi.",
        "Deniz kenarındaki o evde yaşamayı hiç istemedi.",
        "Mektubu açtılar ve yazanlara inanamadılar.",
        "Kardeşim komşunun köpeğinden korkuyor.",
    ),
}
#: Prompts of so many words or more are clips of their own.
_WORDS = 6
_ESPEAK = ("espeak-ng", "libespeak-ng1", "libsonic0", "libpcaudio0", "espeak-ng-data")
#: espeak-ng has one voice a language; speeds in words a minute and pitches make others of it.
_VOICES = ((140, 40), (160, 60), (175, 50), (150, 75))


@dataclass
class Utterance:
    """Speech and its words."""

    source: str
    language: str
    words: str
    waveform: np.ndarray


def recorded(folder: Path, count: int) -> Iterator[Utterance]:
    """Prompts of the Asterisk exchange, evenly spread: so many of each language."""
    for language in RECORDED:
        documents = unpacked(f"asterisk-core-sounds-{language}", folder)
        [listing] = documents.rglob(f"core-sounds-{language}.txt*")
        raw = listing.read_bytes()
        lines = (gzip.decompress(raw) if listing.suffix == ".gz" else raw).decode("utf-8").splitlines()
        sounds = {path.stem: path for path in unpacked(f"asterisk-core-sounds-{language}-wav", folder).rglob("*.wav")}
        prompts = [_prompt(line) for line in lines if not line.startswith(";")]
        # Digits are spoken as words, brackets say what is no speech.
        good = [
            (name, words)
            for name, words in prompts
            if name in sounds and len(words.split()) >= _WORDS and not any(sign in words for sign in "0123456789[](*<")
        ]
        for name, words in good[:: max(1, len(good) // count)][:count]:
            yield Utterance("recorded", language, words, waveform(sounds[name]))


def _prompt(line: str) -> tuple[str, str]:
    name, _, words = line.partition(":")
    return name.strip().rpartition("/")[2], words.strip()


def synthetic(folder: Path, count: int) -> Iterator[Utterance]:
    """Sentences by espeak-ng: so many of each language."""
    for language, sentences in SENTENCES.items():
        for number in range(count):
            words = sentences[number % len(sentences)]
            voice = _VOICES[number // len(sentences) % len(_VOICES)]
            yield Utterance("espeak-ng", language, words, said(folder, language, words, *voice))


def said(folder: Path, language: str, words: str, speed: int = 160, pitch: int = 50) -> np.ndarray:
    """What espeak-ng makes of a text, float32 [samples] at 16 kHz."""
    parts = {name: unpacked(name, folder).resolve() for name in _ESPEAK}
    path = folder / "said.wav"
    libraries = [str(file.parent) for name in _ESPEAK for file in parts[name].rglob("*.so.*")]
    [phonemes] = parts["espeak-ng-data"].rglob("phontab")
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(dict.fromkeys(libraries))}
    program = parts["espeak-ng"] / "usr/bin/espeak-ng"
    options = ["--path", str(phonemes.parents[1]), "-v", language, "-s", str(speed), "-p", str(pitch), "-w", str(path)]
    subprocess.run([str(program), *options, words], env=environment, check=True, capture_output=True)
    return waveform(path)


def with_noise(samples: np.ndarray, other: np.ndarray, ratio_db: float) -> np.ndarray:
    """Samples with another sound beneath, repeated as need be, whose power is so much lower."""
    beneath = np.resize(other, len(samples)).astype(np.float64)
    power, lower = float(np.mean(samples.astype(np.float64) ** 2)), float(np.mean(beneath**2))
    mixed = samples + beneath * np.sqrt(power / max(lower, 1e-12) / 10 ** (ratio_db / 10))
    return (mixed / max(1.0, np.abs(mixed).max())).astype(np.float32)


def white(length: int, seed: int = 0) -> np.ndarray:
    """White noise."""
    return np.random.default_rng(seed).standard_normal(length)


def joined(parts: Sequence[np.ndarray], pause_s: float) -> np.ndarray:
    """Sounds one after another with digital silence between."""
    silence = np.zeros(round(pause_s * SAMPLE_RATE), np.float32)
    pieces = [piece for part in parts for piece in (part, silence)]
    return np.concatenate(pieces[:-1])
