"""A request made regular: what the API allows is passed on in one form, the rest is refused and its field named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune.serve.fields import Refused
from finetune.serve.request import ChatRequest, parse, regular

SYSTEMS = {"base": "You are Qwen.", "a": "Be brief.", "bare": None}
USER = {"role": "user", "content": "你是谁?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "12"}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def ask(*messages: Any, model: str = "a", **fields: Any) -> ChatRequest:
    """A chat request, parsed from its JSON."""
    return regular(parse(json.dumps({"model": model, "messages": messages or [USER], **fields}).encode()), SYSTEMS)


def roles(request: ChatRequest) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in request.messages]


@pytest.mark.parametrize(("model", "system"), [("base", "You are Qwen."), ("a", "Be brief.")])
def test_a_conversation_without_a_system_message_gets_the_models_own(model, system):
    assert roles(ask(model=model)) == [("system", system), ("user", "你是谁?")]


def test_a_system_message_of_its_own_stays():
    assert roles(ask({"role": "system", "content": "Be kind."}, USER))[0] == ("system", "Be kind.")
    assert roles(ask({"role": "system", "content": ""}, USER))[0] == ("system", "")
    assert roles(ask(model="bare")) == [("user", "你是谁?")]


@pytest.mark.parametrize(
    ("told", "system"),
    [
        ([{"role": "developer", "content": "Be short."}], "Be short."),
        ([{"role": "system", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]}], "AB"),
        ([{"role": "system", "content": "A"}, {"role": "developer", "content": "B"}], "A\n\nB"),
    ],
)
def test_what_stands_at_the_beginning_is_one_system_message(told, system):
    assert roles(ask(*told, USER)) == [("system", system), ("user", "你是谁?")]


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
def test_a_tool_round_needs_no_content(content):
    request = ask(USER, {"role": "assistant", "tool_calls": [CALL], **content}, TOOL)
    assert request.messages[2] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert request.messages[3] == {"role": "tool", "tool_call_id": "c1", "content": "12"}


def test_an_answer_can_be_sent_back_as_it_came():
    """With the nulls and empty lists of the client's own objects."""
    answer = {"role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None}
    answer |= {"function_call": None, "tool_calls": [CALL]}
    assert ask(USER, answer, TOOL).messages[2]["tool_calls"] == [CALL]


def called(arguments: Any) -> dict[str, Any]:
    """An assistant's call with these arguments."""
    return {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}


@pytest.mark.parametrize("nothing", ["", None, "{}", {}])
def test_a_call_without_arguments_has_an_empty_object(nothing):
    made = ask(USER, called(nothing), TOOL).messages[2]["tool_calls"]
    assert made[0]["function"]["arguments"] == "{}"


def test_arguments_that_are_no_text_become_one():
    call = {"function": {"name": "f", "arguments": {"x": "值"}}}
    made = ask(USER, {"role": "assistant", "tool_calls": [call]}, TOOL).messages[2]["tool_calls"][0]
    assert made == {"type": "function", "function": {"name": "f", "arguments": '{"x": "值"}'}}


def test_turns_of_one_speaker_are_joined_with_a_line_break():
    said = ask(USER, USER, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}, USER)
    assert roles(said)[1:] == [("user", "你是谁?\n你是谁?"), ("assistant", "a\nb"), ("user", "你是谁?")]


@pytest.mark.parametrize(("given", "stop"), [("开发", ("开发",)), (["a", "b"], ("a", "b")), ([], ()), (None, ())])
def test_stop_is_a_text_or_a_list(given, stop):
    assert ask(stop=given).stop == stop


@pytest.mark.parametrize(
    "fields", [{"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_tokens": 5, "max_completion_tokens": 5}]
)
def test_both_names_of_the_longest_answer(fields):
    assert ask(**fields).max_tokens == 5
    assert ask().max_tokens is None


@pytest.mark.parametrize(
    ("fields", "temperature"),
    [({"temperature": 1}, 1.0), ({"temperature": 1e-40}, 0.0), ({"top_p": 0}, 0.0), ({}, None)],
)
def test_a_temperature_that_would_overflow_is_the_likeliest_token(fields, temperature):
    assert ask(**fields).temperature == temperature


def test_usage_of_a_stream_is_asked_for():
    assert not ask(stream=True).include_usage
    assert ask(stream=True, stream_options={"include_usage": True}).include_usage
    assert not ask(stream=True, stream_options={"include_usage": False}).include_usage


def test_tools_and_their_choice():
    assert ask(tools=[FUNCTION]).tools == (FUNCTION,)
    strict = {"type": "function", "function": {**FUNCTION["function"], "strict": True}}
    assert ask(tools=[strict], tool_choice="auto").tools == (FUNCTION,)
    assert ask(tools=[FUNCTION], tool_choice="none").tools == ()
    assert ask(tools=[]).tools == ()


def test_null_is_left_out():
    nothing = ("stop", "n", "temperature", "tools", "response_format", "stream_options", "logprobs", "seed")
    assert ask(**dict.fromkeys(nothing)) == ask()


def test_what_has_no_effect_here_is_taken():
    assert ask(user="x", metadata={"a": "b"}, response_format={"type": "text"}, store=False) == ask()


def test_a_prompt_is_what_a_user_says():
    for prompt in ("你好", ["你好"]):
        request = regular({"model": "a", "prompt": prompt, "max_tokens": 3}, SYSTEMS, chat=False)
        assert roles(request) == [("system", "Be brief."), ("user", "你好")] and request.max_tokens == 3


SYSTEM = {"role": "system", "content": "x"}
ASSISTANT = {"role": "assistant", "content": "x"}
CALLED = {"role": "assistant", "tool_calls": [CALL]}
PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://192.0.2.1/x.png"}}]}


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"response_format": {"type": "json_object"}}, 400, "response_format: .*not supported"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, 400, "response_format: .*not supported"),
        ({"max_completion_tokens": 0}, 400, "max_completion_tokens: 0 is out of range: it must be from 1"),
        ({"max_completion_tokens": 5, "max_tokens": 6}, 400, "differ"),
        ({"max_tokens": 1.5}, 422, "body.max_tokens: 1.5: it must be a whole number"),
        ({"max_tokens": True}, 422, "body.max_tokens: true"),
        ({"temperature": 3}, 400, "temperature: 3 is out of range: it must be from 0 to 2"),
        ({"temperature": 10**400}, 400, "temperature: .* is out of range"),
        ({"n": 0}, 400, "n: 0 is out of range"),
        ({"n": 10**9}, 400, "from 1 to 128"),
        ({"stop": ""}, 400, "stop: an empty text"),
        ({"stop": ["a"] * 5}, 400, "at most 4"),
        ({"stop": [1]}, 422, "body.stop.0: 1: it must be a text"),
        ({"stop": {"a": 1}}, 422, "body.stop"),
        ({"stream": "yes"}, 422, "body.stream"),
        ({"stream_options": {"include_usage": True}}, 400, "only a stream has them"),
        ({"stream": True, "stream_options": []}, 422, "body.stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, 400, "not an option of a stream"),
        ({"logprobs": True, "stop": "a"}, 400, "not supported together with stop"),
        ({"top_logprobs": 3}, 400, "only with logprobs"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty: 0.5 is not supported: use repetition_penalty"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
        ({"functions": [{}]}, 400, "use tools"),
        ({"tools": [FUNCTION], "tool_choice": "required"}, 400, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}}, 400, "tool_choice"),
        ({"tools": {"a": 1}}, 422, "body.tools"),
        ({"tools": [{"type": "code"}]}, 400, "tools.0: only functions"),
        ({"tools": [{"type": "function", "function": {}}]}, 400, "tools.0.function: it needs a name"),
        ({"temprature": 1}, 400, '"temprature": not a field that this server knows'),
        ({"images": ["http://192.0.2.1/x.png"]}, 400, "text only"),
        ({"model": "gpt-4"}, 400, 'model "gpt-4" is not served here: use one of base, a'),
        ({"model": "x" * 5000}, 400, r"^model .{80} is not served here"),
        ({"model": None}, 422, "body.model"),
        ({"model": ["a"]}, 422, "body.model"),
        ({"messages": None}, 422, "body.messages: the field is missing"),
        ({"messages": "你好"}, 422, "body.messages"),
        ({"messages": []}, 400, "messages: the list is empty"),
        ({"messages": [1]}, 422, "body.messages.0"),
        ({"messages": [SYSTEM]}, 400, "no user message"),
        ({"messages": [USER, SYSTEM, USER]}, 400, "messages.1: a system or developer message after others"),
        ({"messages": [{"role": "user"}]}, 400, "messages.0.content: missing"),
        ({"messages": [USER, {"role": "assistant", "content": None}, USER]}, 400, "messages.1.content: missing"),
        ({"messages": [{"role": "user", "content": 5}]}, 422, "body.messages.0.content: 5"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 422, "body.messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "half a surrogate pair"),
        ({"messages": [PICTURE]}, 400, "text only"),
        ({"messages": [{"role": "bot", "content": "x"}]}, 400, 'messages.0.role: "bot" is not a role'),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, 400, "older API"),
        ({"messages": [USER, ASSISTANT]}, 400, "answers are not continued"),
        ({"messages": [USER, TOOL]}, 400, "messages.1: a tool message that answers no tool_calls"),
        ({"messages": [USER, ASSISTANT, TOOL]}, 400, "answers no tool_calls"),
        ({"messages": [USER, CALLED, USER]}, 400, "messages.2: tool_calls without a reply"),
        ({"messages": [USER, called("{'x': 1"), TOOL]}, 400, "arguments: .* it must be the text of a JSON object"),
        ({"messages": [USER, called("[1]"), TOOL]}, 400, "the text of a JSON object"),
        ({"messages": [USER, called('{"a": ' * 9999), TOOL]}, 400, "the text of a JSON object"),
        ({"messages": [USER, CALLED, TOOL, USER]}, 400, "messages.3: a user message right after a tool message"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{}]}, TOOL]}, 400, "tool_calls.0.function"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": {}}, TOOL]}, 422, "tool_calls"),
        ({"messages": [{**USER, "loss": True}]}, 400, 'messages.0."loss": not a field of a message'),
    ],
)
def test_what_is_refused_is_named(fields, status, says):
    with pytest.raises(Refused, match=says) as refused:
        ask(**fields) if "messages" not in fields else regular({"model": "a", **fields}, SYSTEMS)
    assert refused.value.status == status and refused.value.param
    refused.value.message.encode()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 422, "JSON decode error: line 1, column 1"),
        (b'{"model": ', 422, "JSON decode error"),
        (b'{"temperature": NaN}', 422, "a number that cannot be read"),
        (b'{"seed": ' + b"9" * 5000 + b"}", 422, "a number that cannot be read"),
        (b"[" * 100_000, 422, "nested too deeply"),
        (b"\xff\xfe", 400, "not UTF-8"),
        (b"[]", 422, "not a JSON object"),
    ],
)
def test_a_body_that_is_no_json_object(body, status, says):
    with pytest.raises(Refused, match=says) as refused:
        regular(parse(body), SYSTEMS)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "body.prompt: the field is missing"),
        ({"prompt": ["a", "b"]}, "one text at a time"),
        ({"prompt": [1, 2]}, "no token ids"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "logprobs": 3}, "use /v1/chat/completions"),
        ({"prompt": "a", "messages": []}, "messages"),
    ],
)
def test_a_prompt_that_is_refused(fields, says):
    with pytest.raises(Refused, match=says):
        regular({"model": "a", **fields}, SYSTEMS, chat=False)
