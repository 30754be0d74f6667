"""What a machine with one NVIDIA GPU has to say; jobs/bench/gpu.sh runs all parts.

Each part writes its report to a file after every row, so that one which is ended early has what it measured.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
import yaml

from bench.extractors import FACE, checked, fixed_clips
from bench.models import paper_entries
from bench.report import Report, show
from bench.videos import write_variants
from vemoclap_batch import api
from vemoclap_batch.cli.common import program
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import RunEnded
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.registry import Spec, resolve
from vemoclap_batch.extractors.whisper import Whisper
from vemoclap_batch.extractors.yolo_face import VitExpression
from vemoclap_batch.media.clip import Clip

Device = Literal["cuda", "cpu"]
#: How often nvidia-smi is to look, in milliseconds.
_EVERY_MS = 100
#: Each way is timed until so much time is over, at least once.
_TIMED_S = 2.0
#: What random RoBERTa reads.
_TEXT = "it was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness"

app = program("Measure one NVIDIA GPU; jobs/bench/gpu.sh runs all parts.", no_args_is_help=True)

Models = Annotated[Path, typer.Argument(help="Folder that `gpu weights` made.")]
Written = Annotated[Path, typer.Option("--out", help="File for the report as JSON.")]
OnDevice = Annotated[Device, typer.Option(help="Torch device; cpu shows that the measurement works.")]
Quick = Annotated[bool, typer.Option("--quick", help="Small and soon done: shows that it works, no more.")]


@dataclass
class Looks:
    """What nvidia-smi saw: at what time, how busy the GPU was (0 to 1), MiB of its memory in use."""

    seen: list[tuple[float, float, float]] = field(default_factory=list)

    def busy(self, start: float = 0.0, end: float = float("inf")) -> float | None:
        """The mean over a stretch of time; None where nvidia-smi saw nothing."""
        found = [busy for at, busy, _ in self.seen if start <= at <= end]
        return round(float(np.mean(found)), 2) if found else None

    def memory_mib(self, start: float = 0.0) -> int | None:
        """The peak since a time; None where nvidia-smi saw nothing."""
        return max((round(memory) for at, _, memory in self.seen if at >= start), default=None)


@contextmanager
def looking() -> Iterator[Looks]:
    """Have nvidia-smi look at the GPU for as long as the context lasts; where there is none, it sees nothing."""
    looks = Looks()
    if shutil.which("nvidia-smi") is None:
        yield looks
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--id=0"]
    process = subprocess.Popen([*query, "-lms", str(_EVERY_MS)], stdout=subprocess.PIPE, text=True)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):  # a machine may say [N/A]
                busy, memory = map(float, line.split(","))
                looks.seen.append((time.time(), busy / 100, memory))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield looks
    finally:
        process.terminate()
        process.wait()
        reader.join()


class Growing:
    """A report that is written to its file with every row."""

    def __init__(self, benchmark: str, path: Path, **settings: Any) -> None:
        self._report, self._path = Report(benchmark, settings, [], {}), path

    def add(self, **row: Any) -> None:
        """Add a row."""
        self._report.rows.append(row)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._report.as_dict(), default=str))
        partial.rename(self._path)
        print(json.dumps(row, default=str), flush=True)


@dataclass
class Case:
    """A model of the paper profile.

    Attributes:
        load: makes the function from the items to a list of features and texts, on a device with a precision.
        precisions: that it can have on a GPU.
        items: makes so many items.
    """

    name: str
    load: Callable[[str, str], Callable[[Sequence[Any]], list[tuple[np.ndarray, str]]]]
    precisions: tuple[str, ...]
    items: Callable[[int], Sequence[Any]]


@app.command()
def weights(folder: Models, quick: Quick = False) -> None:
    """Make the paper profile's models with random weights, and a profile that names them."""
    folder.mkdir(parents=True)
    config = load_config("paper")
    made = paper_entries(folder, quick, large_whisper=True)
    # As the profile has it: only for a CPU are these others.
    made["asr"] = {"model": made["asr"]["model"]}
    entries = {
        name: {**config.extractors[name].model_dump(mode="json", by_alias=True, exclude_none=True), **entry}
        for name, entry in made.items()
    }
    (folder / "profile.yaml").write_text(yaml.safe_dump({"extractors": entries}), "utf-8")


@app.command()
def parity(models: Models, out: Written, device: OnDevice = "cuda", quick: Quick = False) -> None:
    """How far features on the GPU are from those on the CPU, and whether texts are the same."""
    report = Growing("gpu parity", out, device=device)
    clips = fixed_clips(1 if quick else 2, *((4, 6.0) if quick else ()))
    for case in _cases(models, device, clips):
        items = case.items(len(clips))
        expected = case.load("cpu", "float32")(items)
        for precision in case.precisions:
            found = case.load(device, precision)(items)
            pairs = list(zip(found, expected, strict=True))
            apart = [_apart(ours, theirs) for (ours, _), (theirs, _) in pairs if theirs.size]
            same = sum(ours == theirs for (_, ours), (_, theirs) in pairs)
            report.add(
                model=case.name, precision=precision, relative_error=max(apart, default=None),
                texts_equal=f"{same} of {len(pairs)}",
            )  # fmt: skip
            _release(device)


@app.command()
def batches(models: Models, out: Written, device: OnDevice = "cuda", quick: Quick = False) -> None:
    """Milliseconds a clip and GPU memory of each model, by the clips in one call."""
    report = Growing("gpu batches", out, device=device)
    sizes = (1, 2) if quick else (1, 4, 16, 32)
    clips = fixed_clips(sizes[-1], *((4, 6.0) if quick else ()))
    with looking() as looks:
        for case in _cases(models, device, clips):
            _release(device)
            time.sleep(3 * _EVERY_MS / 1000)
            before = looks.seen[-1][2] if looks.seen else 0.0
            run = case.load(device, case.precisions[-1])
            for size in sizes:
                items = case.items(size)
                began, taken = _timed(run, items)
                memory = looks.memory_mib(began)
                report.add(
                    model=case.name, precision=case.precisions[-1], clips=size,
                    ms_per_clip=round(1e3 * taken / size, 1),
                    gpu_busy=looks.busy(began), gpu_memory_mib=None if memory is None else round(memory - before),
                )  # fmt: skip
            del run


@app.command()
def whisper(models: Models, out: Written, device: OnDevice = "cuda", quick: Quick = False) -> None:
    """Whisper in float16 against int8_float16, by windows in one pass and by beams."""
    report = Growing("gpu whisper", out, device=device)
    spec = _specs(models, device)["asr"]
    types = ("float16", "int8_float16") if device == "cuda" else ("float32", "int8_float32")
    sizes = (1, 2) if quick else (16, 32)
    clips = fixed_clips(sizes[-1], *((1, 6.0) if quick else ()))
    with looking() as looks:
        for compute_type in types:
            for beams in (5, 1):
                asked = {"compute_type": compute_type, "precision": None, "beam_size": beams, "vad_filter": False}
                settings = spec.settings.model_copy(update=asked)
                extractor = Whisper(settings, Resources(1, device, spec.models))
                for size in sizes:
                    extractor._batches = Batches(size)
                    began, taken = _timed(partial(checked, extractor), clips)
                    report.add(
                        compute_type=compute_type, beams=beams, windows=size,
                        ms_per_clip=round(1e3 * taken / len(clips), 1), gpu_busy=looks.busy(began),
                        gpu_memory_mib=looks.memory_mib(began),
                    )  # fmt: skip
                del extractor


@app.command()
def chains(
    models: Models, out: Written,
    clips: Annotated[list[str], typer.Option(help="Videos, or folders of them, that the measured ones are made of.")],
    count: Annotated[int, typer.Option(help="Videos of a run.")] = 96,
    chains_per_gpu: Annotated[int | None, typer.Option(help="Chains that share the GPU [default: the plan's].")] = None,
    device: OnDevice = "cuda", settings: Annotated[list[str] | None, typer.Option("--set")] = None,
) -> None:  # fmt: skip
    """A whole run on copies of some clips: how many times real time, and how busy the GPU is."""
    from vemoclap_batch.sources.manifest import read_sources

    report = Growing("gpu chains", out, device=device, videos=count, overrides=settings or [])
    given = [Path(uri) for uri in read_sources(clips).rows["uri"].to_pylist()]
    folder = out.with_suffix(".run")
    videos = write_variants(given, count, folder / "videos")
    asked = {"accelerator": "gpu", "pipeline.gpu_device": device, "pipeline.chains_per_gpu": chains_per_gpu}
    changes = [f"{name}={value}" for name, value in asked.items() if value is not None]
    ended: RunEnded | None = None
    with looking() as looks, _gpus_of(device):
        began = time.time()
        try:
            summary = api.extract(
                [str(video) for video in videos], folder / "out", profile=str(models / "profile.yaml"),
                settings=[*changes, *(settings or [])],
            )  # fmt: skip
        except RunEnded as error:
            # Its time was over, say. What it did until then counts.
            if error.summary is None or not error.summary["counts"]["done"]:
                raise
            ended, summary = error, error.summary
        wall_s = time.time() - began
    if summary["counts"]["failed"]:
        raise RuntimeError(f"{summary['counts']['failed']} videos failed")
    first, last = commits(folder / "out")
    report.add(
        chains_per_gpu=chains_per_gpu or "plan's", videos=summary["counts"]["done"], wall_s=round(wall_s, 1),
        first_commit_s=round(first - began, 1), times_real_time=round(summary["video_seconds"] / wall_s, 1),
        times_real_time_after_first=round(summary["video_seconds"] / max(last - first, 1e-3), 1),
        gpu_busy_between_commits=looks.busy(first, last), gpu_memory_mib=looks.memory_mib(began),
        actor_s={name: round(stage["seconds"], 1) for name, stage in summary["stages"].items()},
        plan=[f"{stage['name']} {stage['actors']}" for stage in summary["plan"]["stages"]],
    )  # fmt: skip
    if ended:
        raise ended


@app.command()
def table(folder: Annotated[Path, typer.Argument(help="Folder of reports as JSON.")]) -> None:
    """Print all reports of a folder; runs of different chains go into one table."""
    reports: dict[str, Report] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text("utf-8"))
        name = content["benchmark"]
        reports.setdefault(name, Report(name, content["settings"], [], {})).rows.extend(content["rows"])
    for report in reports.values():
        show(report, as_json=False)


def commits(out: Path) -> tuple[float, float]:
    """When the first rows were committed to every features table, and the last to any, in seconds of the epoch."""
    from deltalake import DeltaTable

    times = [
        [entry["timestamp"] / 1000 for entry in DeltaTable(log.parent).history() if entry["operation"] == "WRITE"]
        for log in out.glob("features/*/*/_delta_log")
    ]
    return max(min(of_table) for of_table in times), max(max(of_table) for of_table in times)


@contextmanager
def _gpus_of(device: Device) -> Iterator[None]:
    """Without a GPU, a Ray that counts one all the same."""
    if device == "cuda":
        yield
        return
    import ray

    ray.init("local", num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def _specs(models: Path, device: Device) -> dict[str, Spec]:
    asked = ["accelerator=gpu", f"pipeline.gpu_device={device}"]
    return resolve(load_config(str(models / "profile.yaml"), asked))


def _cases(models: Path, device: Device, clips: Sequence[Clip]) -> Iterator[Case]:
    """Every model, with fixed inputs; a random detector finds no face, so that the expressions get crops by hand."""
    for spec in _specs(models, device).values():
        precisions = ("float32", "float16") if device == "cuda" else ("float32",)
        if "precision" not in type(spec.settings).model_fields:
            precisions = ("float32",)
        if issubclass(spec.cls, Whisper):
            precisions = precisions[-1:]
        yield Case(spec.name, _loader(spec), precisions, _items(spec, clips))
        if "expressions" in spec.models:
            yield Case(f"{spec.name}: expressions", _expressions(spec), precisions, lambda n: _crops(clips[:n]))


def _loader(spec: Spec) -> Callable[[str, str], Callable[[Sequence[Any]], list[tuple[np.ndarray, str]]]]:
    def load(device: str, precision: str) -> Callable[[Sequence[Any]], list[tuple[np.ndarray, str]]]:
        asked: dict[str, Any] = {"precision": precision} if "precision" in type(spec.settings).model_fields else {}
        if issubclass(spec.cls, Whisper):
            asked["vad_filter"] = False  # Noise is no speech.
        extractor = spec.cls(spec.settings.model_copy(update=asked), Resources(1, device, spec.models))

        def run(items: Sequence[Any]) -> list[tuple[np.ndarray, str]]:
            return [(result.feature, result.extras.get("text") or "") for result in checked(extractor, items)]

        return run

    return load


def _expressions(spec: Spec) -> Callable[[str, str], Callable[[Sequence[Any]], list[tuple[np.ndarray, str]]]]:
    def load(device: str, precision: str) -> Callable[[Sequence[Any]], list[tuple[np.ndarray, str]]]:
        network = VitExpression(spec.models["expressions"], device, precision)

        def run(crops: Sequence[Any]) -> list[tuple[np.ndarray, str]]:
            return [(found.vector, found.name) for found in Batches(16).run(network, crops)]

        return run

    return load


def _items(spec: Spec, clips: Sequence[Clip]) -> Callable[[int], Sequence[Any]]:
    texts = [_TEXT[: 20 + number * 37 % 80] for number in range(len(clips))]
    return lambda count: (texts if spec.source else clips)[:count]


def _crops(clips: Sequence[Clip]) -> list[np.ndarray]:
    return [frame[:FACE, :FACE] for clip in clips for frame in clip.frames]


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    return float(f"{np.abs(found - expected).max() / np.abs(expected).max():.2g}")


def _timed(run: Callable[[Any], Any], items: Sequence[Any]) -> tuple[float, float]:
    """When the timing began, and the seconds of a call; the first call is not counted."""
    run(items)
    began, calls = time.time(), 0
    while not calls or time.time() < began + _TIMED_S:
        run(items)
        calls += 1
    return began, (time.time() - began) / calls


def _release(device: str) -> None:
    """Give torch's cache back, which would hide what the next model takes."""
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
