"""finetune on data of one's own: what is trained on, kept, left out and refused before anything is trained."""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import torch

from common.errors import run_main
from finetune.commands import finetune as pipeline
from finetune.runs import checkpoints
from finetune.verify import config, runinfo, selection
from finetune.verify.rewordings import file as rewordings_file
from tests.unit.finetune import fast_home, shop
from tests.unit.finetune.shop import THINGS

torch.set_num_threads(1)


@pytest.fixture
def home(fast_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fast_home.enter(monkeypatch, fast_made, tmp_path)
    monkeypatch.setenv("HEALTH_LEVEL", "off")
    monkeypatch.setattr(
        "finetune.commands.verify.main", lambda argv, make_engine=None, tell=None: 0
    )  # a STUB: the verdict itself
    # A STUB: the tiny model's answers never end, and say nothing.
    monkeypatch.setattr("finetune.verify.engine.Qwen2Engine.answer", answers)
    return fast_made


def answers(self: Any, asks: Any, adapter: Any, progress: Any) -> list[Any]:
    from finetune.verify.engine import Answer

    return [Answer("after" if adapter else "before", 1, False) for _ in asks]


def labels(path: Path, count: int = 40) -> Path:
    rows = ((f"Message {n * 37}: the {THINGS[n % 15]}, number {n}", ("refund", "defect")[n % 2]) for n in range(count))
    return shop.write(path, rows)


def faq(path: Path, count: int = 8) -> Path:
    return shop.write(
        path, ((f"What does the {THINGS[n]} cost?", f"It costs {n * 7 + 3} euros.") for n in range(count))
    )


def finetune(home: Path, *more: str) -> int:
    return run_main(lambda: pipeline.main(fast_home.words(home, "--max_steps", "2", *more)))


def the_run() -> Path:
    return fast_home.the_run(Path(os.environ["OUTPUT_DIR"]))


def questions(path: Path) -> list[str]:
    return [json.loads(line)["messages"][-2]["content"] for line in path.read_text().splitlines()]


def test_folds_ask_unseen_rows_and_every_row_is_trained_on(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = fast_home.count_trained(monkeypatch)
    assert finetune(home, "--dataset", str(labels(tmp_path / "l.jsonl"))) == 0
    assert "40 rows, label; verdict: 24 learned, 0 reworded, 16 held out (by 2 folds)" in capsys.readouterr().err
    assert trained == [40, 32, 32]
    folder = the_run()
    unseen = [json.loads(line) for line in (folder / "unseen.jsonl").read_text().splitlines()]
    assert len(unseen) == 16
    assert all(row["answers"]["before"]["text"] == "before" for row in unseen)
    assert all(row["answers"]["after"]["text"] == "after" for row in unseen)
    assert len(questions(folder / "verdict-rows.jsonl")) == 40


def test_rows_left_out_are_said_and_not_trained_on(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(home, "--dataset", str(labels(tmp_path / "l.jsonl")), "--holdout", "4") == 0
    folder = the_run()
    left, kept = (set(questions(folder / name)) for name in ("unseen.jsonl", "training-rows.jsonl"))
    assert len(left) == 4
    assert len(kept) == 36
    assert not left & kept
    assert "4 rows are left out of the training" in capsys.readouterr().err
    record = json.loads((folder / "run.json").read_text())
    assert [Path(name).name for name in record["settings"]["dataset"]] == ["training-rows.jsonl"]


def test_holdout_0_takes_every_row_in(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "can_fold", lambda plan, found: False)
    assert finetune(home, "--dataset", str(labels(tmp_path / "l.jsonl")), "--holdout", "0") == 0
    assert not (the_run() / "unseen.jsonl").exists()
    assert not (the_run() / "training-rows.jsonl").exists()


def test_reword_trains_on_wordings_that_verify_does_not_ask(home: Path, tmp_path: Path) -> None:
    assert finetune(home, "--dataset", str(faq(tmp_path / "faq.jsonl")), "--reword", "2") == 0
    folder = the_run()
    kept = rewordings_file.read(folder / "rewordings.yaml")
    asked = {text for each in kept for text in each.ask}
    trained = questions(folder / "reworded-rows.jsonl")
    assert len(asked) == len(trained) == 16
    assert not asked & set(trained)
    record = json.loads((folder / "run.json").read_text())
    assert sum(data["rows"] for data in record["datasets"]) == 8 + 16


def test_mix_trains_on_what_the_base_says_to_general_questions(home: Path, tmp_path: Path) -> None:
    assert finetune(home, "--dataset", str(faq(tmp_path / "faq.jsonl")), "--mix", "5") == 0
    folder = the_run()
    lines = [json.loads(line) for line in (folder / "mixed-rows.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    assert all(line["messages"][-1] == {"role": "assistant", "content": "before"} for line in lines)
    record = json.loads((folder / "run.json").read_text())
    assert sum(data["rows"] for data in record["datasets"]) == 8 + 5
    run = runinfo.of_adapter(checkpoints.newest(folder))
    assert [path.name for path in run.own_datasets()] == ["faq.jsonl"], "the verdict asks the user's rows alone"


def test_more_general_questions_than_there_are_are_refused_and_leave_nothing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(home, "--dataset", str(faq(tmp_path / "faq.jsonl")), "--mix", "999") == 2
    assert "write more there, or mix in fewer" in capsys.readouterr().err
    assert not list(Path(os.environ["OUTPUT_DIR"]).glob("*/run.json"))


def test_sft_alone_rewords_too(home: Path, tmp_path: Path) -> None:
    words = ("--max_steps", "1", "--dataset", str(faq(tmp_path / "faq.jsonl")), "--reword", "1")
    assert fast_home.sft(home, *words) == 0
    assert len(questions(the_run() / "reworded-rows.jsonl")) == 8


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--rewordings", "nowhere.yaml"), "no such rewordings file"),
        (("--questions", "nowhere.yaml"), "no such questions file"),
        (("--expect", "("), "--expect: not a regular expression"),
        (("--holdout", "-1"), "must be at least 0"),
        (("--reword", "99"), "must be from 0 to 8"),
        (("--mix", "-1"), "must be from 0 to 1000"),
        (("--mix", "4", "--split_dataset_ratio", "0.2"), "would hold general answers out"),
    ],
)
def test_a_bad_option_of_the_verdict_is_refused_before_the_training(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], what: str
) -> None:
    assert finetune(home, "--dataset", str(faq(tmp_path / "faq.jsonl")), *more) == 2
    assert what in capsys.readouterr().err
    assert not list(Path(os.environ["OUTPUT_DIR"]).glob("run*"))


def as_table(path: Path, rows: list[tuple[str, str]], *head: str, encoding: str = "utf-8") -> None:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([head, *rows])


def as_workbook(path: Path, rows: list[tuple[str, str]], *head: str) -> None:
    book = openpyxl.Workbook()
    for row in [head, *rows]:
        book.active.append(row)
    book.save(path)


@pytest.mark.parametrize("form", ["gb18030.csv", "columns.csv", "book.xlsx", "messages.jsonl", "alpaca.json"])
def test_a_faq_in_any_form_gets_the_same_verdict_to_come(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    rows = [(f"{thing} 多少钱?", f"{thing} 的价格是 {n * 7 + 3} 元。") for n, thing in enumerate(THINGS[:8])]
    path, more = tmp_path / form, []
    if form == "gb18030.csv":
        as_table(path, rows, "问题", "答案", encoding="gb18030")
    elif form == "columns.csv":
        as_table(path, [(str(n), *row) for n, row in enumerate(rows)], "编号", "客户说", "我们说")  # type: ignore[misc]
        more = ["--columns", "客户说,我们说"]
    elif form == "book.xlsx":
        as_workbook(path, rows, "问题", "答案")
    elif form == "messages.jsonl":
        turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in rows]
        path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    else:
        path.write_text(json.dumps([{"instruction": q, "input": "", "output": a} for q, a in rows]))
    assert finetune(home, "--dataset", str(path), *more) == 0
    assert "8 rows, text; verdict: 8 learned, 16 reworded, 0 held out" in capsys.readouterr().err
    assert questions(the_run() / "verdict-rows.jsonl") == [question for question, _ in rows]
    path.unlink()
    run = runinfo.of_adapter(checkpoints.newest(the_run()))
    nothing = argparse.Namespace(
        questions=[], rewordings=None, expect=None, forbid=None, dataset=None, columns=None, alpaca=0, lang=None
    )
    chosen = selection.select(config.read(config.default_path()), nothing, run)
    assert chosen.found is not None
    assert [row.question for row in chosen.found.rows] == [question for question, _ in rows], (
        "verify.sh, file or no file"
    )


def test_rows_held_out_by_a_split_are_asked_as_unseen(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(home, "--dataset", str(labels(tmp_path / "l.jsonl")), "--split_dataset_ratio", "0.1") == 0
    said = capsys.readouterr().err
    assert "40 rows, label; verdict: 36 learned, 0 reworded, 4 held out (left out of the training)" in said
    assert len(questions(the_run() / "unseen.jsonl")) == 4
    words = ("--dataset", str(tmp_path / "l.jsonl"), "--split_dataset_ratio", "0.1", "--holdout", "4")
    assert finetune(home, *words) == 2
    assert "--split_dataset_ratio holds rows out already" in capsys.readouterr().err


def test_one_row_is_refused_before_the_training(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(home, "--dataset", str(faq(tmp_path / "faq.jsonl", 1))) == 2
    assert "a single row gives no verdict" in capsys.readouterr().err
    assert not list(Path(os.environ["OUTPUT_DIR"]).glob("run*"))
