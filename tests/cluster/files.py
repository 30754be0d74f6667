"""What the tests of the cluster files read: manifests and their pods, the Containerfile's steps, pinned versions."""

import re
from pathlib import Path

import yaml
from ray.runtime_env import RuntimeEnv

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
MANIFESTS = {
    (path.name, manifest["kind"]): manifest
    for path in sorted((CLUSTER / "kuberay").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text())
}
RAY_MANIFESTS = {name: one for (name, kind), one in MANIFESTS.items() if kind.startswith("Ray")}
RUNTIME_ENVIRONMENTS = sorted(CLUSTER.glob("runtime-env*.yaml"))
IMAGE = "/vemoclap-batch:0.1"
GIB = 1024**3
#: Linux passes no longer variable to a program, its name and the closing zero included.
LONGEST_VARIABLE = 128 * 1024

# Fields of KubeRay's v1 types, from its API reference.
RAY_CLUSTER = set(
    "authOptions rayVersion enableInTreeAutoscaling autoscalerOptions headGroupSpec workerGroupSpecs suspend "
    "gcsFaultToleranceOptions headServiceAnnotations managedBy upgradeStrategy".split()
)
JOB = set(
    "entrypoint runtimeEnvYAML jobId metadata rayClusterSpec clusterSelector submitterPodTemplate submitterConfig "
    "shutdownAfterJobFinishes ttlSecondsAfterFinished activeDeadlineSeconds backoffLimit suspend submissionMode "
    "managedBy deletionStrategy entrypointNumCpus entrypointNumGpus entrypointResources".split()
)
HEAD = {"rayStartParams", "template", "serviceType", "headService", "enableIngress"}
WORKER = set(
    "groupName replicas minReplicas maxReplicas numOfHosts rayStartParams template scaleStrategy suspend "
    "idleTimeoutSeconds".split()
)
POD = {"containers", "volumes", "tolerations", "nodeSelector", "terminationGracePeriodSeconds", "serviceAccountName"}


def cluster_of(manifest):
    spec = manifest["spec"]
    if manifest["kind"] == "RayCronJob":
        assert spec.keys() <= {"schedule", "jobTemplate", "suspend", "timeZone"}
        spec = spec["jobTemplate"]
    if manifest["kind"] != "RayCluster":
        assert spec.keys() <= JOB
        RuntimeEnv(**yaml.safe_load(spec["runtimeEnvYAML"]))
        script = re.search(r"python /app/(\S+\.py)", spec["entrypoint"])[1]
        assert (ROOT / script).is_file()
        spec = spec["rayClusterSpec"]
    return spec


def pods():
    """Every pod that a manifest starts, with where it comes from."""
    for name, manifest in RAY_MANIFESTS.items():
        spec = cluster_of(manifest)
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            yield f"{name} {group.get('groupName', 'head')}", group["template"]["spec"]
    yield "models.yaml", MANIFESTS["models.yaml", "Pod"]["spec"]


def a_file(name):
    return (CLUSTER / name).read_text()


def instructions():
    """The Containerfile's instructions, continued lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", a_file("Containerfile"), flags=re.MULTILINE).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def steps(kind):
    return [rest for name, rest in instructions() if name == kind]


def pinned(path):
    """Name to version of a requirements file."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;]+)", path.read_text(), re.MULTILINE))


def aws():
    return yaml.safe_load(a_file("aws.yaml"))
