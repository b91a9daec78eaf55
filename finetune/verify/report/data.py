"""The report as one JSON object, of which all others are views; docs/verify-report.schema.json is its schema."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from finetune.verify.figures import Asked, Check, Scored, checks, figures
from finetune.verify.rules import printable

SCHEMA_VERSION = 1
PACKAGES = ("torch", "safetensors", "tokenizers", "sacrebleu", "ms-swift", "transformers", "peft")


def verdict(asked: Sequence[Asked], thresholds: Mapping[str, float], after: str = "after") -> dict[str, Any]:
    """The part that says pass or fail: verdict, failures, thresholds, figures."""
    found = figures(asked, after)
    held = checks(thresholds, found)
    failed = [check for check in held if not check.ok]
    return {
        "verdict": "fail" if failed or not held else "pass",
        "failures": [check.sentence for check in failed],
        "thresholds": {_name(check): _check(check) for check in held},
        "figures": {name: figure.as_dict() for name, figure in found.items()},
    }


def _name(check: Check) -> str:
    return f"alpaca_{check.threshold}" if check.figure.startswith("alpaca_") else check.threshold


def _check(check: Check) -> dict[str, Any]:
    return {
        "figure": check.figure,
        "bound": check.bound,
        "limit": check.limit,
        "value": round(check.value, 6),
        "ok": check.ok,
        "certain": check.certain,
    }


def questions(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Every question with its answers, in the order in which they were asked."""
    found: dict[str, dict[str, Any]] = {}
    for each in asked:
        question = each.question
        entry = found.setdefault(
            question.id,
            {
                "id": question.id,
                "part": question.part,
                "kind": question.kind,
                "counted": question.counted,
                "messages": list(question.messages),
                "reference": question.reference,
                "rule": next(iter({"number", "regex", "python"} & set(question.rule))) if question.rule else None,
                "where": question.where,
                "asked": [],
            },
        )
        answers = {side: _answer(scored) for side, scored in each.scored.items()}
        entry["asked"].append({"prompt": each.prompt, "answers": answers})
    return list(found.values())


def _answer(scored: Scored) -> dict[str, Any]:
    return {
        "text": scored.text,
        "tokens": scored.answer.tokens,
        "cut": scored.answer.cut,
        "ok": scored.ok,
        "old_named": scored.old_named,
        "reason": printable(scored.reason),
        "marks": [{"start": mark.start, "end": mark.end, "kind": mark.kind} for mark in scored.marks],
    }


def versions() -> dict[str, str]:
    """Python and the packages that had a part in the figures; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    # The build that runs (2.10.0+cu128) tells more than the version in the package's metadata.
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = str(torch.__version__)
    return found
