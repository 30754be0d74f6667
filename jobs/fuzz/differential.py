"""Random video files through the decode worker and the ffmpeg program: where they disagree, and what is right."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fuzz import second_decoder
from fuzz.comparison import compare
from fuzz.make_media import NotMade, make
from fuzz.random_media import Recipe, draw
from vemoclap_batch.errors import Failure
from vemoclap_batch.media.clip import Clip, MediaInfo

#: Decodes a file as the pipeline does.
Decoder = Callable[[str, str], "tuple[Clip, MediaInfo] | Failure"]


@dataclass
class Outcome:
    """How one file fared.

    Attributes:
        name: of the file.
        kinds: what it is, by which the report counts.
        differences: what differs → in words; empty where the two agree.
        not_made: why there is no such file, in words of the ffmpeg program; None if there is.
    """

    name: str
    kinds: dict[str, str]
    differences: dict[str, str] = field(default_factory=dict)
    not_made: str | None = None


@dataclass
class Report:
    """All outcomes, and where the files lie over which the decoders disagree."""

    outcomes: list[Outcome] = field(default_factory=list)
    kept_in: str | None = None
    seconds: float = 0.0

    @property
    def disagreeing(self) -> list[Outcome]:
        """The files over which they disagree."""
        return [outcome for outcome in self.outcomes if outcome.differences]

    def as_dict(self) -> dict[str, Any]:
        """Agreements and disagreements, in all and by kind, what differs how often, and every file that does."""
        compared = [outcome for outcome in self.outcomes if outcome.not_made is None]
        by_kind: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
        for outcome in compared:
            for kind, value in outcome.kinds.items():
                by_kind[kind][value][bool(outcome.differences)] += 1
        differences = Counter(what for outcome in self.disagreeing for what in outcome.differences)
        return {
            "files": len(compared),
            "agree": len(compared) - len(self.disagreeing),
            "disagree": len(self.disagreeing),
            "differences": dict(differences.most_common()),
            "by_kind": {
                kind: {value: {"agree": counts[0], "disagree": counts[1]} for value, counts in sorted(values.items())}
                for kind, values in by_kind.items()
            },
            "disagreeing": [asdict(outcome) for outcome in self.disagreeing],
            "not_made": [asdict(outcome) for outcome in self.outcomes if outcome.not_made is not None],
            "seconds": round(self.seconds, 1),
            "kept_in": self.kept_in,
        }


def differential(program: str, count: int, seed: int, keep: Path, decode: Decoder) -> Report:
    """Make so many random files and compare what the two decoders give.

    Args:
        program: the ffmpeg program, which also writes the files.
        count: of files.
        seed: the same seed, number and program give the same file.
        keep: folder for the files over which they disagree; made when there is one.
        decode: takes a name and a path; a decode worker's method, say.
    """
    began = time.monotonic()
    report = Report()
    encoders = second_decoder.encoders(program)
    with TemporaryDirectory(prefix="vemoclap-fuzz-") as scratch:
        for number in range(count):
            recipe = draw(np.random.default_rng([seed, number]), encoders)
            path = Path(scratch) / f"{seed}-{number} {recipe}{recipe.suffix}"
            outcome = _compare(recipe, path, program, Path(scratch), decode)
            report.outcomes.append(outcome)
            if outcome.differences:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, keep / path.name)
                report.kept_in = str(keep)
            for made in Path(scratch).iterdir():
                made.unlink()
    report.seconds = time.monotonic() - began
    return report


def _compare(recipe: Recipe, path: Path, program: str, scratch: Path, decode: Decoder) -> Outcome:
    outcome = Outcome(path.name, recipe.kinds())
    try:
        make(recipe, path, program, scratch)
        other = second_decoder.decode(program, path, scratch)
    except NotMade as error:
        outcome.not_made = str(error)
        return outcome
    except subprocess.TimeoutExpired:
        outcome.not_made = "the ffmpeg program does not come to an end of it"
        return outcome
    outcome.differences = compare(recipe, other, decode(path.name, str(path)))
    return outcome
