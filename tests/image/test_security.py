"""docs/security.md: the image with as few rights as can be, who listens, what its layers hold, what is never loaded."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.containers import RESTRICTED, docker, entries

pytestmark = pytest.mark.image
ROOT = Path(__file__).resolve().parents[2]
USER = ("--user", "1000")
OFF = ("-e", "HEALTH_LEVEL=off")
SECRETS = re.compile(
    rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\n|\bhf_[A-Za-z]{34}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b|\bAKIA[A-Z0-9]{16}\b"
)
# Names of caches, of credentials and of what only a build needs, relative to the image's root.
UNWANTED = re.compile(
    r"(^|/)(\.git|\.cache/(pip|uv|huggingface|modelscope)|\.netrc|\.npmrc|\.pypirc|\.docker/config\.json|id_(rsa|ed25519)"
    r"|token|stored_tokens|wheels|\.venv)(/|$)|^(src|locks|local|cache|opt/uv)(/|$)|^var/lib/apt/lists/.*_Packages"
)


# ---- few rights ----


def test_the_checks_pass_with_no_rights_at_all(run, tmp_path):
    """Whole runs, verify, merge and serve have the same rights in tests/flow."""
    tmp_path.chmod(0o777)
    flags = [*RESTRICTED, *USER, "--network", "none", "-v", f"{tmp_path}:/root/output"]
    done = run("healthcheck", "startup", flags=flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("ready: 8 checks")


def test_a_process_there_has_no_capability(run):
    done = run("grep", "-E", "CapEff|CapPrm|NoNewPrivs", "/proc/self/status", flags=[*RESTRICTED, *USER, *OFF])
    assert re.findall(r"\t(\w+)", done.stdout) == ["0" * 16, "0" * 16, "1"]


def test_nothing_is_written_outside_of_the_mounts(run):
    touch = "for d in / /root /opt/mirror /usr/local/bin /var/lib; do touch $d/x; done"
    done = run("bash", "-c", touch, flags=[*RESTRICTED, *OFF])
    assert len(re.findall(r"touch: cannot touch .*: Read-only file system", done.stderr)) == 5


LOADS = """
import ctypes, os, pathlib, subprocess
folder = pathlib.Path(os.environ.get("TRITON_CACHE_DIR") or pathlib.Path.home() / ".triton")
folder.mkdir(parents=True, exist_ok=True)
(folder / "a.c").write_text("int answer(void) { return 42; }")
subprocess.run(["gcc", "-shared", "-o", folder / "a.so", folder / "a.c"], check=True)
print(folder, ctypes.CDLL(folder / "a.so").answer())
"""


@pytest.mark.parametrize(
    ("tmp", "mounted", "expected"),
    [
        ("/tmp", True, "/root/output/.cache/triton"),  # Docker's own --tmpfs /tmp is noexec
        ("/tmp:exec", True, "/root/output/.cache/triton"),  # outlives the container
        ("/tmp:exec", False, "/tmp/home-1000/.triton"),
    ],
)
def test_compiled_kernels_can_be_loaded(run, tmp_path, tmp, mounted, expected):
    """What Triton does on a GPU with a kernel that the image has not, by hand."""
    tmp_path.chmod(0o777)
    output = ["-v", f"{tmp_path}:/root/output"] if mounted else []
    flags = [*RESTRICTED[:-1], tmp, *USER, "-e", "HEALTH_LEVEL=off", *output]
    done = run("python", "-c", LOADS, flags=flags)
    assert done.returncode == 0, done.stderr
    folder, answer = done.stdout.split()
    assert answer == "42"
    assert folder == expected


def test_nothing_listens(container):
    box = container(flags=["-e", "HEALTH_LEVEL=full"])
    box.wait_until(lambda: box.exec("healthcheck", "probe").returncode == 0, 60, "ready")
    sockets = box.exec("cat", "/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6").stdout
    assert sockets.count("local_address") == 4
    assert [line for line in sockets.splitlines() if "local_address" not in line] == []


def test_compose_gives_jobs_no_rights():
    """As root of the container, as compose starts it; the volume of the outputs is the only place to write."""
    services = json.loads(
        subprocess.run(
            [
                "docker",
                "compose",
                "--profile",
                "*",
                "-f",
                str(ROOT / "docker-compose.yml"),
                "config",
                "--format",
                "json",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )["services"]
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if name not in ("mirror", "shell"):  # people work in these, and install things
            assert service["cap_drop"] == ["ALL"] and service["read_only"] is True, name


# ---- what the layers hold ----


@pytest.fixture(scope="module")
def found(archive) -> tuple[int, list[str]]:
    """How many entries the layers have, and every one that has no business there, with the reason."""
    # this checkout and the home of whoever builds; /root and /src are names of the image's own
    places = {str(ROOT), os.path.expanduser("~")} - {"/root", "/src", "/"}
    paths = re.compile(b"|".join(re.escape(place.encode()) + rb"/" for place in sorted(places)))
    seen, faults = 0, []
    for layer, entry in entries(archive):
        seen += 1
        if UNWANTED.search(entry.name.removeprefix("./")):
            faults.append(f"{entry.name}: by its name")
        if not entry.isfile() or entry.size > 1_000_000:
            continue
        content = layer.extractfile(entry).read()
        if paths.search(content):
            faults.append(f"{entry.name}: names a folder of the machine that built it")
        if SECRETS.search(content):
            faults.append(f"{entry.name}: a key or a token")
    return seen, faults


def test_no_secret_no_cache_and_no_build_path_in_any_layer(found):
    seen, faults = found
    assert seen > 20_000
    assert faults == []


def test_no_secret_in_the_history_or_the_settings(image):
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    settings = docker("inspect", "-f", "{{json .Config}}", image).stdout
    assert "COPY" in history and "Env" in settings
    for text in (history, settings):
        assert not SECRETS.search(text.encode())
        assert not re.search(r"(?i)(token|password|secret|api_key)=\w|://[^/\s]+:[^/\s]+@", text)
        assert str(ROOT) + "/" not in text


# ---- what is never loaded ----

PICKLE = """
import json, os, pathlib, pickle
class Evil:
    def __reduce__(self):
        return os.system, ("touch /root/output/ran",)
folder = pathlib.Path("/root/output/planted/checkpoint-1")
folder.mkdir(parents=True)
(folder / "adapter_model.bin").write_bytes(pickle.dumps({"weight": Evil()}))
(folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}))
"""


@pytest.fixture(scope="module")
def planted(image, tmp_path_factory) -> Path:
    """An output folder with an adapter whose weights are a pickle that runs a command when it is loaded."""
    folder = tmp_path_factory.mktemp("output")
    folder.chmod(0o777)
    flags = ("-v", f"{folder}:/root/output", "-e", "HEALTH_LEVEL=off", "-e", "MIRROR_DEVICE=cpu", *USER)
    done = docker("run", "--rm", *flags, image, "python", "-c", PICKLE)
    assert done.returncode == 0, done.stderr
    return folder


ADAPTER = "/root/output/planted/checkpoint-1"


@pytest.mark.parametrize(
    "command",
    [
        ["infer", "--adapter", ADAPTER, "你是谁?"],
        ["verify", "--adapter", ADAPTER],
        ["merge", ADAPTER, "--output", "/root/output/merged"],
        ["serve", "--adapter", ADAPTER],
        ["swift", "infer", "--model", "Qwen2.5-7B-Instruct", "--adapters", ADAPTER],
    ],
    ids=lambda command: command[0],
)
def test_a_pickled_adapter_is_refused_in_one_line(run, planted, command):
    done = run(*command, flags=[*USER, "-e", "HEALTH_LEVEL=off", "-v", f"{planted}:/root/output"])
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "safetensors" in errors[0], done.stderr
    assert "Traceback" not in done.stderr
    assert not (planted / "ran").exists()


# ---- licences of the two works themselves ----


def test_the_licences_of_project_and_model_are_in_the_image(run):
    done = run(
        "sha256sum", "/opt/mirror/LICENSE", "/root/Qwen2.5-7B-Instruct/LICENSE", flags=["-e", "HEALTH_LEVEL=off"]
    )
    assert done.returncode == 0, done.stderr
    texts = run(
        "grep", "-c", "Apache License", "/opt/mirror/LICENSE", "/root/Qwen2.5-7B-Instruct/LICENSE", flags=OFF
    ).stdout
    assert len(texts.split()) == 2 and ":0" not in texts


# ---- what is in it ----


@pytest.fixture(scope="module")
def sbom(image, archive, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder that `make sbom` fills, and how it ended."""
    folder = tmp_path_factory.mktemp("sbom")
    name, _, tag = image.partition(":")
    words = [f"IMAGE={name}", f"TAG={tag}", f"SCAN=docker-archive:{archive}", f"SBOM_DIR={folder}"]
    done = subprocess.run(["make", "-s", "-C", str(ROOT), "sbom", *words], capture_output=True, text=True, timeout=600)
    return folder, done


def test_every_licence_in_the_image_is_known_and_allowed(sbom):
    folder, done = sbom
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((folder / "image.spdx.json").read_text())
    assert found["spdxVersion"].startswith("SPDX-2.")
    names = {package["name"] for package in found["packages"]}
    assert {"torch", "ms-swift", "transformers", "tini"} <= names
    listed = (folder / "third-party-licences.md").read_text()
    assert "| ms-swift | 4.6.0 | pypi | Apache-2.0 |" in listed


def test_an_unknown_or_forbidden_licence_fails(sbom, tmp_path):
    folder, _ = sbom
    value = json.loads((folder / "image.spdx.json").read_text())
    for package in value["packages"]:
        package["licenseDeclared"] = {"torch": "AGPL-3.0-only", "peft": "NOASSERTION", "tini": "NONE"}.get(
            package["name"], package["licenseDeclared"]
        )
    (tmp_path / "planted.json").write_text(json.dumps(value))
    command = [
        ROOT / ".cache/sbom/bin/python",
        ROOT / "host/licences.py",
        tmp_path / "planted.json",
        tmp_path / "list.md",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 3, done.stderr
    for words in ("torch", "AGPL-3.0-only is not allowed", "peft", "tini", "licence unknown"):
        assert words in done.stderr
