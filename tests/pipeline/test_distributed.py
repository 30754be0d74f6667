"""Training on several workers agrees with training on one, and outlives the loss of a worker."""

import os
import signal
import threading
import time
from collections import defaultdict
from pathlib import Path

import psutil
import pytest
import torch

from tests.pipeline.feature_store import make_store
from vemoclap_batch.config import ConfigError, load_config
from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.pipeline.fit import fit
from vemoclap_batch.store.store import Store

pytestmark = pytest.mark.usefixtures("cluster")
#: 130 training videos less validation: the last batch of an epoch is small and odd, so its shares differ.
HYPER = {"max_steps": 25, "evaluate_every": 10, "lr": 1e-3, "label_smoothing": 0.1, "class_weights": True}


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
    config = load_config(str(filled / "tiny.yaml"))
    fit(Store(str(filled / "out")), str(filled / "labels.csv"), str(checkpoint), config, **options)
    return Checkpoint.load(checkpoint)


def test_two_workers_agree_with_one(filled, tmp_path):
    said = []
    one = run(filled, tmp_path / "one")
    two = run(filled, tmp_path / "two", workers=2, say=said.append)
    for name, x in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], x, rtol=0, atol=1e-5)
    assert two.card["history"]["losses"] == pytest.approx(one.card["history"]["losses"], abs=1e-5)
    assert two.card["history"]["accuracies"] == one.card["history"]["accuracies"]
    assert (two.card["workers"], two.card["best_step"]) == (2, one.card["best_step"])
    assert [line.split(":")[0] for line in said] == ["step 10", "step 20", "step 25"]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "model.json", "model.safetensors", "tensorboard", "videos.parquet",
    ]  # fmt: skip


def test_a_lost_worker_is_made_up_for_and_dropout_repeats(filled, tmp_path):
    """Both in one: a run that loses a worker ends with the weights of one that does not."""
    options = {"workers": 2, "dropout": 0.3, "hyper": {**HYPER, "max_steps": 40}, "save_every_s": 0.0}
    undisturbed = run(filled, tmp_path / "undisturbed", **options)
    killed = []
    watcher = threading.Thread(target=_kill_one, args=(tmp_path / "disturbed" / ".state", killed), daemon=True)
    watcher.start()
    disturbed = run(filled, tmp_path / "disturbed", **options)
    watcher.join(timeout=5)
    assert killed
    for name, x in undisturbed.model.state_dict().items():
        assert torch.equal(disturbed.model.state_dict()[name], x), name


def _kill_one(folder: Path, killed: list) -> None:
    """Kill a training worker of this session's Ray once a state has been saved."""
    until = time.monotonic() + 120
    while not (folder / "training.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.01)
    by_name = defaultdict(list)
    for process in psutil.Process().children(recursive=True):
        by_name[process.name()].append(process.pid)
    workers = [pids for name, pids in by_name.items() if "RayTrainWorker" in name]
    if workers:
        os.kill(workers[0][-1], signal.SIGKILL)
        killed.append(workers[0][-1])


def test_more_workers_than_the_cluster_holds_are_refused(filled, tmp_path):
    with pytest.raises(ConfigError, match="--workers 500: each takes a CPU, and the cluster has"):
        run(filled, tmp_path / "many", workers=500)
