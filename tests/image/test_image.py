"""What the image holds and how it is put together: files, packages, labels, layers."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

import pytest

from tests.containers import Container, docker

pytestmark = pytest.mark.image
MODEL = "/root/Qwen2.5-7B-Instruct"
VERBS = ["healthcheck", "swift", "infer", "sft", "sft_mixed", "verify", "finetune"]


@pytest.fixture(scope="module")
def host(image: str):
    started = docker("run", "-d", "-e", "MIRROR_DEVICE=cpu", "-e", "HEALTH_LEVEL=off", image, "sleep", "infinity")
    assert started.returncode == 0, started.stderr
    box = Container(started.stdout.strip())
    yield box.host
    docker("rm", "-f", box.id)


def test_the_twelve_files_of_the_model_are_there_and_are_what_their_sums_say(host):
    sums = host.file(f"{MODEL}/SHA256SUMS").content_string
    assert len(sums.splitlines()) == 12
    checked = host.run(f"cd {MODEL} && sha256sum -c SHA256SUMS")
    assert checked.rc == 0, checked.stdout


def test_the_tokenizer_is_the_official_one(host):
    official = dict(
        reversed(line.split()) for line in host.file("/opt/mirror/weights/SHA256SUMS").content_string.splitlines()
    )
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert host.run(f"sha256sum {MODEL}/{name}").stdout.split()[0] == official[name], name


def test_the_options_of_ms_swift_are_those_of_its_source(host):
    code = (
        "from finetune.engines.swift import options as o; assert o.WRITTEN.is_file();"
        "held = o.options_of('sft'); o.WRITTEN = o.WRITTEN.with_name('none'); assert held == o.options_of('sft') != {}"
    )
    assert host.run(f'python -c "{code}"').rc == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_command(host, verb):
    assert host.exists(verb)


@pytest.mark.parametrize(
    "name",
    [
        "infer.sh",
        "sft.sh",
        "sft_mixed.sh",
        "verify.sh",
        "finetune.sh",
        "merge.sh",
        "serve.sh",
        "self_cognition.json",
        "configs/sft.yaml",
        "configs/serve.yaml",
        "configs/sft_attention.yaml",
        "configs/sft_qlora.yaml",
    ],
)
def test_the_workspace_is_in_root_and_readable_by_everyone(host, name):
    file = host.file(f"/root/{name}")
    assert file.exists
    assert file.mode & 0o444 == 0o444
    assert host.file("/root").mode == 0o755


def test_packages_are_compiled(host):
    """An uncompiled ms-swift costs 20 s at every start."""
    site = host.run("echo /opt/venv/lib/python3*/site-packages").stdout.strip()
    sources = int(host.run(f"find {site}/swift {site}/transformers/models/qwen2 -name '*.py' | wc -l").stdout)
    compiled = int(host.run(f"find {site}/swift {site}/transformers/models/qwen2 -name '*.pyc' | wc -l").stdout)
    assert sources > 100
    assert compiled >= sources
    assert host.file("/opt/mirror/finetune/__pycache__").is_directory


@pytest.mark.parametrize("shell", ["bash -c", "bash -lc", "sh -c"])
def test_swift_is_the_launcher_in_every_shell(host, shell):
    found = host.run(f"{shell} 'command -v swift'").stdout.strip()
    assert host.file(found).linked_to.startswith("/opt/mirror/") or found.startswith("/opt/mirror/"), found


def test_no_build_tools_and_no_caches_are_left(host):
    for path in ("/opt/uv", "/wheels", "/root/.cache/uv", "/root/.cache/pip", "/src"):
        assert not host.file(path).exists, path


def test_pip_is_there_for_what_people_add(host):
    found = host.run("pip --version")
    assert " from /opt/venv/" in found.stdout, found.stderr


def test_a_c_compiler_and_python_headers_are_there_for_triton(host):
    assert host.run("gcc --version").rc == 0
    assert (
        host.run("test -f $(python3 -c 'import sysconfig; print(sysconfig.get_paths()[\"include\"])')/Python.h").rc == 0
    )


def test_versions_are_those_of_the_lock(host):
    lock = host.file("/opt/mirror/requirements/image.lock").content_string
    for name in ("ms-swift", "transformers", "peft", "modelscope", "sacrebleu"):
        locked = re.search(rf"^{name}==(\S+)", lock, re.M).group(1)
        installed = host.run(f"python -c \"import importlib.metadata as m; print(m.version('{name}'))\"").stdout.strip()
        assert installed == locked, name


def test_environment_for_the_nvidia_runtime(image):
    environment = json.loads(docker("inspect", "-f", "{{json .Config.Env}}", image).stdout)
    assert "NVIDIA_VISIBLE_DEVICES=all" in environment
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in environment
    assert "NVIDIA_REQUIRE_CUDA=" in environment


def test_labels(image):
    labels = json.loads(docker("inspect", "-f", "{{json .Config.Labels}}", image).stdout)
    for key in ("title", "version", "revision", "licenses"):
        assert labels.get(f"org.opencontainers.image.{key}"), key
    assert re.fullmatch("[0-9a-f]{40}", labels["mirror.model.revision"])
    assert labels["mirror.model.source"] == "standin"


def test_each_shard_is_a_layer_and_weights_come_before_code(image):
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout.splitlines()[::-1]
    shards = [i for i, line in enumerate(history) if re.search("COPY /layers/[1-4]/", line)]
    code = [i for i, line in enumerate(history) if "COPY /tree/" in line]
    assert len(shards) == 4
    assert max(shards) < min(code)


def test_gpus_all_without_an_nvidia_runtime_is_dockers_own_error(image):
    """Nothing of ours can run then; the README's FAQ names the line."""
    done = docker("run", "--rm", "--gpus", "all", image, "true")
    assert done.returncode == 125
    assert "could not select device driver" in done.stderr


def test_an_unknown_command_lists_the_known_ones(run: Callable[..., subprocess.CompletedProcess[str]]):
    done = run("nosuchcommand")
    assert done.returncode == 127
    for verb in VERBS:
        assert verb in done.stderr
    assert "Traceback" not in done.stderr
