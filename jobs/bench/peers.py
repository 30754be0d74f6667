"""The pipeline against other ways to run the same extractors on the same clips, each in a process of its own.

python jobs/bench/peers.py --count 24 --json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, TypeAlias

import numpy as np
import psutil
import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import program, read_names, run_program

#: How often the processes are looked at for their CPU time, and how often for their memory, which costs more.
_EVERY_S, _MEMORY_EVERY_S = 0.5, 2.0
#: The smaller of a way's two runs has so much of the larger one's videos.
_SMALLER = 4
#: Features of two ways may differ by so much of the largest number in them.
TOLERANCE = 1e-4

#: (video, extractor) → text and feature.
Results: TypeAlias = dict[tuple[str, str], tuple[str | None, np.ndarray]]


@dataclass
class Went:
    """One way once through some videos.

    Attributes:
        wall_s: from the start of the process to its end.
        first_s: until everything of a first video was at hand; committed, in the pipeline's case.
        cpu_s: of all its processes together.
        memory_bytes: the largest sum over its processes; shared memory counts once.
    """

    videos: int
    wall_s: float
    first_s: float
    cpu_s: float
    memory_bytes: int
    results: Results


def measure(
    clips: Sequence[str], count: int = 24, profile: str = "lite", settings: Sequence[str] = (),
    only: Sequence[str] | None = None,
) -> Any:  # fmt: skip
    """Go every way twice: through a part of the videos and through all of them.

    What start-up is differs from way to way: some have results while other models load. So it is not timed by itself.
    A further video costs the difference of the two runs by the difference of their videos, in every way alike, and
    that is what a way costs without its start-up.

    Args:
        clips: videos, or folders of them, that the measured ones are made of, see :func:`write_variants`.
        count: videos of the larger run.
        profile: its extractors.
        settings: changes of the profile.
        only: the ways to go; without it all. Daft is left out where it is not installed.

    Raises:
        ConfigError: there is no such way, or the profile has an extractor that needs what only the pipeline gives it.
        RuntimeError: a way failed, or did not find what the others did.
    """
    from bench.efficiency import spread
    from bench.report import Report
    from bench.videos import write_variants
    from bench.ways import DAFT_BATCH
    from vemoclap_batch.config import load_config
    from vemoclap_batch.sources.manifest import read_sources

    ways = _chosen(only)
    there = [way for way in ways if way != "daft" or find_spec("daft")]
    config = load_config(profile, settings)
    _check(config)
    given = [Path(uri) for uri in read_sources(clips, config.sources.policy).rows["uri"].to_pylist()]
    with TemporaryDirectory(prefix="vemoclap-bench-") as scratch:
        folder = Path(scratch)
        videos = write_variants(given, count, folder / "videos")
        sizes = sorted({min(count, max(len(given), count // _SMALLER)), count})
        # The first process to start would be the only one whose weights are not in memory yet.
        _go("loop", videos[:1], folder / "unmeasured", profile, settings)
        runs: dict[str, list[Went]] = {way: [] for way in there}
        for size in sizes:
            some = [videos[number] for number in spread(count, size, len(given))]
            for way in there:
                runs[way].append(_go(way, some, folder / f"{way}{size}", profile, settings))
            _check_same({way: done[-1].results for way, done in runs.items()})
    made_of = {"videos": sizes, "profile": profile, "overrides": list(settings), "daft_batch": DAFT_BATCH}
    return Report("peers", made_of, [_row(way, runs.get(way)) for way in ways], _figures(runs), _notes(ways, there))


def _chosen(only: Sequence[str] | None) -> list[str]:
    from bench.ways import WAYS
    from vemoclap_batch.errors import ConfigError

    if wrong := [way for way in only or () if way not in WAYS]:
        raise ConfigError([f"--only {way!r}: expected some of {', '.join(WAYS)}" for way in wrong])
    return [way for way in WAYS if only is None or way in only]


def _check(config: Any) -> None:
    from vemoclap_batch.errors import ConfigError
    from vemoclap_batch.extractors.registry import resolve

    timed = [spec.name for spec in resolve(config).values() if spec.reads_times]
    if timed:
        raise ConfigError([f"extractors.{name} reads texts with times, which only the pipeline has" for name in timed])


def _go(way: str, videos: Sequence[Path], folder: Path, profile: str, settings: Sequence[str]) -> Went:
    """Go one way once.

    Raises:
        RuntimeError: its process failed.
    """
    import pyarrow.parquet as pq

    from vemoclap_batch.config import load_config
    from vemoclap_batch.sources.manifest import read_sources

    folder.mkdir()
    uris = [str(video) for video in videos]
    rows = read_sources(uris, load_config(profile, settings).sources.policy).rows
    pq.write_table(rows, folder / "videos.parquet")
    job = {"way": way, "uris": uris, "folder": str(folder), "profile": profile, "settings": list(settings)}
    (folder / "job.json").write_text(json.dumps({**job, "videos": str(folder / "videos.parquet")}))
    # Actors and UDFs are of modules that their processes find too.
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-c", "from bench.ways import main; main()", str(folder / "job.json")]
    began = time.time()
    with (folder / "log").open("wb") as log:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            cpu_s, memory = _watch(process)
        finally:
            process.terminate()
    if process.wait():
        tail = (folder / "log").read_text("utf-8", "replace")[-3000:]
        raise RuntimeError(f"{way} ended with {process.returncode}:\n{tail}")
    wall_s = time.time() - began
    results, first_at = _ours(folder / "out") if way == "ours" else _theirs(folder)
    return Went(len(videos), wall_s, first_at - began, cpu_s, memory, results)


def _watch(process: subprocess.Popen[bytes]) -> tuple[float, int]:
    """CPU seconds of a process and all its descendants, and their peak of memory in bytes, until the process ends."""
    from bench.memory import used

    seconds: dict[tuple[int, float], float] = {}
    highest, looked_at = 0, 0.0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            driver = psutil.Process(process.pid)
            for each in (driver, *driver.children(recursive=True)):
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    times = each.cpu_times()
                    seconds[each.pid, each.create_time()] = times.user + times.system
        if time.monotonic() >= looked_at + _MEMORY_EVERY_S:
            highest, looked_at = max(highest, used(process.pid)), time.monotonic()
        time.sleep(_EVERY_S)
    return sum(seconds.values()), highest


def _theirs(folder: Path) -> tuple[Results, float]:
    """What another way wrote, and when it had its first video."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "found.parquet").to_pylist()
    found = {(row["video_id"], row["extractor"]): (row["text"], _feature(row["feature"])) for row in rows}
    return found, float((folder / "first").read_text())


def _ours(out: Path) -> tuple[Results, float]:
    """What the pipeline committed, and when every table had its first rows."""
    from deltalake import DeltaTable

    from vemoclap_batch.api import Output

    found: Results = {}
    first_ms = 0
    for log in out.glob("features/*/*/_delta_log"):
        name = log.parents[1].name
        table = Output(out).features(name)
        texts = table["text"].to_pylist() if "text" in table.column_names else [None] * table.num_rows
        for video_id, text, feature in zip(
            table["video_id"].to_pylist(), texts, table["feature"].to_pylist(), strict=True
        ):
            found[video_id, name] = text, _feature(feature)
        written = [entry["timestamp"] for entry in DeltaTable(log.parent).history() if entry["operation"] == "WRITE"]
        first_ms = max(first_ms, min(written))
    return found, first_ms / 1000


def _feature(rows: list[list[float]] | None) -> np.ndarray:
    return np.array(rows or [], np.float32)


def _check_same(results: Mapping[str, Results]) -> None:
    """See that all ways found the same.

    Raises:
        RuntimeError: with the first difference.
    """
    (first, expected), *others = results.items()
    for way, found in others:
        if found.keys() != expected.keys():
            raise RuntimeError(f"{first} has {len(expected)} results and {way} {len(found)}, not of the same videos")
        for (video_id, name), (text, feature) in found.items():
            wanted_text, wanted = expected[video_id, name]
            if text != wanted_text:
                raise RuntimeError(f"{name} of {video_id}: {first} has the text {wanted_text!r}, {way} {text!r}")
            if wanted.shape != feature.shape and (wanted.size or feature.size):
                raise RuntimeError(f"{name} of {video_id}: {first} has shape {wanted.shape}, {way} {feature.shape}")
            apart = np.abs(feature - wanted).max() if wanted.size else 0.0
            if not apart <= TOLERANCE * np.abs(wanted).max(initial=0):  # Neither is what is not a number.
                raise RuntimeError(f"{name} of {video_id}: the features of {first} and {way} are {apart:.2g} apart")


def _row(way: str, runs: Sequence[Went] | None) -> dict[str, Any]:
    """A way's row of the table."""
    columns = ("wall_s", "first_result_s", "s_per_clip", "cpu_s_per_clip", "cores_busy", "memory_mib")
    if runs is None:
        return {"way": f"{way} (not installed)", **dict.fromkeys(columns)}
    last = runs[-1]
    values = [round(last.wall_s, 1), round(last.first_s, 1), None, None, None, round(last.memory_bytes / 2**20)]
    if (per_clip := _per_clip(runs)) is not None:
        cpu_s = (last.cpu_s - runs[0].cpu_s) / (last.videos - runs[0].videos)
        values[2:5] = round(per_clip, 3), round(cpu_s, 3), round(cpu_s / per_clip, 2)
    return {"way": way, **dict(zip(columns, values, strict=True))}


def _per_clip(runs: Sequence[Went]) -> float | None:
    """Seconds that a further video costs; None where two runs do not tell."""
    small, large = runs[0], runs[-1]
    if large.videos == small.videos or large.wall_s <= small.wall_s:
        return None
    return (large.wall_s - small.wall_s) / (large.videos - small.videos)


def _figures(runs: Mapping[str, Sequence[Went]]) -> dict[str, float]:
    """How many times as fast the pipeline is as each other way, with start-ups and without."""
    figures: dict[str, float] = {}
    if "ours" not in runs:
        return figures
    wall_s, per_clip = runs["ours"][-1].wall_s, _per_clip(runs["ours"])
    for way, went in runs.items():
        if way != "ours":
            figures[f"times_as_fast_as_{way}"] = round(went[-1].wall_s / wall_s, 3)
            if per_clip and (theirs := _per_clip(went)):
                figures[f"times_as_fast_as_{way}_without_startup"] = round(theirs / per_clip, 3)
    return figures


def _notes(ways: Sequence[str], there: Sequence[str]) -> list[str]:
    notes = [
        "without start-up: what a further clip costs, by the larger run less the smaller one",
        f"all found the same: equal texts, features within {TOLERANCE:g} of the largest number",
    ]
    if "daft" in ways and "daft" not in there:
        notes.append("Daft is not installed: make peers")
    return notes


def command(
    clips: Annotated[
        list[str] | None, typer.Argument(metavar="CLIP", help="Videos, or folders of them [default: the demo's].")
    ] = None,
    count: Annotated[int, typer.Option(help="Videos of the larger run.")] = 24,
    only: Annotated[str | None, typer.Option(help="Ways to go, of loop,pools,daft,ours [default: all].")] = None,
    profile: opt.Profile = "lite", settings: opt.Settings = None, quick: bool = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """The pipeline against a loop, a plain Ray Data graph and Daft on the same clips."""
    from bench.report import show
    from vemoclap_batch.sources.demo_clips import make_clips

    with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
        given = clips or [str(clip) for clip in make_clips(Path(folder))]
        show(measure(given, 4 if quick else count, profile, settings or [], read_names(only)), as_json)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run this benchmark."""
    app = program(__doc__)
    app.command()(command)
    run_program(app, arguments)


if __name__ == "__main__":
    # By its path: the package that it is part of lies one folder up.
    sys.path[0] = str(Path(__file__).parents[1])
    main()
