"""The manifest of the web application: its command is one that starts, its probes and volumes are there."""

import re

import typer

from tests.cluster.files import GIB, IMAGE, MANIFESTS, a_file, steps
from vemoclap_batch.cli.app import app
from vemoclap_batch.shutdown import GRACE_S

DEPLOYMENT = MANIFESTS["serve.yaml", "Deployment"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
(CONTAINER,) = POD["containers"]


def test_its_command_has_options_that_exist():
    program, command, *arguments = CONTAINER["args"]
    assert (program, command) == ("vemoclap-batch", "serve")
    parameters = typer.main.get_command(app).commands["serve"].make_context("serve", list(arguments)).params
    assert (parameters["host"], parameters["out"]) == ("0.0.0.0", "/data/out")
    (port,) = CONTAINER["ports"]
    assert parameters["port"] == port["containerPort"]
    assert CONTAINER["env"][0]["name"] == "VEMOCLAP_AUTH_TOKEN"  # without which it would not start there
    assert CONTAINER["image"].endswith(IMAGE)


def test_it_is_probed_drained_and_alone():
    asked = [CONTAINER[name]["httpGet"] for name in ("readinessProbe", "startupProbe")]
    assert asked == [{"path": "/healthz", "port": "http"}] * 2
    assert POD["terminationGracePeriodSeconds"] > GRACE_S + 10
    assert (DEPLOYMENT["replicas"], DEPLOYMENT["strategy"]["type"]) == (1, "Recreate")
    service = MANIFESTS["serve.yaml", "Service"]["spec"]
    assert service["selector"] == DEPLOYMENT["selector"]["matchLabels"] == DEPLOYMENT["template"]["metadata"]["labels"]
    assert "kuberay/serve.yaml" in a_file("README.md")


def test_its_volumes_are_there_and_writable():
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}
    data, shared = POD["volumes"]
    claim = MANIFESTS["serve.yaml", "PersistentVolumeClaim"]["metadata"]["name"]
    assert data["persistentVolumeClaim"]["claimName"] == claim
    (user,) = re.findall(r"useradd .*--uid (\d+)", "\n".join(steps("RUN")))
    assert POD["securityContext"]["fsGroup"] == int(user)
    # Ray's object store takes 30 % of the memory.
    sizes = shared["emptyDir"]["sizeLimit"], CONTAINER["resources"]["limits"]["memory"]
    held, memory = (int(size.removesuffix("Gi")) * GIB for size in sizes)
    assert held >= 0.3 * memory
