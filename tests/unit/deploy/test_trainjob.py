"""deploy/kubernetes/trainjob.yaml against the schemas of Kubeflow Trainer and of Kubernetes, and against the image."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from finetune.engines.fast import workers

ROOT = Path(__file__).resolve().parents[3]
SCHEMAS = {"TrainJob": "trainjobs", "TrainingRuntime": "trainingruntimes"}


def documents() -> dict[str, dict[str, Any]]:
    """The file's documents by kind."""
    text = (ROOT / "deploy/kubernetes/trainjob.yaml").read_text(encoding="utf-8")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def strict(schema: Any) -> Any:
    """A CRD's schema that refuses fields it does not know, where an API server would silently drop them."""
    if isinstance(schema, dict):
        schema = {key: strict(value) for key, value in schema.items()}
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema = {"type": ["integer", "string"]}
    elif isinstance(schema, list):
        schema = [strict(each) for each in schema]
    return schema


def check(kind: str, document: dict[str, Any]) -> None:
    """Validate one document; metadata is Kubernetes' own."""
    folder = Path(__file__).parent / "kubeflow-trainer-2.3.0"
    schema = strict(json.loads((folder / f"{SCHEMAS[kind]}.json").read_text()))
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(document, schema)


def template() -> dict[str, Any]:
    """The pod template of a node."""
    (job,) = documents()["TrainingRuntime"]["spec"]["template"]["spec"]["replicatedJobs"]
    assert job["name"] == "node"  # where the operator looks
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    return job["template"]["spec"]["template"]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_valid_against_the_schema_of_kubeflow_trainer(kind):
    check(kind, documents()[kind])


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("TrainJob", ("spec", "trainer", "numNode"), 2),
        ("TrainJob", ("spec", "trainer", "numNodes"), "two"),
        ("TrainJob", ("spec", "trainer", "numProcPerNode"), "auto"),
        ("TrainingRuntime", ("spec", "mlPolicy", "pytorch"), {}),
    ],
)
def test_the_validator_does_find_mistakes(kind, path, value):
    document = copy.deepcopy(documents()[kind])
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(kind, document)


@pytest.mark.parametrize("version", ["1.29", "1.33"])
def test_the_pod_and_the_claim_are_valid_in_kubernetes(version):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node"}, "spec": template()["spec"]}
    kubernetes_validate.validate(pod, version, strict=True)
    kubernetes_validate.validate(documents()["PersistentVolumeClaim"], version, strict=True)


def test_the_job_names_the_runtime_and_the_storage_is_shared():
    found = documents()
    assert found["TrainJob"]["spec"]["runtimeRef"] == {
        "kind": "TrainingRuntime",
        "name": found["TrainingRuntime"]["metadata"]["name"],
    }
    claim = found["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = {volume["name"]: volume for volume in template()["spec"]["volumes"]}
    assert volumes["output"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    mounts = {mount["mountPath"] for mount in template()["spec"]["containers"][0]["volumeMounts"]}
    assert mounts == {"/root/output", "/dev/shm", "/run/mirror", "/tmp"}  # the root file system is read-only


def node_line(tmp_path: Path, **environ: str) -> list[str]:
    """What the node's script runs, with a stub of sft that prints the variables and words that it got."""
    (container,) = template()["spec"]["containers"]
    bash, flag, script = container["args"]
    stub = tmp_path / "sft"
    stub.write_text(
        '#!/bin/sh\necho "$NNODES $NODE_RANK $NPROC_PER_NODE $MASTER_ADDR $MASTER_PORT"\nprintf "%s\\n" "$@"\n'
    )
    stub.chmod(0o755)
    given = {entry["name"]: entry["value"] for entry in container["env"]} | environ
    given |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "PET_NNODES": "2"}
    given.setdefault("PET_NODE_RANK", "1")
    given |= {"PET_MASTER_ADDR": "node-0-0.job", "PET_MASTER_PORT": "29500"}
    script = script.replace("/root/output", str(tmp_path))
    done = subprocess.run([bash, flag, script], env=given, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_operator_s_variables_reach_the_fast_lane(tmp_path):
    variables, *words = node_line(tmp_path)
    assert variables == "2 1 1 node-0-0.job 29500"
    assert words == ["--output_dir", f"{tmp_path}/nodes"]
    environ = dict(
        zip(("NNODES", "NODE_RANK", "NPROC_PER_NODE", "MASTER_ADDR", "MASTER_PORT"), variables.split(), strict=True)
    )
    assert workers.from_env(("0",), 1, environ) == workers.Workers(1, 2, 1, "node-0-0.job", 29500, ("0",))
    assert node_line(tmp_path, OPTIONS="--num_train_epochs 3")[-2:] == ["--num_train_epochs", "3"]


def test_started_again_it_goes_on_from_the_newest_checkpoint(tmp_path):
    (tmp_path / "again/checkpoint-50").mkdir(parents=True)
    assert node_line(tmp_path, RUN="again")[1:] == ["--resume", f"{tmp_path}/again"]


def test_what_has_no_checkpoint_is_begun_anew_by_node_0_alone(tmp_path):
    record = tmp_path / "nodes/run.json"
    record.parent.mkdir()
    record.write_text("{}")
    assert node_line(tmp_path)[1] == "--output_dir" and record.exists()
    assert node_line(tmp_path, PET_NODE_RANK="0")[1] == "--output_dir" and not record.exists()
