"""Long videos through the true pipeline, in parts: the tables say the same as for the video in one piece."""

import numpy as np
import pytest

from tests.clips import make_clip, pattern, sine
from tests.pipeline.long_tiny import PROFILE
from tests.pipeline.test_run import read
from tests.tiny import on_gpus
from vemoclap_batch.config import load_config
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.model import AttentionClassifier
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec
from vemoclap_batch.media.windows import Window
from vemoclap_batch.pipeline.run import Classifier, run
from vemoclap_batch.sources.manifest import read_sources

pytestmark = pytest.mark.numeric

SECONDS = 12 * 60
#: All that reads sound, and the texts.
SOUND_PROFILE = PROFILE.replace('  clip: {class: "tests.tiny:TinyFrames"}\n', "")
TABLES = ("features/clip", "features/beats", "features/asr", "features/asr_sentiment")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A video of 12 minutes and two short ones: bursts of sound with a pause every 5 s."""
    folder = tmp_path_factory.mktemp("clips")
    for name, seconds in (("long", SECONDS), ("short1", 6), ("short2", 4)):
        times = np.arange(seconds * 16_000) / 16_000
        levels = 0.25 + 0.2 * np.sin(times / 40)
        audio = sine(seconds, rate=16_000) * levels * (np.mod(times, 5) > 1)
        make_clip(
            folder / f"{name}.mkv", frames=pattern(2 * seconds), fps=2, audio=audio.astype(np.float32),
            audio_rate=16_000, audio_codec="pcm_s16le", options={"g": "20", "preset": "ultrafast"},
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    """On CPUs alone; and with transcripts on GPUs, which decode long videos again, and texts after that."""
    folder = tmp_path_factory.mktemp("profile")
    (folder / "cpu.yaml").write_text(PROFILE)
    (folder / "gpu.yaml").write_text(on_gpus(PROFILE, "asr"))
    return folder


def classifier(tmp_path):
    shapes = {
        "clip": (3, True, "tiny/colour"),
        "beats": (2, True, "tiny/windows"),
        "asr_sentiment": (2, False, "tiny/words"),
    }
    features = {
        name: FeatureSpec(width=width, length=8 if sequence else 1, sequence=sequence, space=space)
        for name, (width, sequence, space) in shapes.items()
    }
    Checkpoint(AttentionClassifier(FusionSpec(features=features, d_model=8, heads=2))).save(tmp_path / "model")
    return Classifier.load(str(tmp_path / "model"))


def rows_of(out, table):
    """The rows by the name of the video, without what differs between runs."""
    found = {row["video_id"].rsplit("-", 1)[0]: row for row in read(out, table).to_pylist()}
    for row in found.values():
        del row["run_id"]
    return found


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_chunks_and_one_piece_give_the_same_tables_and_windows_their_predictions(clips, profiles, device, tmp_path):
    model, profile = classifier(tmp_path), str(profiles / f"{device}.yaml")
    window, videos = Window(10, 5), read_sources([str(clips)]).rows
    calls = {name: tmp_path / f"{name}.txt" for name in ("one", "parts")}
    overrides = {
        "one": ["decode.whole_s=10000", "decode.whole_frames=10000"],
        "parts": ["decode.part_s=60", "decode.part_frames=50", "pipeline.block_videos=2"],
    }
    runs = {}
    for name, chosen in overrides.items():
        notes = ["decode.decoder=pyav"] + [
            f"extractors.{extractor}.calls={calls[name]}" for extractor in ("asr", "asr_sentiment")
        ]
        config = load_config(profile, [*notes, *chosen])
        runs[name] = run(videos, str(tmp_path / name), config, model, window=window)
        assert (runs[name].done, runs[name].failed) == (3, 0)
        assert runs[name].totals.videos == 3

    said = [line.split() for line in calls["parts"].read_text().splitlines() if "long" in line]
    assert sorted(line[2] for line in said) == sorted(f"{part}/15" for part in range(15))
    assert max(float(line[3]) for line in said) <= 60
    assert sum(float(line[3]) for line in said) == pytest.approx(SECONDS, abs=15)

    for table in (*TABLES, "videos"):
        one, parts = rows_of(tmp_path / "one", table), rows_of(tmp_path / "parts", table)
        assert one.keys() == parts.keys() == {"long", "short1", "short2"}
        for video in one:
            assert parts[video].keys() == one[video].keys()
            for column, value in one[video].items():
                if column in {"loudness", "brightness"}:
                    assert parts[video][column] == pytest.approx(value, rel=1e-3)
                elif column == "segments":
                    assert [s["text"] for s in parts[video][column]] == [s["text"] for s in value]
                    assert np.allclose(
                        [s["start_s"] for s in parts[video][column]], [s["start_s"] for s in value], atol=0.11
                    )
                else:
                    assert parts[video][column] == value, (table, video, column)
    assert len(rows_of(tmp_path / "parts", "features/clip")["long"]["feature"]) == SECONDS
    assert len(rows_of(tmp_path / "parts", "features/beats")["long"]["feature"]) == SECONDS * 2 // 3 - 1

    predictions = {name: read(tmp_path / name, "predictions").to_pylist() for name in overrides}
    for found in predictions.values():
        long = sorted((row["window_start_s"], row["window_end_s"]) for row in found if "long" in row["uri"])
        assert [start for start, _ in long] == [5.0 * number for number in range(len(long))]
        assert long[-1][1] == pytest.approx(SECONDS, abs=0.6)
        assert not any(row["missing"] for row in found)
    key = lambda row: (row["uri"], row["window_start_s"])  # noqa: E731
    for a, b in zip(*(sorted(found, key=key) for found in predictions.values()), strict=True):
        assert key(a) == key(b)
        assert a["p_joy"] == pytest.approx(b["p_joy"], abs=1e-6)
    assert len({round(row["p_joy"], 6) for row in predictions["parts"]}) > 20

    # Nothing is computed again; for other windows the texts alone, and no video is opened.
    config = load_config(profile, [*notes, *overrides["parts"]])
    again = run(videos, str(tmp_path / "parts"), config, model, window=window)
    assert (again.skipped, again.plan, again.predicted.new) == (3, None, 0)
    other = run(videos, str(tmp_path / "parts"), config, model, window=Window(20, 20))
    assert [stage.extractors for stage in other.plan.stages] == [("asr_sentiment",)]
    assert other.predicted.new == 3
    assert {row["missing"] == [] for row in other.predicted.table.read().to_pylist()} == {True}
    assert other.predicted.table.read().num_rows == SECONDS // 20 + 2


@pytest.mark.usefixtures("cluster")
def test_a_part_that_kills_its_process_costs_its_own_video_alone(clips, tmp_path):
    folder, calls, profile = tmp_path / "clips", tmp_path / "calls.txt", tmp_path / "sound.yaml"
    folder.mkdir()
    for name in ("before", "crash", "later"):
        (folder / f"{name}.mkv").symlink_to(clips / "short1.mkv")
    profile.write_text(SOUND_PROFILE)
    settings = ["decode.whole_s=3", "decode.part_s=2", "pipeline.cpu_chains=1", f"extractors.asr.calls={calls}"]
    config = load_config(str(profile), settings)
    done = run(read_sources([str(folder)]).rows, str(tmp_path / "out"), config)
    assert (done.done, done.failed) == (2, 1)
    [failure] = read(tmp_path / "out", "errors").to_pylist()
    assert failure["video_id"].startswith("crash-")
    assert (failure["stage"], failure["extractor"], failure["error_type"]) == ("extract", "asr", "worker_died")
    assert (failure["attempts"], "2 times while it worked" in failure["message"]) == (1, True)
    assert calls.read_text().splitlines().count("load speech") == 3
    # What it has whole is kept, and of the rest there is nothing.
    for table, names in (("beats", ["before", "crash", "later"]), ("asr", ["before", "later"])):
        found = rows_of(tmp_path / "out", f"features/{table}")
        assert sorted(found) == names
        for row in found.values():
            del row["video_id"], row["content_key"]
        assert all(row == found["before"] for row in found.values())
    assert rows_of(tmp_path / "out", "features/asr_sentiment").keys() == {"before", "later"}
    assert rows_of(tmp_path / "out", "videos").keys() == {"before", "crash", "later"}
