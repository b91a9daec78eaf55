"""Dataset rows, in any of ms-swift's layouts, as messages and tools; called by chat.py and finetune's checks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from common.i18n import _
from qwen2 import template
from qwen2.row_errors import RowError, is_not, kind
from qwen2.tools import NotALiteral, parsed, tools_of

Message = dict[str, Any]
Row = dict[str, Any]

# Column names that ms-swift 4.6 accepts for each part of a row (swift/dataset/preprocessor/core.py), in its order.
SYSTEM_KEYS = ("system", "system_prompt")
QUERY_KEYS = ("query", "prompt", "input", "instruction", "question", "problem")
RESPONSE_KEYS = (
    "response", "answer", "output", "targets", "target", "answer_key", "answers", "solution",
    "text", "completion", "content",
)  # fmt: skip
MESSAGE_KEYS = ("messages", "conversation", "conversations")
MEDIA_KEYS = {"images", "image", "videos", "video", "audios", "audio"}
KNOWN = {*SYSTEM_KEYS, *QUERY_KEYS, *RESPONSE_KEYS, *MESSAGE_KEYS, *MEDIA_KEYS, "history", "tools"}
# Role names besides ms-swift's own; a hyphen counts as an underscore.
ROLES = {
    "human": "user", "gpt": "assistant", "bot": "assistant", "function_call": "tool_call",
    "function_response": "tool_response", "observation": "tool_response", "observations": "tool_response",
}  # fmt: skip
TAKEN = ("system", "user", "assistant", "tool_call", "tool_response", "tool")
ANSWER_ROLES = ("assistant", "gpt", "bot", "tool_call", "function_call")
# Keys by which files for other trainers mark a message as trained on: OpenAI's weight, axolotl's train(ing).
LOSS_KEYS = ("loss", "weight", "train", "training", "trainable")
USUAL = {"role", "content"}
FORM = '[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]'


def standard_row(row: Row) -> tuple[list[Message], Any]:
    """(messages, tools) of a row in one of ms-swift's layouts. The template accepts everything that it returns.

    Layouts: `messages` (or conversation(s); role/content or from/value; user/assistant pairs), else instruction + input
    + output, else query + response under any of ms-swift's column names, with `system` and `history`. A message has
    role and content, and `loss` or `loss_scale` if the row sets it. Raises RowError.
    """
    if not isinstance(row, dict):
        raise RowError(
            "",
            is_not(row, "an object"),
            _('write {"instruction": ..., "input": "", "output": ...}'),
        )
    row = canonical(row)
    for key in row.keys() & MEDIA_KEYS:
        if row[key]:
            raise RowError("", _("has {key}: this model reads only text").format(key=key), _("remove the row"))
    system = _pick(row, SYSTEM_KEYS, "system")
    if not (system is None or isinstance(system, str)):
        raise RowError("system", is_not(system, "a text"), _("write the system prompt as a text"))
    layout = chat_key(row)
    if layout:
        messages = _from_messages(layout, _message_list(layout, row[layout]), system)
    else:
        messages = _from_columns(row, system)
    _ends_with_answer(layout or "", messages)
    try:
        tools = tools_of(row.get("tools"))
        template.has_layout(messages, tools)
    except template.LayoutError as error:
        raise RowError(origin(row, messages, error.index, error.key), error.what, error.remedy) from None
    except ValueError as error:
        raise RowError(
            "tools", str(error), _("write a list of objects with name, description and parameters")
        ) from None
    except RecursionError:
        raise RowError("", _("is nested too deeply"), _("a row should be an object whose values are texts")) from None
    return messages, tools or None


def canonical(row: Row) -> Row:
    """The row with the column names that ms-swift knows in lower case; ms-swift ignores their case."""
    if row.keys() <= KNOWN:
        return row
    found = {lower if (lower := str(key).lower()) in KNOWN else str(key): value for key, value in row.items()}
    if len(found) < len(row):
        name = next(key for key in found if sum(str(other).lower() == key for other in row) > 1)
        raise RowError(name, _("occurs twice, in upper and in lower case"), _("keep one of them"))
    return found


def chat_key(row: Row) -> str | None:
    """The key under which a (canonical) row has a conversation; None for a row with a question and an answer."""
    if row.keys().isdisjoint(MESSAGE_KEYS):
        return None
    found = [key for key in MESSAGE_KEYS if row.get(key) is not None]
    if len(found) > 1 and "messages" not in found:
        raise RowError(found[0], _("conflicts with {other}").format(other=found[1]), _("keep one of them"))
    return found[0] if found else None


def _pick(row: Row, keys: Sequence[str], preferred: str) -> Any:
    """The value under the first of `keys` that is present; `preferred` wins over the others."""
    if preferred in row:
        return row[preferred]
    if row.keys().isdisjoint(keys):
        return None
    found = [key for key in keys if key in row]
    if len(found) > 1:
        names = " and ".join(found)
        raise RowError(
            "",
            _("has {names}: which is the {preferred}?").format(names=names, preferred=preferred),
            _("keep one, or name it {preferred}").format(preferred=preferred),
        )
    return row[found[0]]


# ---- question and answer ----


def _from_columns(row: Row, system: Any) -> list[Message]:
    """The messages of a row with a question, an answer and, if present, the earlier ones in `history`."""
    if "instruction" in row and "input" in row:
        instruction, extra = row["instruction"], row["input"]
        for name in ("instruction", "input"):
            if row[name] is not None and not isinstance(row[name], str):
                raise RowError(name, is_not(row[name], "a text"), _("write it as a text, in quotes"))
        query = f"{instruction}\n{extra}" if instruction and extra else instruction or extra
        response = row["output"] if row.get("output") is not None else _pick(row, RESPONSE_KEYS, "response")
    else:
        query, response = _pick(row, QUERY_KEYS, "query"), _pick(row, RESPONSE_KEYS, "response")
    if isinstance(response, list):
        response = response[0] if response else None
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for pair in [*(_history(row["history"]) if row.get("history") else ()), [query, response]]:
        for role, content in zip(("user", "assistant"), pair, strict=True):
            if content is None:
                continue
            if not isinstance(content, str):
                field = (
                    "history"
                    if pair[0] is not query
                    else {"user": _("the question"), "assistant": _("the answer")}[role]
                )
                raise RowError(field, is_not(content, "a text"), _("write it as a text, in quotes"))
            messages.append({"role": role, "content": content})
    if response is None:
        what = _("has no answer")
        raise RowError("", what, _("it needs output, response, or messages that end with the assistant's"))
    return messages


def _history(value: Any) -> list[Sequence[Any]]:
    form = _("write [[question, answer], ...]")
    try:
        value = parsed(value)
    except NotALiteral:
        raise RowError("history", _("is a text, not a list"), form) from None
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise RowError("history", _("is not a list of [question, answer] pairs"), form)
    return value


# ---- messages ----


def _message_list(layout: str, value: Any) -> list[Message]:
    """The messages as they stand in the row."""
    found = value
    if isinstance(value, str):
        try:
            found = parsed(value)
        except NotALiteral:
            found = None
    if not isinstance(found, list):
        raise RowError(
            layout,
            is_not(value, "a list"),
            _("write a list, in JSON: {form}").format(form=FORM),
        )
    if not found:
        raise RowError(layout, "empty", _("write {form}").format(form=FORM))
    for index, message in enumerate(found):
        if not isinstance(message, dict):
            raise RowError(
                f"{layout}[{index}]",
                is_not(message, "an object"),
                _("write role and content"),
            )
    return found


def _from_messages(layout: str, raw: list[Message], system: Any) -> list[Message]:
    """The row's messages in ms-swift's form: role, content, loss."""
    messages: list[Message] = []
    if not _named(raw[0]):
        for index, pair in enumerate(raw):
            messages += _pair(f"{layout}[{index}]", pair)
    else:
        for index, message in enumerate(_replies_in_order(raw)):
            if message.keys() == USUAL and message["role"] in TAKEN and type(message["content"]) is str:
                messages.append({"role": message["role"], "content": message["content"]})
            else:
                messages += _one(f"{layout}[{index}]", message)
    if system is not None and not (messages and messages[0]["role"] == "system"):
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _named(message: Message) -> bool:
    return any(key in message for key in ("role", "from", "content", "value"))


def _pair(field: str, message: Message) -> list[Message]:
    """{"user" or "human": ..., "assistant", "gpt" or "bot": ...} as two messages."""
    texts = {ROLES.get(key, key): text for key, text in message.items() if isinstance(key, str)}
    for role in ("user", "assistant"):
        if role not in texts:
            names = ", ".join(map(str, message)) or "none"
            raise RowError(field, _("has the keys {names}").format(names=names), _("write role and content"))
        if not isinstance(texts[role], str):
            raise RowError(
                f"{field}.{role}",
                is_not(texts[role], "a text"),
                _("write the message as a text"),
            )
    return [{"role": role, "content": texts[role]} for role in ("user", "assistant")]


def _one(field: str, message: Message) -> list[Message]:
    """One message. The calls in OpenAI's `tool_calls` become separate messages after its text."""
    key = "from" if "from" in message else "role"
    role = message.get(key)
    if not isinstance(role, str):
        what = "missing" if role is None else is_not(role, "a text")
        raise RowError(f"{field}.{key}", what, _("write user or assistant"))
    calls = message.get("tool_calls")
    role = ROLES.get(role.replace("-", "_"), role)
    if role not in TAKEN:
        others = {"developer": "system", "function": "tool_response", "model": "assistant"}
        remedy = (
            _("write {role}").format(role=others[role])
            if role in others
            else _("write one of {roles}").format(roles=", ".join(TAKEN))
        )
        raise RowError(f"{field}.{key}", _("is {role!r}").format(role=role), remedy)
    loss = _loss(field, message) if role in ("assistant", "tool_call") else {}
    if calls:
        return _calls(field, message, calls, loss)
    if message.get("function_call"):
        raise RowError(f"{field}.function_call", _("is OpenAI's old form of a call"), _("write it as tool_calls"))
    name = "value" if "value" in message else "content"
    return [{"role": role, "content": _content(f"{field}.{name}", role, message.get(name)), **loss}]


def _content(field: str, role: str, content: Any) -> Any:
    if content is None:
        raise RowError(field, "missing", _("write the message as a text"))
    if isinstance(content, str) or role in ("tool_call", "tool", "tool_response"):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        for part in content:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                what = _("has a part of the type {kind!r}: this model reads only text").format(kind=part.get("type"))
                raise RowError(field, what, _("write the message as a text"))
        return "".join(part["text"] for part in content)
    raise RowError(field, is_not(content, "a text"), _("write the message as a text"))


def _calls(field: str, message: Message, calls: Any, loss: Message) -> list[Message]:
    if message.get("role") != "assistant":
        raise RowError(
            f"{field}.tool_calls", _("is read only in messages with the role assistant"), _("write role: assistant")
        )
    if not isinstance(calls, list):
        raise RowError(f"{field}.tool_calls", is_not(calls, "a list"), _("write a list of objects"))
    messages: list[Message] = []
    if message.get("content"):
        text = _content(f"{field}.content", "assistant", message["content"])
        messages.append({"role": "assistant", "content": text, **loss})
    for index, call in enumerate(calls):
        place = f"{field}.tool_calls[{index}]"
        function = call.get("function", call) if isinstance(call, dict) else call
        if not isinstance(function, dict):
            raise RowError(
                place,
                is_not(function, "an object"),
                _('write {"function": {"name", "arguments"}}'),
            )
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            with contextlib.suppress(ValueError, RecursionError):  # Python literals are parsed later
                arguments = json.loads(arguments)
        messages.append(
            {"role": "tool_call", "content": {"name": function.get("name"), "arguments": arguments}, **loss}
        )
    return messages


def _replies_in_order(raw: list[Message]) -> list[Message]:
    """The replies to OpenAI's tool_calls, in the order of the calls if every id determines it."""
    if not any(message.get("tool_calls") for message in raw):
        return raw
    out = list(raw)
    for index, message in enumerate(raw):
        calls = message.get("tool_calls") if message.get("role") == "assistant" else None
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            continue
        ids = [call.get("id") for call in calls]
        end = index + 1
        while end < len(raw) and raw[end].get("role") in ("tool", "tool_response"):
            end += 1
        replies = raw[index + 1 : end]
        replied = [reply.get("tool_call_id") for reply in replies]
        told = all(isinstance(i, (str, int)) for i in [*ids, *replied]) and len(set(ids)) == len(ids)
        if told and len(replied) == len(ids) and set(ids) == set(replied):
            by_call = dict(zip(replied, replies, strict=True))
            out[index + 1 : end] = [by_call[call] for call in ids]
    return out


def _loss(field: str, message: Message) -> Message:
    """`loss` and `loss_scale` of a message; `weight` and similar keys are returned as `loss`."""
    found: Message = {}
    for key in LOSS_KEYS:
        value = message.get(key)
        if value is None:
            if key == "loss" and key in message:
                found.setdefault("loss", None)  # of several calls, the first that has the key decides in ms-swift
            continue
        if isinstance(value, str) or value not in (0, 1):
            shown = repr(value) if isinstance(value, (int, float)) else kind(value)
            raise RowError(
                f"{field}.{key}",
                _("is {shown}, and a message is learned or not").format(shown=shown),
                _("write true or false, or 0 or 1"),
            )
        found["loss"] = bool(value) and found.get("loss") is not False
    scale = message.get("loss_scale")
    if scale is not None:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise RowError(f"{field}.loss_scale", is_not(scale, "a number"), _("write a number"))
        found["loss_scale"] = scale
    return found


def _ends_with_answer(layout: str, messages: list[Message]) -> None:
    last = messages[-1]["role"]
    if last not in ("assistant", "tool_call"):
        what = _("ends with {last}, so there is no answer to learn").format(last=last)
        raise RowError(layout, what, _("the last message must be the assistant's"))
    if len(messages[-1]) == 2:  # the usual answer, with role and content only
        return
    answers = (m for m in messages if m["role"] in ("assistant", "tool_call"))
    if not any(m.get("loss") is not False and (m.get("loss_scale") is None or m["loss_scale"] > 0) for m in answers):
        raise RowError(layout, _("has no answer with loss, so there is nothing to learn"), _("remove the row"))


def origin(row: Row, messages: list[Message], index: int, key: str = "content") -> str:
    """The field of a row that a message was built from.

    Args:
        row: The row as it is in the file.
        messages: Its messages, as returned by standard_row.
        index: The index of the message.
        key: role or content.
    """
    row = canonical(row)
    layout = chat_key(row)
    if not layout:
        return "history"
    raw = _message_list(layout, row[layout])
    at = int(messages[0]["role"] == "system" and raw[0].get("role", raw[0].get("from")) != "system")
    if not _named(raw[0]):
        return f"{layout}[{max(0, index - at) // 2}]"
    for number, message in enumerate(raw):
        calls = message.get("tool_calls") or []
        texts = int(bool(message.get("content"))) if calls else 1
        if index < at + texts:
            other = {"role": "from", "content": "value"}[key]
            return f"{layout}[{number}].{other if other in message else key}"
        if index < at + texts + len(calls):
            return f"{layout}[{number}].tool_calls[{index - at - texts}]"
        at += texts + len(calls)
    return layout
