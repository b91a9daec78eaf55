"""Tokens as pieces of text: characters in parts, stop texts across tokens, tool calls, log-probabilities."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune.serve.answer import Choice
from finetune.serve.fast.client import AnswerText, calls_in, laid_out
from finetune.serve.fast.settings import EndpointSettings
from finetune.serve.request import ChatRequest
from qwen2.chat import Tokenizer
from qwen2.serving.request import LENGTH, STOP, NextToken

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
FUNCTION = {"type": "function", "function": {"name": "weather"}}


def spoken(tokenizer: Tokenizer, text: str, size: int = 1, finish: str = STOP, **fields: Any) -> tuple[str, Any, Any]:
    """(text, calls, reason) as the API makes them of tokens that come `size` at a time; nothing after a finish."""
    request = ChatRequest("m", (), **fields)
    choice, made = Choice(request.stop, bool(request.tools)), AnswerText(tokenizer, request, 7)
    ids = tokenizer.encode(text)
    said, out = [NextToken(1, token) for token in ids] + [NextToken(1, None, finish)], ""
    for start in range(0, len(said), size):
        part = said[start : start + size]
        piece = made.add(part, part[-1].finish)
        out += choice.add(piece)
        if piece.finish:
            break
    rest, calls, reason = choice.end()
    return out + rest, calls, reason


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("text", ["你好😀,世界!", "a b  c\n\n", "𠮷野家🏳️‍🌈", ""])
def test_the_pieces_make_the_text(tokenizer, text, size):
    assert spoken(tokenizer, text, size) == (text, (), "stop")


def test_a_character_that_never_came_whole_is_said_as_in_the_whole_text(tokenizer):
    ids = next(ids for each in "𪚥𡃁🫨" if len(ids := tokenizer.encode(each)) > 1)
    made = AnswerText(tokenizer, ChatRequest("m", (), stream=True), 1)
    piece = made.add([NextToken(1, ids[0])], LENGTH)
    assert piece.text == tokenizer.decode(ids[:1]) and piece.finish == "length"


def test_an_answer_ends_alike_with_and_without_a_stop_text(tokenizer):
    """The limit cuts a character; the stop text never comes."""
    request = ChatRequest("m", (), stop=("never",))
    ids = tokenizer.encode("好😀")[:-1]
    made = AnswerText(tokenizer, request, 7)
    pieces = [made.add([NextToken(1, token)], None) for token in ids[:-1]]
    pieces.append(made.add([NextToken(1, ids[-1], LENGTH)], LENGTH))
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(ids)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_stop_text_ends_it_across_tokens_and_its_tokens_are_counted(tokenizer, size):
    text = "我是一个助手,很高兴认识你。再见"
    assert spoken(tokenizer, text, size, stop=("高兴认",)) == ("我是一个助手,很", (), "stop")
    made = AnswerText(tokenizer, ChatRequest("m", (), stop=("助手",)), 7)
    piece = made.add([NextToken(1, token) for token in tokenizer.encode(text)], None)
    assert piece.finish == STOP and piece.completion_tokens < len(tokenizer.encode(text))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_tool_calls_are_read_from_the_answer(tokenizer, size):
    text, calls, reason = spoken(tokenizer, f"我查一下。{CALL}\n{CALL}", size, tools=(FUNCTION,))
    assert text == "我查一下。" and reason == "tool_calls" and len(calls) == 2
    function = calls[0]["function"]
    assert function["name"] == "weather" and json.loads(function["arguments"]) == {"city": "北京"}
    assert calls[0]["id"] != calls[1]["id"] and calls[0]["type"] == "function"
    assert spoken(tokenizer, CALL, size) == (CALL, (), "stop"), "nobody offered a tool"


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nno json\n</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        "<tool_call>[1]</tool_call>",
        "<tool_call>" + "[" * 5000 + "</tool_call>",
        '<tool_call>{"name": "f"',
    ],
)
def test_what_is_no_call_stays_text(tokenizer, text):
    assert list(calls_in(text)) == []
    if len(text) < 100:
        assert spoken(tokenizer, text, 1, tools=(FUNCTION,))[0::2] == (text, "stop")


def test_messages_are_laid_out_as_verify_and_training_do(tokenizer):
    """By the same template as rows.standard_row's messages of the same conversation."""
    from qwen2.rows import standard_row

    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "天气?"},
        {"role": "assistant", "content": "我查。", "tool_calls": [call]},
        {"role": "tool", "content": "晴"},
        {"role": "assistant", "content": "晴天。"},
        {"role": "user", "content": "谢谢"},
    ]
    row, tools = standard_row({"messages": [*messages, {"role": "assistant", "content": "不用"}], "tools": [FUNCTION]})
    assert tokenizer.encode_chat(laid_out(messages), tools=[FUNCTION]) == tokenizer.encode_chat(row[:-1], tools=tools)


def test_settings_travel_as_json():
    made = EndpointSettings("m", "base", {"a": "x"}, {"a": None}, origins=("*",), rows=3, temperature=0.5)
    assert EndpointSettings.from_json(made.to_json()) == made and made.names == ["base", "a"]


def test_the_bytes_of_tokens_are_those_of_the_text(tokenizer):
    text = "你好𪚥 naïve\t<tool_call>😀\n"
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()
    assert tokenizer.token_bytes(tokenizer.encode("<|im_end|>")[0]) == b"<|im_end|>"
    assert tokenizer.token_bytes(152_063) == b"", "the model has more rows than the vocabulary"
