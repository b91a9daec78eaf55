"""Conversations in the forms that people's files have, generated systematically: languages, turns, calls, systems.

A talk is what is said; `FORMS` writes it down as OpenAI, ShareGPT, ms-swift and others do.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "stock_level",
            "description": "How many pieces of an article are in stock",
            "parameters": {"type": "object", "properties": {"sku": {"type": "string"}}, "required": ["sku"]},
        },
    },
    {
        "name": "天气",
        "description": "查询城市的天气",
        "parameters": {"type": "object", "properties": {"城市": {"type": "string"}}},
    },
]
SAID = {
    "en": ("How many of A-{n} are left?", "There are {n} left.\nAnything else?", "You help in a warehouse."),
    "zh": ("A-{n} 还剩多少件?", "还剩 {n} 件。需要别的吗?", "你是仓库助手。"),
}
CALLS = {"en": ("stock_level", "sku", "A-{n}"), "zh": ("天气", "城市", "北京{n}区")}


@dataclass(frozen=True)
class Call:
    """A call of a tool and what the tool said."""

    id: str
    name: str
    arguments: Row
    reply: str


@dataclass(frozen=True)
class Round:
    """A question, calls side by side, and the answer; no answer: the calls are it."""

    question: str
    calls: tuple[Call, ...]
    answer: str | None
    before: str = ""  # what the assistant says before it calls


@dataclass(frozen=True)
class Talk:
    """What is said, before it is written down in one form or another."""

    rounds: tuple[Round, ...]
    system: str | None = None
    tools: list[Row] = field(default_factory=lambda: TOOLS)


def talks() -> Iterator[Talk]:
    """2 languages x 3 lengths x 3 numbers of calls x with and without a system prompt x two endings."""
    variants = itertools.product(SAID, (1, 2, 3), (1, 2, 3), (0, 1), (0, 1))
    for index, (language, length, width, has_system, ends) in enumerate(variants):
        question, answer, system = SAID[language]
        name, key, value = CALLS[language]
        rounds = []
        for number in range(length):
            calls = tuple(
                Call(f"c{number}{n}", name, {key: value.format(n=n), "n": n}, json.dumps({"left": number + n}))
                for n in range(width if number != 1 else 0)  # the second round is plain talk
            )
            before = answer.format(n="?") if number == 2 else ""
            rounds.append(Round(question.format(n=10 * index + number), calls, answer.format(n=number + width), before))
        if ends and rounds[-1].calls:  # the last call is the answer
            rounds[-1] = Round(rounds[-1].question, rounds[-1].calls, None)
        yield Talk(tuple(rounds), system if has_system else None)


def _openai(talk: Talk, blank: Row, as_text: bool = True, shuffled: bool = False) -> Row:
    """OpenAI's chat form; `blank` is what an assistant message without a text holds beside its tool_calls."""
    messages: list[Row] = [{"role": "system", "content": talk.system}] if talk.system else []
    for turn in talk.rounds:
        messages.append({"role": "user", "content": turn.question})
        if turn.calls:
            calls = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": json.dumps(call.arguments) if as_text else call.arguments,
                    },
                }
                for call in turn.calls
            ]
            text = {"content": turn.before} if turn.before else blank
            messages.append({"role": "assistant", **text, "tool_calls": calls})
            if turn.answer is None:
                break
            replies = [{"role": "tool", "tool_call_id": call.id, "content": call.reply} for call in turn.calls]
            messages += reversed(replies) if shuffled else replies
        messages.append({"role": "assistant", "content": turn.answer})
    return {"tools": talk.tools, "messages": messages}


def _swift(
    talk: Talk, names: tuple[str, str] = ("role", "content"), roles: Row | None = None, as_text: bool = True
) -> Row:
    """ms-swift's own messages, a message a call; with other names, ShareGPT's."""
    role, content = names
    said: list[tuple[str, Any]] = []
    for turn in talk.rounds:
        said.append(("user", turn.question))
        if turn.before:
            said.append(("assistant", turn.before))
        for call in turn.calls:
            form = {"name": call.name, "arguments": call.arguments}
            said.append(("tool_call", json.dumps(form, ensure_ascii=False) if as_text else form))
        if turn.answer is None:
            break
        said += [("tool_response", call.reply) for call in turn.calls]
        said.append(("assistant", turn.answer))
    messages = [{role: (roles or {}).get(who, who), content: what} for who, what in said]
    if talk.system is not None and roles is None:
        messages.insert(0, {role: "system", content: talk.system})
    key = "messages" if roles is None else "conversations"
    found: Row = {key: messages, "tools": json.dumps(talk.tools, ensure_ascii=False)}
    return found | ({"system": talk.system} if talk.system is not None and roles else {})


def _parts(talk: Talk) -> Row:
    """Contents as lists of parts, of one part and of several; without tools, which have no parts."""
    messages = []
    for number, turn in enumerate(talk.rounds):
        for role, text in (("user", turn.question), ("assistant", turn.answer or turn.question)):
            pieces = [text] if number % 2 else [text[:5], text[5:]]
            messages.append({"role": role, "content": [{"type": "text", "text": piece} for piece in pieces]})
    return {"messages": messages} | ({"system": talk.system} if talk.system else {})


def _pairs(talk: Talk) -> Row:
    found: Row = {
        "conversation": [{"human": turn.question, "assistant": turn.answer or "好。"} for turn in talk.rounds]
    }
    return found | ({"system": talk.system} if talk.system else {})


def _history(talk: Talk) -> Row:
    *before, last = [[turn.question, turn.answer or "OK"] for turn in talk.rounds]
    found: Row = {"instruction": last[0], "input": talk.rounds[0].before, "output": last[1], "history": before}
    return found | ({"system": talk.system} if talk.system else {})


def _weights(talk: Talk) -> Row:
    """Every answer but the last without loss."""
    row = _swift(talk)
    answers = [message for message in row["messages"] if message["role"] in ("assistant", "tool_call")]
    for message in answers[:-1]:
        message["loss"] = False
    return row


SHAREGPT = {"user": "human", "assistant": "gpt", "tool_call": "function_call", "tool_response": "observation"}
FORMS: dict[str, Callable[[Talk], Row]] = {
    "openai, content null": lambda talk: _openai(talk, {"content": None}),
    "openai, content absent": lambda talk: _openai(talk, {}),
    "openai, content empty": lambda talk: _openai(talk, {"content": ""}),
    "openai, arguments as objects": lambda talk: _openai(talk, {"content": None}, as_text=False),
    "openai, replies in another order": lambda talk: _openai(talk, {}, shuffled=True),
    "content as parts": _parts,
    "tool_call as text": _swift,
    "tool_call as object": lambda talk: _swift(talk, as_text=False),
    "sharegpt function_call": lambda talk: _swift(talk, ("from", "value"), SHAREGPT),
    "pairs": _pairs,
    "alpaca with history": _history,
    "loss of the last answer alone": _weights,
}
