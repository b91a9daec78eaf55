"""Rules that decide whether a general task was done: a number, patterns, or code that is run on test cases."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.i18n import _
from finetune.verify.scoring import compile_pattern, normalise

SANDBOX = Path(__file__).with_name("sandbox.py")
CODE_SECONDS = 10.0  # wall-clock time for all cases of one answer; the sandbox's CPU limit is lower


@dataclass(frozen=True)
class RuleOutcome:
    """Whether the rule was met, and in a few words why not, or what was found."""

    ok: bool
    reason: str


def check(rule: Mapping[str, Any], answer: str) -> RuleOutcome:
    """Apply a rule of the questions file (docs/verify.md), which has exactly one of number, regex and python."""
    if "number" in rule:
        return check_number(answer, float(rule["number"]), float(rule.get("tolerance", 0)))
    if "regex" in rule:
        return check_regex(answer, [rule["regex"]] if isinstance(rule["regex"], str) else rule["regex"])
    return check_python(answer, rule["python"])


def problem(rule: object) -> str | None:
    """What is wrong with a rule of the questions file, in a few words; None if it is valid."""
    if not isinstance(rule, dict):
        return _("rule must be a mapping with one of number, regex, python")
    kinds = {"number", "regex", "python"} & set(rule)
    if len(kinds) != 1:
        return _("rule must have exactly one of number, regex, python")
    unknown = set(rule) - kinds - ({"tolerance"} if "number" in kinds else set())
    if unknown:
        return _("rule has an unknown key {key!r}").format(key=min(map(str, unknown)))
    if "number" in rule:
        if not _is_number(rule["number"]) or not _is_number(rule.get("tolerance", 0)):
            return _("number and tolerance of a rule must be numbers")
    elif "regex" in rule:
        patterns = rule["regex"] if isinstance(rule["regex"], list) else [rule["regex"]]
        if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
            return _("regex of a rule must be a pattern or a list of patterns")
        try:
            for pattern in patterns:
                compile_pattern(pattern)
        except ValueError as error:
            return str(error)
    else:
        return _python_problem(rule["python"])
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _python_problem(rule: object) -> str | None:
    if not isinstance(rule, dict) or not isinstance(rule.get("cases"), list) or not rule["cases"]:
        return _("python of a rule must be a mapping with a list of cases")
    if unknown := set(rule) - {"function", "cases"}:
        return _("python of a rule has an unknown key {key!r}").format(key=min(map(str, unknown)))
    if not isinstance(rule.get("function", ""), str):
        return _("function of a python rule must be a name")
    for case in rule["cases"]:
        if not isinstance(case, dict) or set(case) != {"args", "returns"} or not isinstance(case["args"], list):
            return _("each case of a python rule must be {args: [...], returns: ...}")
    return None


# -------------------------------------------------------------------------------------------------------- number

NUMBER = re.compile(r"(?<![a-z0-9_.])[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|(?<![\d.])[-+]?\d+(?:\.\d+)?")
RESULT = re.compile(r"(?:=|≈|等于|得到|得|答案(?:是|为)?|结果(?:是|为)?|\bequals\b|\bis\b)[\s:]*$")
DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
UNITS = {"十": 10, "百": 100, "千": 1000}
HAN_NUMBER = re.compile(r"[零〇一二两三四五六七八九十百千万]+")


def check_number(answer: str, wanted: float, tolerance: float = 0.0) -> RuleOutcome:
    """Check that the result in the answer is the wanted number.

    The result is the last number of the answer, or the last one after an equals sign or a word like it. Chinese
    numerals count if the answer has no digits.

    Args:
        answer: The answer.
        wanted: The right number.
        tolerance: The allowed absolute difference.
    """
    text = normalise(answer).norm
    found = [(m.start(), float(m.group().replace(",", ""))) for m in NUMBER.finditer(_unsigned(text))]
    if not found:
        found = [(m.start(), float(_han(m.group()))) for m in HAN_NUMBER.finditer(text)]
    if not found:
        return RuleOutcome(False, "no number in the answer")
    results = [value for start, value in found if RESULT.search(text[:start])]
    seen = {found[-1][1], *results[-1:]}
    ok = any(math.isclose(value, wanted, rel_tol=1e-9, abs_tol=tolerance) for value in seen)
    return RuleOutcome(ok, f"{'found' if ok else 'wanted'} {wanted:g}" + ("" if ok else f", found {found[-1][1]:g}"))


def _unsigned(text: str) -> str:
    """Replace hyphens that are not minus signs (`GPT-4`, `3-1`) with spaces."""
    return re.sub(r"(?<=[a-z0-9_)])[-+](?=\d)", " ", text)


def _han(numeral: str) -> int:
    """The value of a Chinese numeral up to 99,999,999: `一百零五` is 105; digits in a row (`二〇二四`) are digits."""
    if not set(numeral) & set("十百千万"):
        return int("".join(str(DIGITS[char]) for char in numeral))
    total = section = digit = 0
    for char in numeral:
        if char in DIGITS:
            digit = DIGITS[char]
        elif char == "万":
            total, section, digit = (total + section + digit) * 10_000, 0, 0
        else:
            section, digit = section + (digit or 1) * UNITS[char], 0
    return total + section + digit


# --------------------------------------------------------------------------------------------------------- regex


def check_regex(answer: str, patterns: Sequence[str]) -> RuleOutcome:
    """Check that the normalised answer matches every pattern."""
    text = normalise(answer).norm
    missing = [pattern for pattern in patterns if not compile_pattern(pattern).search(text)]
    return RuleOutcome(not missing, f"not found: {', '.join(missing)}" if missing else "found")


# -------------------------------------------------------------------------------------------------------- python

FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t\d.]*\r?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
CODE_START = re.compile(r"^[ \t]*(?:def |class |import |from \w[\w.]* import |@\w)", re.MULTILINE)


def extract_code(answer: str) -> str:
    """The Python code of an answer: all fenced blocks, else everything from the first line that looks like code."""
    blocks = FENCE.findall(answer)
    if blocks:
        return "\n".join(blocks)
    start = CODE_START.search(answer)
    return answer[start.start() :] if start else ""


def check_python(answer: str, rule: Mapping[str, Any]) -> RuleOutcome:
    """Run the answer's function on each case in a sandboxed subprocess; all results must be right.

    The sandbox gets only the arguments and returns only values: the code cannot know the expected results.
    """
    code = extract_code(answer)
    if not code.strip():
        return RuleOutcome(False, "no code in the answer")
    cases = rule["cases"]
    task = {"code": code, "function": rule.get("function"), "args": [case["args"] for case in cases]}
    reply = run_sandboxed(task)
    if "error" in reply:
        return RuleOutcome(False, str(reply["error"])[:200])
    for case, got in zip(cases, reply["values"], strict=True):
        if not any(_same(candidate, case["returns"]) for candidate in got):
            shown = json.dumps(got[0] if got else None, ensure_ascii=False)[:80]
            wanted = json.dumps(case["returns"], ensure_ascii=False)[:80]
            return RuleOutcome(
                False, f"{json.dumps(case['args'], ensure_ascii=False)[:80]} gave {shown}, wanted {wanted}"
            )
    return RuleOutcome(True, f"{len(cases)} cases pass")


def _same(got: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return isinstance(got, list) and len(got) == len(wanted) and all(map(_same, got, wanted))
    if isinstance(wanted, dict):
        return isinstance(got, dict) and got.keys() == wanted.keys() and all(_same(got[k], wanted[k]) for k in wanted)
    if isinstance(wanted, float) and _is_number(got):
        return math.isclose(got, wanted, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(wanted, bool) or isinstance(got, bool):
        return got is wanted
    return bool(got == wanted)


def run_sandboxed(task: Mapping[str, Any], seconds: float = CODE_SECONDS) -> dict[str, Any]:
    """Run `task` by sandbox.py in a process of its own. Returns its reply, or {"error": why there is none}."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(SANDBOX)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"LC_ALL": "C.UTF-8"},
        cwd="/",
        start_new_session=True,  # a process group: whatever the code starts can be ended with it
    )
    try:
        out, _errors = process.communicate(json.dumps(task).encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"the code took longer than {seconds:g} s"}
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
        process.communicate()
    try:
        reply = json.loads(out)
        return reply if isinstance(reply, dict) else {"error": "the code broke its sandbox's reply"}
    except ValueError:
        limit = process.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
        return {"error": "the code ran into its CPU limit" if limit else "the code ended without returning a value"}


def printable(text: str) -> str:
    """Text without control characters, for one line of a report."""
    return "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
