"""Rows as other people's files have them: many conversations of each form, held to ms-swift's own ids and labels."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from qwen2.chat import IGNORED, Tokenizer
from qwen2.row_errors import RowError
from qwen2.rows import standard_row
from tests.conversations import FORMS, TOOLS, talks
from tests.swift_rows import swift_row

HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def trained(tokenizer: Tokenizer, row: Any) -> str:
    """The text with loss, what lies between marked."""
    ids, labels = tokenizer.encode_row(row)
    text, before = "", False
    for token, label in zip(ids, labels, strict=True):
        text += tokenizer.decode([token], False) if label != IGNORED else "…" if before else ""
        before = label != IGNORED
    return text


@pytest.mark.parametrize("form", list(FORMS))
def test_conversations_of_every_form_are_laid_out_as_ms_swift_does(
    tokenizer: Tokenizer, template: Any, form: str
) -> None:
    rows = [FORMS[form](talk) for talk in talks()]
    assert len({json.dumps(row, sort_keys=True) for row in rows}) >= 40
    for row in rows:
        kept = copy.deepcopy(row)
        wanted = template.encode(swift_row(row))
        ids, labels = tokenizer.encode_row(row, "You are a helpful assistant.")
        assert ids == wanted["input_ids"], tokenizer.decode(ids, False)
        assert labels == wanted["labels"]
        assert row == kept, "the row must not be changed"


TOOLS_OF_EVERY_KIND = {
    "null": None,
    "an empty text": "",
    "a list as text, empty": "[]",
    "an empty list": [],
    "a list": TOOLS,
    "one object": TOOLS[0],
    "an empty object": {},
    "a list of JSON texts": [json.dumps(tool) for tool in TOOLS],
    "JSON text": json.dumps(TOOLS, ensure_ascii=False),
    "JSON text of one": json.dumps(TOOLS[1]),
    "nulls of Arrow": [{**TOOLS[1], "strict": None, "parameters": {"properties": {"a": {"type": "x"}, "b": None}}}],
}


@pytest.mark.parametrize("kind", list(TOOLS_OF_EVERY_KIND))
def test_tools_of_every_kind_as_ms_swift_has_them(tokenizer: Tokenizer, template: Any, kind: str) -> None:
    row = {"messages": HI, "tools": TOOLS_OF_EVERY_KIND[kind]}
    theirs = row if kind == "an empty text" else swift_row(row)  # its preprocessor makes a tool of "", and stops at it
    wanted = template.encode(theirs)
    assert tokenizer.encode_row(row, "You are a helpful assistant.") == (wanted["input_ids"], wanted["labels"])


@pytest.mark.parametrize("nothing", ["", "  ", "\n", "[]", "null", " null ", [], None])
def test_no_tools_however_they_are_written_are_no_tools_block(tokenizer: Tokenizer, nothing: Any) -> None:
    assert tokenizer.encode_row({"messages": HI, "tools": nothing}) == tokenizer.encode_row({"messages": HI})
    assert standard_row({"messages": HI, "tools": nothing})[1] is None


@pytest.mark.parametrize("wrong", [" ,", "a tool", [" "], [None], ["x"], [[]], 3, True, [3], "3", [TOOLS]])
def test_what_is_no_tool_is_said(wrong: Any) -> None:
    with pytest.raises(RowError) as refused:
        standard_row({"messages": HI, "tools": wrong})
    assert refused.value.field == "tools"


@pytest.mark.parametrize("key", ["weight", "loss", "train", "training", "trainable"])
@pytest.mark.parametrize("no", [0, False, 0.0])
def test_an_answer_marked_as_not_to_be_learned_has_no_loss(
    tokenizer: Tokenizer, template: Any, key: str, no: Any
) -> None:
    def row(name: str, value: Any) -> dict[str, Any]:
        said = [{"role": "assistant", "content": "Bad", name: value}, {"role": "user", "content": "Again"}]
        return {"messages": [HI[0], *said, {"role": "assistant", "content": "Good", "weight": 1}]}

    assert trained(tokenizer, row(key, no)) == "Good<|im_end|>\n"
    assert trained(tokenizer, row(key, 1)) == "Bad<|im_end|>\n…Good<|im_end|>\n"
    wanted = template.encode(swift_row(row("loss", False)))
    assert tokenizer.encode_row(row(key, no), "You are a helpful assistant.")[1] == wanted["labels"]


def test_calls_of_a_message_without_loss_have_none(tokenizer: Tokenizer) -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    talk = [HI[0], {"role": "assistant", "weight": 0, "tool_calls": [call]}, {"role": "tool", "content": "1"}, HI[1]]
    assert trained(tokenizer, {"messages": talk}) == "Hello.<|im_end|>\n"


@pytest.mark.parametrize("losses", [[None, False], [False, None], [..., False], [False, True], [None, None, True]])
def test_calls_side_by_side_have_the_loss_of_the_first_that_has_the_key(
    tokenizer: Tokenizer, template: Any, losses: list[Any]
) -> None:
    """null counts as the key: ms-swift's loader writes it where another message of the data has a loss."""
    call = {"role": "tool_call", "content": '{"name": "f", "arguments": {}}'}
    calls = [call if loss is ... else {**call, "loss": loss} for loss in losses]
    row = {"messages": [HI[0], *calls, {"role": "tool_response", "content": "1"}, HI[1]]}
    wanted = template.encode(swift_row(row))
    assert tokenizer.encode_row(row, "You are a helpful assistant.") == (wanted["input_ids"], wanted["labels"])


@pytest.mark.parametrize("scale", [0, 0.3, 1, 2, -1])
def test_loss_scale_is_all_or_nothing_as_in_ms_swift(tokenizer: Tokenizer, template: Any, scale: float) -> None:
    row = {"messages": [HI[0], {**HI[1], "loss_scale": scale}, {**HI[1], "loss": True}, *HI]}
    wanted = template.encode(swift_row(row))
    assert tokenizer.encode_row(row, "You are a helpful assistant.") == (wanted["input_ids"], wanted["labels"])


def test_a_react_text_in_a_call_behind_a_text_is_no_react_call(tokenizer: Tokenizer, template: Any) -> None:
    call = {"role": "tool_call", "content": {"name": "f", "arguments": {"q": "Action: f\nAction Input: {}"}}}
    row = {"messages": [HI[0], {**HI[1]}, call, {"role": "tool_response", "content": "1"}, {**HI[1]}]}
    wanted = template.encode(swift_row(row))
    assert tokenizer.encode_row(row, "You are a helpful assistant.") == (wanted["input_ids"], wanted["labels"])


@pytest.mark.parametrize("reply", ["12", "12\n"])
@pytest.mark.parametrize("end", ["", "\n", "\nObservation:"])
def test_a_react_call_goes_on_in_its_own_turn(tokenizer: Tokenizer, template: Any, end: str, reply: str) -> None:
    call = {"role": "assistant", "content": 'Action: f\nAction Input: {"a": 1}' + end}
    row = {
        "messages": [
            HI[0],
            call,
            {"role": "tool", "content": reply},
            {"role": "tool", "content": "3"},
            *HI[::-1],
            HI[1],
        ]
    }
    wanted = template.encode(swift_row(row))
    assert tokenizer.encode_row(row, "You are a helpful assistant.") == (wanted["input_ids"], wanted["labels"])


@pytest.mark.parametrize("text", ["{{ROUND0}} {{ROUND1}} {{QUERY}} {{SYSTEM}} {{RESPONSE}}", "{{name}}", "{{"])
def test_place_holders_of_ms_swift_are_filled_in_as_it_does(tokenizer: Tokenizer, template: Any, text: str) -> None:
    call = {"role": "tool_call", "content": '{"name": "f", "arguments": {}}'}
    row = {"messages": [*HI, {"role": "user", "content": text}, call, {"role": "tool", "content": text}, HI[1]]}
    wanted = template.encode(swift_row(row))
    assert tokenizer.encode_row(row, "You are a helpful assistant.") == (wanted["input_ids"], wanted["labels"])


def test_the_columns_of_stanford_s_alpaca(tokenizer: Tokenizer, template: Any) -> None:
    row = {"instruction": "Say it.", "input": "", "output": "It.", "text": "Below is an instruction … It."}
    wanted = template.encode(swift_row(row))
    assert tokenizer.encode_row(row, "You are a helpful assistant.") == (wanted["input_ids"], wanted["labels"])


SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"role": "tool_call", "content": '{"name": "f", "arguments": {}}'}
REPLY = {"role": "tool", "content": "1"}


def calling(*calls: Any, **more: Any) -> list[dict[str, Any]]:
    return [HI[0], {"role": "assistant", "tool_calls": list(calls), **more}]


ODD = [
    ([SYSTEM, SYSTEM, *HI], "messages[1].role", "allowed only at the beginning"),
    ([HI[0], SYSTEM, HI[1]], "messages[1].role", "allowed only at the beginning"),
    ([HI[0], CALL, REPLY, *HI], "messages[3].role", "'user' right after a tool's reply"),
    ([REPLY, *HI], "messages[0].role", "before any question"),
    ([SYSTEM], "messages", "ends with system"),
    ([HI[0], {**CALL, "content": "[{}]"}, REPLY, HI[1]], "messages[1].content", "is a list"),
    ([HI[0], {**CALL, "content": '{"name": "f"}'}, REPLY, HI[1]], "messages[1].content", "has no arguments"),
    ([HI[0], {**CALL, "content": '{"arguments": {}}'}], "messages[1].content", "has no name"),
    ([HI[0], {**CALL, "content": {"name": "f", "arguments": "prose"}}], "messages[1].content", "are not JSON"),
    ([HI[0], {**CALL, "content": {"name": "f", "arguments": "{1, 2}"}}], "messages[1].content", "are not JSON"),
    ([HI[0], {**CALL, "content": None}, HI[1]], "messages[1].content", "missing"),
    (calling(), "messages[1].content", "missing"),
    (calling({"function": {"name": "f", "arguments": ""}}), "messages[1].tool_calls[0]", "are not JSON"),
    (calling({"function": {"name": "f", "arguments": None}}), "messages[1].tool_calls[0]", "has no arguments"),
    (calling({"function": []}), "messages[1].tool_calls[0]", "is a list, not an object"),
    (calling(3), "messages[1].tool_calls[0]", "is a number, not an object"),
    (calling({"function": {"name": "f"}}, {"function": {}}, content="x"), "messages[1].tool_calls[1]", "has no name"),
    ([HI[0], {"role": "assistant", "tool_calls": "[]"}], "messages[1].tool_calls", "is a text, not a list"),
    ([{**HI[0], "tool_calls": [1]}, HI[1]], "messages[0].tool_calls", "with the role assistant"),
    ([HI[0], {"role": "assistant", "function_call": {"name": "f"}}], "messages[1].function_call", "OpenAI's old form"),
    ([{"role": 3, "content": "a"}, HI[1]], "messages[0].role", "is a number"),
    ([{"content": "a"}, HI[1]], "messages[0].role", "missing"),
    ([{"role": "developer", "content": "a"}, *HI], "messages[0].role", "is 'developer'"),
    ([HI[0], {**HI[1], "content": {"a": 1}}], "messages[1].content", "is an object, not a text"),
    ([HI[0], {**HI[1], "content": ["a"]}], "messages[1].content", "is a list, not a text"),
    ([{**HI[0], "content": [{"type": "image_url", "image_url": {}}]}, HI[1]], "messages[0].content", "only text"),
    ([HI[0], {**HI[1], "weight": 0.5}], "messages[1].weight", "is 0.5"),
    ([HI[0], {**HI[1], "loss": "false"}], "messages[1].loss", "is a text"),
    ([HI[0], {**HI[1], "loss_scale": "1"}], "messages[1].loss_scale", "is a text"),
    ([HI[0], {**HI[1], "weight": 0}], "messages", "no answer with loss"),
]  # fmt: skip


@pytest.mark.parametrize(("messages", "field", "says"), ODD, ids=range(len(ODD)))
def test_a_row_of_odd_structure_names_the_field_and_what_is_wrong(messages: Any, field: str, says: str) -> None:
    with pytest.raises(RowError) as refused:
        standard_row({"messages": messages})
    assert refused.value.field == field and says in refused.value.what and refused.value.remedy


@pytest.mark.parametrize(
    "history", ["None", "User: hi", "3", "{1}", 3, {"a": 1}, [["a"]], ["ab"], [[1, 2]], "[[" * 5000]
)
def test_a_history_that_is_none_is_said(history: Any) -> None:
    with pytest.raises(RowError) as refused:
        standard_row({"instruction": "a", "input": "", "output": "b", "history": history})
    assert refused.value.field == "history"


def test_a_row_nested_too_deeply_is_a_whole_sentence() -> None:
    tool: dict[str, Any] = {}
    for _level in range(5000):
        tool = {"parameters": tool}
    with pytest.raises(RowError) as caught:
        standard_row({"messages": HI, "tools": [{"name": "f", "parameters": tool}]})
    assert str(caught.value) == "the row is nested too deeply; a row should be an object whose values are texts"
