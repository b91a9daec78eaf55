"""deploy/kubernetes/serve.yaml: valid, ready when the server answers, behind a key that is not in the file."""

from __future__ import annotations

import kubernetes_validate
import pytest

from finetune.commands import serve
from finetune.serve.guard import OPEN
from healthchecks import cli
from tests.unit.deploy.test_kubernetes import VERSIONS, documents, pod

FILE = "serve.yaml"


@pytest.mark.parametrize("version", VERSIONS)
def test_valid_against_the_schema_of_kubernetes(version):
    for document in documents(FILE):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_service_leads_to_the_port_that_the_server_opens():
    service, deployment = documents(FILE)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    (port,) = pod(FILE)["containers"][0]["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"] and port["containerPort"] == 8000


def test_readiness_asks_the_server_and_needs_no_key():
    container = pod(FILE)["containers"][0]
    for name in ("startupProbe", "readinessProbe"):
        assert container[name]["httpGet"] == {"path": "/health", "port": "http"}
    assert "/health" in OPEN
    assert container["livenessProbe"]["exec"]["command"][:2] == ["healthcheck", "probe"]
    cli.parser().parse_args(container["livenessProbe"]["exec"]["command"][1:])


def test_the_words_are_those_of_serve_and_the_key_comes_from_a_secret():
    container = pod(FILE)["containers"][0]
    assert container["args"][0] == "serve"
    options, rest = serve.parser().parse_known_args(container["args"][1:])
    assert options.adapter == ["newest"] and rest == ["--host", "0.0.0.0"]
    (key,) = container["env"]
    assert key["name"] == serve.KEY and set(key["valueFrom"]) == {"secretKeyRef"} and "value" not in key
    assert "Secret" not in [document["kind"] for document in documents(FILE)]


def test_it_ends_after_its_requests_and_a_new_pod_waits_for_its_gpu():
    spec = pod(FILE)
    pause = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= 120 + pause
    assert documents(FILE)[-1]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_least_privilege_with_the_folders_that_must_be_writable():
    spec, job = pod(FILE), pod("job.yaml")
    assert spec["securityContext"] == job["securityContext"]
    mine, its = spec["containers"][0], job["containers"][0]
    assert mine["securityContext"] == its["securityContext"] and mine["volumeMounts"] == its["volumeMounts"]
    assert [each for each in spec["volumes"] if each["name"] == "output"] == [
        each for each in job["volumes"] if each["name"] == "output"
    ]
