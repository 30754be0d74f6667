"""One Ray session for all tests that need one; tiny models so that the pipeline itself is what is tested."""

import os
from functools import partial
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]
GPUS = 4
# Several threads per small matrix only get into each other's way on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# How long an example takes says more about the other process than about the code.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")
# Ray looks for new log files ten times a second, unless there are more than so many.
os.environ["RAY_LOG_MONITOR_MANY_FILES_THRESHOLD"] = "10"
# Ray's workers import tests.tiny, as the tests do.
os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Whole files go to a process; all those that import the libraries of the large models to the same one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "models" if file.startswith("tests/extractors/") or "/test_paper" in file else file

    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    """By the files' names, so that of two processes one waits for a server while the other starts actors."""
    items.sort(key=lambda item: item.path.name)


@pytest.fixture(scope="session")
def cluster():
    """The session's Ray, which runs() inside this process joins by themselves; its GPUs are there by name alone."""
    import ray

    from vemoclap_batch.pipeline.cluster import connected

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", partial(ray.init, num_gpus=GPUS))
        with connected() as found:
            yield found


@pytest.fixture(scope="session")
def address(cluster):
    """Where commands of their own processes join the session's Ray."""
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.fixture(params=["cpu", "gpu"])
def device_profile(request, tmp_path):
    """The profile of tiny_profile on CPUs alone, and in three stages with a share of a GPU."""
    from tests.tiny import PROFILE, on_gpus

    path = tmp_path / f"tiny-{request.param}.yaml"
    path.write_text(on_gpus(PROFILE, "asr") if request.param == "gpu" else PROFILE)
    return str(path)


@pytest.fixture
def tiny_profile(tmp_path):
    """A profile with the tiny extractors."""
    from tests.tiny import PROFILE

    path = tmp_path / "tiny.yaml"
    path.write_text(PROFILE)
    return str(path)


@pytest.fixture
def frames_profile(tmp_path):
    """A profile with the tiny extractor of frames alone, for what needs no texts."""
    from tests.tiny import FRAMES_PROFILE

    path = tmp_path / "frames.yaml"
    path.write_text(FRAMES_PROFILE)
    return str(path)
