"""How many processes, where they meet, the job that they are sent, and what they are told of a stop."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from common.errors import UserError
from finetune.engines.fast import crew, together, workers
from finetune.engines.fast.workers import Workers
from qwen2.training.settings import TrainSettings

NODES = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1234"}


def test_the_variables_of_torchrun() -> None:
    assert workers.from_env(("3", "5"), 2, {}) == Workers(2, devices=("3", "5"))
    made = workers.from_env(("0", "1", "2"), 2, NODES)
    assert made == Workers(2, 2, 1, "a", 1234, ("0", "1")) and (made.size, made.rank) == (4, 2)
    assert workers.given({}) is None and workers.given({"NPROC_PER_NODE": "auto"}) is None
    assert workers.given({"NPROC_PER_NODE": "4"}) == 4


@pytest.mark.parametrize(
    ("environ", "local", "message"),
    [
        ({}, 3, "NPROC_PER_NODE=3: 2 GPUs are visible here"),
        ({"NNODES": "2"}, 1, "NNODES=2: MASTER_ADDR is not set"),
        (NODES | {"NODE_RANK": "2"}, 1, "NODE_RANK=2: nodes are numbered from 0 to 1"),
        (NODES | {"MASTER_PORT": "99999"}, 1, "MASTER_PORT=99999: no such port"),
        ({"NNODES": "two"}, 1, "NNODES=two: must be a whole number"),
        ({"NNODES": "0"}, 1, "NNODES=0: must be a whole number"),
    ],
)
def test_variables_that_do_not_fit_are_refused(environ: dict[str, str], local: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        workers.from_env(("0", "1"), local, environ)


def test_a_wait_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_MEET_S", "soon")
    with pytest.raises(UserError, match="MIRROR_MEET_S=soon: not a number of seconds"):
        crew.meet_seconds()


def test_a_port_that_is_taken_is_named() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"MASTER_PORT={port}: cannot be opened"):
            crew._listen(Workers(1, host="127.0.0.1", port=port))


def test_a_job_comes_out_as_it_went_in() -> None:
    settings = TrainSettings(learning_rate=3e-4, target_modules=("q_proj", "v_proj"), micro_batch_tokens=2048)
    rows = [([1, 2, 151935], [-100, 2, 151935]), ([7], [-100])]
    assert crew.unpack(crew.pack(settings, rows)) == (settings, rows)


def test_a_stop_is_told_to_the_others_in_the_user_s_language(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    team = SimpleNamespace(settle=lambda: None, lose=told.append)
    lane = SimpleNamespace(crew=SimpleNamespace(met=lambda: team))
    for language in ("en", "zh"):
        monkeypatch.setenv("MIRROR_LANG", language)
        together.tell(lane, SystemExit(143))  # type: ignore[arg-type]
    together.tell(lane, OSError("a\ncause"))  # type: ignore[arg-type]
    assert told == ["it was stopped", "它被停止了", "a cause"]
