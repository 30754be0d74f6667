"""Checkpoints in a bucket: trained there, gone on with there, read from there."""

import numpy as np
import pytest
from safetensors.torch import load

from tests.pipeline.feature_store import make_store
from tests.s3 import serving
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.description import digest
from vemoclap_batch.fusion.evaluation import score
from vemoclap_batch.store.store import Store
from vemoclap_batch.training.fit import fit

pytestmark = pytest.mark.numeric

HYPER = {"lr": 3e-3, "max_steps": 60, "evaluate_every": 20, "batch": 32}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("filled"), per_label=12)


@pytest.fixture
def bucket(monkeypatch):
    with serving("models", monkeypatch) as client:
        yield client


def train(filled, checkpoint, **more):
    config = load_config(str(filled / "tiny.yaml"))
    options = {"d_model": 16, "heads": 2, "dropout": 0.1, "hyper": HYPER, "save_every_s": 0.0, **more}
    return fit(Store(str(filled / "out")), str(filled / "labels.csv"), str(checkpoint), config, **options)


def names(bucket):
    there = [item["Key"] for item in bucket.list_objects_v2(Bucket="models").get("Contents", [])]
    return sorted(key for key in there if not key.endswith("/"))  # The marks of empty folders are nobody's.


def test_a_training_that_is_killed_goes_on_from_its_state_in_the_bucket(bucket, filled, tmp_path):
    said = []

    def say(line):
        said.append(line)
        if line.startswith("step 40"):
            raise Killed

    with pytest.raises(Killed):
        train(filled, "s3://models/a model", say=say)
    assert names(bucket) == ["a model/.state/training.pt"]
    train(filled, "s3://models/a model", say=said.append)
    assert any(line.startswith("resuming from step") for line in said)
    train(filled, tmp_path / "local")

    assert names(bucket) == ["a model/model.json", "a model/model.safetensors", "a model/videos.parquet"]
    there = load(bucket.get_object(Bucket="models", Key="a model/model.safetensors")["Body"].read())
    here = Checkpoint.load(tmp_path / "local").model.state_dict()
    assert all(np.array_equal(there[name], here[name]) for name in here)
    assert digest("s3://models/a model") == digest(tmp_path / "local")


def test_seeds_in_a_bucket_are_scored_and_the_score_is_written_there(bucket, filled):
    train(filled, "s3://models/seeds", seeds=[1, 2])
    found = score(
        Store(str(filled / "out")), "s3://models/seeds", str(filled / "labels.csv"), split="all",
        folder="s3://models/scores",
    )  # fmt: skip
    assert found["accuracy"] > 0.5
    # The bucket's own file says which videos trained it.
    assert found["leaks"].startswith("the score leaks")
    assert [name for name in names(bucket) if name.startswith("scores/")] == [
        "scores/confusion.png", "scores/metrics.json", "scores/reliability.png",
    ]  # fmt: skip


@pytest.mark.usefixtures("bucket")
def test_a_model_that_is_not_in_the_bucket_is_named():
    with pytest.raises(ConfigError, match=r"s3://models/none/model.json does not exist"):
        Checkpoint.load("s3://models/none")


def test_an_address_that_nobody_knows_is_refused_before_anything_is_trained(filled):
    with pytest.raises(ConfigError, match="nosuch://models/a"):
        train(filled, "nosuch://models/a")
