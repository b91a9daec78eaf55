"""Recognises rows for other kinds of training than sft: preference data, text for pre-training; check uses it.

ms-swift's sft accepts such rows silently: it would learn answers marked as bad, or a text without a question.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from common.i18n import N_, _
from qwen2.rows import ANSWER_ROLES, MESSAGE_KEYS, QUERY_KEYS, RESPONSE_KEYS

BAD = ("rejected", "rejected_response", "rejected_messages")
PREFERENCE, PRETRAINING = N_("preference data"), N_("text for pre-training")  # kinds of findings
MARKS = ("label", "kto_tag")
# Anthropic's files of human preferences have a whole conversation in one text.
SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


@dataclass(frozen=True)
class Other:
    """What a row is, the `swift` command that trains on it, and the row that sft can learn from it, or None."""

    kind: str
    what: str
    command: str
    good: dict[str, Any] | None = None


def other_training(row: dict[str, Any]) -> Other | None:
    """The kind of training that a row is meant for; None if that is sft."""
    low = {str(key).lower(): value for key, value in row.items()}
    rest = {key: value for key, value in low.items() if key not in BAD and key not in MARKS and key != "chosen"}
    if any(low.get(key) is not None for key in ("chosen", *BAD)):
        return _pair(low, rest)
    mark = next((key for key in MARKS if _is_mark(low, key)), None)
    if mark:
        good = bool(low[mark])
        what = _("KTO data, an answer marked {value} ({mark}: {json})").format(
            value=_("good") if good else _("bad"), mark=mark, json=json.dumps(low[mark])
        )
        columns = "" if mark == "label" else _columns(kto_tag="label")
        return Other(PREFERENCE, what, f"swift rlhf --rlhf_type kto{columns}", rest if good else None)
    if _is_text(low):
        return Other(PRETRAINING, _("a text without question and answer, for pre-training"), "swift pt")
    return None


def _is_mark(row: dict[str, Any], key: str) -> bool:
    """Whether a label is KTO's: true or false, or 0 or 1 beside a completion. Others are classes, scores and so on."""
    value = row.get(key)
    return isinstance(value, bool) or ("completion" in row and type(value) is int and value in (0, 1))


def _is_text(row: dict[str, Any]) -> bool:
    if any(row.get(key) is not None for key in ("role", *MESSAGE_KEYS, *QUERY_KEYS)):
        return False
    answers = [key for key in RESPONSE_KEYS if row.get(key) is not None]
    return answers in (["text"], ["content"]) and isinstance(row[answers[0]], str)


def _columns(**names: str) -> str:
    """ms-swift's option that maps its column names to those of the file."""
    return f" --columns '{json.dumps(names)}'"


def _pair(low: dict[str, Any], rest: dict[str, Any]) -> Other:
    """A row with a good and a bad answer; `rest` is the row without the preference fields."""
    dpo = "swift rlhf --rlhf_type dpo"
    bad = next((key for key in BAD if low.get(key) is not None), "rejected")
    if low.get("chosen") is None:
        has_good = any(low.get(key) is not None for key in (*MESSAGE_KEYS, *RESPONSE_KEYS))
        columns = _columns(rejected="rejected_response") if bad == "rejected" else ""
        return Other(
            PREFERENCE, _("preference data ({bad})").format(bad=bad), dpo + columns, rest if has_good else None
        )
    chosen = low["chosen"]
    if isinstance(chosen, str):
        what = _("preference data (chosen and rejected as texts)")
        columns = _columns(chosen="response", rejected="rejected_response")
        return Other(PREFERENCE, what, dpo + columns, _with_answer(low, rest, chosen))
    what = _("preference data (chosen and rejected as messages)")
    columns = _columns(chosen="messages", rejected="rejected_messages")
    return Other(PREFERENCE, what, dpo + columns, _with_messages(low, rest, chosen))


def _question(low: dict[str, Any], rest: dict[str, Any]) -> tuple[str, Any] | None:
    """The field of the question and its value, a text or messages without an answer; None if there is none."""
    for key in (*MESSAGE_KEYS, *QUERY_KEYS):
        if low.get(key):
            return key, rest.get(key)
    return None


def _with_answer(low: dict[str, Any], rest: dict[str, Any], answer: str) -> dict[str, Any] | None:
    question = _question(low, rest)
    if question is None:
        talk = _talk(answer)
        return {**rest, "messages": talk} if talk else None
    return _asked(rest, *question, [{"role": "assistant", "content": answer}])


def _with_messages(low: dict[str, Any], rest: dict[str, Any], chosen: Any) -> dict[str, Any] | None:
    """The row for `chosen`, which is a whole conversation, or the answer to a question in another field."""
    messages = [chosen] if isinstance(chosen, dict) else chosen
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        return None
    question = _question(low, rest)
    if question is None or any(m.get("role", m.get("from")) not in ANSWER_ROLES for m in messages):
        kept = {key: value for key, value in rest.items() if key in ("system", "tools")}
        return {**kept, "messages": messages}
    return _asked(rest, *question, messages)


def _asked(rest: dict[str, Any], key: str, question: Any, answers: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The row of a question and its answers."""
    kept = {name: value for name, value in rest.items() if name in ("system", "system_prompt", "tools")}
    if isinstance(question, list):
        return {**kept, "messages": [*question, *answers]}
    content = answers[0].get("content", answers[0].get("value"))
    if len(answers) > 1 or not isinstance(content, str):
        return {**kept, "messages": [{"role": "user", "content": question}, *answers]}
    return {**{name: value for name, value in rest.items() if name not in RESPONSE_KEYS}, "response": content}


def _talk(text: str) -> list[dict[str, str]]:
    """The messages of a conversation in one text; empty if the text has another form."""
    before, *pieces = SPEAKER.split(text)
    if before.strip() or not pieces:
        return []
    pairs = zip(pieces[::2], pieces[1::2], strict=True)
    return [{"role": "user" if who == "Human" else "assistant", "content": said.strip()} for who, said in pairs]
