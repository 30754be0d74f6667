"""The manifests: fields that KubeRay's types have, what they mount exists, Ray's object store has its memory."""

import re

import pytest
import ray
from ray._private import services, utils

from tests.cluster.files import (
    CLUSTER,
    GIB,
    HEAD,
    IMAGE,
    MANIFESTS,
    POD,
    RAY_CLUSTER,
    RAY_MANIFESTS,
    WORKER,
    a_file,
    aws,
    cluster_of,
    pods,
    steps,
)


@pytest.mark.parametrize("name", RAY_MANIFESTS)
def test_kuberay_manifests_use_fields_that_exist(name):
    manifest = RAY_MANIFESTS[name]
    assert manifest["apiVersion"] == "ray.io/v1"
    spec = cluster_of(manifest)
    assert spec.keys() <= RAY_CLUSTER
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
        assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "40"} in pod["containers"][0]["env"]


@pytest.mark.parametrize("name", RAY_MANIFESTS)
def test_whoever_reaches_the_dashboard_needs_a_token(name):
    spec = cluster_of(RAY_MANIFESTS[name])
    assert spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "0.0.0.0"
    assert spec["authOptions"] == {"mode": "token"}


def test_what_is_mounted_is_there():
    claims = {one["metadata"]["name"] for (_, kind), one in MANIFESTS.items() if kind == "PersistentVolumeClaim"}
    assert claims == {"vemoclap-models", "vemoclap-serve"}
    for where, pod in pods():
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}, where
        asked = {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert asked <= claims, where


def test_the_models_are_where_the_entry_points_look():
    mounts = [mount for _, pod in pods() for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "models"]
    assert len(mounts) == len(list(pods()))
    assert {mount["mountPath"] for mount in mounts} == {"/models"}
    assert any("VEMOCLAP_MODELS=/models" in step for step in steps("ENV"))
    # The user of the image fills the claim.
    (user,) = re.findall(r"useradd .*--uid (\d+)", "\n".join(steps("RUN")))
    assert MANIFESTS["models.yaml", "Pod"]["spec"]["securityContext"]["fsGroup"] == int(user)
    readme = a_file("README.md")
    for manifest in RAY_MANIFESTS.values():
        job = manifest["spec"].get("jobTemplate", manifest["spec"])
        for model in re.findall(r"--model (\S+)", job.get("entrypoint", "")):
            assert f"vemoclap-models:{model}" in readme


def shared_memory(pod):
    """Bytes of /dev/shm in a pod's first container: KubeRay mounts the memory limit's size where nothing is mounted."""
    (container, *_) = pod["containers"]
    size = container["resources"]["limits"]["memory"]
    for mount in container["volumeMounts"]:
        if mount["mountPath"] == "/dev/shm":
            (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mount["name"])
            size = volume["emptyDir"].get("sizeLimit", size)
    return int(size.removesuffix("Gi")) * GIB


@pytest.mark.parametrize(("where", "pod"), list(pods())[:-1], ids=[where for where, _ in pods()][:-1])
def test_rays_object_store_fits_into_shared_memory(where, pod, monkeypatch, tmp_path):
    memory = int(pod["containers"][0]["resources"]["limits"]["memory"].removesuffix("Gi")) * GIB
    monkeypatch.setattr(utils, "get_shared_memory_bytes", lambda: shared_memory(pod))
    monkeypatch.setattr("ray._common.utils.get_system_memory", lambda: memory)
    size = utils.resolve_object_store_memory(memory)
    folder, *_ = services.determine_plasma_store_config(size, str(tmp_path), None, None)
    assert folder == "/dev/shm", where


def test_a_run_may_be_started_again():
    metadata = RAY_MANIFESTS["rayjob.yaml"]["metadata"]
    # KubeRay takes names of up to 47 characters; Kubernetes adds 5 to this one.
    assert metadata.keys() == {"generateName"}
    assert len(metadata["generateName"]) <= 42
    assert "kubectl create -f cluster/kuberay/rayjob.yaml" in a_file("README.md")


def test_the_image_is_named_alike_and_marked_everywhere():
    images = {container["image"] for _, pod in pods() for container in pod["containers"]} | {aws()["docker"]["image"]}
    (image,) = images
    assert image.endswith(IMAGE)
    assert f"podman push REGISTRY{IMAGE}" in a_file("README.md")
    for path in (*(CLUSTER / "kuberay").glob("*.yaml"), CLUSTER / "aws.yaml"):
        assert all("# CHANGE" in line for line in path.read_text().splitlines() if IMAGE in line), path.name
