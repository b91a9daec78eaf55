"""What a row has to hold: the forms that ms-swift trains on, and what is wrong with a row of such a form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune.data.content import blank

# ms-swift 4.6.0, swift/dataset/preprocessor: the names under which it looks for a question and an answer.
QUESTION_NAMES = ("query", "prompt", "input", "instruction", "question", "problem")
ANSWER_NAMES = (
    *("response", "answer", "output", "targets", "target", "answer_key", "answers", "solution"),
    *("text", "completion", "content"),
)
CHAT_NAMES = ("messages", "conversation", "conversations")
ROLES = {"system", "user", "assistant", "tool", "tool_call", "tool_response", "function", "function_call", "developer"}
# ShareGPT's names for them.
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one row: the field (may be '' for the row itself), what, and what to do."""

    field: str
    what: str
    remedy: str

    @property
    def kind(self) -> str:
        """How the summary counts it."""
        return self.what if self.what in ("missing", "empty") else "wrong type"


def faults(data: Any) -> Iterator[Fault]:
    """What would keep a row from being trained on. Nothing: the row is fit."""
    if not isinstance(data, dict):
        kind = _kind(data)
        yield Fault("", f"is {kind}, not an object", 'write {"instruction": ..., "input": "", "output": ...}')
        return
    name = next((name for name in CHAT_NAMES if name in data), None)
    if name:
        yield from _chat_faults(name, data[name])
    elif "instruction" in data or "output" in data:
        yield from _text_faults(data, "instruction", "output")
        if not isinstance(data.get("input", ""), str) and data["input"] is not None:
            yield Fault("input", f"is {_kind(data['input'])}, not a text", 'write "" where there is nothing to add')
    else:
        question = next((name for name in QUESTION_NAMES if name in data), None)
        answer = next((name for name in ANSWER_NAMES if name in data and name != question), None)
        if question is None and answer is None:
            names = ", ".join(sorted(map(str, data))[:5]) or "none"
            yield Fault(
                "instruction", f"missing (fields: {names})", "name the question and the answer instruction and output"
            )
        else:
            yield from _text_faults(data, question or "instruction", answer or "output")
    system = data.get("system")
    if system is not None and not isinstance(system, str):
        yield Fault("system", f"is {_kind(system)}, not a text", "write the system prompt as a text")


def _text_faults(data: dict[str, Any], question: str, answer: str) -> Iterator[Fault]:
    for field, role in ((question, "question"), (answer, "answer")):
        if field not in data:
            yield Fault(field, "missing", f"write the {role} into it")
        elif not isinstance(data[field], str):
            yield Fault(field, f"is {_kind(data[field])}, not a text", f"write the {role} as a text, in quotes")
        elif blank(data[field]) and not (field == "instruction" and _has_text(data.get("input"))):
            yield Fault(field, "empty", f"write the {role}, or remove the row")


def _chat_faults(name: str, chat: Any) -> Iterator[Fault]:
    if not isinstance(chat, list) or not chat:
        what = "empty" if chat == [] else f"is {_kind(chat)}, not a list"
        yield Fault(name, what, 'write [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]')
        return
    last = None
    for index, message in enumerate(chat):
        field = f"{name}[{index}]"
        if not isinstance(message, dict):
            yield Fault(field, f"is {_kind(message)}, not an object", "write role and content")
            return
        role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
        role = SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
        if not isinstance(role, str) or role not in ROLES:
            yield Fault(f"{field}.role", f"is {role!r}" if role is not None else "missing", "write user or assistant")
        if not isinstance(content, str):
            what = "missing" if content is None else f"is {_kind(content)}, not a text"
            yield Fault(f"{field}.content", what, "write the message as a text")
        elif blank(content) and role in ("user", "assistant"):
            yield Fault(f"{field}.content", "empty", "write the message, or remove the row")
        last = role
    if last != "assistant":
        yield Fault(name, f"ends with {last}, so there is no answer to learn", "end with a message of the assistant")


def _has_text(value: Any) -> bool:
    return isinstance(value, str) and not blank(value)


def _kind(value: Any) -> str:
    """A JSON value's type in words."""
    if value is None:
        return "null"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
