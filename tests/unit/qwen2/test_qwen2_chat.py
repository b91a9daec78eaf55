"""Ids and labels of every kind of row, held to ms-swift's own preprocessors and template."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from qwen2.chat import Tokenizer, standard_row
from tests.swift_rows import swift_row, swift_template

WEATHER = {
    "name": "get_weather",
    "description": "天气查询",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "default": None}}, "required": None},
}
TOOL_TALK = [
    {"role": "user", "content": "北京和上海天气如何?"},
    {"role": "tool_call", "content": '{"name": "get_weather", "arguments": {"city": "北京"}}'},
    {"role": "tool_call", "content": {"name": "get_weather", "arguments": {"city": "上海"}}},
    {"role": "tool_response", "content": '{"temp": 3}'},
    {"role": "tool", "content": {"temp": 9}},
    {"role": "assistant", "content": "北京 3 度,上海 9 度。"},
]
OPENAI_CALLS = [
    {"role": "user", "content": "weather?"},
    {
        "role": "assistant",
        "content": "let me look",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "A"}'}},
            {"id": "b", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "B"}}},
        ],
    },
    {"role": "tool", "tool_call_id": "b", "content": "cold"},
    {"role": "tool", "tool_call_id": "a", "content": "warm"},
    {"role": "assistant", "content": "A warm, B cold"},
]
ROWS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "你是谁?", "input": "", "output": "我是 Swift-Robot。"},
    "alpaca with input": {"instruction": "Translate", "input": "猫", "output": "cat"},
    "alpaca with null input": {"instruction": "hi", "input": None, "output": "hello"},
    "alpaca with input alone": {"instruction": "", "input": "hi there", "output": "hello"},
    "alpaca with system and history": {
        "system": "Be brief.", "instruction": "and now?", "input": "", "output": "ok",
        "history": [["a", "b"], ["c", "d"]],
    },
    "no system at all": {"system": "", "query": "q", "response": "r"},
    "query and response": {"query": "1+1=?", "response": "2"},
    "question and answer": {"question": "1+1=?", "answer": "2", "system_prompt": "Count."},
    "other case": {"Query": "1+1=?", "Response": "2"},
    "instruction without input": {"instruction": "say\n\nit", "output": "  it \n"},
    "empty answer": {"query": "q", "response": ""},
    "list of answers": {"query": "q", "response": ["first", "second"]},
    "answer ends with a newline": {"query": "q\n", "response": "r\n"},
    "answer ends with the end token": {"query": "q", "response": "done<|im_end|>"},
    "answer ends with endoftext": {"query": "q", "response": "done<|endoftext|>"},
    "special tokens inside": {"query": "what is <|im_start|> and <image>?", "response": "a <|im_end|> token <bbox>."},
    "emoji and rare": {"query": "😀👩‍👩‍👧 🇨🇳 é ﷽ 𠮷", "response": "好的👌🏽 \u200b \t tab  双  空格 ①②"},
    "code and digits": {"query": "print(123456789)\n\tif x:\r\n", "response": "```py\nx = 3.14159\n```"},
    "full width": {"query": "123 ABC", "response": "「です」。。。……"},
    "messages": {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]},
    "several turns": {
        "messages": [
            {"role": "system", "content": "你是助手"},
            {"role": "user", "content": "一"}, {"role": "assistant", "content": "二"},
            {"role": "user", "content": "三"}, {"role": "assistant", "content": "四"},
            {"role": "user", "content": "五"}, {"role": "assistant", "content": "六\n"},
        ]
    },
    "empty answer in the middle": {
        "messages": [
            {"role": "user", "content": "1"}, {"role": "assistant", "content": ""},
            {"role": "user", "content": "2"}, {"role": "assistant", "content": "x"},
        ]
    },
    "system column beside messages": {
        "system": "S", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
    },
    "two user messages": {
        "messages": [
            {"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"},
        ]
    },
    "two assistant messages": {
        "messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "assistant", "content": "c"},
        ]
    },
    "assistant first": {"messages": [{"role": "assistant", "content": "a text to go on from"}]},
    "loss off in the middle": {
        "messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "no", "loss": False},
            {"role": "user", "content": "b"}, {"role": "assistant", "content": "yes", "loss": True},
        ]
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"},
            {"from": "human", "value": "2"}, {"from": "gpt", "value": "3"},
        ]
    },
    "pairs": {
        "conversation": [{"human": "hi", "assistant": "yo"}, {"user": "more", "assistant": "less"}], "system": "P",
    },
    "messages as text": {"messages": '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]'},
    "tools": {"tools": [WEATHER], "messages": TOOL_TALK},
    "tools as text, wrapped": {
        "tools": '[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"x": null}}}]',
        "messages": TOOL_TALK,
    },
    "tools with system": {
        "tools": [WEATHER], "messages": [{"role": "system", "content": "Sei kurz."}, *TOOL_TALK],
    },
    "tools with an empty system": {
        "tools": [WEATHER], "messages": [{"role": "system", "content": ""}, *TOOL_TALK],
    },
    "a tool call as the answer": {"tools": [WEATHER], "messages": TOOL_TALK[:2]},
    "text, then a tool call": {
        "tools": [WEATHER],
        "messages": [TOOL_TALK[0], {"role": "assistant", "content": "look:"}, *TOOL_TALK[1:]],
    },
    "a reply without a call": {
        "tools": [WEATHER],
        "messages": [TOOL_TALK[0], {"role": "tool", "content": "sunny"}, {"role": "assistant", "content": "sun"}],
    },
    "calls in two rounds": {
        "tools": [WEATHER],
        "messages": [TOOL_TALK[i] for i in (0, 1, 3, 1, 3, 5, 0, 5)],
    },
    "openai tool calls": {"tools": [WEATHER], "messages": OPENAI_CALLS},
    "function_call roles": {
        "tools": [WEATHER],
        "messages": [
            TOOL_TALK[0], {"role": "function-call", "content": TOOL_TALK[1]["content"]},
            {"role": "observation", "content": "3"}, TOOL_TALK[5],
        ],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def template(swift_processor: Any) -> Any:
    """ms-swift's own Qwen2.5 template over the same tokenizer, in training mode."""
    return swift_template(swift_processor)


@pytest.mark.parametrize("name", list(ROWS))
@pytest.mark.parametrize("system", [None, "You are a helpful assistant."])
def test_ids_and_labels_equal_ms_swift(tokenizer: Tokenizer, template: Any, name: str, system: str | None) -> None:
    default = template.template_meta.default_system
    assert default.startswith("You are Qwen")
    row = copy.deepcopy(ROWS[name])
    try:
        if system is not None:
            template.template_meta.default_system = system
        wanted = template.encode(swift_row(ROWS[name]))
    finally:
        template.template_meta.default_system = default
    ids, labels = tokenizer.encode_row(row, system)
    assert ids == wanted["input_ids"], tokenizer.decode(ids, False)
    assert labels == wanted["labels"]
    assert row == ROWS[name], "the row must not be changed"
    assert any(label >= 0 for label in labels)


@pytest.mark.parametrize("system", [None, "", "用中文回答。"])
def test_prompts_equal_ms_swift(tokenizer: Tokenizer, template: Any, system: str | None) -> None:
    talks = [
        [{"role": "user", "content": "你是谁?"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
        TOOL_TALK[:5],
    ]
    template.set_mode("transformers")
    try:
        for talk in talks:
            tools = [WEATHER] if talk is talks[2] else None
            full = talk if system is None else [{"role": "system", "content": system}, *talk]
            wanted = template.encode({"messages": copy.deepcopy(full), "tools": copy.deepcopy(tools)})["input_ids"]
            assert tokenizer.encode_chat(talk, system, tools=tools) == wanted
            assert (
                tokenizer.encode_chat(full, "ignored: the messages have one", tools=tools) == wanted or system is None
            )
    finally:
        template.set_mode("train")


def test_prompt_is_the_beginning_of_its_row(tokenizer: Tokenizer) -> None:
    ids, labels = tokenizer.encode_row({"query": "你好", "response": "好"})
    prompt = tokenizer.encode_chat([{"role": "user", "content": "你好"}])
    assert ids[: len(prompt)] == prompt and labels[: len(prompt)] == [-100] * len(prompt)
    assert tokenizer.decode(ids[len(prompt) :], skip_special_tokens=False) == "好<|im_end|>\n"
    assert tokenizer.decode(ids[len(prompt) :]) == "好\n"
    whole = tokenizer.encode_chat([{"role": "user", "content": "你好"}], add_generation_prompt=False)
    assert tokenizer.decode(whole, False).endswith("你好<|im_end|>\n")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"query": "q"}, "no answer"),
        ({"instruction": "q", "input": ""}, "no answer"),
        ({"messages": [{"role": "user", "content": "q"}]}, "no answer"),
        ({"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}]}, "last message"),
        ({"messages": [{"role": "robot", "content": "q"}]}, "robot"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "nonsense"}, "JSON"),
        (
            {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "a"}]},
            r"content is missing",
        ),
        ({"query": "q", "response": "r", "images": ["x.png"]}, "only text"),
        ({"query": 3, "response": "r"}, "is a number, not a text"),
        ({"prompt": "a", "question": "b", "response": "r"}, "which is the query"),
        ([], "not an object"),
    ],
)
def test_rows_that_cannot_be_used_say_why(row: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        standard_row(row)


def test_tokenizer_folder_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read"):
        Tokenizer(tmp_path)
