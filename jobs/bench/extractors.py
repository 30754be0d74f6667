"""Time per clip of every extractor, in full batches against one item at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.models import paper_entries
from bench.published import one_by_one
from bench.report import Report, in_turn
from vemoclap_batch.config import Config, load_config
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Extractor, Resources
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.registry import Spec, resolve
from vemoclap_batch.extractors.yolo_face import (
    CPU_FACES,
    CPU_FRAMES,
    Detector,
    VitExpression,
    YoloFace,
    YoloFaceSettings,
)
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip
from vemoclap_batch.media.decode import decode
from vemoclap_batch.pipeline.stages import models

#: Frames of a clip and seconds of its sound: 16 windows of BEATs, one of Whisper.
FRAMES, SOUND_S = 16, 25.5
#: Pixels of a face's side.
FACE = 112
#: What random RoBERTa reads byte by byte, as many tokens as a transcript of that many words has.
_TEXT = "it was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness"


@dataclass
class Case:
    """One row: a model fed in two ways.

    Attributes:
        item: what a single pass gets in the slower way.
    """

    name: str
    item: str
    batched: Callable[[], object]
    alone: Callable[[], object]


def paper(clips: int = 4, repeats: int = 3, threads: int = 1, small: bool = False) -> Report:
    """The paper profile's large models with random weights, on fixed frames, faces, sounds and texts.

    Args:
        clips: how many there are; extractors get all of them at once, as a block of the pipeline.
        repeats: how often each way is timed; the median counts.
        threads: of each model.
        small: toys instead of full-size models.
    """
    made = fixed_clips(clips, 4, 6.0) if small else fixed_clips(clips)
    with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        specs = resolve(paper_config(Path(folder), small))
        cases = _cases(specs, made, threads)
        settings = {"models": "small" if small else "full-size", "weights": "random", "asr": "beam 1, 64 tokens"}
        notes = ["a random detector finds no face: its frames and the crops that the expressions get are fixed ones"]
        return _report("paper", cases, clips, repeats, {**settings, "threads": threads}, notes)


def lite(videos: Sequence[Path], repeats: int = 3, threads: int = 1) -> Report:
    """The lite profile's own models, on what is in some videos."""
    config = load_config("lite")
    clips = [decode(str(video), video.stem)[0] for video in videos]
    cases = _cases(resolve(config), clips, threads)
    return _report("lite", cases, len(clips), repeats, {"weights": "own", "threads": threads}, [])


def paper_config(folder: Path, small: bool = False) -> Config:
    """The paper profile with random weights, less what :func:`paper_entries` leaves out."""
    config = load_config("paper")
    entries = {
        name: type(config.extractors[name]).model_validate(
            {**config.extractors[name].model_dump(by_alias=True), **entry}
        )
        for name, entry in paper_entries(folder, small).items()
    }
    return config.model_copy(update={"extractors": entries, "accelerator": "cpu"})


def fixed_clips(count: int, frames: int = FRAMES, sound_s: float = SOUND_S) -> list[Clip]:
    """Clips of noise: frames of 640x360 and so many seconds of sound."""
    random = np.random.default_rng(0)
    times = np.linspace(0, sound_s, frames)
    return [
        Clip(
            f"clip {number}",
            random.integers(0, 256, (frames, 360, 640, 3), np.uint8),
            times,
            (0.1 * random.standard_normal(int(sound_s * SAMPLE_RATE))).clip(-1, 1).astype(np.float32),
            sound_s,
        )
        for number in range(count)
    ]


def _report(
    profile: str, cases: Iterator[Case], clips: int, repeats: int, settings: dict[str, Any], notes: list[str]
) -> Report:
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    for case in cases:
        taken = in_turn({"batched": case.batched, "alone": case.alone}, repeats)
        figures[case.name] = round(taken["alone"] / taken["batched"], 2)
        rows.append(
            {
                "extractor": case.name,
                "one_by_one": case.item,
                "batched_s_per_clip": round(taken["batched"] / clips, 4),
                "one_by_one_s_per_clip": round(taken["alone"] / clips, 4),
                "times_as_fast": figures[case.name],
            }
        )
    return Report(f"extractors {profile}", {"clips": clips, "repeats": repeats, **settings}, rows, figures, notes)


def _cases(specs: dict[str, Spec], clips: Sequence[Clip], threads: int) -> Iterator[Case]:
    """A case for every model, each loaded when its turn comes."""
    for names in models(list(specs), specs):
        spec, name = specs[names[0]], "+".join(names)
        resources = Resources(threads, "cpu", spec.models)
        if issubclass(spec.cls, YoloFace):
            yield from _faces(spec, clips, resources)
        else:
            yield _case(name, spec, spec.cls(spec.settings, resources), clips)


def _case(name: str, spec: Spec, extractor: Extractor, clips: Sequence[Clip]) -> Case:
    if spec.source is not None:
        # Texts of different lengths, as transcripts are.
        texts = [_TEXT[: 20 + number * 37 % 80] for number in range(len(clips))]
        whole: Sequence[Any] = texts
        single: list[Any] = list(texts)
    else:
        whole, single = clips, [part for clip in clips for part in one_by_one(spec, clip)]
    checked(extractor, single[:1])
    item = "text" if spec.source else "frame" if spec.reads_frames else "window" if len(single) > len(clips) else "clip"
    return Case(name, item, lambda: checked(extractor, whole), lambda: [checked(extractor, [part]) for part in single])


def checked(extractor: Extractor, items: Sequence[Any]) -> list[Any]:
    """The extractor's results.

    Raises:
        RuntimeError: one is a failure, which would be quicker than any work.
    """
    results = extractor.extract(items)
    for result in results:
        if isinstance(result, Failure):
            raise RuntimeError(f"{type(extractor).__name__} failed: {result.message}")
    return results


def _faces(spec: Spec, clips: Sequence[Clip], resources: Resources) -> Iterator[Case]:
    """The detector on all frames, the expressions on a face a frame."""
    assert isinstance(spec.settings, YoloFaceSettings)
    import torch

    torch.set_num_threads(resources.threads)
    frames = [frame for clip in clips for frame in clip.frames]
    detector = Detector(spec.models["detector"], spec.settings, resources)
    yield _network(f"{spec.name}: detector", "frame", detector, frames, CPU_FRAMES)
    crops = [frame[:FACE, :FACE] for frame in frames]
    expressions = VitExpression(spec.models["expressions"], resources.device, "float32")
    yield _network(f"{spec.name}: expressions", "face", expressions, crops, CPU_FACES)


def _network(
    name: str, item: str, network: Callable[[Sequence[Any]], list[Any]], items: Sequence[Any], size: int
) -> Case:
    """A network by itself, in batches of this size, which the extractor makes too."""
    network(items[:1])
    return Case(name, item, lambda: Batches(size).run(network, items), lambda: Batches(1).run(network, items))
