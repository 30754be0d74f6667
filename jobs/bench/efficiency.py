"""Efficiency of the whole pipeline: against the models' own time, and against the published way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.extractors import checked
from bench.published import full_decode, one_by_one
from bench.report import Report, cores
from bench.videos import write_variants
from vemoclap_batch.config import Config
from vemoclap_batch.extractors.base import Extractor, Resources
from vemoclap_batch.extractors.registry import Spec, resolve
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.pipeline.run import Classifier, Run, run
from vemoclap_batch.pipeline.stages import DECODE, models
from vemoclap_batch.sources.manifest import read_sources

#: The smaller of the two runs has so much of the larger one's videos.
_SMALLER = 4


@dataclass
class Measured:
    """Seconds that one run took: in all, until every model was loaded, and of its stages while others ran beside."""

    videos: int
    wall_s: float
    startup_s: float
    stages: dict[str, float]

    @classmethod
    def of(cls, done: Run) -> Measured:
        """From a run's summary.

        Raises:
            RuntimeError: a video failed.
        """
        summary = done.summary()
        if done.failed:
            raise RuntimeError(f"{done.failed} of {done.videos} videos failed")
        stages = {name: stage["seconds"] for name, stage in summary["stages"].items()}
        return cls(done.videos, summary["wall_s"], summary["startup_s"], stages)

    @property
    def working_s(self) -> float:
        """Start-up apart."""
        return self.wall_s - self.startup_s


def measure(
    clips: Sequence[Path], config: Config, classifier: Classifier | None = None, *, count: int = 100, sample: int = 20
) -> Report:
    """Label videos by the pipeline, and do the work of some of them stage by stage and in the published way.

    Ideal is the models' own time on full batches, each alone on one core, decoding included, divided over the cores.
    Two runs of different sizes tell apart what a video costs from what a run costs: while the slowest model is still
    loading others work, which flatters the figure that leaves the start-up out. ``efficiency_between_runs`` does not
    have that fault, and has no end of a run in it either.

    Args:
        clips: what the videos are made of, see :func:`write_variants`.
        config: its extractors are the models of all three.
        classifier: as for :func:`run`; what it takes is in the pipeline's time only.
        count: videos of the larger run.
        sample: videos that the other two ways do; their time goes up with the videos.
    """
    specs = resolve(config)
    with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
        videos = write_variants(clips, count, Path(folder) / "videos")
        # Spread over all videos, as many of each clip.
        some = [videos[number] for number in spread(count, sample, len(clips))]
        own = own_times(some, config, specs)
        published = published_times(some, config, specs)
        runs = []
        for size in (max(len(clips), count // _SMALLER), count):
            chosen = [str(videos[number]) for number in spread(count, size, len(clips))]
            rows = read_sources(chosen, config.sources.policy).rows
            runs.append(Measured.of(run(rows, f"{folder}/out{size}", config, classifier)))
    table = _rows(own, published, runs[-1].stages, len(some), count)
    settings = {"videos": [one.videos for one in runs], "sample": len(some), "profile": config.profile}
    figures = _figures(sum(own.values()) / len(some), sum(published.values()) / len(some), runs[0], runs[1])
    return Report("pipeline", {**settings, "published_threads": cores()}, table, figures)


def spread(count: int, size: int, kinds: int) -> list[int]:
    """At most so many of the numbers below ``count``, evenly over the whole rounds of ``kinds``."""
    if size >= count:
        return list(range(count))
    rounds = max(1, count // kinds)
    turns = min(rounds, max(1, size // kinds))
    taken = [round(turn * (rounds - 1) / max(turns - 1, 1)) for turn in range(turns)]
    return [turn * kinds + kind for turn in taken for kind in range(kinds)][:size]


def _figures(own: float, published: float, small: Measured, large: Measured) -> dict[str, float]:
    """The ratios, from what a video costs in the two ways and the two runs."""
    more = large.videos - small.videos
    figures = {
        "efficiency": own * large.videos / cores() / large.working_s,
        "times_as_fast_as_published": published * large.videos / large.working_s,
        "times_as_fast_as_published_with_startup": published * large.videos / large.wall_s,
    }
    if more and large.wall_s > small.wall_s:
        per_video = (large.wall_s - small.wall_s) / more
        figures["efficiency_between_runs"] = own / cores() / per_video
        figures["times_as_fast_as_published_between_runs"] = published / per_video
    seconds = {"wall_s": large.wall_s, "startup_s": large.startup_s, "smaller_run_wall_s": small.wall_s}
    return {name: round(value, 3) for name, value in {**figures, **seconds}.items()}


def _rows(
    own: dict[str, float], published: dict[str, float], stages: dict[str, float], sample: int, count: int
) -> list[dict[str, Any]]:
    """Seconds a video, stage by stage."""
    rows = []
    for name, seconds in own.items():
        together = sum(stages.get(part, 0.0) for part in name.split("+"))
        rows.append(
            {
                "stage": name,
                "own_s_per_video": round(seconds / sample, 4),
                "in_the_pipeline_s_per_video": round(together / count, 4),
                "published_way_s_per_video": round(published[name] / sample, 4),
            }
        )
    return rows


def own_times(videos: Sequence[Path], config: Config, specs: dict[str, Spec]) -> dict[str, float]:
    """Seconds of every stage on some videos, each by itself in this process, in blocks as large as the pipeline's."""
    limits = Limits(decoder=config.decode.decoder, policy=config.sources.policy)
    sampling = Sampling(**config.sampling.model_dump())
    began = time.perf_counter()
    clips = [decode(str(video), video.stem, sampling=sampling, limits=limits)[0] for video in videos]
    seconds = {DECODE: time.perf_counter() - began}
    size = config.pipeline.block_videos or 1
    blocks = [clips[at : at + size] for at in range(0, len(clips), size)]
    texts: dict[str, list[list[str]]] = {}

    def work(spec: Spec, extractor: Extractor) -> None:
        results = [checked(extractor, block) for block in (texts[spec.source] if spec.source else blocks)]
        if "text" in spec.cls.columns:
            texts[spec.name] = [[result.extras["text"] for result in block] for block in results]

    return {**seconds, **_by_model(specs, work)}


def published_times(videos: Sequence[Path], config: Config, specs: dict[str, Spec]) -> dict[str, float]:
    """Seconds of every stage on some videos: full decoding, then one frame, one sound, one text at a time.

    Every library may use all cores, which is its default. Models are loaded before the time starts.
    """
    sampling = config.sampling
    began = time.perf_counter()
    clips = [full_decode(video, sampling.frames, sampling.short_side, threads=cores()) for video in videos]
    seconds = {DECODE: time.perf_counter() - began}
    texts: dict[str, list[str]] = {}

    def work(spec: Spec, extractor: Extractor) -> None:
        if spec.source:
            for text in texts[spec.source]:
                checked(extractor, [text])
            return
        results = [[checked(extractor, [part])[0] for part in one_by_one(spec, clip)] for clip in clips]
        if "text" in spec.cls.columns:
            texts[spec.name] = [_joined(part.extras["text"] for part in parts) for parts in results]

    return {**seconds, **_by_model(specs, work, threads=cores())}


def _joined(texts: Iterable[str]) -> str:
    """The different texts, each once."""
    return ". ".join(dict.fromkeys(filter(None, texts)))


def _by_model(specs: dict[str, Spec], work: Callable[[Spec, Extractor], None], threads: int = 1) -> dict[str, float]:
    """Seconds that the work of the extractors of each model takes, loading apart."""
    seconds = {}
    for names in models(list(specs), specs):
        first = specs[names[0]]
        extractor = first.cls(first.settings, Resources(threads, "cpu", first.models))
        began = time.perf_counter()
        for name in names:
            work(specs[name], extractor)
        seconds["+".join(names)] = time.perf_counter() - began
    return seconds
