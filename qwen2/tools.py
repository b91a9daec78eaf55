"""Tool schemas, calls and replies as the text of ms-swift's agent template `hermes`; template.py calls it."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Sequence
from typing import Any

from common.i18n import _

_HEAD = """

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
"""
_TAIL = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
# Where a JSON schema maps user-defined names to schemas (swift/utils/schema_utils.py).
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
_NOT_JSON = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


class NotALiteral(ValueError):
    """The text is neither JSON nor a Python literal."""


class CallError(ValueError):
    """What is wrong with a call, and what to write instead."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(_("{what}; {remedy}").format(what=what, remedy=remedy))
        self.what, self.remedy = what, remedy


def parsed(value: Any) -> Any:
    """Parse a text as JSON or a Python literal; any other value is returned unchanged. Raises NotALiteral."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except _NOT_JSON:
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a dataset's text must not warn the user
            literal = ast.literal_eval(value)
        return json.loads(json.dumps(literal))  # tuples become lists, keys become strings; a set or bytes raises
    except _NOT_JSON:
        raise NotALiteral(_("is a text that is not JSON")) from None


def tools_of(value: Any) -> list[dict[str, Any]]:
    """The tools of a row as objects, from a list, one object, or JSON text of either; no tools gives an empty list.

    An empty text, or `null`, means no tools. ms-swift leaves such rows out of training, so accepting them changes
    nothing for it. Raises ValueError for anything that is not a tool.
    """
    if isinstance(value, str):
        value = parsed(value) if value.strip() else None
    if value is None:
        return []
    found = []
    for tool in value if isinstance(value, (list, tuple)) else [value]:
        try:
            schema = parsed(tool)
        except NotALiteral:
            schema = tool
        if not isinstance(schema, dict):
            raise ValueError(_("holds something that is not a tool"))
        schema = _without_null_fields(schema)
        wrapped = "type" in schema or "function" in schema
        found.append(schema if wrapped else {"type": "function", "function": schema})
    return found


def with_tools(tools: Sequence[dict[str, Any]], system: str) -> str:
    """The system prompt followed by the tools."""
    return system + _HEAD + "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools) + _TAIL


def _without_null_fields(schema: Any) -> Any:
    """A JSON schema without the nulls that Arrow's common struct type adds (swift.utils.remove_arrow_padding)."""
    if isinstance(schema, list):
        return [_without_null_fields(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    clean: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("default", "const") or key.startswith("x-"):
            clean[key] = value
        elif key in ("enum", "examples"):
            if value is not None:
                clean[key] = value
        elif value is not None:
            if key in _SCHEMA_MAPS and isinstance(value, dict):
                clean[key] = {name: _without_null_fields(item) for name, item in value.items() if item is not None}
            else:
                clean[key] = _without_null_fields(value)
    return clean


def call_text(content: Any) -> str:
    """A call as the model writes it. `content` is {"name", "arguments"} or JSON text of it. Raises CallError."""
    form = _('write {"name": ..., "arguments": {...}}')
    try:
        call = parsed(content)
    except NotALiteral as error:
        raise CallError(str(error), form) from None
    if isinstance(call, list):
        raise CallError(_("is a list"), _("write a tool_call message for each call"))
    if not isinstance(call, dict):
        raise CallError(_("is not a call"), form)
    if not isinstance(call.get("name"), str):
        raise CallError(_("has no name"), form)
    if len(call["name"].splitlines()) > 1:  # ms-swift would read it as a ReAct call
        raise CallError(_("has a name of several lines"), _("write only the function's name"))
    arguments = call.get("arguments")
    if arguments is None:
        arguments = call.get("parameters")
    try:
        arguments = parsed(arguments)
    except NotALiteral:
        raise CallError(_("has arguments that are not JSON"), _("write an object, {} for none")) from None
    if arguments is None:
        raise CallError(_("has no arguments"), _("write an object, {} for none"))
    call = {"name": call["name"], "arguments": arguments}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def reply_text(content: Any) -> str:
    """A tool's reply; anything but a string is written as JSON, as ms-swift does."""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def replies_text(replies: Sequence[str]) -> str:
    """Replies to the calls of one round, as the user's turn."""
    return "\n".join(f"<tool_response>\n{reply}\n</tool_response>" for reply in replies)


def is_react(answer: str) -> bool:
    """Whether an answer calls a tool in ReAct form, which ms-swift detects by these words."""
    return "Action:" in answer and "Action Input:" in answer


def react_answer(answer: str) -> str:
    """A ReAct answer up to the start of its observation."""
    if answer.endswith("Observation:"):
        return answer
    return answer + ("Observation:" if answer.endswith("\n") else "\nObservation:")


def react_replies(replies: Sequence[str]) -> str:
    """Replies after a ReAct answer, in the assistant's own turn."""
    lines = (reply if reply.endswith("\n") else reply + "\n" for reply in replies)
    return "Observation:".join(lines)
