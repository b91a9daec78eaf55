"""`make push`, `save`, `load` with a real registry and a second engine: what travels, what comes back, what is refused.

The image is small, but put together by the Dockerfile itself: its final stage on the bare base (with a stub for
python3: nothing is compiled here), and a megabyte in place of each shard. Registry and second engine are those of the
distribution, docker-registry and docker.io, in containers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers import docker

pytestmark = pytest.mark.image
ROOT = Path(__file__).resolve().parents[2]
SMALL, STAGE, PEER = "mirror-distribute", "mirror-distribute-base:test", "mirror-distribute-peer:test"
CONFIG = "version: 0.1\\nstorage: {filesystem: {rootdirectory: /registry}}\\nhttp: {addr: 0.0.0.0:5000}\\n"
SHARDS = [f"model-0000{number}-of-00004.safetensors" for number in range(1, 5)]
Make = Callable[..., subprocess.CompletedProcess[str]]


def good(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The process, if it ended well; its output otherwise."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def image_id(name: str) -> str:
    return good(docker("image", "inspect", "-f", "{{.Id}}", name)).stdout.strip()


@pytest.fixture(scope="module")
def make() -> Make:
    """make(VERB, NAME=VALUE, ...) -- one verb of the Makefile on the small image."""

    def call(verb: str, path: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        settings = [f"{name}={value}" for name, value in ({"IMAGE": SMALL, "TAG": "test"} | variables).items()]
        environment = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
        command = ["make", "-s", "-C", str(ROOT), verb, *settings]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)

    return call


@pytest.fixture(scope="module")
def peer_image(image: str) -> Iterator[str]:
    """The image under test with the distribution's registry and engine in it."""
    install = "apt-get install -y -qq --no-install-recommends docker-registry docker.io"
    recipe = f"FROM {image}\nRUN apt-get update -qq && {install} >/dev/null"
    good(subprocess.run(["docker", "build", "-q", "-t", PEER, "-"], input=recipe, capture_output=True, text=True))
    yield PEER
    docker("rmi", PEER)


@dataclass
class Registry:
    """A running docker-registry: where this machine and where containers reach it, and its container."""

    address: str
    inner: str
    container: str

    def stored(self) -> int:
        """Bytes that it holds."""
        done = good(docker("exec", self.container, "du", "-sb", "/registry"))
        return int(done.stdout.split()[0])


@pytest.fixture(scope="module")
def registry(peer_image: str) -> Iterator[Registry]:
    """A registry on a free port of 127.0.0.1, with nothing in it."""
    serve = f"mkdir /registry && printf '{CONFIG}' >/tmp/registry.yml && exec docker-registry serve /tmp/registry.yml"
    flags = ("-p", "127.0.0.1::5000", "--no-healthcheck", "--entrypoint", "sh")
    container = good(docker("run", "-d", *flags, peer_image, "-c", serve)).stdout.strip()
    address = good(docker("port", container, "5000")).stdout.split()[0]
    inner = good(docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", container)).stdout.strip()
    for _ in range(100):
        try:
            if urllib.request.urlopen(f"http://{address}/v2/", timeout=5).status == 200:
                break
        except OSError:
            time.sleep(0.1)
    else:
        pytest.fail(f"the registry does not answer: {docker('logs', container).stderr[-2000:]}")
    yield Registry(address, f"{inner}:5000", container)
    docker("rm", "-f", "-v", container)


Engine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def engine(peer_image: str, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """engine(COMMAND, ...) -- a command beside a second, empty engine; this repository is /src there."""
    tmp = tmp_path_factory.getbasetemp()
    mounts = ("-v", f"{ROOT}:/src:ro", "-v", f"{tmp}:{tmp}", "-v", "/var/lib/docker")
    flags = ("--privileged", "--no-healthcheck", "--entrypoint", "dockerd", *mounts)
    settings = ("--bridge=none", "--iptables=false", "--insecure-registry", registry.inner)
    container = good(docker("run", "-d", *flags, peer_image, *settings)).stdout.strip()

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        return docker("exec", container, *command)

    for _ in range(300):
        if call("docker", "info").returncode == 0:
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"the second engine does not answer: {docker('logs', container).stderr[-2000:]}")
    yield call
    docker("rm", "-f", "-v", container)


@pytest.fixture(scope="module")
def build(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """build(TEXT) -- the small image with TEXT at the end of a file of the code, and its id."""
    wanted = "nvidia/cuda:12.8.1-base-ubuntu24.04"
    found = subprocess.run([ROOT / "host/base-image.sh", wanted], capture_output=True, text=True, timeout=900)
    base = ("--build-arg", f"BASE_IMAGE={good(found).stdout.strip()}")
    recipe = f"FROM {found.stdout.strip()}\nRUN ln -s /bin/true /usr/local/bin/python3"
    good(subprocess.run(["docker", "build", "-q", "-t", STAGE, "-"], input=recipe, capture_output=True, text=True))
    tree, model = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("model")
    for name in ("Dockerfile", ".dockerignore", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in (
        "image",
        "common",
        "weights",
        "entrypoint",
        "qwen2",
        "healthchecks",
        "finetune",
        "workspace",
        "requirements",
    ):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for number, name in enumerate(SHARDS, 1):
        (folder := model / "layers" / str(number) / "root/Qwen2.5-7B-Instruct").mkdir(parents=True)
        (folder / name).write_bytes(os.urandom(1_000_000))
    (folder := model / "layers/small/root/Qwen2.5-7B-Instruct").mkdir(parents=True)
    for name in ("config.json", "merges.txt", "LICENSE", "SHA256SUMS"):
        (folder / name).write_text(f"{name}, small\n")
    kernels = tmp_path_factory.mktemp("kernels")  # compiled with the packages, which the small image has not
    (compiled := kernels / "opt/mirror/qwen2/compiled").mkdir(parents=True)
    (compiled / "kernel").write_text("a kernel\n")
    (kernels / "opt/mirror/read_ahead.txt").write_text("-\n")
    given = (f"deps=docker-image://{STAGE}", f"model={model}", f"kernels={kernels}")
    contexts = [word for each in given for word in ("--build-context", each)]

    def call(text: str) -> str:
        with (tree / "finetune" / "__init__.py").open("a", encoding="utf-8") as code:
            code.write(text)
        good(docker("build", "-q", *base, *contexts, "-t", f"{SMALL}:test", str(tree)))
        return image_id(f"{SMALL}:test")

    yield call
    docker("rmi", f"{SMALL}:test", STAGE)


@dataclass
class Pushed:
    """Two pushes of one name: ids, what `docker push` said the second time, and the bytes that it sent."""

    name: str
    ids: list[str]
    second: str
    sent: int


@pytest.fixture(scope="module")
def pushed(registry: Registry, build: Callable[[str], str], make: Make) -> Iterator[Pushed]:
    ids = [build("# one\n")]
    good(make("push", REGISTRY=f"{registry.address}/team/mirror"))
    before = registry.stored()
    ids.append(build("# two\n"))
    second = good(make("push", REGISTRY=f"{registry.address}/team/mirror")).stdout
    yield Pushed(f"{registry.inner}/team/mirror:test", ids, second, registry.stored() - before)
    docker("rmi", f"{registry.address}/team/mirror:test")


@pytest.fixture(scope="module")
def saved(pushed: Pushed, make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small image as a file; gzip, which every machine has."""
    file = tmp_path_factory.mktemp("saved") / "mirror.tar.gz"
    good(make("save", FILE=str(file)))
    return file


def test_after_a_change_of_code_only_code_travels(pushed: Pushed) -> None:
    kept, sent = pushed.second.count("Layer already exists"), len(re.findall(r": Pushed", pushed.second))
    print(f"second push: {kept} layers exist, {sent} were sent, {pushed.sent} bytes")
    assert pushed.ids[0] != pushed.ids[1]
    assert kept >= 7  # base, stub, four shards, small files
    assert sent == 1  # the code
    assert pushed.sent < 2_000_000


def test_each_shard_is_a_layer_of_its_own(pushed: Pushed) -> None:
    """So that a pull takes them side by side and resumes one by one."""
    history = good(docker("history", "--format", "{{.Size}}\t{{.CreatedBy}}", "--no-trunc", f"{SMALL}:test")).stdout
    assert [line.split("\t")[0] for line in history.splitlines() if re.search("COPY /layers/[1-4]/", line)] == [
        "1MB"
    ] * 4


def test_a_second_engine_pulls_the_same_id(pushed: Pushed, engine: Engine) -> None:
    pulled = good(engine("docker", "pull", pushed.name)).stdout
    assert pulled.count("Pull complete") == pushed.second.count("Layer already exists") + len(
        re.findall(": Pushed", pushed.second)
    )
    found = good(engine("docker", "image", "inspect", "-f", "{{.Id}}", pushed.name)).stdout.strip()
    assert found == pushed.ids[1]
    good(engine("docker", "rmi", "-f", found))


def load(engine: Engine, file: Path) -> subprocess.CompletedProcess[str]:
    """What `make load` runs, beside the second engine."""
    return engine("/src/host/image-file.sh", "load", str(file))


def test_save_and_load_give_the_same_id(saved: Path, pushed: Pushed, engine: Engine, make: Make) -> None:
    checked = subprocess.run(
        ["sha256sum", "-c", f"{saved.name}.sha256"], cwd=saved.parent, capture_output=True, text=True
    )
    assert good(checked).stdout == f"{saved.name}: OK\n"
    good(load(engine, saved))
    found = good(engine("docker", "image", "inspect", "-f", "{{.Id}}", f"{SMALL}:test")).stdout.strip()
    assert found == pushed.ids[1]
    assert "here already" in good(make("load", FILE=str(saved))).stderr
    good(engine("docker", "rmi", f"{SMALL}:test"))


def one_error(done: subprocess.CompletedProcess[str], *says: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    for words in says:
        assert words in errors[0]


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """The file and its sum, as they come to a machine that has no such image yet."""
    for name in (saved.name, f"{saved.name}.sha256"):
        shutil.copy(saved.parent / name, tmp_path)
    return tmp_path / saved.name


def test_a_flipped_byte_is_seen(copied: Path, engine: Engine) -> None:
    with copied.open("r+b") as file:
        file.seek(copied.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    one_error(load(engine, copied), "damaged", "copy it again")
    assert not good(engine("docker", "images", "-aq")).stdout


def test_a_cut_file_is_seen(copied: Path, engine: Engine) -> None:
    os.truncate(copied, copied.stat().st_size - 1000)
    one_error(load(engine, copied), "cut", "copy it again")


def test_a_file_without_its_sum_is_refused(copied: Path, engine: Engine) -> None:
    Path(f"{copied}.sha256").unlink()
    one_error(load(engine, copied), "cannot be proved", "copy it too")


@pytest.fixture
def full_disk(tmp_path: Path) -> str:
    """A folder for PATH whose `df` is a stub that finds 1000 bytes free everywhere."""
    stub = tmp_path / "bin" / "df"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\nprintf 'Avail\\n1000\\n'\n")
    stub.chmod(0o755)
    return str(stub.parent)


def test_room_is_looked_at_before_anything_is_unpacked(copied: Path, engine: Engine, full_disk: str) -> None:
    done = engine("sh", "-c", f"PATH={full_disk}:$PATH /src/host/image-file.sh load {copied}")
    one_error(done, "no room", "docker system df")


def test_save_says_what_it_cannot_do(saved: Path, make: Make, full_disk: str, tmp_path: Path) -> None:
    one_error(make("save", FILE=str(tmp_path / "mirror.rar")), ".tar.gz")
    one_error(make("save", FILE=str(tmp_path / "none" / "mirror.tar")), "not a folder")
    one_error(make("save", path=full_disk, FILE=str(tmp_path / "mirror.tar")), "no room")
    assert not list(tmp_path.glob("mirror*"))


def test_load_and_push_say_what_they_need(image: str, make: Make, tmp_path: Path) -> None:
    one_error(make("load", FILE=str(tmp_path / "none.tar.zst")), "no such file")
    name, _, tag = image.partition(":")
    one_error(make("push", IMAGE=name, TAG=tag), "REGISTRY=host:port/name")
