"""The authors' features and weights, imported and predicted with no further flags, as one would type it."""

import json
import os
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from vemoclap_batch.cli import app as cli
from vemoclap_batch.cli import imports as cli_import
from vemoclap_batch.config import LABELS
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.import_features import import_features, read_samples
from vemoclap_batch.fusion.model import AttentionClassifier
from vemoclap_batch.fusion.published import FEATURES
from vemoclap_batch.fusion.spec import FusionSpec
from vemoclap_batch.sources.manifest import read_labels
from vemoclap_batch.store.store import Store

pytestmark = pytest.mark.numeric

N = 300  # more than one chunk


def arrays(rng, row):
    """One video: long and short sequences, every third without speech, every fifth without a face."""
    lengths = {
        "asr_sentiment": int(row % 3 > 0), "beats": int(rng.integers(1, 30)), "clip": 16,
        "face_emotion": int(rng.integers(1, 16)) if row % 5 else 0, "ocr_sentiment": 1,
    }  # fmt: skip
    return {name: drawn(rng, FEATURES[name], length) for name, length in lengths.items()}


def drawn(rng, spec, length):
    """Items around a level of the video's own, within the feature's range."""
    level = rng.uniform(spec.minimum, spec.maximum, size=(1, spec.width))
    return level + rng.normal(size=(length, spec.width)) * (spec.maximum - spec.minimum) / 10


def made(count=N):
    """A feature file in the released layout."""
    rng = np.random.default_rng(0)
    samples = {}
    for row in range(count):
        found = {name: array.astype(np.float32) for name, array in arrays(rng, row).items()}
        samples[f"video {row}"] = {"features": found, "label": np.eye(6, dtype=np.float32)[row % 6]}
    numbers = dict.fromkeys(("mean", "std", "min", "max"), np.float32(0))
    return {
        "samples": samples,
        "stats": dict.fromkeys(FEATURES, numbers),
        "idx_to_label": dict(enumerate(LABELS)),
    }


def save(path, content):
    path.write_bytes(pickle.dumps(content))
    return path


def typed(app, *arguments):
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if isinstance(done.exception, ConfigError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def published_logits(state, features, heads=4):
    """The published classifier, written out in plain tensor operations for one video: logits [6]."""
    d = state["cls_mlp.0.weight"].shape[1] // 8

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    encoded = {}
    for name, array in features.items():
        spec = FEATURES[name]
        x = torch.zeros(spec.length, spec.width)
        if len(array):
            kept = np.round(np.linspace(0, len(array) - 1, min(len(array), spec.length))).astype(int)
            x[: len(kept)] = (torch.tensor(array[kept]) - spec.minimum) / (spec.maximum - spec.minimum)
        encoded[name] = linear(f"encoders.{name}", x)
    parts = {name: encoded[name][0] for name in ("asr_sentiment", "ocr_sentiment")}
    sequences = ("beats", "clip", "face_emotion")
    for f in sequences:
        for g in sequences:
            if f == g:
                continue
            query, key, value = (
                linear(f"{kind}_proj.{name}", encoded[name]) for kind, name in (("query", f), ("key", g), ("value", g))
            )
            at = f"attention_layers.{f}_{g}"
            weight, bias = state[f"{at}.in_proj_weight"].split(d), state[f"{at}.in_proj_bias"].split(d)
            q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weight, bias, strict=True))
            q, k, v = (x.reshape(len(x), heads, -1).transpose(0, 1) for x in (q, k, v))  # [heads, n, d / heads]
            mixed = torch.softmax(q @ k.transpose(1, 2) / (d / heads) ** 0.5, -1) @ v
            mixed = linear(f"{at}.out_proj", mixed.transpose(0, 1).reshape(len(query), d))
            norm = nn.functional.layer_norm(
                mixed, (d,), state[f"attn_norms.{f}_{g}.weight"], state[f"attn_norms.{f}_{g}.bias"]
            )
            parts[f"{f}_{g}"] = norm.mean(0)
    joined = torch.relu(torch.cat([parts[name] for name in sorted(parts)]))
    return linear("cls_mlp.0", joined)


def test_three_commands_are_all_that_a_user_types(tmp_path):
    content = made()
    save(tmp_path / "features.pkl", content)
    torch.manual_seed(1)
    state = AttentionClassifier(FusionSpec(features=FEATURES, d_model=32)).state_dict()
    # Larger than a fresh network's, so that the videos differ.
    state = {name: x * 4 if x.ndim == 2 else x for name, x in state.items()}
    torch.save(state, tmp_path / "model.pt")

    out, ckpt = tmp_path / "out", tmp_path / "ckpt"
    first = typed(cli_import.app, "features", tmp_path / "features.pkl", "-o", out)
    assert f"{N} done, 0 skipped" in first.output
    typed(cli_import.app, "checkpoint", tmp_path / "model.pt", "-o", ckpt)
    done = json.loads(typed(cli.app, "predict", out, "--model", ckpt, "--json").stdout.splitlines()[-1])

    assert done["counts"] == {"new": N, "skipped": 0, "incomplete": 0}
    rows = Store(str(out)).predictions(done["table"], LABELS).read().to_pylist()
    assert len({row["label"] for row in rows}) > 1
    for row in rows:
        features = content["samples"][row["video_id"]]["features"]
        expected = torch.softmax(published_logits(state, features).double(), -1)
        found = torch.tensor([row[f"p_{label}"] for label in LABELS], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert row["missing"] == sorted(name for name, array in features.items() if not len(array))
        assert (row["uri"], row["window_end_s"]) == (None, None)


def test_the_tables_are_those_of_the_paper_profile(tmp_path):
    content = made(7)
    samples = read_samples(save(tmp_path / "f.pkl", content))
    store = Store(str(tmp_path / "out"))
    done = import_features(store, samples, "f.pkl", "r1")
    assert done.present == {"asr_sentiment": 4, "beats": 7, "clip": 7, "face_emotion": 5, "ocr_sentiment": 7}
    for name, spec in FEATURES.items():
        [(fingerprint, description)] = store.fingerprints(name).items()
        assert fingerprint == samples.fingerprint
        assert (description["space"], description["width"], description["sequence"]) == (
            spec.space, spec.width, spec.sequence,
        )  # fmt: skip
        folder = tmp_path / "out" / "features" / name / fingerprint
        rows = pq.read_table(next(folder.glob("part-*.parquet"))).to_pylist()
        assert [row["video_id"] for row in rows] == list(content["samples"])
        assert rows[0].keys() >= ({"start_s", "end_s"} if spec.sequence else set())
        for row in rows:
            given = content["samples"][row["video_id"]]["features"][name]
            found = np.array(row["feature"], np.float32).reshape(-1, spec.width)
            np.testing.assert_array_equal(found, given.reshape(-1, spec.width))
            assert row.get("start_s") is None
    videos = store.videos().read().to_pylist()
    assert all(row["uri"] is None and row["duration_s"] is None and row["warnings"] == [] for row in videos)
    labels = read_labels(str(tmp_path / "out" / "labels.parquet"))
    assert labels["video_id"] == list(content["samples"])
    assert labels["label"] == [LABELS[row % 6] for row in range(7)]


def shards(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name}


def test_importing_again_changes_nothing_and_a_broken_off_import_goes_on(tmp_path):
    path = save(tmp_path / "f.pkl", made(N))
    typed(cli_import.app, "features", path, "-o", tmp_path / "out")
    before = shards(tmp_path / "out")
    again = typed(cli_import.app, "features", path, "-o", tmp_path / "out", "--json")
    assert f"0 done, {N} skipped" in again.output
    assert json.loads(again.stdout.splitlines()[-1])["new"] == 0
    assert shards(tmp_path / "out") == before
    # As a kill between two shards leaves it.
    lost = [name for name in before if ("/videos/" in name or "/clip/" in name) and name.endswith(".parquet")][::2]
    for name in lost:
        os.unlink(name)
    typed(cli_import.app, "features", path, "-o", tmp_path / "out")
    store = Store(str(tmp_path / "out"))
    assert store.videos().dataset().count_rows() == N
    for name in FEATURES:
        [table] = (tmp_path / "out" / "features" / name).iterdir()
        assert len(list(table.glob("part-*.parquet"))) == 2


def test_a_second_file_adds_its_labels_and_says_which_videos_it_replaces(tmp_path):
    typed(cli_import.app, "features", save(tmp_path / "a.pkl", made(4)), "-o", tmp_path / "out")
    content = made(3)
    content["samples"] = {"video 3": content["samples"]["video 0"], "new": content["samples"]["video 1"]}
    done = typed(cli_import.app, "features", save(tmp_path / "b.pkl", content), "-o", tmp_path / "out")
    assert "1 of the videos are in OUT with other content too" in done.output
    labels = read_labels(str(tmp_path / "out" / "labels.parquet"))
    assert dict(zip(labels["video_id"], labels["label"], strict=True)) == {
        "video 0": "anger", "video 1": "disgust", "video 2": "fear", "video 3": "anger", "new": "disgust",
    }  # fmt: skip


@pytest.mark.parametrize(
    "label",
    [2, np.int64(2), np.array(2), np.array([2]), [0, 0, 1, 0, 0, 0], np.eye(6)[2], torch.eye(6)[2], "Fear", None],
)
def test_labels_in_every_form(tmp_path, label):
    content = made(2)
    content["samples"]["video 1"] = {"features": content["samples"]["video 1"]["features"], "labels": label}
    found = read_samples(save(tmp_path / "f.pkl", content))
    assert found.labels == ["anger", "fear" if label is not None else None]


def test_tensors_and_vectors_are_features_too(tmp_path):
    content = made(2)
    features = content["samples"]["video 1"]["features"]
    features |= {
        "clip": torch.ones(3, 512, dtype=torch.float16), "ocr_sentiment": np.ones(768), "beats": None,
        "face_emotion": [], "asr_sentiment": np.zeros((0,)),
    }  # fmt: skip
    found = read_samples(save(tmp_path / "f.pkl", content)).features
    assert {name: array[1].shape for name, array in found.items()} == {
        "clip": (3, 512), "ocr_sentiment": (1, 768), "beats": (0, 768), "face_emotion": (0, 768),
        "asr_sentiment": (0, 768),
    }  # fmt: skip
    assert {array[1].dtype for array in found.values()} == {np.dtype(np.float32)}


def test_another_width_throughout_is_a_space_of_its_own(tmp_path):
    """Such as the small reference's: its checkpoint and features fit each other, and nothing else."""
    content = made(3)
    for sample in content["samples"].values():
        sample["features"]["clip"] = np.ones((2, 16), np.float32)
    done = typed(cli_import.app, "features", save(tmp_path / "f.pkl", content), "-o", tmp_path / "out")
    assert "clip has width 16, not the published 512" in done.output
    [description] = Store(str(tmp_path / "out")).fingerprints("clip").values()
    assert description["space"] == "imported/clip-16"
    shape = FusionSpec(features=FEATURES, d_model=8)
    torch.save(AttentionClassifier(shape).state_dict(), tmp_path / "model.pt")
    typed(cli_import.app, "checkpoint", tmp_path / "model.pt", "-o", tmp_path / "ckpt")
    with pytest.raises(ConfigError, match="takes space vemoclap/clip-vit-b32-openai"):
        typed(cli.app, "predict", tmp_path / "out", "--model", tmp_path / "ckpt")
    features = FEATURES | {"clip": FEATURES["clip"].model_copy(update={"width": 16})}
    torch.save(AttentionClassifier(FusionSpec(features=features, d_model=8)).state_dict(), tmp_path / "model.pt")
    made_of = typed(cli_import.app, "checkpoint", tmp_path / "model.pt", "-o", tmp_path / "small")
    assert "warning: clip: not of the published width" in made_of.stderr
    assert "3 done" in typed(cli.app, "predict", tmp_path / "out", "--model", tmp_path / "small").output


def test_all_mistakes_are_named_with_their_sample(tmp_path):
    content = made(40)
    wrong = {
        1: ("clip", np.full((2, 512), np.nan, np.float32)),
        2: ("clip", np.ones((2, 500), np.float32)),
        3: ("beats", np.ones((2, 3, 768), np.float32)),
        4: ("asr_sentiment", np.ones((2, 768), np.float32)),
        5: ("beats", np.array(["a"])),
        6: ("beats", {"x": 1}),
        7: ("clip", np.full((1, 512), 1e300)),
        8: ("clip", np.ones(512, np.float32)),
    }
    for row, (name, array) in wrong.items():
        content["samples"][f"video {row}"]["features"][name] = array
    for row in range(10, 30):
        content["samples"][f"video {row}"]["label"] = np.zeros(6)
    content["samples"]["video 30"]["label"] = 7
    with pytest.raises(ConfigError) as caught:
        read_samples(save(tmp_path / "f.pkl", content))
    text = str(caught.value)
    for expected in (
        "sample 'video 1': clip has 1024 numbers that are not finite",
        "sample 'video 2': clip has width 500, others have 512",
        "sample 'video 3': beats has shape [2, 3, 768], expected [length, width]",
        "sample 'video 4': asr_sentiment has shape [2, 768], expected [1, width]",
        "sample 'video 5': beats is no array of numbers",
        "sample 'video 6': beats is no array of numbers",
        "sample 'video 7': clip has 512 numbers that are not finite",
        "sample 'video 8': clip has shape [512], expected [length, width]",
        "sample 'video 10': label ",
        "11 more samples with wrong labels",
    ):
        assert expected in text
    assert all("f.pkl" in line for line in text.splitlines())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["samples"], "expected a dict with 'samples'"),
        (lambda c: c | {"samples": {}}, "expected a dict with 'samples'"),
        (lambda c: c | {"samples": {"a": 1}}, "sample 'a': expected a dict with 'features'"),
        (lambda c: c | {"samples": {"a": {"features": {}}}}, "no sample has a feature"),
        (lambda c: c | {"samples": {"a": {"features": {"gait": np.ones(3)}}}}, "unknown feature 'gait'; expected some"),
        (lambda c: c | {"samples": {"a\n": c["samples"]["video 0"]}}, "a video id is printable text"),
        (lambda c: c | {"samples": {1: c["samples"]["video 0"], "1": c["samples"]["video 1"]}}, "two samples have one"),
        (lambda c: c | {"idx_to_label": {0: "anger", 1: "bliss"}}, "idx_to_label is {0: 'anger', 1: 'bliss'}"),
        (lambda c: c | {"idx_to_label": 3}, "idx_to_label is 3"),
    ],
)
def test_other_layouts_are_named(tmp_path, change, message):
    with pytest.raises(ConfigError) as caught:
        read_samples(save(tmp_path / "f.pkl", change(made(2))))
    assert message in str(caught.value)


@pytest.mark.parametrize("place", ["label", "idx_to_label", "features"])
def test_pairs_of_pairs_of_pairs_are_named_without_unfolding_them(tmp_path, place):
    pairs = "x"
    for _ in range(100):
        pairs = (pairs, pairs)
    content = made(2)
    if place == "idx_to_label":
        content["idx_to_label"] = {0: pairs}
    else:
        content["samples"]["video 1"][place] = pairs if place == "label" else {"clip": pairs}
    with pytest.raises(ConfigError) as caught:
        read_samples(save(tmp_path / "f.pkl", content))
    assert len(str(caught.value)) < 2000


def test_a_feature_that_some_samples_lack_is_named(tmp_path):
    content = made(3)
    del content["samples"]["video 2"]["features"]["clip"]
    with pytest.raises(ConfigError, match="sample 'video 2': no clip, which others have"):
        read_samples(save(tmp_path / "f.pkl", content))


class Hostile:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['MARK']}",)


def test_a_hostile_pickle_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    content = made(1)
    content["samples"]["video 0"]["label"] = Hostile()
    with pytest.raises(ConfigError, match=r"f\.pkl is refused: it names posix\.system"):
        typed(cli_import.app, "features", save(tmp_path / "f.pkl", content), "-o", tmp_path / "out")
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="no such file"):
        typed(cli_import.app, "features", tmp_path / "none.pkl", "-o", tmp_path / "out")
