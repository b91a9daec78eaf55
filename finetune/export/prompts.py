"""The 40 conversations of the proof: a GGUF must turn them into the same token ids as the training's template.

They are in the form of the OpenAI API, for llama.cpp; `for_training` gives them in the form of qwen2.chat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """A conversation, and the tools that its answer may call."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()

    def for_training(self) -> list[Message]:
        """The messages with the roles of qwen2.chat."""
        found: list[Message] = []
        for message in self.messages:
            if message.get("tool_calls"):
                found += [{"role": "tool_call", "content": call["function"]} for call in message["tool_calls"]]
            elif message["role"] == "tool":
                found.append({"role": "tool_response", "content": message["content"]})
            else:
                found.append(message)
        return found

    @property
    def name(self) -> str:
        """A few words that identify it in a message."""
        last = next(each["content"] for each in reversed(self.messages) if each["role"] == "user")
        return f"{last[:30]!r} ({len(self.messages)} messages{', tools' if self.tools else ''})"


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _calls(*calls: tuple[str, str]) -> Message:
    listed = [
        {"id": f"call{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": None, "tool_calls": listed}


def _result(text: str, number: int = 0) -> Message:
    return {"role": "tool", "tool_call_id": f"call{number}", "content": text}


def _tool(name: str, description: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


_TEXTS = (
    "Who are you?",
    "你是谁?",
    "你好!请用三句话介绍一下你自己。",
    "退货要多久?運費誰付?",
    "用 Python 写一个快速排序,并解释 O(n log n)。",
    "I can't, she'll, we've, IT'S, don't — that's it…",
    "Der Fluß, l'été, señor, ǅ, naïve façade",
    "Привет, как дела? Γειά σου! שלום, مرحبا",
    "こんにちは、元気ですか?안녕하세요?",
    "🙂👍🏽👨‍👩‍👧‍👦🇨🇳 ok? 1️⃣",
    "12345 1,234.50 ３４５ 2026-11-25 0x1F -7e-3 Ⅷ ½",
    "  two leading spaces and  two inside ",
    "line one\nline two\n\n\nline five\n",
    "tab\tseparated\t\tvalues\r\nwith a Windows line end",
    "def f(x):\n    return {'a': [x, x**2], \"b\": None}  # comment\n\nprint(f(3))",
    '{"name": "张三", "age": 42, "tags": ["a", "b"]}',
    "<b>bold</b> &amp; https://example.com/a?b=c#d user@example.com",
    "𠮷野家 龘 𝒳 ﬁ ㍿ zero​width",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!!!!!!!!????",
    "?",
    "what is <tool_call> and </tool_call>, and <|endoftext|>?",
    "价格是￥100,折扣50%;合计:¥50。",
)
_SYSTEMS = ("You are a helpful assistant.", "你是客服小迪,只回答与订单有关的问题。\n不知道就说不知道。", "Be brief. 🙂")
_TURNS: tuple[tuple[Message, ...], ...] = (
    (_user("Hi"), _said("Hello! How can I help?"), _user("Tell me a joke.")),
    (_user("你好"), _said("你好!有什么可以帮你?"), _user("订单 8812 到哪了?"), _said("在路上。😀"), _user("几天到?")),
    (_user("1+1?"), _said("2"), _user("+1?"), _said("3"), _user("+1?"), _said("4"), _user("and?")),
    (_user("Write code"), _said("```python\nprint('hi')\n```\n"), _user("Thanks!\n")),
    (_user("a\n\nb"), _said("  indented answer  "), _user("c")),
    (_user("Q: ?"), _said(""), _user("again?")),
    ({"role": "system", "content": _SYSTEMS[1]}, _user("退货"), _said("好的。"), _user("谢谢")),
    ({"role": "system", "content": "Answer in English."}, _user("为什么?"), _said("Because."), _user("Why? 🤔")),
)
_WEATHER = _tool("get_weather", "天气 & <temperature> of a city", city={"type": "string", "enum": ["北京", "Paris"]})
_ADD = _tool("add", "Adds two numbers.", a={"type": "number"}, b={"type": "number", "default": 0})
_TOOLS: tuple[Conversation, ...] = (
    Conversation((_user("北京天气怎么样?"),), (_WEATHER,)),
    Conversation((_user("2+2?"),), (_ADD, _WEATHER)),
    Conversation(({"role": "system", "content": _SYSTEMS[2]}, _user("Paris?")), (_WEATHER,)),
    Conversation((_user("Paris?"), _calls(("get_weather", '{"city": "Paris"}')), _result("18 °C")), (_WEATHER,)),
    Conversation(
        (
            _user("北京和巴黎"),
            _calls(("get_weather", '{"city": "北京"}'), ("get_weather", '{"city": "Paris"}')),
            _result('{"t": 3, "天气": "晴"}'),
            _result("18 °C 🌤", 1),
        ),
        (_WEATHER, _ADD),
    ),
    Conversation(
        (
            _user("1+2, then +3"),
            _calls(("add", '{"a": 1, "b": 2.5}')),
            _result("3.5"),
            _said("3.5, 然后呢?"),
            _user("+3"),
            _calls(("add", '{"a": 3.5, "b": 3, "c": [true, null, "x\\ny"]}')),
            _result("6.5"),
        ),
        (_ADD,),
    ),
    Conversation((_user("no arguments"), _calls(("now", "{}")), _result("12:00"))),
)


def all_prompts() -> list[Conversation]:
    """All conversations: single questions, system prompts, several turns, tools."""
    found = [Conversation((_user(text),)) for text in _TEXTS]
    found += [Conversation(({"role": "system", "content": text}, _user("你能做什么?"))) for text in _SYSTEMS]
    found += [Conversation(turns) for turns in _TURNS]
    return found + list(_TOOLS)
