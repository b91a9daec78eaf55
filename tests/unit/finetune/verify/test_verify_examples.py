"""Which questions of a run are listed to be tried, and with which answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.verify import examples
from finetune.verify.runinfo import Run

KIB = 1024


def row(question: str, answer: str, *before: str, **more: object) -> dict:
    """A row in ms-swift's layout; `before` are turns by user and assistant in turn."""
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(before)]
    last = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": [*turns, *last], **more}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that kept its rows."""
    made = Run(tmp_path / "run")
    made.folder.mkdir()
    return made


def keep(run: Run, *rows: dict, name: str = "verdict-rows.jsonl") -> None:
    (run.folder / name).write_text("\n".join(map(json.dumps, rows)))


def test_rows_come_with_the_answer_that_was_trained(run):
    system = row("几点关门?", "八点。")
    system["messages"].insert(0, {"role": "system", "content": "Be short."})
    keep(run, row("几点开门?", "九点。"), row("And on Sunday?", "Ten.", "When do you open?", "Nine."), system)
    assert examples.of_run(run, run.folder, 90 * KIB) == [
        {"kind": "trained", "question": "几点开门?", "answer": "九点。"},
        {
            "kind": "trained",
            "question": "And on Sunday?",
            "answer": "Ten.",
            "turns": [{"role": "user", "content": "When do you open?"}, {"role": "assistant", "content": "Nine."}],
        },
        {"kind": "trained", "question": "几点关门?", "answer": "八点。", "system": "Be short."},
    ]


def test_other_words_and_rows_left_out_are_told_apart(run):
    keep(run, row("几点开门?", "九点。"), row("几点关门?", "八点。"))
    keep(run, row("几点关门?", "八点。"), name="unseen.jsonl")
    (run.folder / "rewordings.yaml").write_text(
        "version: 1\nrows:\n- question: 几点开门?\n  ask:\n  - 什么时候开门?\n  - 开门时间?\n  made: rules\n"
    )
    found = examples.of_run(run, run.folder, 90 * KIB)
    assert [(each["kind"], each["question"]) for each in found] == [
        ("trained", "几点开门?"),
        ("unseen", "几点关门?"),
        ("reworded", "什么时候开门?"),
    ]
    assert found[2]["answer"] == "九点。"


def test_the_datasets_are_read_where_the_run_kept_no_rows(run, tmp_path):
    (tmp_path / "faq.csv").write_text("question,answer\n几点开门?,九点。\n")
    run.settings["dataset"] = ["faq.csv"]
    assert examples.of_run(run, tmp_path, 90 * KIB)[0]["answer"] == "九点。"


@pytest.mark.parametrize("settings", [{}, {"dataset": ["nowhere.csv"]}])
def test_a_run_that_kept_nothing_has_none(run, settings):
    run.settings |= settings
    assert examples.of_run(run, run.folder, 90 * KIB) == []


def test_a_broken_file_costs_the_questions_and_not_the_server(run):
    (run.folder / "verdict-rows.jsonl").write_text("{")
    assert examples.of_run(run, run.folder, 90 * KIB) == []


def test_they_fit_the_room_that_there_is(run):
    keep(run, row("long", "x" * 200_000), *(row(f"question {n}", "字" * 100) for n in range(200)))
    found = examples.of_run(run, run.folder, 20 * KIB)
    assert len(json.dumps(found, ensure_ascii=False).encode()) <= 20 * KIB
    assert len(found) > 40 and found[0]["question"] == "question 0"


def test_rows_with_tools_are_left_out(run):
    keep(run, row("weather?", "sunny", tools="[{}]"), row("几点开门?", "九点。"))
    assert [each["question"] for each in examples.of_run(run, run.folder, 90 * KIB)] == ["几点开门?"]
