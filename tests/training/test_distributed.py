"""Training on several workers agrees with training on one, and outlives the loss of a worker."""

import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from tests.pipeline.feature_store import make_store
from tests.waiting import wait_for
from vemoclap_batch.config import load_config
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.store.store import Store
from vemoclap_batch.training.fit import fit

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.numeric]
#: 130 training videos less validation: the last batch of an epoch is small and odd, so its shares differ.
HYPER = {
    "max_steps": 40, "evaluate_every": 10, "lr": 1e-3, "label_smoothing": 0.1, "class_weights": True,
    "modality_dropout": 0.2,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _impatient():
    """Ray Train looks after its workers five times a second, and starts no actor that waits for nodes to be taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        yield


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("distributed") / "made", per_label=27, shards=3)


def run(filled, checkpoint, **options):
    options = {"preset": "quick", "d_model": 16, "heads": 2, "dropout": 0.0, "hyper": HYPER} | options
    # The GPUs of the tests' Ray are there by name alone.
    config = load_config(str(filled / "tiny.yaml"), ["pipeline.gpu_device=cpu"])
    fit(Store(str(filled / "out")), str(filled / "labels.csv"), str(checkpoint), config, **options)
    return Checkpoint.load(checkpoint)


def test_two_workers_agree_with_one_although_one_of_them_is_lost(filled, tmp_path):
    said, killed = [], []
    one = run(filled, tmp_path / "one")
    watcher = threading.Thread(target=_kill_one, args=(tmp_path / "two" / ".state", killed), daemon=True)
    watcher.start()
    two = run(filled, tmp_path / "two", workers=2, save_every_s=0.0, say=said.append)
    watcher.join(timeout=60)
    assert killed
    for name, x in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], x, rtol=0, atol=1e-5)
    assert two.card["history"]["losses"] == pytest.approx(one.card["history"]["losses"], abs=1e-5)
    assert two.card["history"]["accuracies"] == one.card["history"]["accuracies"]
    assert (two.card["workers"], two.card["best_step"]) == (2, one.card["best_step"])
    # A step that was evaluated and not saved yet when the worker died is told again.
    told = dict.fromkeys(line.split(":")[0] for line in said if line.startswith("step"))
    assert list(told) == ["step 10", "step 20", "step 30", "step 40"]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "model.json", "model.safetensors", "tensorboard", "videos.parquet",
    ]  # fmt: skip


def _kill_one(folder: Path, killed: list) -> None:
    """Kill a training worker of this session's Ray once a state has been saved.

    Which one is found out before, since that takes longer than the training that is left.
    """
    worker = wait_for(_worker)
    wait_for((folder / "training.pt").exists, every=0.001)
    worker.kill()
    killed.append(worker.pid)


def _worker() -> psutil.Process | None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "RayTrainWorker" in process.name():
                return process
    return None


def test_more_workers_than_the_cluster_holds_are_refused(filled, tmp_path):
    with pytest.raises(ConfigError, match="--workers 500: each takes a CPU, and the cluster has"):
        run(filled, tmp_path / "many", workers=500)
