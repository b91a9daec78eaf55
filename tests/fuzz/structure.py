"""Rows that are nearly right: valid ones whose structure is changed, not their bytes; the fuzz tests use it."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# What stands where something else should: every JSON type, and texts that hold one, or a part of one.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, 3, 10**20, float("nan"), "", " ", "\n", "x", "你好", "{{QUERY}} {{ROUND0}}"),
    *(
        [],
        {},
        [[]],
        [{}],
        [None],
        ["a"],
        ["a", "b"],
        [["a", "b"]],
        [["a"]],
        {"a": None},
        {"role": "user"},
        {"name": "f"},
    ),
    *(
        "[]",
        "{}",
        "null",
        "None",
        "[[",
        "{'a': 1}",
        "{1}",
        "('a', 'b')",
        "[['a', 'b']]",
        '{"name": "f"}',
        "prose, [and",
    ),
    *('{"name": "f", "arguments": {}}', {"name": "f", "arguments": "{}"}, {"name": "f", "parameters": {"a": [1]}}),
    *(
        [{"type": "text", "text": "x"}],
        [{"type": "text"}],
        [{"type": "image"}],
        [{"id": "c0", "function": {"name": "f"}}],
    ),
    *("Action: f\nAction Input: {}", "<think>a</think>b", "a<|im_end|>", "[" * 600, '{"a":' * 400, "\ud800"),
)
NAMES = (
    *("role", "from", "content", "value", "tool_calls", "tool_call_id", "name", "arguments", "parameters", "function"),
    *(
        "id",
        "type",
        "text",
        "weight",
        "loss",
        "loss_scale",
        "train",
        "function_call",
        "reasoning_content",
        "user",
        "gpt",
    ),
    *(
        "messages",
        "conversations",
        "conversation",
        "system",
        "system_prompt",
        "tools",
        "history",
        "instruction",
        "input",
    ),
    *(
        "output",
        "query",
        "response",
        "answer",
        "Question",
        "prompt",
        "completion",
        "label",
        "kto_tag",
        "chosen",
        "images",
    ),
    *("rejected", "rejected_response", "rejected_messages", "solution", "x"),
)
ROLES = (
    *("system", "user", "assistant", "tool", "tool_call", "tool_response", "human", "gpt", "bot", "observation", "x"),
    *("function_call", "function-call", "observations", "function", "developer"),
)
KINDS = (
    *("value", "value", "drop", "rename", "add", "copy", "swap", "wrap", "unwrap", "text", "parse", "role", "role"),
    *("shuffle", "double", "cut"),
)
_EDIT = st.tuples(
    st.sampled_from(KINDS), st.integers(0, 1 << 16), st.integers(0, 1 << 16), st.sampled_from(range(len(VALUES)))
)


def restructured(valid: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of the valid values with up to five changes of its structure."""
    return st.builds(_edited, st.sampled_from(list(valid)), st.lists(_EDIT, min_size=1, max_size=5))


def _places(value: Any, at: Any = None, key: Any = None) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a value, from the outside in."""
    found = [] if at is None else [(at, key)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        found += _places(item, value, name)
    return found


def _edited(value: Any, edits: list[tuple[str, int, int, int]]) -> Any:
    root = [copy.deepcopy(value)]
    for kind, where, other, number in edits:
        places = _places(root, None)
        at, key = places[where % len(places)]
        _edit(kind, at, key, other, copy.deepcopy(VALUES[number]), places)
        if not root:
            root.append({})
    return root[0]


def _edit(kind: str, at: Any, key: Any, other: int, value: Any, places: list[tuple[Any, Any]]) -> None:
    """One change of what stands at `at[key]`, a list or an object."""
    item = at[key]
    if kind == "value":
        at[key] = value
    elif kind == "drop":
        del at[key]
    elif kind == "rename" and isinstance(at, dict):
        at[NAMES[other % len(NAMES)]] = at.pop(key)
    elif kind == "add":
        inside = item if isinstance(item, dict) else at if isinstance(at, dict) else None
        if inside is not None:
            inside[NAMES[other % len(NAMES)]] = value
    elif kind in ("copy", "swap"):
        place, name = places[other % len(places)]
        with_it = copy.deepcopy(place[name]) if _has(place, name) else None
        if kind == "swap" and _has(place, name):
            place[name] = copy.deepcopy(item)
        at[key] = with_it
    elif kind == "wrap":
        at[key] = [item] if other % 2 else {NAMES[other % len(NAMES)]: item}
    elif kind == "unwrap":
        at[key] = (
            next(iter(item.values() if isinstance(item, dict) else item), None)
            if isinstance(item, (dict, list))
            else item
        )
    elif kind == "text":
        at[key] = json.dumps(item, ensure_ascii=bool(other % 2)) if other % 3 else repr(item)
    elif kind == "parse" and isinstance(item, str):
        try:
            at[key] = json.loads(item)
        except (ValueError, RecursionError):
            at[key] = [item]
    elif kind == "role":
        messages = [(p, k) for p, k in places if isinstance(p, dict) and k in ("role", "from")]
        if messages:
            place, name = messages[other % len(messages)]
            place[name] = ROLES[(other >> 5) % len(ROLES)]
    elif isinstance(item, list) and item:
        _edit_list(kind, item, other)


def _edit_list(kind: str, item: list[Any], other: int) -> None:
    if kind == "shuffle":
        cut = other % len(item)
        item[:] = item[cut:] + item[:cut]
    elif kind == "double":
        item.insert(other % len(item), copy.deepcopy(item[other % len(item)]))
    elif kind == "cut":
        del item[other % len(item) :]


def _has(place: Any, name: Any) -> bool:
    return name in place if isinstance(place, dict) else isinstance(name, int) and name < len(place)
