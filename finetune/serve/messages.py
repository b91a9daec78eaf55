"""Normalizes a request's messages and tools: one system message, texts as contents, alternating turns.

request.py calls it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from finetune.serve.fields import Refused, require_text, shown, text_of, wrong_type

MEDIA = frozenset(("images", "audios", "videos", "objects"))
TEXT_ONLY = "this model takes text only: leave pictures, sound, video and files out"
# The fields that a message may have. Clients send an answer back as they got it, with nulls and empty lists.
MESSAGE_FIELDS = frozenset(
    ("role", "content", "name", "tool_calls", "tool_call_id", "refusal", "annotations", "reasoning_content")
)


def messages(value: Any, system: str | None) -> tuple[dict[str, Any], ...]:
    """The conversation with one system message, texts as contents, and consecutive turns of one speaker joined.

    Args:
        value: `messages` of the body.
        system: The system prompt of a conversation that has none; None adds none.

    Raises:
        Refused: A message is unusable, or the order of the turns is.
    """
    if value is None:
        raise Refused("body.messages: the field is missing: send a list of messages", "messages", 422)
    if not isinstance(value, list):
        raise wrong_type("messages", value, "a list")
    if not value:
        raise Refused("messages: the list is empty: send at least one user message", "messages")
    said = [_message(message, f"messages.{number}") for number, message in enumerate(value)]
    first = next((number for number, message in enumerate(said) if message["role"] != "system"), len(said))
    for number, message in enumerate(said[first:], first):
        if message["role"] == "system":
            raise Refused(
                f"messages.{number}: a system or developer message after others: put it at the beginning",
                f"messages.{number}",
            )
    told = [message["content"] for message in said[:first]]
    if told:
        system = "\n\n".join(text for text in told if text)
    turns = _joined(said[first:], first)
    if not turns:
        raise Refused("messages: no user message: send at least one", "messages")
    if turns[-1]["role"] == "assistant":
        raise Refused(
            "messages: the last one is from the assistant, and answers are not continued: "
            "end with a user or tool message",
            "messages",
        )
    return ({"role": "system", "content": system}, *turns) if system is not None else tuple(turns)


def _message(message: Any, place: str) -> dict[str, Any]:
    """One message: its role, its content as a text, and its tool calls. `place` is its path in the body."""
    if not isinstance(message, dict):
        raise wrong_type(place, message, "an object with role and content")
    role = message.get("role")
    if role == "developer":  # the API's newer name
        role = "system"
    if role == "function":
        raise Refused(f"{place}.role: from an older API: send role tool after tool_calls", place)
    if role not in ("system", "user", "assistant", "tool"):
        raise Refused(
            f"{place}.role: {shown(role)} is not a role: use system, developer, user, assistant or tool",
            f"{place}.role",
        )
    for name, value in message.items():
        if name in ("audio", *MEDIA) and value:
            raise Refused(f"{place}.{name}: {TEXT_ONLY}", place)
        if name == "function_call" and value:
            raise Refused(f"{place}.function_call: from an older API: send tool_calls", place)
        if value and name not in MESSAGE_FIELDS and name not in ("audio", "function_call", *MEDIA):
            raise Refused(f"{place}.{shown(name)}: not a field of a message: leave it out", place)
    calls = _tool_calls(message.get("tool_calls"), f"{place}.tool_calls") if role == "assistant" else []
    content = message.get("content")
    if content is None and role == "assistant":
        content = message.get("refusal") if message.get("refusal") is not None else "" if calls else None
    if content is None:
        raise Refused(f"{place}.content: missing: send a text (only a message with tool_calls may omit it)", place)
    found: dict[str, Any] = {"role": role, "content": _content(content, f"{place}.content")}
    if calls:
        found["tool_calls"] = calls
    if role == "tool" and message.get("tool_call_id") is not None:
        found["tool_call_id"] = text_of(message["tool_call_id"], f"{place}.tool_call_id")
    return found


def _content(content: Any, place: str) -> str:
    """A content as one text. It may be a list of parts."""
    if not isinstance(content, list):
        return text_of(content, place)
    texts = []
    for number, part in enumerate(content):
        here = f"{place}.{number}"
        if not isinstance(part, dict):
            raise wrong_type(here, part, 'an object such as {"type": "text", "text": "…"}')
        kind = part.get("type")
        if kind not in ("text", "refusal"):
            raise Refused(f"{here}.type: {shown(kind)}: {TEXT_ONLY}", here)
        texts.append(text_of(part.get(kind), f"{here}.{kind}"))
    return "".join(texts)


def _tool_calls(value: Any, place: str) -> list[dict[str, Any]]:
    """An assistant's tool calls, with their arguments as JSON texts."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong_type(place, value, "a list")
    calls = []
    for number, call in enumerate(value):
        here = f"{place}.{number}"
        if not isinstance(call, dict) or call.get("type", "function") != "function":
            raise Refused(f"{here}: only function calls are supported", here)
        function = call.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise Refused(f"{here}.function: it needs a name and arguments", here)
        arguments = _arguments(function.get("arguments"), f"{here}.function.arguments")
        found = {"name": text_of(function["name"], here), "arguments": arguments}
        made: dict[str, Any] = {"type": "function", "function": found}
        if call.get("id") is not None:
            made["id"] = text_of(call["id"], f"{here}.id")
        calls.append(made)
    return calls


def _arguments(value: Any, place: str) -> str:
    """The arguments of a call as the text of a JSON object; missing ones are an empty object."""
    text = text_of(value, place) if isinstance(value, str) else "" if value is None else json.dumps(value)
    try:
        made = json.loads(text or "{}")
        if isinstance(made, dict):
            return require_text(json.dumps(made, ensure_ascii=False), place)
    except (ValueError, RecursionError):
        pass
    raise Refused(f"{place}: {shown(value)}: it must be the text of a JSON object", place)


def _joined(said: Sequence[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    """The turns, with consecutive ones of one speaker joined. Raises Refused if tool calls and replies do not match.

    Args:
        said: The messages after the system messages.
        first: The index of the first of them in the body.
    """
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(said, first):
        before = turns[-1] if turns else {"role": None}
        awaited = "tool_calls" in before or before["role"] == "tool"
        if message["role"] == "tool" and not awaited:
            raise Refused(
                f"messages.{number}: a tool message that answers no tool_calls: send the assistant's call before it",
                f"messages.{number}",
            )
        if "tool_calls" in before and message["role"] != "tool":
            raise Refused(
                f"messages.{number}: tool_calls without a reply: send a message with role tool after them",
                f"messages.{number}",
            )
        if message["role"] == "user" and before["role"] == "tool":
            raise Refused(
                f"messages.{number}: a user message right after a tool message: send the assistant's answer between",
                f"messages.{number}",
            )
        if message["role"] == before["role"] and message["role"] in ("user", "assistant"):
            joined = "\n".join(text for text in (before["content"], message["content"]) if text)
            turns[-1] = {**before, **message, "content": joined}
        else:
            turns.append(message)
    return turns


# ---- tools


def tools(body: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The functions that the model may call; none if tool_choice is "none"."""
    given, choice = body.get("tools"), body.get("tool_choice")
    if given is not None and not isinstance(given, list):
        raise wrong_type("tools", given, "a list")
    found = [_tool(tool, f"tools.{number}") for number, tool in enumerate(given or [])]
    if choice not in (None, "none", "auto"):
        raise Refused(
            f"tool_choice: {shown(choice)} is not supported, a call cannot be forced: send auto or none", "tool_choice"
        )
    return () if choice == "none" else tuple(found)


def _tool(tool: Any, place: str) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type", "function") != "function":
        raise Refused(f'{place}: only functions are supported: {{"type": "function", "function": …}}', place)
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise Refused(f"{place}.function: it needs a name", place)
    require_text(json.dumps(function, ensure_ascii=False), place)
    if not isinstance(function.get("parameters", {}), (dict, type(None))):
        raise wrong_type(f"{place}.function.parameters", function["parameters"], "an object, a JSON schema")
    # No engine here enforces `strict`. The schema is shown to the model all the same.
    return {"type": "function", "function": {name: value for name, value in function.items() if name != "strict"}}
