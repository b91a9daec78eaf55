"""Paths and verbs as the person knows them: behind make, behind compose, inside the container."""

from __future__ import annotations

import pytest

from common import host
from common.errors import UserError, run_main

MAKE = {
    "MIRROR_VIA": "make",
    "OUTPUT_DIR": "/root/output",
    "MIRROR_HOST_OUTPUT": "/home/me/out",
    "MIRROR_HOST_DIR": "/home/me/mirror",
    "MIRROR_HOST_DATASET": "../faq.csv",
}
COMPOSE = {"MIRROR_VIA": "compose", "MIRROR_HOST_OUTPUT": "./output"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/root/output/run-1/checkpoint-80", "/home/me/out/run-1/checkpoint-80"),
        ("adapter /root/output/run-1; report in /root/output.", "adapter /home/me/out/run-1; report in /home/me/out."),
        ("/data/faq.csv: row 3", "../faq.csv: row 3"),
        ("/root/output.old/x", "/root/output.old/x"),
        ("/root/output2/x /root/output-old /mnt/root/output/x", "/root/output2/x /root/output-old /mnt/root/output/x"),
        ("/root/Qwen2.5-7B-Instruct", "/root/Qwen2.5-7B-Instruct"),
    ],
)
def test_paths_below_the_output_are_those_of_the_host(text, told):
    assert host.shown(text, MAKE) == told
    assert host.shown(text, {}) == text


def test_a_relative_output_stays_relative():
    assert host.shown("/root/output/run-1", COMPOSE) == "./output/run-1"


def test_a_name_with_a_backslash_is_no_pattern():
    assert host.shown("/root/output/a", {"MIRROR_HOST_OUTPUT": r"/mnt/\1/x"}) == r"/mnt/\1/x/a"


@pytest.mark.parametrize(
    "name", ["run-1/checkpoint-8", "/home/me/out/run-1/checkpoint-8", "../out/run-1/checkpoint-8", "{inner}"]
)
def test_every_name_of_a_run_leads_into_the_container(tmp_path, name):
    made = tmp_path / "run-1" / "checkpoint-8"
    made.mkdir(parents=True)
    env = MAKE | {"OUTPUT_DIR": str(tmp_path)}
    assert host.inside(name.format(inner=made), env) == made


@pytest.mark.parametrize("name", ["/home/me/out/run-9", "/elsewhere/run-1", "../../run-1", "run-9"])
def test_what_is_not_there_keeps_its_name(tmp_path, name):
    (tmp_path / "run-1").mkdir()
    assert str(host.inside(name, MAKE | {"OUTPUT_DIR": str(tmp_path)})) == name


@pytest.mark.parametrize(
    ("verb", "named", "make", "compose", "inside"),
    [
        ("sft", {}, "make finetune OUTPUT=/home/me/out", "docker compose run --rm finetune", "sft.sh"),
        ("sft_mixed", {}, "make mixed OUTPUT=/home/me/out", "docker compose run --rm mixed", "sft_mixed.sh"),
        ("runs", {}, "make runs OUTPUT=/home/me/out", "docker compose run --rm runs", "runs"),
        (
            "verify",
            {"adapter": "/root/output/run-1"},
            "make verify OUTPUT=/home/me/out ADAPTER=/home/me/out/run-1",
            "docker compose run --rm verify ./output/run-1",
            "verify.sh /root/output/run-1",
        ),
        (
            "infer",
            {"adapter": "/root/output/run-1"},
            "make infer OUTPUT=/home/me/out ADAPTER=/home/me/out/run-1",
            "docker compose run --rm infer --adapter ./output/run-1",
            "infer.sh --adapter /root/output/run-1",
        ),
        (
            "check-data",
            {"dataset": "/data/faq.csv"},
            "make check-data DATASET=../faq.csv",
            "docker compose run --rm check-data /data/faq.csv",
            "check-data /data/faq.csv",
        ),
    ],
)
def test_a_verb_is_called_as_where_one_is(verb, named, make, compose, inside):
    assert host.call(verb, environ=MAKE, **named) == make
    assert host.call(verb, environ=COMPOSE, **named) == compose
    assert host.call(verb, environ={}, **named) == inside


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ("/home/me/mirror/output", ""),
        ("/home/me/mirror/output/", ""),
        ("/home/me/mirror/我的 结果", " OUTPUT='我的 结果'"),
        ("/mnt/runs", " OUTPUT=/mnt/runs"),
    ],
)
def test_a_line_of_make_names_the_folder_of_the_runs_where_it_is_another(output, named):
    env = MAKE | {"MIRROR_HOST_OUTPUT": output}
    assert host.call("merge", environ=env) == f"make merge{named}"
    assert host.call("plan", environ=env) == "make plan"
    assert host.resume_call(env) == f"make finetune{named} DATASET=../faq.csv ARGS=--resume"
    assert host.resume_call({}) == "--resume"


def test_words_of_make_are_quoted():
    assert host.call("sft", "--resume", "/root/output/r", environ=MAKE) == (
        "make finetune OUTPUT=/home/me/out ARGS='--resume /home/me/out/r'"
    )


def test_an_error_names_the_host_s_path(monkeypatch, capsys):
    for name, value in MAKE.items():
        monkeypatch.setenv(name, value)

    def fail():
        raise UserError("/root/output/run-1: is broken")

    assert run_main(fail) == 2
    assert capsys.readouterr().err == "error: /home/me/out/run-1: is broken\n"
