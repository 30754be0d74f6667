"""The image has what Ray's launcher, KubeRay and Whisper look for in it."""

import ctypes
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
from ray.autoscaler._private.command_runner import DockerCommandRunner, SSHCommandRunner

from tests.cluster.files import (
    CLUSTER,
    ROOT,
    a_file,
    aws,
    pinned,
    steps,
)
from vemoclap_batch.extractors.whisper_weights import load_cublas


def test_the_image_has_the_cublas_that_whisper_opens_on_a_gpu(monkeypatch):
    opened = []

    def missing(name, *_):
        opened.append(name)
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(RuntimeError) as caught:
        load_cublas()
    package = re.search(r"pip install ([\w-]+)", str(caught.value))[1]
    pins = pinned(CLUSTER / "requirements-gpu.txt")
    (major,) = re.findall(r"\.so\.(\d+)$", opened[0])
    assert pins[package].split(".")[0] == major
    # What CTranslate2 itself was linked to.
    (library,) = (Path(importlib.util.find_spec("ctranslate2").origin).parents[1] / "ctranslate2.libs").glob(
        "libctranslate2*"
    )
    assert set(re.findall(rb"libcublas\.so\.(\d+)", library.read_bytes())) == {major.encode()}
    # 600 MB that a laptop does without, and no file of both sets has two versions.
    assert not pins.keys() & pinned(ROOT / "requirements.txt").keys()
    (step,) = (step for step in steps("RUN") if "requirements-gpu.txt" in step)
    assert "--require-hashes -r cluster/requirements-gpu.txt" in step
    assert "cluster/requirements-gpu.txt ./cluster/" in steps("COPY")
    lines = a_file("requirements-gpu.txt").splitlines()
    assert all(re.match(r"# |[a-z0-9-]+==\S+ \\$|    --hash=sha256:[0-9a-f]{64}( \\)?$", line) for line in lines)


def test_what_the_image_copies_is_there():
    for step in steps("COPY"):
        *sources, _ = step.split()
        assert all((ROOT / source).exists() for source in sources), step


class Recorder:
    """Stands in for `subprocess`: notes what would be run and answers as a fresh machine with docker does."""

    def __init__(self):
        self.commands = []

    def check_call(self, command, **_):
        self.commands.append(list(command))

    def check_output(self, command, **_):
        self.commands.append(list(command))
        line = " ".join(command)
        answers = {
            "Config.Env": "[]",
            "printenv HOME": "/home/ray",
            "Running": "",
            "meminfo": "MemAvailable: 8000000 kB",
        }
        return next((answer for part, answer in answers.items() if part in line), "docker").encode()


class Machine:
    """A node provider of one machine."""

    def external_ip(self, _):
        return "192.0.2.1"

    internal_ip = external_ip


@pytest.fixture
def as_ray_up_does(monkeypatch, tmp_path):
    """The commands that prepare a container, as Ray's own runners make them."""
    monkeypatch.setattr(SSHCommandRunner, "_ensure_ssh_control_path", lambda self: None)
    files = {"~/ray_bootstrap_config.yaml": str(tmp_path / "config"), "~/ray_bootstrap_key.pem": str(tmp_path / "key")}
    for path in files.values():
        Path(path).touch()
    recorder = Recorder()
    common = {"log_prefix": "", "node_id": "1", "provider": Machine(), "auth_config": {"ssh_user": "ubuntu"}}
    runner = DockerCommandRunner(
        aws()["docker"], **common, cluster_name="vemoclap", process_runner=recorder, use_internal_ip=False
    )
    for remote, local in files.items():
        runner.run_rsync_up(local, remote)
    runner.run_init(as_head=True, file_mounts=files, sync_run_yet=True)
    for command in aws()["head_start_ray_commands"]:
        runner.run(command)
    return [" ".join(command).replace("'", "").replace('"', "") for command in recorder.commands]


def test_the_image_has_the_programs_that_ray_up_calls(as_ray_up_does):
    # The head runs these for the workers, in its container; rsync runs in every container too, as the other end.
    called = {command.split()[0] for command in as_ray_up_does}
    assert called == {"ssh", "rsync"}
    assert any("rsync -e docker exec -i" in command for command in as_ray_up_does)
    # Ray sizes /dev/shm by itself.
    (run,) = (command for command in as_ray_up_does if "docker run" in command)
    assert "--shm-size=" in run
    packages = {"ssh": "openssh-client", "rsync": "rsync"}
    installed = set(next(step for step in steps("RUN") if "apt-get install" in step).split())
    # KubeRay's probes call wget; libgomp1 is what OpenCV, CTranslate2 and onnxruntime link to.
    assert {packages[program] for program in called} | {"wget", "libgomp1", "make"} <= installed


def test_login_shells_in_the_image_find_ray(as_ray_up_does, tmp_path):
    (start,) = (command for command in as_ray_up_does if "ray start" in command)
    assert re.search(r"docker exec .* bash --login -c -i .*ray start --head", start)
    (binaries,) = re.findall(r"PATH=(\S+?):\$PATH", " ".join(steps("ENV")))
    (step,) = (step for step in steps("RUN") if "/etc/profile.d/" in step)
    script = tmp_path / "vemoclap.sh"
    subprocess.run(["sh", "-c", re.sub(r"/etc/profile\.d/\S+\.sh", str(script), step)], check=True)
    # What Debian's /etc/profile does: PATH anew, then each of these.
    shell = f"PATH=/usr/local/bin:/usr/bin:/bin; . {script}; echo $PATH"
    path = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert path.split(":")[0] == binaries == "/app/.venv/bin"
    assert "/usr/bin" in path
