"""The benchmarks run and say what they have to, on as little as makes sense; how long anything took is not asked."""

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench import decode, efficiency, extractors, memory, missing
from bench.published import full_decode, one_by_one
from bench.report import Report
from bench.videos import write_variants, write_video
from bench.whisper_model import write_whisper
from tests.commands import here
from tests.waiting import wait_for
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.extractors.whisper import Whisper, WhisperSettings
from vemoclap_batch.media.decode import decode as our_decode
from vemoclap_batch.media.scan import scan
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.sources.manifest import read_sources
from vemoclap_batch.store.store import Store

JOB = Path(__file__).parents[2] / "jobs" / "benchmark.py"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Three seconds, a keyframe each."""
    folder = tmp_path_factory.mktemp("video")
    return write_video(folder / "a clip.mp4", 3, size=(640, 480), fps=10, key_every_s=1)


@pytest.fixture(scope="module")
def job():
    """jobs/benchmark.py's own main."""
    spec = importlib.util.spec_from_file_location("benchmark_job", JOB)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_the_job_reports_the_machine_and_its_table(job):
    done = here(job, "missing", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    found = json.loads(lines[-1])
    assert found["settings"]["rows"] == 2000
    assert [row["step"] for row in found["rows"]] == ["profile", "manifest", "find_pending"]
    assert found["figures"]["memory_gb"] == found["rows"][-1]["memory_gb"] > 0
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_gib"] > 0
    assert {"python", "torch", "vemoclap-batch"} <= found["machine"]["versions"].keys()
    assert any(line.startswith("│ find_pending") for line in lines)


def test_wrong_settings_are_named(job):
    done = here(job, "missing", "--quick", "--profile", "nosuch")
    assert done.returncode == 2
    assert "'nosuch'" in done.stderr


@pytest.mark.parametrize("given", [["--clips", "5", "7"], ["--clips", "5", "--clips", "7"]])
def test_several_values_of_one_option(job, given, monkeypatch):
    asked = []
    report = Report("memory", {}, [{"clips": 5}], {})
    monkeypatch.setattr(memory, "flat", lambda *arguments: asked.append(arguments) or report)
    assert here(job, "memory", *given, "--set", "sampling.frames=4").returncode == 0
    assert asked == [([5, 7], "lite", ["sampling.frames=4"])]


def test_rows_that_are_not_there_are_found_missing(tmp_path):
    specs = resolve(load_config("lite"))
    missing.fill(tmp_path, 50, 3, specs)
    lost = next((tmp_path / "out" / "features" / "clip").rglob("part-*.parquet"))
    count = pq.read_metadata(lost).num_rows
    lost.unlink()
    videos = read_sources([str(tmp_path / "manifest.parquet")]).rows
    store = Store(str(tmp_path / "out"))
    with store.writing("the next run"):
        pending = find_pending(store, videos, specs, 3)
    assert pending.wanted == {"clip": count}
    assert 16 <= count <= 17


def test_decoding_is_measured_for_both_decoders_and_both_distances():
    found = decode.measure(2, (320, 180), 1)
    assert [(row["keyframes_every_s"], row["decoder"]) for row in found.rows] == [
        (distance, name) for distance in (1, 10) for name in ("decord", "pyav", "all frames")
    ]
    assert found.figures.keys() == {f"{name}_keyframes_{s}_s" for name in ("decord", "pyav") for s in (1, 10)}


def test_keyframes_lie_where_they_are_wanted(video):
    index = scan(str(video)).video
    assert [round((key.pts - index.keys[0].pts) * index.seconds, 3) for key in index.keys] == [0, 1, 2]


def test_a_full_decode_gives_what_ours_gives(video):
    ours, _ = our_decode(str(video))
    theirs = full_decode(video)
    assert np.allclose(theirs.frame_times, ours.frame_times, atol=1e-6)
    assert theirs.frames.shape == ours.frames.shape == (16, 360, 480, 3)
    # They scale differently.
    assert np.abs(theirs.frames.astype(int) - ours.frames).mean() < 4
    assert abs(len(theirs.waveform) - len(ours.waveform)) < 2000
    assert np.abs(theirs.waveform).max() > 0.2


def test_variants_differ_and_are_whole(video, tmp_path):
    paths = write_variants([video], 3, tmp_path)
    clips = [our_decode(str(path)) for path in paths]
    assert [round(clip.duration_s) for clip, _ in clips] == [3, 3, 2]
    assert not any(info.warnings for _, info in clips)
    assert len({clip.frames.tobytes() for clip, _ in clips}) == 3
    assert all(info.has_audio for _, info in clips)


def test_every_large_model_is_made_loaded_and_run():
    found = extractors.paper(clips=1, repeats=1, small=True)
    assert [row["extractor"] for row in found.rows] == [
        "clip", "face_emotion: detector", "face_emotion: expressions", "beats", "asr", "asr_sentiment",
    ]  # fmt: skip
    assert [row["one_by_one"] for row in found.rows] == ["frame", "frame", "face", "window", "clip", "text"]


def test_a_random_whisper_says_as_much_as_it_is_told_to(tmp_path):
    model = write_whisper(tmp_path / "whisper", small=True, tokens=64)
    settings = WhisperSettings(model=str(model), beam_size=1, vad_filter=False)
    whisper = Whisper(settings, Resources(models={"model": model}))
    said = []
    generate = whisper._generate

    def listen(*args, **kwargs):
        said.append([len(words.tokens) for words in generate(*args, **kwargs)])
        return generate(*args, **kwargs)

    whisper._generate = listen
    whisper.extract(extractors.fixed_clips(3))
    # One pass a window, none again for a loop or a cut sentence.
    assert said == [[64, 64], [64]]


def test_failures_do_not_count_as_work():
    class Broken:
        def extract(self, items):
            return [Failure.of(ValueError("no")) for _ in items]

    with pytest.raises(RuntimeError, match="Broken failed: ValueError: no"):
        extractors.checked(Broken(), [1])


def test_one_by_one_leaves_nothing_out(video):
    clip, _ = our_decode(str(video))
    specs = resolve(load_config("lite"))
    assert len(one_by_one(specs["clip"], clip)) == 16
    assert np.array_equal(np.concatenate([part.frames for part in one_by_one(specs["ocr"], clip)]), clip.frames)
    assert one_by_one(specs["asr"], clip) == [clip]


def test_what_a_run_costs_and_what_a_video_costs_are_told_apart():
    small = efficiency.Measured(videos=25, wall_s=100, startup_s=40, stages={})
    large = efficiency.Measured(videos=100, wall_s=250, startup_s=50, stages={})
    cores = efficiency.cores()
    found = efficiency._figures(1.8 * cores, 6.0, small, large)
    # 75 videos more took 150 s: 2 s each.
    assert found["efficiency_between_runs"] == 0.9
    assert found["efficiency"] == 0.9
    assert found["times_as_fast_as_published"] == 3
    assert found["times_as_fast_as_published_between_runs"] == 3
    assert found["times_as_fast_as_published_with_startup"] == 2.4


@pytest.mark.parametrize(("count", "size", "kinds"), [(100, 20, 5), (100, 100, 5), (6, 2, 5), (7, 5, 5), (12, 10, 5)])
def test_a_sample_has_as_many_of_each_clip(count, size, kinds):
    numbers = efficiency.spread(count, size, kinds)
    assert len(numbers) == len(set(numbers)) == size
    assert max(numbers) < count
    per_kind = np.bincount(np.array(numbers) % kinds, minlength=kinds)
    assert per_kind.max() - per_kind.min() <= 1


def watched(monkeypatch, code, times=1):
    """What is seen of a process that says so many times that it holds something, and goes on after a line of input."""
    looks, sizes = [], memory._sizes
    monkeypatch.setattr(memory, "_sizes", lambda pid: looks.append(pid) or sizes(pid))
    monkeypatch.setattr(memory, "_EVERY_S", 0.05)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process, ThreadPoolExecutor(1) as pool:
        seen = pool.submit(memory._watch, process)
        for _ in range(times):
            assert process.stdout.readline() == b"kept\n"
            # The next look may have begun before; the one after it sees all.
            before = len(looks)
            wait_for(lambda before=before: len(looks) > before + 2)
            process.stdin.write(b"\n")
            process.stdin.flush()
        return seen.result(), process.wait()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="measures by /proc")
def test_memory_is_seen_from_outside(monkeypatch):
    code = "import sys; kept = bytearray(200 << 20); print('kept', flush=True); sys.stdin.readline()"
    seen, status = watched(monkeypatch, code)
    assert status == 0
    assert 200 << 20 <= seen["driver"] < 300 << 20
    assert seen["driver"] <= seen["all"]
    assert memory.highest_memory() > 10 << 20


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="measures by /proc")
def test_actors_that_follow_one_another_have_their_peaks_added_up(monkeypatch):
    # A line is read byte by byte, so that none of the next one's is taken.
    actor = "import os; kept = bytearray(100 << 20); print('kept', flush=True); os.read(0, 1)"
    # Named as Ray names its actors, and one after the other.
    run = f"subprocess.run(['ray::Actor', '-S', '-c', {actor!r}], executable=sys.executable, check=True)"
    seen, status = watched(monkeypatch, f"import subprocess, sys; {run}; {run}", times=2)
    assert status == 0
    assert 100 << 20 <= seen["actors"] < 150 << 20
    assert 200 << 20 <= seen["actors_own_peaks"] < 300 << 20


@pytest.mark.parametrize("to", [(), ("--put-ms", "1"), ("--tiny",)])
def test_committing_finished_rows(job, to):
    done = here(job, "commit", "--quick", "--json", *to)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {row["rows"] for row in found["rows"]} == {found["settings"]["videos"]} == {200}
    assert len(found["rows"]) == 8
    assert ("S3" in found["settings"]["to"]) == ("--put-ms" in to)
    assert (found["settings"]["mb_a_video"] > 0.05) == ("--tiny" not in to)
    assert found["figures"]["files_per_table"] <= 5


@pytest.mark.parametrize("graph", ["--graph", "--no-graph"])
def test_what_videos_that_cost_nothing_cost_the_driver(job, graph):
    done = here(job, "driver", "--quick", graph, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["settings"]["videos"], found["settings"]["graph"]) == (500, graph == "--graph")
    peaks = [row["memory_gb"] for row in found["rows"]]
    assert peaks == sorted(peaks)
    assert found["figures"]["memory_gb"] == peaks[-1] > 0


def test_ways_to_search_find_the_same_frames(job):
    done = here(job, "search", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rows"][1]["way"] == "numpy, loaded"
