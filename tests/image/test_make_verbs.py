"""What the Makefile's verbs ask of Docker, which a stub stands for: host paths, the output folder, questions."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUB = """#!/bin/sh
# a Docker that has every image, and notes what is to run: a word a line
case "$1" in
  version) echo 27.0.0 ;;
  run) shift; printf '%s\\n' "$@" >"$RAN" ;;
esac
"""

Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def make(tmp_path) -> Make:
    """make(VERB, NAME=VALUE, ...) in the repository, with a stub for docker; `.words` of what it ran are in `ran`."""
    binary = tmp_path / "bin"
    binary.mkdir()
    (binary / "docker").write_text(STUB)
    (binary / "docker").chmod(0o755)

    def call(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "DOCKER_HOST")}
        environment |= {
            "PATH": f"{binary}:{os.environ['PATH']}",
            "RAN": str(tmp_path / "ran"),
            "MIRROR_ENGINE_HOME": str(tmp_path / "no-engine"),
        }
        settings = [f"{name}={value}" for name, value in ({"OUTPUT": str(tmp_path / "out")} | variables).items()]
        command = ["make", "-s", "-C", str(ROOT), *words, *settings]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)

    return call


@pytest.fixture
def ran(tmp_path) -> Callable[[], list[str]]:
    """The words after `docker run`; none where nothing ran."""

    def read() -> list[str]:
        path = tmp_path / "ran"
        return path.read_text().splitlines() if path.exists() else []

    return read


def test_one_question_is_one_word(make, ran):
    assert make("infer", Q="who are you, and why?").returncode == 0
    assert ran()[-2:] == ["infer", "who are you, and why?"]
    assert make("infer").returncode == 0
    assert ran()[-1] == "infer"


def test_an_adapter_and_a_dataset_go_with_the_host_s_names(make, ran, tmp_path):
    (tmp_path / "out").mkdir()
    data = tmp_path / "faq.csv"
    data.write_text("q,a\n")
    assert make("verify", ADAPTER="run-1").returncode == 0
    words = ran()
    assert words[-3:] == ["verify", "--adapter", "run-1"]
    assert {"MIRROR_VIA=make", f"MIRROR_HOST_OUTPUT={tmp_path}/out", f"MIRROR_HOST_DIR={ROOT}"} <= set(words)
    assert make("check-data", DATASET=str(data)).returncode == 0
    words = ran()
    assert words[-2:] == ["check-data", "/data/faq.csv"] and f"MIRROR_HOST_DATASET={data}" in words


def test_names_may_have_spaces_and_quotes(make, ran, tmp_path):
    folder = tmp_path / "我的 runs"
    folder.mkdir()
    data = folder / "it's my 数据.csv"
    data.write_text("q,a\n")
    assert make("check-data", DATASET=str(data), OUTPUT=str(folder)).returncode == 0
    words = ran()
    assert words[-2:] == ["check-data", f"/data/{data.name}"] and f"{data}:/data/{data.name}:ro" in words
    assert make("verify", OUTPUT=str(folder)).returncode == 0
    assert f"{folder}:/root/output" in ran()


def test_in_a_shell_paths_are_the_container_s(make, ran):
    assert make("shell").returncode == 0
    assert not [word for word in ran() if word.startswith(("MIRROR_VIA", "MIRROR_HOST"))]


@pytest.mark.parametrize("verb", ["verify", "merge", "export", "serve", "runs", "tensorboard"])
def test_a_typing_error_in_output_makes_no_folder(verb, make, ran, tmp_path):
    done = make(verb, OUTPUT=str(tmp_path / "outptu"))
    assert done.returncode == 2 and f"OUTPUT={tmp_path}/outptu: no such folder" in done.stderr
    assert not (tmp_path / "outptu").exists() and not ran()


@pytest.mark.parametrize("verb", ["infer", "plan", "health"])
def test_what_needs_no_run_goes_without_output(verb, make, ran, tmp_path):
    assert make(verb).returncode == 0
    assert not (tmp_path / "out").exists()
    assert not [word for word in ran() if word.endswith(":/root/output")]


@pytest.mark.parametrize("verb", ["finetune", "mixed"])
def test_a_run_makes_output(verb, make, ran, tmp_path):
    assert make(verb).returncode == 0
    assert (tmp_path / "out").is_dir() and f"{tmp_path}/out:/root/output" in ran()


def test_check_data_needs_data(make, ran):
    done = make("check-data")
    assert done.returncode == 2 and "DATASET=FILE" in done.stderr and not ran()


def test_the_list_of_verbs_begins_with_those_of_users(make):
    listed = make("help").stdout
    users, operators, developers = re.split(r"\n\n(?:to run and pass on|to work on the project):\n", listed)
    names = [re.findall(r"^  ([a-z][a-z-]*) ", part, re.MULTILINE) for part in (users, operators, developers)]
    assert {"check-data", "plan", "finetune", "infer", "runs", "serve"} <= set(names[0]) and len(names[0]) <= 7
    assert {"verify", "merge", "shell", "tensorboard", "uninstall"} <= set(names[1])
    assert {"lint", "test", "lock", "clean"} <= set(names[2])
    assert max(map(len, listed.splitlines())) <= 100


def test_every_verb_has_a_line_in_the_list(make):
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    own = {"image", "test-build", "build-test-stage", "test-unit", "test-image"}  # parts of others
    verbs = set(re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)) - own
    assert verbs == set(re.findall(r"^  ([a-z][a-z-]*) ", make("help").stdout, re.MULTILINE))


def test_a_run_that_goes_on_has_its_data_mounted_and_names_none(make, ran, tmp_path):
    data = tmp_path / "faq.csv"
    data.write_text("q,a\n")
    assert make("finetune", DATASET=str(data), ARGS="--resume").returncode == 0
    assert ran()[-2:] == ["finetune", "--resume"] and f"{data}:/data/faq.csv:ro" in ran()


@pytest.mark.parametrize("verb", ["chat", "serve", "tensorboard"])
def test_the_port_is_the_one_given_and_is_free(verb, make, ran, tmp_path):
    (tmp_path / "out").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        done = make(verb, PORT=str(port))
        assert done.returncode == 2 and f"PORT={port + 1}" in done.stderr and not ran()
    for wrong in ("http", "0", "08001", "65536"):
        done = make(verb, PORT=wrong)
        assert done.returncode == 2 and f"PORT={wrong}: must be a number from 1 to 65535" in done.stderr and not ran()
    assert make(verb, PORT=str(port)).returncode == 0
    assert [word for word in ran() if word.startswith(f"127.0.0.1:{port}:")]
