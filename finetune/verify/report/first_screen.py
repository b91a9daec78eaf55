"""The first screen of a report, in plain words: what was learned, what is still wrong, what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from finetune.verify.report.data import UPPER_BOUND
from finetune.verify.words import Said, Speaker

WORST = 5
LONGEST = 200  # characters of a quoted text
# The faults that scoring.judge and rules.check report. If two patterns match the same text, the first applies.
FAULTS = (
    "empty answer",
    "no number in the answer",
    "wanted {wanted}, found {found}",
    "no code in the answer",
    "{arguments} gave {value}, wanted {wanted}",
    "not found: {what}",
    "the code took longer than {seconds} s",
    "the code ran into its CPU limit",
    "the code ended without returning a value",
    "the code broke its sandbox's reply",
    "only denies {what}",
    "does not say {what}",
    "names the old identity ({what})",
    "says yes to another identity ({what})",
    "says {what}",
    "cut off at the token limit",
)


def summary(report: dict[str, Any], say: Speaker) -> dict[str, Any]:
    """The first screen: sentences (`learned`), the worst answers (`worst`), and a sentence (`todo`)."""
    return {
        "learned": [
            say(sentence) for sentence in _sentences(report["figures"], UPPER_BOUND in report.get("notes", ()))
        ],
        "worst": [_shown(each, say) for each in worst(report["questions"])],
        "todo": say(todo(report)),
    }


def meaning(report: dict[str, Any], say: Speaker) -> str:
    """The meaning of the verdict, in a sentence or two."""
    checks = report["thresholds"].values()
    failed = [check for check in checks if not check["ok"]]
    if failed:
        return say("{count} of {all} thresholds fell short:", count=len(failed), all=len(checks))
    said = say("The fine-tune changed what it should, and nothing else that was measured.")
    if any(not check["certain"] for check in checks):
        said += say(" Not certain: with other questions a threshold could have fallen short.")
    return said


def todo(report: dict[str, Any]) -> str:
    """What to do next: the advice, or what a user of a passed adapter should know."""
    if report["advice"]:
        return Said("{advice}.", advice=report["advice"])
    if worst(report["questions"]):
        return Said("The result can be used. Read the wrong answers below first: each is one that somebody may get.")
    return Said("The result can be used.")


def _sentences(figures: dict[str, Any], ruled: bool) -> list[str]:
    """What was learned and what was kept: one sentence per set. `ruled`: rules wrote the reworded questions."""
    sentences: list[str] = []
    for name, pattern in (
        ("identity_heldout", "{after} of {n} questions about who it is are answered as taught ({before} before)."),
        ("learned", "{after} of the data's {n} questions are answered right ({before} before the training)."),
        ("reworded", "Asked in other words, {after} of {n} are answered right ({before} before)."),
        ("unseen", "Of {n} rows that it had not seen, {after} are answered right ({before} before)."),
        ("out_of_scope", "{after} of {n} answers to something else repeat the data ({before} before)."),
        ("out_of_scope_near", "{after} of {n} near misses get what the data say of something else ({before} before)."),
        ("rules", "{after} of {n} general tasks are still done ({before} before)."),
    ):  # fmt: skip
        if f"{name}_after" in figures:
            values = {side: _count(figures[f"{name}_{side}"]) for side in ("before", "after")}
            sentences.append(Said(pattern, n=figures[f"{name}_after"]["n"], **values))
            if name == "reworded" and ruled:
                sentences.append(Said("Simple rules wrote those questions; customers' own are harder, so expect less."))
    return sentences


def _count(figure: dict[str, Any]) -> str:
    """The number of right questions. One that is right under only one of its two system prompts does not count."""
    return str(int(figure["value"] * figure["n"] + 1e-6))


def worst(questions: Sequence[dict[str, Any]], count: int = WORST) -> list[dict[str, Any]]:
    """The worst wrong answers after the training, one per row: wrong facts first, then the least similar.

    Args:
        questions: The questions of report.json.
        count: The most answers to return.
    """
    found = []
    for place, question in enumerate(questions):
        # Under one system prompt, or each of two.
        wrong = [each["answers"]["after"] for each in question["asked"] if each["answers"]["after"]["ok"] is False]
        if not wrong or question["part"] == "general":
            continue
        answer = wrong[0]
        facts = answer["facts"] or {}
        rank = (not facts.get("wrong"), not facts.get("missing"), facts.get("chrf", 100.0), place)
        found.append((rank, question, answer))
    found.sort(key=lambda each: each[0])
    chosen, rows = [], set()
    for _, question, answer in found:
        row = question["row"] or question["id"]
        if row not in rows:
            rows.add(row)
            chosen.append({"question": question, "answer": answer})
    return chosen[:count]


def _shown(each: dict[str, Any], say: Speaker) -> dict[str, str]:
    question, answer = each["question"], each["answer"]
    return {
        "asked": _short(question["messages"][-1]["content"]),
        "said": _short(answer["text"]) or say("(empty)"),
        "wanted": _short(question["reference"] or ""),
        "why": reason(answer, say),
    }


def reason(answer: dict[str, Any], say: Speaker) -> str:
    """Why an answer is wrong, in the language of `say` if it is known there, else in English."""
    facts = answer["facts"] or {}
    if answer["spill"]:
        return say("repeats the answer of row {row}", row=answer["spill"])
    if facts.get("code") and not answer["marks"]:
        pattern = f"why:{facts['code']}"
        lists = {name: ", ".join(facts[name]) for name in ("missing", "wrong")}
        said = say(pattern, nearest=facts["nearest"], **lists)
        return str(answer["reason"]) if said == pattern else said
    faults = str(answer["reason"]).split("; ")
    return say("; ").join(_by_rule(fault, say) for fault in faults)


def _by_rule(fault: str, say: Speaker) -> str:
    """A fault that scoring.py or rules.py reports in English, in the language of `say`."""
    for pattern in FAULTS:
        if found := re.fullmatch(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(pattern)), fault):
            return say(pattern, **found.groupdict())
    return fault


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
