"""The Kubernetes files are valid, and what they say of probes, users and volumes fits the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from healthchecks import cli

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes"
FILES = ("job.yaml", "deployment.yaml")
VERSIONS = ("1.29", "1.33")  # from the oldest that knows all fields used here to a recent one


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def pod(name: str) -> dict[str, Any]:
    return documents(name)[-1]["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", FILES)
def test_valid_against_the_schema_of_kubernetes(name, version):
    for document in documents(name):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_does_find_mistakes():
    document = documents("job.yaml")[-1]
    document["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)


@pytest.mark.parametrize("name", FILES)
def test_probes_are_commands_that_the_image_knows(name):
    container = pod(name)["containers"][0]
    probes = [value["exec"]["command"] for key, value in container.items() if key.endswith("Probe")]
    assert len(probes) >= 2
    for command in probes:
        assert command[:2] == ["healthcheck", "probe"]
        cli.parser().parse_args(command[1:])  # ends the test where an option is unknown


@pytest.mark.parametrize("name", FILES)
def test_liveness_asks_only_whether_a_restart_helps(name):
    """A check that failed, of the GPU above all, must not restart the pod."""
    container = pod(name)["containers"][0]
    assert container["livenessProbe"]["exec"]["command"][2:] == ["--live"]
    assert container["startupProbe"]["exec"]["command"][2:] == ["--checked"]


def test_the_deployment_is_ready_when_the_probe_says_so():
    assert pod("deployment.yaml")["containers"][0]["readinessProbe"]["exec"]["command"] == ["healthcheck", "probe"]


@pytest.mark.parametrize("name", FILES)
def test_least_privilege_with_the_folders_that_must_be_writable(name):
    spec = pod(name)
    container = spec["containers"][0]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts) == {"/root/output", "/dev/shm", "/run/mirror", "/tmp"}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert set(volumes) == set(mounts.values())
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"  # the check `storage` wants 1 GiB


@pytest.mark.parametrize("name", FILES)
def test_one_gpu_and_time_to_save_a_checkpoint(name):
    spec = pod(name)
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["terminationGracePeriodSeconds"] >= 60
