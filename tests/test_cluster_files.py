"""The cluster files: fields that KubeRay's types have, Ray's own schema for VMs, files that exist, no secret inside."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).parents[1]
KUBERAY = sorted((ROOT / "cluster" / "kuberay").glob("*.yaml"))

# Fields of KubeRay's v1 types, from its API reference.
CLUSTER = set(
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
        yaml.safe_load(spec["runtimeEnvYAML"])
        script = re.search(r"python /app/(\S+\.py)", spec["entrypoint"])[1]
        assert (ROOT / script).is_file()
        spec = spec["rayClusterSpec"]
    return spec


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_kuberay_manifests_use_fields_that_exist(path):
    manifest = yaml.safe_load(path.read_text())
    assert manifest["apiVersion"] == "ray.io/v1"
    spec = cluster_of(manifest)
    assert spec.keys() <= CLUSTER
    assert spec["rayVersion"] == ray.__version__
    assert spec["headGroupSpec"].keys() <= HEAD
    assert [group["groupName"] for group in spec["workerGroupSpecs"]] == ["cpu", "gpu"]
    for group in spec["workerGroupSpecs"]:
        assert group.keys() <= WORKER
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        # KubeRay hands these on as command-line text.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod.keys() <= POD
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "40"} in pod["containers"][0]["env"]


def test_the_vm_cluster_fits_rays_schema():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    config = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert config["available_node_types"]["gpu"]["resources"]["GPU"] >= 1


def test_no_secret_is_written_down():
    for path in (ROOT / "cluster").rglob("*"):
        if path.is_file():
            assert not re.search(r"(AKIA[0-9A-Z]{16}|SECRET_ACCESS_KEY=[^…\s]|auth_token: \S)", path.read_text()), path


def test_the_runtime_environment_parses():
    from ray.runtime_env import RuntimeEnv

    RuntimeEnv(
        **yaml.safe_load((ROOT / "cluster" / "runtime-env.yaml").read_text()) | {"working_dir": "s3://b/code.zip"}
    )
