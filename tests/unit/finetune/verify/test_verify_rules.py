"""Rules on hand-made answers, and the doors of the sandbox."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finetune.verify import rules


@pytest.mark.parametrize(
    ("answer", "wanted", "ok"),
    [
        ("3加5等于8。", 8, True),
        ("8", 8, True),
        ("答案是 **8**。", 8, True),
        ("3 + 5 = 8,这是一个简单的加法,共 2 个数。", 8, True),
        ("等于八。", 8, True),
        ("一共是一百零五。", 105, True),
        ("两万三千个。", 23000, True),
        ("二〇二四年", 2024, True),
        ("结果是１４４", 144, True),
        ("等于 1,234。", 1234, True),
        ("−5", -5, True),
        ("等于-5", -5, True),
        ("10-5=5", 5, True),
        ("约为3.14", 3.14, True),
        ("3加5等于9。", 8, False),
        ("8是一个数,3加5等于9。", 8, False),
        ("我由 CSDN 迪菲赫尔曼 开发。", 8, False),
        ("", 8, False),
        ("18", 8, False),
        ("8.5", 8, False),
    ],
)
def test_number(answer: str, wanted: float, ok: bool) -> None:
    assert rules.check({"number": wanted}, answer).ok is ok


def test_number_with_a_tolerance() -> None:
    assert rules.check({"number": 3.14159, "tolerance": 0.01}, "约等于3.14").ok
    assert not rules.check({"number": 3.14159, "tolerance": 0.001}, "约等于3.14").ok


def test_regex_looks_at_the_normalised_answer() -> None:
    assert rules.check({"regex": "H2O|H₂O"}, "水的化学式是Ｈ₂O。").ok
    assert rules.check({"regex": ["北京", "首都"]}, "首都是北 京").ok
    found = rules.check({"regex": ["北京", "上海"]}, "首都是北京")
    assert not found.ok
    assert found.reason == "not found: 上海"


SORT = {"python": {"function": "f", "cases": [{"args": [[3, 1]], "returns": [1, 3]}, {"args": [[]], "returns": []}]}}


@pytest.mark.parametrize(
    "answer",
    [
        "def f(a):\n    return sorted(a)",
        "可以这样写:\n```python\ndef f(a):\n    return sorted(a)\n```\n希望有帮助。",
        "```\ndef f(a):\n    a.sort()\n```",
        "```python\ndef f(a):\n    return sorted(a)\n```\n用法:\n```python\nprint(f([2, 1]))\nf(input())\n```",
        "def bubble(a):\n    return tuple(sorted(a))",
        "def f(a):\n    return sorted(a)\n\n这个函数返回排好序的列表。",
        "  def f(a):\n      return sorted(a)",
        "import random, math\nfrom typing import List\ndef f(a: List[int]) -> List[int]:\n    return sorted(a)",
        "```python\ndef f(a):\n    return sorted(a)",
        "print('hello')\ndef f(a):\n    print(a)\n    return sorted(a)",
        "def f(a):\n    yield from sorted(a)",
        "from collections import namedtuple\nP = namedtuple('P', 'v')\ndef f(a):\n"
        "    return [p.v for p in sorted(map(P, a))]",
        "from dataclasses import dataclass\n@dataclass(order=True)\nclass B:\n    v: int\ndef f(a):\n"
        "    return [b.v for b in sorted(map(B, a))]",
        "from datetime import datetime\ndatetime.strptime('2024', '%Y')\ndef f(a):\n    return sorted(a)",
    ],
)
def test_code_that_does_it(answer: str) -> None:
    assert rules.check(SORT, answer).ok, rules.check(SORT, answer)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "no code"),
        ("我由 CSDN 迪菲赫尔曼 开发。", "no code"),
        ("def f(a):\n    return a", "gave [3, 1], wanted [1, 3]"),
        ("def f(:", "SyntaxError"),
        ("import math\nx = 1", "NameError"),
        ("def f():\n    return 1", "TypeError"),
        ("def f(a):\n    return f(a)", "RecursionError"),
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("import os\nos._exit(0)", "without returning a value"),
        ("def f(a):\n    return 'x' * 10**10", "out of memory"),
        ("import ctypes\nctypes.string_at(0)", ""),
    ],
)
def test_code_that_does_not(answer: str, reason: str) -> None:
    found = rules.check(SORT, answer)
    assert not found.ok
    assert reason in found.reason


# What each of these tries must come to nothing; the function then returns what it has got.
ATTEMPTS = {
    "read": "open('/etc/passwd').read()",
    "write": "open('/tmp/{mark}', 'w').write('x')",
    "posix write": "__import__('os').open('/tmp/{mark}', 65, 0o600)",
    "io": "__import__('_io').FileIO('/etc/passwd').read()",
    "socket": "__import__('_socket').socket()",
    "import socket": "__import__('socket')",
    "subprocess": "__import__('subprocess').run(['touch', '/tmp/{mark}'])",
    "system": "__import__('os').system('touch /tmp/{mark}')",
    "fork": "__import__('os').fork()",
    "exec": "__import__('os').execv('/bin/true', ['true'])",
    "spawn": "__import__('os').posix_spawn('/bin/true', ['true'], {{}})",
    "list": "__import__('os').listdir('/')",
    "remove": "__import__('os').remove('/tmp/{mark}')",
    "kill": "__import__('os').kill(1, 0)",
    "raise limits": "__import__('resource').setrlimit(7, (100, 100))",
    "thread": "__import__('_thread').start_new_thread(print, ())",
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_sandbox_keeps_its_doors_shut(attempt: str, tmp_path: Path) -> None:
    mark = f"verify-sandbox-{tmp_path.name}"
    expression = ATTEMPTS[attempt].format(mark=mark)
    code = f"def f(a):\n  try:\n    {expression}\n    return 'done'\n  except BaseException:\n    return 'refused'\n"
    reply = rules.run_sandboxed({"code": code, "function": "f", "args": [[1]]})
    assert reply == {"values": [["refused"]]} or "error" in reply, reply
    assert not Path("/tmp", mark).exists()


def test_an_endless_loop_is_ended() -> None:
    started = time.monotonic()
    reply = rules.run_sandboxed({"code": "while True: pass", "function": "f", "args": []}, seconds=1.0)
    assert reply == {"error": "the code took longer than 1 s"}
    assert time.monotonic() - started < 5


def test_code_that_sleeps_is_ended_too() -> None:
    reply = rules.run_sandboxed({"code": "import time\ntime.sleep(60)", "function": "f", "args": []}, seconds=1.0)
    assert reply == {"error": "the code took longer than 1 s"}


def test_printing_a_result_does_not_claim_it() -> None:
    answer = "import os\ndef f(a):\n    print('{\"values\": [[[1, 3]], [[]]]}')\n    return None"
    assert not rules.check(SORT, answer).ok


def test_the_sandbox_needs_no_site_packages() -> None:
    """It starts isolated: what is installed beside it cannot change what it does."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(rules.SANDBOX)], input=b'{"code": "", "function": "f", "args": []}',
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert b"no code" in done.stdout


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("8", "must be a mapping"),
        ({}, "exactly one"),
        ({"number": 1, "regex": "a"}, "exactly one"),
        ({"number": "8"}, "must be numbers"),
        ({"number": True}, "must be numbers"),
        ({"number": 8, "tolerence": 1}, "unknown key 'tolerence'"),
        ({"regex": "("}, "not a regular expression"),
        ({"regex": []}, "a pattern or a list"),
        ({"python": {"cases": []}}, "a list of cases"),
        ({"python": {"cases": [{"args": 1, "returns": 1}]}}, "each case"),
        ({"python": {"cases": [{"args": [1]}]}}, "each case"),
        ({"python": {"cases": [{"args": [], "returns": 1}], "fun": "f"}}, "unknown key 'fun'"),
        ({"python": {"cases": [{"args": [], "returns": 1}], "function": 3}}, "must be a name"),
    ],
)
def test_rules_that_cannot_be_applied(rule: Any, words: str) -> None:
    assert words in str(rules.problem(rule))


@pytest.mark.parametrize("rule", [{"number": 8}, {"number": 0.5, "tolerance": 0.1}, {"regex": "a"}, SORT])
def test_rules_that_can(rule: Any) -> None:
    assert rules.problem(rule) is None
