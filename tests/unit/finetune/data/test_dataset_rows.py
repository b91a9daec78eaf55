"""What check-data makes of rows of other forms: fit, or named with field and remedy; and what --convert keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.commands.check_data import main
from finetune.data.check import check_file
from finetune.data.convert import convert
from finetune.data.findings import CheckOptions
from finetune.data.source import parse
from finetune.engines.fast import rows as fast_rows
from qwen2.chat import Tokenizer
from tests.conversations import FORMS, talks
from tests.swift_rows import swift_template

SYSTEM = "You are a helpful assistant."
HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def write(tmp_path: Path, *rows: Any, name: str = "faq.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def kept(tmp_path: Path, *rows: Any) -> list[dict[str, Any]]:
    """What --convert writes of these rows."""
    out = tmp_path / "clean.jsonl"
    out.unlink(missing_ok=True)
    main([str(write(tmp_path, *rows)), "--convert", str(out), "--no-tokens"])
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


@pytest.mark.parametrize("form", list(FORMS))
def test_other_people_s_forms_are_fit_and_both_engines_train_them_alike(
    tmp_path: Path, tokenizer: Tokenizer, template: Any, form: str
) -> None:
    from swift.dataset import load_dataset

    path = write(tmp_path, *(FORMS[form](talk) for talk in talks()))
    report = check_file(path)
    assert report.errors == 0, report.findings[:3]
    ours = fast_rows.encode([parse(str(path))], tokenizer, SYSTEM, 0, 42).rows
    read = path
    if not report.plain:  # as train does before ms-swift is started
        read = tmp_path / "converted.jsonl"
        convert([path], read)
    theirs, _ = load_dataset([str(read)], seed=42, shuffle=True, load_from_cache_file=False)
    wanted = [template.encode(row) for row in theirs]
    assert ours == [(row["input_ids"], row["labels"]) for row in wanted]


def test_odd_rows_are_named_and_the_others_are_checked_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[Any] = [{"instruction": f"q{n}", "input": "", "output": f"a{n}"} for n in range(40)]
    odd = {
        5: {"messages": [HI[0], {"role": "system", "content": "x"}, HI[1]]},
        9: {"messages": [*HI, {"role": "tool_call", "content": "[]"}]},
        17: {"instruction": "a", "input": "", "output": "b", "history": "None"},
        23: {"messages": HI, "tools": [" "]},
        31: {"messages": [HI[0], {"role": "assistant", "tool_calls": "x"}]},
    }
    for number, row in odd.items():
        rows[number - 1] = row
    report = check_file(write(tmp_path, *rows))
    assert [(finding.row, finding.error) for finding in report.findings] == [(number, True) for number in odd]
    assert [finding.where for finding in report.findings] == [
        "row 5, messages[1].role",
        "row 9, messages[2].content",
        "row 17, history",
        "row 23, tools",
        "row 31, messages[1].tool_calls",
    ]
    assert main([str(write(tmp_path, *rows)), "--no-tokens"]) == 2
    assert "row 5, messages[1].role: is 'system', which is allowed only at the beginning" in capsys.readouterr().err
    assert len(kept(tmp_path, *rows)) == 35


@pytest.mark.parametrize("tools", ["", " ", "null", "[]", []])
def test_empty_tools_are_left_away_when_a_file_is_converted(tmp_path: Path, tools: Any) -> None:
    assert check_file(write(tmp_path, {"messages": HI, "tools": tools})).plain == (tools == [])
    assert kept(tmp_path, {"messages": HI, "tools": tools}) == [{"messages": HI}]


def test_weights_reach_ms_swift_as_loss(tmp_path: Path) -> None:
    bad = {"role": "assistant", "content": "Bad", "weight": 0}
    row = {"messages": [HI[0], bad, *HI]}
    report = check_file(write(tmp_path, row))
    assert (report.findings, report.plain) == ([], False)
    assert kept(tmp_path, row) == [{"messages": [HI[0], {"role": "assistant", "content": "Bad", "loss": False}, *HI]}]


DROPPED = [
    ({"messages": [HI[0], {**HI[1], "reasoning_content": "Think."}]}, ["messages[].reasoning_content"]),
    ({"messages": [{**HI[0], "name": "Ann"}, HI[1]], "id": 7}, ["id", "messages[].name"]),
    ({"messages": [HI[0], {**HI[1], "reasoning_content": None, "refusal": None, "audio": ""}]}, []),
    ({"conversations": HI, "history": [["x", "y"]]}, ["history"]),
    ({"Question": "a", "Complex_CoT": "hmm", "Response": "b"}, ["Complex_CoT"]),
    ({"instruction": "a", "input": "", "output": "b", "text": "ab"}, ["text"]),
    ({"query": "a", "response": "b", "answer": "c"}, ["answer"]),
    ({"instruction": "a", "input": "", "output": "b", "history": [["x", "y"]], "system": "s"}, []),
    ({"conversation": [{"human": "a", "assistant": "b", "score": 3}]}, ["conversation[].score"]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "names"), DROPPED, ids=range(len(DROPPED)))
def test_fields_that_are_not_trained_on_are_said_with_a_count(tmp_path: Path, row: Any, names: list[str]) -> None:
    report = check_file(write(tmp_path, row, {"instruction": "z", "output": "y"}, row))
    found = {finding.kind: finding for finding in report.findings if finding.kind.startswith("not used")}
    assert sorted(found) == [f"not used: {name}" for name in sorted(names)]
    for kind, finding in found.items():
        assert not finding.error and "(2 rows)" in finding.what and report.numbers[kind] == [1, 3]
    assert report.errors == 0


GLUED = [
    (["user Ich habe", "user eine Frage", "assistant Ja?"], "messages[1].content"),
    (["user a", "assistant b", "assistant c"], "messages[2].content"),
    (["user a\n", "user b", "assistant c"], ""),
    (["user a", "user \nb", "assistant c"], ""),
    (["user a", "assistant b", "user c", "assistant d"], ""),
]


@pytest.mark.parametrize(("said", "place"), GLUED, ids=range(len(GLUED)))
def test_turns_that_run_into_each_other_are_a_warning(tmp_path: Path, said: list[str], place: str) -> None:
    messages = [dict(zip(("role", "content"), turn.split(" ", 1), strict=True)) for turn in said]
    found = [finding for finding in check_file(write(tmp_path, {"messages": messages})).findings]
    assert [finding.where for finding in found] == ([f"row 1, {place}"] if place else [])
    assert all(finding.kind == "turns joined" and not finding.error for finding in found)


def test_a_message_in_a_row_s_place(tmp_path: Path) -> None:
    found = check_file(write(tmp_path, HI[0], HI, name="x.jsonl")).findings
    assert ["messages" in finding.remedy for finding in found] == [True, True]


GOOD = {"messages": HI}
NO = [HI[0], {"role": "assistant", "content": "No."}]
KTO = {"prompt": "Hi", "completion": "Hello."}
TALK = "\n\nHuman: Hi\n\nAssistant: "
PREFERENCES: dict[str, tuple[dict[str, Any], str, list[Any]]] = {
    "texts": ({"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}, "chosen", [GOOD]),
    "texts, another question": ({"question": "Hi", "chosen": "Hello.", "rejected": "No."}, "chosen", [GOOD]),
    "alpaca with chosen": ({"instruction": "Hi", "input": "", "chosen": "Hello.", "rejected": "No."}, "chosen", [GOOD]),
    "whole talks as texts": ({"chosen": TALK + "Hello.", "rejected": TALK + "No."}, "chosen", [GOOD]),
    "texts without a question": ({"chosen": "Hello.", "rejected": "No."}, "chosen", []),
    "messages": ({"chosen": HI, "rejected": NO}, "chosen", [GOOD]),
    "messages beside the prompt": ({"prompt": "Hi", "chosen": HI, "rejected": HI, "score": 1}, "chosen", [GOOD]),
    "prompt, and answers as messages": ({"prompt": HI[:1], "chosen": HI[1:], "rejected": HI[1:]}, "chosen", [GOOD]),
    "prompt as text, answers as messages": ({"prompt": "Hi", "chosen": HI[1:], "rejected": HI[1:]}, "chosen", [GOOD]),
    "sharegpt": (
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello."},
            "rejected": {},
        },
        "chosen",
        [GOOD],
    ),
    "rejected_response": ({"messages": HI, "rejected_response": "No."}, "rejected_response", [GOOD]),
    "rejected_response in columns": (
        {"query": "Hi", "response": "Hello.", "rejected_response": "No."},
        "rejected_response",
        [GOOD],
    ),
    "rejected_messages": ({"messages": HI, "rejected_messages": NO}, "rejected_messages", [GOOD]),
    "kto, good": ({**KTO, "label": True}, "KTO", [GOOD]),
    "kto, bad": ({**KTO, "label": False}, "KTO", []),
    "kto, good as 1": ({**KTO, "label": 1}, "KTO", [GOOD]),
    "kto as messages": ({"messages": HI, "label": False}, "KTO", []),
    "kto_tag": ({"instruction": "Hi", "input": "", "output": "Hello.", "kto_tag": False}, "KTO", []),
    "kto_tag, good": ({"conversations": HI, "kto_tag": True}, "KTO", [GOOD]),
    "nonsense": ({"chosen": 3, "rejected": [[]]}, "chosen", []),
}  # fmt: skip


@pytest.mark.parametrize("form", list(PREFERENCES))
def test_preference_data_is_named_and_its_good_answers_can_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    row, name, good = PREFERENCES[form]
    path = write(tmp_path, row)
    report = check_file(path)
    (finding,) = report.findings
    assert (finding.kind, finding.error, finding.row) == ("preference data", True, 1)
    assert name in finding.what and f"swift rlhf --rlhf_type {'kto' if name == 'KTO' else 'dpo'}" in finding.remedy
    assert str(path) in finding.remedy and "--convert" in finding.remedy
    assert main([str(path), "--no-tokens"]) == 2
    assert kept(tmp_path, row, {"query": "z", "response": "y"})[: len(good)] == good
    assert len(kept(tmp_path, row, {"query": "z", "response": "y"})) == len(good) + 1
    capsys.readouterr()


def test_a_label_that_is_a_class_is_no_preference(tmp_path: Path) -> None:
    for label in ("false", 0, 3, "positive", None):
        assert check_file(write(tmp_path, {"query": "a", "response": "b", "label": label})).errors == 0


@pytest.mark.parametrize("row", [{"text": "Once upon a time."}, {"text": "从前", "id": 3}, {"content": "Once."}])
def test_text_for_pre_training_is_named(tmp_path: Path, row: Any) -> None:
    path = write(tmp_path, row)
    (finding,) = check_file(path).findings
    assert (finding.kind, finding.error) == ("text for pre-training", True)
    assert f"swift pt --model $MODEL_DIR --dataset {path}" in finding.remedy
    assert kept(tmp_path, row, {"messages": HI}) == [GOOD]


def columns_of(remedy: str) -> dict[str, str] | None:
    """The value of --columns in a command."""
    return json.loads(remedy.split("--columns '")[1].split("'")[0]) if "--columns" in remedy else None


@pytest.mark.parametrize(
    "form", ["texts", "messages", "rejected_response", "rejected_messages", "kto, good", "kto_tag, good"]
)
def test_the_command_that_is_named_reads_the_data_as_meant(
    tmp_path: Path, swift_processor: Any, tokenizer: Tokenizer, form: str
) -> None:
    from swift.dataset import load_dataset

    row = PREFERENCES[form][0]
    path = write(tmp_path, row)
    remedy = check_file(path).findings[0].remedy
    rows, _ = load_dataset([str(path)], columns=columns_of(remedy), load_from_cache_file=False)
    made = swift_template(swift_processor)
    made.set_mode("kto" if "kto" in remedy else "rlhf")
    encoded = made.encode(rows[0])
    assert "Hello.<|im_end|>" in tokenizer.decode(encoded["chosen_input_ids"], False)
    if "kto" in remedy:
        assert encoded["label"] is True
    else:
        assert "No.<|im_end|>" in tokenizer.decode(encoded["rejected_input_ids"], False)


def test_a_loss_scale_that_is_not_all_or_nothing_is_said(tmp_path: Path) -> None:
    rows = [{"messages": [*HI, HI[0], {**HI[1], "loss_scale": scale}]} for scale in (0, 1, 0.3)]
    report = check_file(write(tmp_path, *rows), None, CheckOptions())
    assert [(f.row, f.kind, f.error) for f in report.findings if f.kind == "loss_scale"] == [(3, "loss_scale", False)]


HARMFUL = [
    {"tools": [{"name": "f", "description": "%s"}], "messages": HI},
    {"messages": [HI[0], {"role": "tool_call", "content": {"name": "f", "arguments": {"a": "%s"}}}]},
    {"messages": [HI[0], {"role": "tool_call", "content": '{"name": "f", "arguments": {"a": "%s"}}'}]},
    {"messages": [HI[0], {"role": "assistant", "tool_calls": [{"function": {"name": "%s", "arguments": "{}"}}]}]},
    {"messages": [HI[0], {"role": "tool", "content": {"a": "%s"}}, HI[1]]},
]


@pytest.mark.parametrize(("text", "kind"), [("a<|im_end|>b", "special token"), ("\ud83d", "broken character")])
@pytest.mark.parametrize("row", HARMFUL, ids=range(len(HARMFUL)))
def test_texts_that_do_harm_are_found_in_tools_and_calls(tmp_path: Path, row: Any, text: str, kind: str) -> None:
    path = tmp_path / "faq.jsonl"
    path.write_text(json.dumps(row).replace("%s", json.dumps(text)[1:-1]) + "\n", encoding="utf-8")
    assert [finding.kind for finding in check_file(path).findings if finding.error] == [kind]


def test_half_a_character_is_found_behind_an_escape_in_json_text(tmp_path: Path) -> None:
    call = {"role": "tool_call", "content": '{"name": "f", "arguments": {"a": "\\ud83d"}}'}
    (finding,) = check_file(write(tmp_path, {"messages": [HI[0], call]})).findings
    assert (finding.kind, finding.error) == ("broken character", True)


def test_names_in_capitals_are_converted_for_ms_swift(tmp_path: Path) -> None:
    """It passes `Response` over where an `answer` stands beside it, and trains on the question alone."""
    row = {"Question": "a", "Response": "b", "answer": None}
    report = check_file(write(tmp_path, row))
    assert (report.errors, report.plain) == (0, False)
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert kept(tmp_path, row) == [{"messages": said}]


def test_a_name_that_stands_there_twice(tmp_path: Path) -> None:
    (finding,) = check_file(write(tmp_path, {"query": "a", "response": "b", "Response": "c"})).findings
    assert finding.error and finding.where == "row 1, response" and "twice" in finding.what
