"""Turns a row into messages, as the training reads it, or says what is wrong with it; check uses it.

qwen2/rows.py decides what can be trained on. This module adds what a useful row needs (no empty texts) and finds what
its author may not expect: fields that the training ignores, and turns that are joined without a space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from common.i18n import N_, _
from finetune.data.content import blank
from finetune.data.jsonhints import WRAP
from qwen2.row_errors import RowError, is_not
from qwen2.rows import (
    LOSS_KEYS,
    QUERY_KEYS,
    RESPONSE_KEYS,
    canonical,
    chat_key,
    origin,
    standard_row,
)

READ = {"role", "from", "content", "value", "tool_calls", "tool_call_id", "loss_scale", *LOSS_KEYS}  # of a message
PAIR = {"user", "human", "assistant", "gpt", "bot"}
USUAL = {"instruction", "input", "output", "system", "history", "tools"}
BESIDE_MESSAGES = {"system", "system_prompt", "tools"}


@dataclass(frozen=True)
class Fault:
    """One fault of a row: the field ("" for the whole row), what is wrong, and what to do."""

    field: str
    what: str
    remedy: str

    @property
    def kind(self) -> str:
        """The name under which the summary counts it."""
        if self.what in ("missing", "empty"):
            return self.what
        return _("wrong type") if _(", not a") in self.what else _("unfit")


class Looked(NamedTuple):
    """A row as messages and tools, or the faults because of which it cannot be trained on."""

    messages: list[dict[str, Any]]
    tools: Any = None
    faults: tuple[Fault, ...] = ()


def look(data: Any) -> Looked:
    """The row as the training reads it, or all its faults."""
    if not isinstance(data, dict):
        remedy = _('write {"instruction": ..., "input": "", "output": ...}')
        if isinstance(data, list) and data and all(isinstance(item, dict) for item in data):
            remedy = _(WRAP)
        return Looked([], faults=(Fault("", is_not(data, "an object"), remedy),))
    row, is_chat = data, True
    try:
        row = canonical(data)
        if data.keys() in ({"role", "content"}, {"from", "value"}):
            return Looked([], faults=(Fault("", _("is a message, not a row"), _(WRAP)),))
        is_chat = chat_key(row) is not None
        messages, tools = standard_row(row)
    except RowError as error:
        found = tuple(_text_faults(row)) if not is_chat else ()
        return Looked([], faults=found or (Fault(error.field, error.what, error.remedy),))
    if is_chat:
        return Looked(messages, tools, () if _has_text(messages) else tuple(_empty(row, messages)))
    is_usual = (
        len(messages) > 1 and messages[-2]["role"] == "user" and all(type(value) is str for value in row.values())
    )
    return Looked(messages, tools, () if is_usual and _has_text(messages) else tuple(_text_faults(row)))


def _has_text(messages: list[dict[str, Any]]) -> bool:
    """Whether no question and no answer is blank."""
    return all([not blank(m["content"]) for m in messages if m["role"] in ("user", "assistant")])


def _text_faults(row: dict[str, Any]) -> Iterator[Fault]:
    """The faults of a question and its answer: missing, not a text, or blank."""
    if "instruction" in row or "output" in row:
        question, answer = "instruction", "output"
        if answer not in row:
            answer = next((name for name in RESPONSE_KEYS if name in row), answer)
        if question not in row:
            question = next((name for name in QUERY_KEYS if name in row), question)
        if not isinstance(row.get("input", ""), str) and row["input"] is not None:
            yield Fault(
                "input",
                is_not(row["input"], "a text"),
                _('write "" where there is nothing to add'),
            )
    else:
        question = next((name for name in QUERY_KEYS if name in row), "")
        answer = next((name for name in RESPONSE_KEYS if name in row and name != question), "")
        if not question and not answer:
            names = ", ".join(sorted(map(str, row))[:5]) or "none"
            yield Fault(
                "instruction",
                _("missing (fields: {names})").format(names=names),
                _("name the question and the answer instruction and output"),
            )
            return
    for field, role in ((question or "instruction", N_("question")), (answer or "output", N_("answer"))):
        value, extra = row.get(field), row.get("input")
        in_input = isinstance(extra, str) and not blank(extra)  # `input` alone can be the question
        if field == "instruction" and in_input and not isinstance(value, (dict, list)):
            continue
        if field not in row:
            yield Fault(field, "missing", _("write the {role} into it").format(role=_(role)))
        elif not isinstance(value, str):
            yield Fault(
                field,
                is_not(value, "a text"),
                _("write the {role} as a text, in quotes").format(role=_(role)),
            )
        elif blank(value):
            yield Fault(field, "empty", _("write the {role}, or remove the row").format(role=_(role)))


def _empty(row: dict[str, Any], messages: list[dict[str, Any]]) -> Iterator[Fault]:
    """The faults of a conversation: blank questions and answers."""
    for index, message in enumerate(messages):
        if message["role"] in ("user", "assistant") and blank(message["content"]):
            yield Fault(origin(row, messages, index), "empty", _("write the message, or remove the row"))


def not_used(data: dict[str, Any]) -> Iterator[str]:
    """The fields of a valid row that are not empty and not trained on: `id`, `messages[].reasoning_content`."""
    row = canonical(data)
    if row.keys() <= USUAL:
        return
    layout = chat_key(row)
    if layout is None:
        used = {"system", "system_prompt", "history", "tools", *_used(row)}
    else:
        used = {layout, *BESIDE_MESSAGES}
    if not row.keys() <= used:
        yield from (key for key in row if key not in used and not _nothing(row[key]))
    raw = row[layout] if layout else None
    if not isinstance(raw, list):
        return
    said = set()
    for message in raw:
        if message.keys() <= READ:
            continue
        is_tool = "tool_call_id" in message or message.get("role") in ("tool", "tool_response")
        pair = PAIR if "role" not in message and "from" not in message else ()
        for key, value in message.items():
            if key in READ or key in pair or key in said or _nothing(value) or (is_tool and key in ("name", "id")):
                continue
            said.add(key)
            yield f"{layout}[].{key}"


def _used(row: dict[str, Any]) -> set[str]:
    """The names under which the question and the answer may be; standard_row chooses in the same way."""
    if "instruction" in row and "input" in row:
        question = {"instruction", "input"}
        if row.get("output") is not None:
            return question | {"output"}
    else:
        question = {"query"} if "query" in row else set(QUERY_KEYS)
    return question | ({"response"} if "response" in row else set(RESPONSE_KEYS))


def _nothing(value: Any) -> bool:
    return value is None or value == "" or value == [] or value == {}


def joined(data: dict[str, Any], messages: list[dict[str, Any]]) -> str:
    """The field of the first message that ms-swift joins to the previous one without a space; "" if none."""
    before = messages[0]
    for index in range(1, len(messages)):
        message = messages[index]
        if message["role"] == before["role"] and message["role"] in ("user", "assistant"):
            seam = before["content"][-1:] + message["content"][:1]
            if not any(character.isspace() for character in seam):
                return origin(data, messages, index)
        before = message
    return ""
