"""Every figure that docs/benchmarks.md states: python jobs/benchmark.py BENCHMARK [--quick] [--json].

Each makes what it measures with on the spot and prints a table; --json adds the same as an object on the last line.
What is compared was measured in one run on one machine. Leave the machine alone meanwhile: the load it had is in the
report.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal, NoReturn

import typer

from bench.gpu import app as gpu
from bench.peers import command as peers
from bench.report import show
from bench.scale import command as scale
from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import program, run_program

app = program(__doc__, no_args_is_help=True)

Quick = Annotated[bool, typer.Option("--quick", help="Small and soon done: shows that it works, no more.")]
Repeats = Annotated[int, typer.Option(help="How often each is measured.")]
Threads = Annotated[int, typer.Option(help="Threads of each model or decoder.")]
More = Annotated[list[int] | None, typer.Argument(metavar="N", help="More values of the option before.")]


@app.command()
def extractors(
    profile: Annotated[Literal["paper", "lite"], typer.Option(help="paper: full-size random weights.")],
    clips: int = 4, repeats: Repeats = 3, threads: Threads = 1, quick: Quick = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Time per clip of every extractor, batched against one by one."""
    from bench.extractors import lite, paper

    if quick:
        clips, repeats = 1, 1
    if profile == "paper":
        show(paper(clips, repeats, threads, small=quick), as_json)
        return
    from bench.videos import write_variants
    from vemoclap_batch.sources.demo_clips import make_clips

    with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
        videos = write_variants(make_clips(Path(folder) / "demo"), clips, Path(folder) / "videos")
        show(lite(videos, repeats, threads), as_json)


@app.command()
def decode(
    seconds: int = 60, repeats: Repeats = 5, threads: Threads = 1, quick: Quick = False, as_json: opt.Json = False
) -> None:
    """Decode 16 frames and the audio of a video against all of its frames."""
    from bench.decode import measure

    if quick:
        show(measure(2, (320, 180), 1, threads), as_json)
    else:
        show(measure(seconds, repeats=repeats, threads=threads), as_json)


@app.command()
def pipeline(
    clips: Annotated[int, typer.Option(help="Videos of the larger run.")] = 100,
    sample: Annotated[int, typer.Option(help="Videos that the other ways do.")] = 20,
    profile: opt.Profile = "lite", settings: opt.Settings = None, quick: Quick = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """The whole pipeline against its models' own time and against the published way."""
    from bench.efficiency import measure
    from vemoclap_batch.config import load_config
    from vemoclap_batch.request import load_classifier
    from vemoclap_batch.sources.demo_clips import make_clips

    config = load_config(profile, settings)
    classifier = load_classifier(config, None) if config.checkpoint else None
    if quick:
        clips, sample = 6, 2
    with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
        show(measure(make_clips(Path(folder)), config, classifier, count=clips, sample=sample), as_json)


@app.command()
def missing(
    rows: int = 1_000_000,
    shards: Annotated[int, typer.Option(help="Of each extractor's table.")] = 2000,
    profile: opt.Profile = "lite", quick: Quick = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Find what is missing of an output folder where all is done: time and memory."""
    from bench.missing import measure

    if quick:
        rows, shards = 2000, 4
    show(measure(rows, shards, profile), as_json)


@app.command()
def memory(
    clips: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Clips of each run [default: 10 100].")
    ] = None,
    more: More = None, profile: opt.Profile = "lite", settings: opt.Settings = None, quick: Quick = False,
    as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Memory of a few clips against that of many (Linux)."""
    from bench.memory import flat

    counts = [1, 3] if quick else [*(clips or [10, 100]), *(more or [])]
    show(flat(counts, profile, settings or []), as_json)


@app.command()
def long(
    seconds: Annotated[
        list[int] | None, typer.Option(metavar="S", help="Length of each run's video [default: 60 7200].")
    ] = None,
    more: More = None, profile: opt.Profile = "lite", settings: opt.Settings = None, quick: Quick = False,
    as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Memory of a short video against that of a long one (Linux)."""
    from bench.memory import long as measure

    lengths = [2, 30] if quick else [*(seconds or [60, 7200]), *(more or [])]
    show(measure(lengths, profile, settings or []), as_json)


app.command("peers")(peers)
app.command("scale")(scale)
app.add_typer(gpu, name="gpu")


@app.command()
def driver(
    videos: int = 1_000_000, block_videos: int = 64,
    graph: Annotated[bool, typer.Option(help="Send blocks through a Ray Data graph, too.")] = True,
    quick: Quick = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Memory and CPU of a run's driver, by the number of videos, each of which costs nothing."""
    from bench.driver import measure

    show(measure(500 if quick else videos, block_videos, graph), as_json)


@app.command()
def commit(
    videos: int = 10_000, block_videos: int = 64,
    tiny: Annotated[bool, typer.Option("--tiny", help="Rows almost without content.")] = False,
    put_ms: Annotated[float | None, typer.Option(help="Commit to a local S3 server, so long before each PUT.")] = None,
    profile: opt.Profile = "lite", quick: Quick = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Commit finished rows as fast as that goes."""
    from bench.commit import measure

    show(measure(200 if quick else videos, block_videos, tiny, put_ms, profile), as_json)


@app.command()
def lifetime(
    tries: Annotated[int, typer.Option(help="Of each kind.")] = 50,
    kill: Annotated[
        list[str] | None, typer.Option(help="driver, raylet, gcs_server or actor [default: each in turn].")
    ] = None,
    on_cluster: Annotated[bool, typer.Option("--cluster", help="Runs join a cluster that goes on.")] = False,
    profile: Annotated[str | None, typer.Option(help="Of the runs [default: an extractor that only waits].")] = None,
    clips: Annotated[int, typer.Option(help="Videos of a run.")] = 16,
    at_once: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    short: Annotated[
        bool, typer.Option("--short", help="Kill the driver once an actor that was killed is gone.")
    ] = False,
    quick: Quick = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """What is left of a run 30 s after one of its processes was killed (Linux); exit status 1 if anything is."""
    from bench.lifetime import measure

    if quick:
        tries, clips = 1, 6
    report = measure(tries, kill or (), on_cluster, profile, clips, at_once=at_once, to_the_end=not short)
    show(report, as_json)
    if report.figures["left"]:
        raise typer.Exit(1)


@app.command()
def explain(
    videos: Annotated[int, typer.Option(help="Made-up videos, all of whose features are there.")] = 1000,
    quick: Quick = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Explain predictions: the share of each feature, the drop without each item."""
    from bench.explain import measure

    show(measure(8 if quick else videos), as_json)


@app.command()
def report(
    videos: Annotated[int, typer.Option(help="Made-up videos, in a few real clips.")] = 1000,
    quick: Quick = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Write the HTML report: time and size."""
    from bench.html import measure

    show(measure(8 if quick else videos), as_json)


@app.command()
def search(
    frames: Annotated[int, typer.Option(help="Made-up embeddings, 16 a video.")] = 1_000_000,
    width: Annotated[int, typer.Option(help="Of an embedding.")] = 512,
    quick: Quick = False, as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Search frames: the command, and ways to do it in memory."""
    from bench.search import measure

    show(measure(4000 if quick else frames, width), as_json)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one benchmark."""
    run_program(app, arguments)


if __name__ == "__main__":
    main()
