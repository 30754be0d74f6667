"""Submitted jobs: runtime environments that Ray accepts, and exit statuses that a scheduler can read."""

import importlib.util
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray
from ray._private.runtime_env import packaging
from ray.dashboard.modules.dashboard_sdk import parse_runtime_env_args
from ray.job_submission import JobDetails, JobStatus, JobType
from ray.runtime_env import RuntimeEnv

from tests.cluster.files import CLUSTER, LONGEST_VARIABLE, ROOT, RUNTIME_ENVIRONMENTS, a_file, pinned


@pytest.mark.parametrize("path", RUNTIME_ENVIRONMENTS, ids=lambda path: path.name)
def test_the_runtime_environments_pass_rays_validation(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = parse_runtime_env_args(runtime_env=str(path))
    environment = RuntimeEnv(**given)
    # The driver gets it as one variable.
    assert len(environment.serialize()) < LONGEST_VARIABLE - 1024
    assert environment.env_vars() == {"RAY_JOB_STOP_WAIT_TIME_S": "40"}
    left_out = packaging._get_excludes(ROOT, given["excludes"])
    needed = ["jobs/label.py", "vemoclap_batch/cli/app.py", "requirements.txt", "cluster/requirements-gpu.txt"]
    assert not [name for name in needed if left_out(ROOT / name)]
    assert left_out(ROOT / ".venv" / "bin" / "python")


def test_packages_by_runtime_environment_are_the_pinned_ones(monkeypatch):
    monkeypatch.chdir(ROOT)
    environment = RuntimeEnv(**parse_runtime_env_args(runtime_env="cluster/runtime-env-packages.yaml"))
    settings = environment.uv_config()
    folder = "-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/"
    assert all(package.startswith(folder) for package in settings["packages"])
    files = [ROOT / package.removeprefix(folder) for package in settings["packages"]]
    assert files == [ROOT / "requirements.txt", CLUSTER / "requirements-gpu.txt"]
    assert all(path.is_file() for path in files)
    assert "--require-hashes" in settings["uv_pip_install_options"]
    (version,) = re.findall(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert settings["uv_version"] == f"=={version}"
    # Ray refuses an environment that changes its version.
    assert pinned(ROOT / "requirements.txt")["ray"] == ray.__version__
    # Given as a file, the driver could not be started.
    whole = RuntimeEnv(uv=str(ROOT / "requirements.txt"))
    assert len(whole.serialize()) > LONGEST_VARIABLE


@pytest.fixture
def dashboard(monkeypatch):
    """A dashboard that knows the jobs it is given, each a list of answers, the last of which stays."""
    jobs = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = jobs.get(self.path.rpartition("/")[2])
            body = json.dumps({"ray_version": ray.__version__, "version": "4", "ray_commit": "", "session_name": ""})
            if self.path.startswith("/api/jobs/"):
                body = (known.pop(0) if len(known) > 1 else known[0]).model_dump_json() if known else "no such job"
            self.send_response(200 if known or "/jobs/" not in self.path else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{server.server_port}")
    yield jobs
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 3, 3),
        ("FAILED", 4, 4),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 143),
    ],
)
def test_a_scheduler_learns_the_drivers_exit_status(dashboard, monkeypatch, status, code, expected):
    spec = importlib.util.spec_from_file_location("exit_status", CLUSTER / "exit_status.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "POLL_S", 0.01)

    def job(status, code=None):
        known = {"type": JobType.SUBMISSION, "submission_id": "night", "entrypoint": "python jobs/nightly.py"}
        return JobDetails(**known, status=JobStatus(status), driver_exit_code=code)

    dashboard["night"] = [job("PENDING"), job("RUNNING"), job(status, code)]
    monkeypatch.setattr(sys, "argv", ["exit_status.py", "night"])
    assert script.main() == expected
    monkeypatch.setattr(sys, "argv", ["exit_status.py", "unknown"])
    assert script.main() == 1


def test_the_schedule_starts_where_its_files_are():
    (line,) = (line for line in a_file("README.md").splitlines() if line.startswith("0 2 * * *"))
    folder, command = re.fullmatch(r"0 2 \* \* \*  cd (\S+) && (.*)", line).groups()
    assert folder
    for name in re.findall(r"(?:cluster|jobs)/\S+\.(?:yaml|py)", command):
        assert (ROOT / name).is_file()
    # `ray job submit` hides it, and cron reads % as the end of the line.
    assert "cluster/exit_status.py" in command
    assert not re.search(r"(?<!\\)%", command)
