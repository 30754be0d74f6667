"""Runs whose driver, servers of Ray and actors are killed: nothing of them is left; how long it takes is not asked."""

import sys

import pytest

from bench import lifetime
from bench.lifetime import ACTOR, DRIVER, GCS, RAYLET, Run, attempt
from vemoclap_batch.errors import ConfigError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")

BOUND_S = 300


@pytest.fixture
def setup(tmp_path):
    (tmp_path / "profile.yaml").write_text(lifetime._PROFILE)
    setup = lifetime._Setup(tmp_path, str(tmp_path / "profile.yaml"), on_cluster=False)
    setup.make_clips(6)
    return setup


def at_work(run: Run):
    """Wait until a run has committed something."""
    while not list(run.out.rglob("part-*")):
        run.look()
        assert run.driver.poll() is None, run.said()


@pytest.mark.parametrize("kind", [RAYLET, GCS])
def test_a_run_whose_server_of_ray_is_killed(setup, kind):
    run = setup.start()
    at_work(run)
    outcome = attempt(run, kind, 0, bound_s=BOUND_S)
    run.end()
    assert (outcome.left, outcome.code) == ([], 1), outcome
    assert "error: the run broke off: Ray's " in outcome.said
    assert f"({kind}) was killed or has crashed" in outcome.said
    assert "Traceback" not in outcome.said


def test_a_run_whose_actor_and_then_its_driver_are_killed(setup):
    run = setup.start()
    at_work(run)
    outcomes = [attempt(run, ACTOR, 0, to_the_end=False, bound_s=BOUND_S), attempt(run, DRIVER, 0, bound_s=BOUND_S)]
    said = run.said()
    run.end()
    assert [outcome.left for outcome in outcomes] == [[], []]
    assert outcomes[1].code == -9
    assert "error: the process of the run ended at once" in said
    # The next run goes on.
    run = Run(run.clips, run.out, run.profile)
    assert run.driver.wait(600) == 0, run.said()
    assert run.look() == []
    run.end()


def test_on_a_cluster_that_goes_on():
    report = lifetime.measure(1, [ACTOR, DRIVER], on_cluster=True, clips=6, to_the_end=False, bound_s=BOUND_S)
    assert report.figures == {"left": 0}, report.notes
    assert [row["killed"] for row in report.rows] == [ACTOR, DRIVER]


def test_what_cannot_be_killed_is_said():
    with pytest.raises(ConfigError, match="gcs_server: what can be killed here is driver, raylet, actor"):
        lifetime.measure(1, [GCS], on_cluster=True)
