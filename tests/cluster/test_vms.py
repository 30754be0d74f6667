"""The VM cluster passes Ray's own checks, and Ray starts its machines in a simulated AWS as they need to be."""

import json
import re
from pathlib import Path

import boto3
import jsonschema
import ray
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.files import ROOT, a_file, aws, pinned, steps


def test_the_vm_cluster_fits_rays_schema():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    config = aws()
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert config["available_node_types"]["gpu"]["resources"]["GPU"] >= 1
    assert sum(node["min_workers"] for node in config["available_node_types"].values()) <= config["max_workers"]


def test_ray_adds_no_commands_of_its_own():
    config = prepare_config(aws())
    validate_config(config)
    commands = [command for key, value in config.items() if key.endswith("_commands") for command in value]
    written = [command for key, value in aws().items() if key.endswith("_commands") for command in value]
    assert sorted(commands) == sorted(written)
    # The autoscaler that starts the workers reads its credentials with it.
    assert "boto3" in pinned(ROOT / "requirements.txt")


def test_every_vm_has_an_ami_credentials_and_room():
    for name, node in aws()["available_node_types"].items():
        config = node["node_config"]
        # Left out, Ray takes one with Ubuntu 18.04 and a driver that knows no CUDA 13.
        assert config["ImageId"].startswith("ami-"), name
        (disk,) = config["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= 150
    # The pinned torch is what asks for the driver.
    assert pinned(ROOT / "requirements.txt")["nvidia-cuda-runtime"].startswith("13.")
    assert re.search(r"driver of 580 or newer.*\n *# CUDA 13", a_file("aws.yaml"))


def test_ray_starts_every_vm_with_credentials(monkeypatch, tmp_path):
    # Ray gives a profile of its own to the head only.
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    config = prepare_config(aws())
    ask = {"region_name": config["provider"]["region"]}
    with mock_aws():
        iam, ec2 = boto3.client("iam", **ask), boto3.client("ec2", **ask)
        for profile in ("vemoclap-head", "vemoclap-worker"):
            iam.create_instance_profile(InstanceProfileName=profile)
        for node in config["available_node_types"].values():
            node["node_config"]["ImageId"] = "ami-12c6146b"  # one that moto knows
        config = bootstrap_aws(config)
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, node in config["available_node_types"].items():
            kind = "head" if name == config["head_node_type"] else "worker"
            provider.create_node(node["node_config"], {"ray-node-type": kind, "ray-user-node-type": name}, 1)
        machines = [one for group in ec2.describe_instances()["Reservations"] for one in group["Instances"]]
    profiles = {
        one["InstanceType"]: one.get("IamInstanceProfile", {}).get("Arn", "").split("/")[-1] for one in machines
    }
    worker = "vemoclap-worker"
    assert profiles == {"m7i.large": "vemoclap-head", "c7i.2xlarge": worker, "g6.2xlarge": worker}
    # The head may hand the workers' role on, or none starts.
    assert re.search(rf'"iam:PassRole", "Resource": "arn:aws:iam::\*:role/{worker}"', a_file("README.md"))


def test_the_models_folder_belongs_to_who_writes_it():
    config = aws()
    (option,) = (option for option in config["docker"]["run_options"] if option.startswith("--volume"))
    folder, inside, _ = option.removeprefix("--volume ").split(":")
    assert f"VEMOCLAP_MODELS={inside}" in " ".join(steps("ENV"))
    made = config["initialization_commands"].index(f"sudo install -d -o $USER {folder}")
    (filled,) = (
        i for i, line in enumerate(config["initialization_commands"]) if re.match(rf"aws s3 sync .* {folder}$", line)
    )
    assert made < filled
