"""--reword and --mix: what is out of range or not possible is refused before anything is read."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from common.errors import UserError
from finetune.sft import prepare


def check(**given: Any) -> None:
    prepare._check_additions("sft", argparse.Namespace(**{"reword": 0, "mix": 0, "resume": None} | given))


@pytest.mark.parametrize(
    ("given", "nodes", "says"),
    [
        ({"reword": 9}, "", "--reword 9: must be from 0 to 8"),
        ({"reword": -1}, "", "--reword -1: must be from 0 to 8"),
        ({"mix": 1001}, "", "--mix 1001: must be from 0 to 1000"),
        ({"mix": 40}, "2", "--mix: not on several nodes"),
        ({"reword": 2}, "2", "--reword: not on several nodes"),
        ({"reword": 2, "resume": ""}, "", "sft --resume: --reword is not possible, a run continues with its own rows"),
        ({"mix": 40, "resume": "run"}, "", "sft --resume: --mix is not possible"),
    ],
)
def test_additions_that_are_refused(monkeypatch, given, nodes, says):
    monkeypatch.setenv("NNODES", nodes)
    with pytest.raises(UserError, match=says):
        check(**given)


def test_additions_that_are_possible(monkeypatch):
    monkeypatch.setenv("NNODES", "1")
    check(reword=8, mix=1000)
    monkeypatch.setenv("NNODES", "2")
    check(resume="run")
