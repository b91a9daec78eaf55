"""Text to token ids and labels by ms-swift's Qwen2.5 template, without ms-swift; called by finetune and bench.

Re-tells what swift.template of ms-swift 4.6 does for `qwen2_5` (agent template `hermes`, loss scale `default`);
tests/unit/qwen2/test_qwen2_chat.py holds ids and labels equal to ms-swift's own for every kind of row.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Row = dict[str, Any]

DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
IGNORED = -100  # label of a token without loss
_END = "<|im_end|>\n"
_STOPS = ("<|endoftext|>", "<|im_end|>")
_TOOLS_HEAD = """

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
"""
_TOOLS_TAIL = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""

# Column names that ms-swift takes for each part of a row (swift.dataset.preprocessor.core), in no order.
_SYSTEM_KEYS = ("system", "system_prompt")
_QUERY_KEYS = ("query", "prompt", "input", "instruction", "question", "problem")
_RESPONSE_KEYS = (
    "response", "answer", "output", "targets", "target", "answer_key", "answers", "solution",
    "text", "completion", "content",
)  # fmt: skip
_MESSAGE_KEYS = ("messages", "conversation", "conversations")


class Tokenizer:
    """The tokenizer.json of a model folder with the Qwen2.5 chat template."""

    def __init__(self, model_dir: str | Path) -> None:
        """ValueError, fit for a user, when the folder has no usable tokenizer.json."""
        from tokenizers import Tokenizer as Backend

        path = Path(model_dir) / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"no tokenizer.json in {model_dir}: the model folder is not whole; download it again")
        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(f"{path} cannot be read ({error}): download it again") from None
        self._backend.no_truncation()
        self._backend.no_padding()
        missing = [t for t in ("<|im_start|>", "<|im_end|>") if self._backend.token_to_id(t) is None]
        if missing:
            raise ValueError(
                f"{path} has no {missing[0]}: it is not a Qwen2.5 tokenizer; use ENGINE=swift for this model"
            )
        self._suffix = self.encode(_END)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens written in it become special tokens, none is added."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ids."""
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def encode_chat(
        self,
        messages: Sequence[Message],
        system: str | None = None,
        add_generation_prompt: bool = True,
        tools: Any = None,
    ) -> list[int]:
        """Ids of a conversation to be answered.

        A system message in `messages` goes before `system`; None for both gives the template's default, "" none at all.
        Without add_generation_prompt the text ends with the last message.
        """
        parts = _parts(list(messages), tools, system, generation_prompt=add_generation_prompt)
        return self.encode("".join(text for text, _ in parts))

    def encode_row(self, row: Row, system: str | None = None) -> tuple[list[int], list[int]]:
        """(ids, labels) of a training row in any of ms-swift's layouts (see `standard_row`); labels as ms-swift's.

        `system` is for rows that have none of their own. ValueError when the row has no answer or is malformed.
        """
        messages, tools = standard_row(row)
        parts = _parts(messages, tools, system, generation_prompt=False, training=True)
        ids: list[int] = []
        labels: list[int] = []
        for text, has_loss in _merged(parts):
            tokens = self.encode(text)
            ids += tokens
            labels += tokens if has_loss else [IGNORED] * len(tokens)
        self._label_turn_ends(ids, labels)
        if labels:
            labels[0] = IGNORED
        return ids, labels

    def _label_turn_ends(self, ids: list[int], labels: list[int]) -> None:
        """Give loss to the <|im_end|> and newline after an answer in the middle (ms-swift: _add_dynamic_eos)."""
        size, start = len(self._suffix), 0
        for i in range(1, len(labels) + 1):
            if labels[i - 1] >= 0 and i < len(labels) and labels[i] == IGNORED:
                start = i
                continue
            ends = start > 0 and labels[i - 1] == IGNORED and (i == len(labels) or labels[i] >= 0)
            if ends and i - start >= size and ids[start : start + size] == self._suffix:
                labels[start : start + size] = self._suffix


# ---- rows


def standard_row(row: Row) -> tuple[list[Message], Any]:
    """(messages, tools) of a row in one of ms-swift's layouts.

    `messages` (or conversation(s); role/content or from/value; user/assistant pairs), else instruction + input +
    output, else query + response under any of ms-swift's column names, with `system` and `history`. ValueError says
    what is wrong.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a row is a {type(row).__name__}, not an object with keys like instruction, input, output")
    row = {_canonical(key): value for key, value in row.items()}
    for key in ("images", "image", "videos", "video", "audios", "audio"):
        if row.get(key):
            raise ValueError(f"a row has {key}: this model reads text alone")
    system = _pick(row, _SYSTEM_KEYS, "system")
    layout = next((k for k in _MESSAGE_KEYS if row.get(k)), None)
    if layout is not None:
        messages = _from_messages(row[layout], system)
    else:
        if "instruction" in row and "input" in row:
            instruction, extra = row["instruction"], row["input"]
            query = f"{instruction}\n{extra}" if instruction and extra else instruction or extra
        else:
            query = _pick(row, _QUERY_KEYS, "query")
        response = _pick(row, _RESPONSE_KEYS, "response")
        if isinstance(response, (list, tuple)):
            response = response[0] if response else None
        history = row.get("history") or []
        if isinstance(history, str):
            history = ast.literal_eval(history)
        messages = [] if system is None else [{"role": "system", "content": system}]
        for pair in [*history, [query, response]]:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise ValueError("history is not a list of [question, answer] pairs")
            for role, content in zip(("user", "assistant"), pair, strict=True):
                if content is not None:
                    messages.append({"role": role, "content": content})
    _check(messages)
    if not any(message["role"] in ("assistant", "tool_call") for message in messages):
        raise ValueError("a row has no answer: it needs output, response or an assistant message")
    if messages[-1]["role"] not in ("assistant", "tool_call"):
        raise ValueError(f"a row ends with a {messages[-1]['role']} message: the last one must be the assistant's")
    return messages, row.get("tools")


_KNOWN = {
    *_SYSTEM_KEYS, *_QUERY_KEYS, *_RESPONSE_KEYS, *_MESSAGE_KEYS, "history", "tools",
    "images", "image", "videos", "video", "audios", "audio",
}  # fmt: skip


def _canonical(key: Any) -> str:
    """Column names that ms-swift knows are known in any case."""
    lower = str(key).lower()
    return lower if lower in _KNOWN else str(key)


def _pick(row: Row, keys: Sequence[str], preferred: str) -> Any:
    """The value under the one of `keys` that is there; `preferred` wins where there are several."""
    if preferred in row:
        return row[preferred]
    found = [key for key in keys if key in row]
    if len(found) > 1:
        raise ValueError(f"a row has {' and '.join(found)}: which is the {preferred}? Keep one, or name it {preferred}")
    return row[found[0]] if found else None


def _from_messages(value: Any, system: Any) -> list[Message]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                raise ValueError("messages is a text that is no JSON list") from None
    if not isinstance(value, list) or not value or not all(isinstance(m, dict) for m in value):
        raise ValueError("messages is not a list of objects with role and content")
    roles = {
        "human": "user", "gpt": "assistant", "bot": "assistant", "function_call": "tool_call",
        "function_response": "tool_response", "observation": "tool_response", "observations": "tool_response",
    }  # fmt: skip
    messages: list[Message] = []
    for message in _flatten_tool_calls(value):
        message = dict(message)
        if "from" in message:
            message["role"] = message.pop("from")
        if "value" in message:
            message["content"] = message.pop("value")
        if "role" not in message and "content" not in message:
            pair = {roles.get(key, key): text for key, text in message.items()}
            if "user" not in pair or "assistant" not in pair:
                raise ValueError(f"a message has the keys {', '.join(map(str, message))}: it needs role and content")
            messages += [{"role": role, "content": pair[role]} for role in ("user", "assistant")]
            continue
        role = str(message.get("role"))
        message["role"] = roles.get(role.replace("-", "_"), role)
        messages.append(message)
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _flatten_tool_calls(messages: list[Message]) -> list[Message]:
    """OpenAI's assistant message with `tool_calls` as the text message and one tool_call message per call."""
    out: list[Message] = []
    messages = list(messages)
    for index, message in enumerate(messages):
        calls = message.get("tool_calls") if message.get("role") == "assistant" else None
        if not calls:
            out.append(message)
            continue
        order = {call.get("id"): i for i, call in enumerate(calls)}
        end = index + 1
        while end < len(messages) and messages[end].get("role") in ("tool", "tool_response"):
            end += 1
        replies = messages[index + 1 : end]
        if None not in order and len(order) == len(replies) and set(order) == {r.get("tool_call_id") for r in replies}:
            messages[index + 1 : end] = sorted(replies, key=lambda r, order=order: order[r["tool_call_id"]])  # type: ignore[misc]
        extra = {key: message[key] for key in ("loss",) if key in message}
        if message.get("content"):
            out.append({"role": "assistant", "content": message["content"], **extra})
        for call in calls:
            function = call.get("function", call)
            content = {"name": function.get("name"), "arguments": _parsed(function.get("arguments", {}))}
            out.append({"role": "tool_call", "content": content, **extra})
    return out


def _parsed(value: Any) -> Any:
    """JSON or a Python literal in a text, else the text itself."""
    if not isinstance(value, str):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value)
        except (ValueError, SyntaxError):
            continue
    return value


def _check(messages: list[Message]) -> None:
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant", "tool", "tool_response", "tool_call"):
            raise ValueError(
                f"a message has the role {role}: it must be system, user, assistant, tool_call or tool_response"
            )
        if content is None:
            raise ValueError(f"a {role} message has no content")
        if isinstance(content, list) and all(isinstance(c, dict) and c.get("type") == "text" for c in content):
            message["content"] = "".join(str(c.get("text", "")) for c in content)
        elif not isinstance(content, str) and role not in ("tool_call", "tool", "tool_response"):
            raise ValueError(f"the content of a {role} message is a {type(content).__name__}, not a text")
        if message.get("loss_scale") is not None:
            raise ValueError("a message has loss_scale: the fast lane knows loss or no loss; use ENGINE=swift")


# ---- the template


def _parts(
    messages: list[Message], tools: Any, system: str | None, generation_prompt: bool, training: bool = False
) -> list[tuple[str, bool]]:
    """The conversation as texts with or without loss, as swift.template._swift_encode lays it out."""
    messages = [dict(message) for message in messages]
    if not messages:
        raise ValueError("a conversation has no messages")
    if messages[0]["role"] == "system":
        system = messages.pop(0)["content"]
    preamble: str = DEFAULT_SYSTEM if system is None else system
    if tools:
        preamble = _with_tools(tools, preamble)
    turns = _turns(messages)
    parts: list[tuple[str, bool]] = []
    if preamble:
        parts.append((f"<|im_start|>system\n{preamble}<|im_end|>\n", False))
    for number, (role, query, answers) in enumerate(turns):
        last = number == len(turns) - 1
        if role == "user":
            parts.append((f"<|im_start|>user\n{query}<|im_end|>\n", False))
            if answers or generation_prompt:
                parts.append(("<|im_start|>assistant\n", False))
        else:
            parts.append((query, False))
        parts += answers
        if not last and turns[number + 1][0] != "tool":
            parts.append((_END, False))
        elif last and training and answers and not answers[-1][0].endswith(_STOPS):
            parts.append((_END, True))
    return parts


def _with_tools(tools: Any, system: str) -> str:
    tools = _parsed(tools)
    if not isinstance(tools, (list, tuple)):
        tools = [tools]
    lines = []
    for tool in map(_parsed, tools):
        if not isinstance(tool, dict):
            raise ValueError(f"a tool is a {type(tool).__name__}, not an object with name, description and parameters")
        tool = _without_null_fields(tool)
        if "type" not in tool and "function" not in tool:
            tool = {"type": "function", "function": tool}
        lines.append(json.dumps(tool, ensure_ascii=False))
    return system + _TOOLS_HEAD + "\n".join(lines) + _TOOLS_TAIL


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


_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")


def _turns(messages: list[Message]) -> list[tuple[str, str, list[tuple[str, bool]]]]:
    """(role, query, answers) per round; role `tool`: the query continues an answer that called a tool."""
    rounds: list[tuple[str, str, list[tuple[str, bool]]]] = []
    merged = _merge_tools(messages)
    if merged[0]["role"] == "assistant":
        merged.insert(0, {"role": "user", "content": ""})  # a text to continue from nothing
    for message in merged:
        role, content = message["role"], message["content"]
        if role == "assistant":
            loss = message.get("loss")
            if not rounds:
                raise ValueError("an assistant message follows no question")
            rounds[-1][2].append((content, loss is None or bool(loss)))
        elif role == "user" and rounds and rounds[-1][0] == "user" and not rounds[-1][2]:
            rounds[-1] = ("user", rounds[-1][1] + content, [])
        elif role == "user" and rounds and not rounds[-1][2]:
            raise ValueError("a user message follows a tool's reply without an answer between them")
        elif role in ("user", "tool"):
            rounds.append((role, content, []))
        else:
            raise ValueError(f"a {role} message stands where it cannot")
    if any(not answers for _, _, answers in rounds[:-1]):
        raise ValueError("a question in the middle of the conversation has no answer")
    return rounds


def _merge_tools(messages: list[Message]) -> list[Message]:
    """tool_call messages as assistant text; tool replies as what follows the assistant's text, or join the question."""
    out: list[Message] = []
    i = 0
    while i < len(messages):
        role = messages[i]["role"]
        same = {"tool_call"} if role == "tool_call" else {"tool", "tool_response"}
        if role not in ("tool_call", "tool", "tool_response"):
            out.append(dict(messages[i]))
            i += 1
            continue
        group = []
        while i < len(messages) and messages[i]["role"] in same:
            group.append(messages[i])
            i += 1
        if role == "tool_call":
            text = "\n".join(f"<tool_call>\n{_tool_call(m['content'])}\n</tool_call>" for m in group)
            loss = next((m["loss"] for m in group if "loss" in m), None)
            out.append({"role": "assistant", "content": text, "loss": loss})
            continue
        replies = "\n".join(f"<tool_response>\n{_text(m['content'])}\n</tool_response>" for m in group)
        if out and out[-1]["role"] == "assistant":
            query = f"<|im_end|>\n<|im_start|>user\n{replies}<|im_end|>\n<|im_start|>assistant\n"
            out.append({"role": "tool", "content": query})
        elif out and out[-1]["role"] == "user":
            out[-1]["content"] += f"<|im_end|>\n<|im_start|>user\n{replies}"
        else:
            raise ValueError("a tool's reply stands before any question")
    if not out:
        raise ValueError("a conversation has a system message alone")
    return out


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _tool_call(content: Any) -> str:
    call = _parsed(content)
    if not isinstance(call, dict) or "name" not in call:
        raise ValueError('a tool_call is not {"name": ..., "arguments": ...}')
    arguments = call.get("arguments")
    if arguments is None:
        arguments = call.get("parameters")
    arguments = _parsed(arguments)
    if arguments is None:
        raise ValueError(f"the tool_call {call['name']} has no arguments")
    return json.dumps({"name": call["name"], "arguments": arguments}, ensure_ascii=False)


def _merged(parts: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Neighbours with the same loss joined, because a tokenizer may join what lies on both sides of a seam."""
    out: list[tuple[str, bool]] = []
    for text, has_loss in parts:
        if out and out[-1][1] == has_loss:
            out[-1] = (out[-1][0] + text, has_loss)
        else:
            out.append((text, has_loss))
    return out
