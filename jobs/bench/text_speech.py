"""How right speech recognition is: words wrong by language, languages told, words taken for invented ones."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.report import Report, show
from bench.text_sounds import excerpts, sound_files, unpacked, waveform
from bench.text_voices import Utterance, recorded, synthetic, white, with_noise
from vemoclap_batch.cli import options as opt
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Extractor, Resources
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip

#: Clips of each language and source, and how loud what is beneath them is, in decibels.
_CLIPS, _RATIO_DB = 20, 10.0
#: Where the music beneath comes from.
_MUSIC = "frozen-bubble-data"


def heard(extractor: Extractor, samples: np.ndarray, name: str = "clip") -> dict[str, Any]:
    """The columns of speech recognition for a sound.

    Raises:
        RuntimeError: it failed.
    """
    empty = np.zeros((0, 0, 0, 3), np.uint8)
    [result] = extractor.extract([Clip(name, empty, np.zeros(0), samples, len(samples) / SAMPLE_RATE)])
    if isinstance(result, Failure):
        raise RuntimeError(f"{name}: {result.message}")
    return result.extras


def lite_asr(threads: int = 1, changes: Sequence[str] = ()) -> Extractor:
    """The lite profile's speech recognition, with settings changed as by ``--set``."""
    spec = resolve(load_config("lite", changes))["asr"]
    return spec.cls(spec.settings, Resources(threads, "cpu", spec.models))


def words_of(text: str) -> list[str]:
    """Words as they are compared: small letters without accents and signs."""
    plain = unicodedata.normalize("NFD", text.lower().replace("ё", "е"))
    plain = "".join(sign for sign in plain if not unicodedata.combining(sign))
    return re.findall(r"\w+", plain.replace("'", " ").replace("’", " "))


def errors(expected: list[str], found: list[str]) -> int:
    """Words to change, add or leave out so that one becomes the other (Levenshtein)."""
    row = list(range(len(found) + 1))
    for at, word in enumerate(expected, 1):
        last, row[0] = row[0], at
        for place, other in enumerate(found, 1):
            last, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, last + (word != other))
    return row[-1]


def measure(folder: Path, clips: int = _CLIPS, changes: Sequence[str] = ()) -> Report:
    """Speech of known words, as it is, with noise and with music beneath."""
    extractor = lite_asr(changes=changes)
    [track] = [path for path in sound_files(unpacked(_MUSIC, folder)) if path.stem == "frozen-mainzik-1p"]
    [music] = excerpts(waveform(track), 30, 1)
    conditions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "clean": lambda samples: samples,
        "noise at 10 dB": lambda samples: with_noise(samples, white(len(samples)), _RATIO_DB),
        "music at 10 dB": lambda samples: with_noise(samples, music, _RATIO_DB),
    }
    rows: list[dict[str, Any]] = []
    for (source, language), utterances in _groups(folder, clips).items():
        for condition, changed in conditions.items():
            waveforms = [changed(each.waveform) for each in utterances]
            began = time.process_time()
            results = [heard(extractor, waveform) for waveform in waveforms]
            seconds = round((time.process_time() - began) / len(utterances), 3)
            scores = _scores(utterances, results)
            rows.append({"source": source, "language": language, "sound": condition, **scores, "core_s": seconds})
    figures = {
        f"{name}, {condition}": round(float(np.mean([row[name] for row in rows if row["sound"] == condition])), 2)
        for name in ("word_errors", "language_right", "dropped", "core_s")
        for condition in conditions
    }
    notes = [
        "percent: words wrong of those said, clips whose language is right, words dropped of those heard",
        "core_s: core-seconds a clip",
    ]
    return Report("text speech", {"profile": "lite", "clips": clips, "set": [*changes]}, rows, figures, notes)


def _groups(folder: Path, clips: int) -> dict[tuple[str, str], list[Utterance]]:
    found: dict[tuple[str, str], list[Utterance]] = {}
    every: Iterator[Utterance]
    for every in (recorded(folder, clips), synthetic(folder, clips)):
        for utterance in every:
            found.setdefault((utterance.source, utterance.language), []).append(utterance)
    return found


def _scores(utterances: list[Utterance], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares in percent."""
    pairs = [
        (words_of(each.words), words_of(of["text_original"])) for each, of in zip(utterances, results, strict=True)
    ]
    wrong, said = sum(errors(*pair) for pair in pairs), sum(len(expected) for expected, _ in pairs)
    right = sum(of["language"] == each.language for each, of in zip(utterances, results, strict=True))
    dropped = sum(len(words_of(row["text"])) for of in results for row in of["dropped"])
    kept = sum(len(words_of(of["text"])) for of in results)
    return {
        "clips": len(utterances),
        "words": said,
        "word_errors": round(100 * wrong / max(said, 1), 1),
        "language_right": round(100 * right / len(utterances), 1),
        "dropped": round(100 * dropped / max(dropped + kept, 1), 1),
    }


def command(
    folder: Annotated[Path, typer.Option(help="Where packages are fetched to, and found the next time.")],
    clips: Annotated[int, typer.Option(help="Of each language and source.")] = _CLIPS,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Like --set of a run.")] = None,
    as_json: opt.Json = False,
) -> None:
    """Words that speech recognition hears wrong, by language, clean and with noise or music beneath."""
    show(measure(folder, clips, changes or ()), as_json)
