"""Rows held out with ms-swift's options on the fast lane: evaluated, kept for verify, and the best checkpoint found."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.data.source import DatasetSource
from finetune.engines.fast import rows as fast_rows
from finetune.runs import checkpoints
from qwen2.nll import RowScore
from tests.unit.finetune import fast_home

torch.set_num_threads(1)


@pytest.fixture
def home(fast_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return fast_home.enter(monkeypatch, fast_made, tmp_path)


@pytest.fixture
def faq(tmp_path: Path) -> Path:
    path = tmp_path / "faq.jsonl"
    rows = [{"query": f"What does article {n} cost?", "response": f"It costs {n} euros."} for n in range(11, 31)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def the_run() -> Path:
    return fast_home.the_run(Path(os.environ["OUTPUT_DIR"]))


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]


def test_a_split_is_evaluated_and_kept_for_verify(home: Path, faq: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fast_home.sft(home, "--dataset", str(faq), "--split_dataset_ratio", "0.2", "--eval_steps", "4") == 0
    said = capsys.readouterr().err
    assert "engine: the fast lane, because it honours every option given" in said
    assert "16 rows of" in said and "4 held out and evaluated" in said
    evaluated = [row for row in log(the_run()) if "eval_loss" in row]
    assert [row["global_step/max_steps"] for row in evaluated] == ["4/12", "8/12", "12/12"]
    assert all(0 <= row["eval_token_acc"] <= 1 for row in evaluated)
    unseen = [json.loads(line) for line in (the_run() / "unseen.jsonl").read_text().splitlines()]
    assert len(unseen) == 4
    assert not any("answers" in row for row in unseen), "verify asks them of the adapter itself"
    assert (the_run() / "images/train_loss.png").is_file()


def test_rows_that_are_trained_on_are_not_kept_as_unseen(home: Path, faq: Path) -> None:
    """Every question twice; and a seed of 0 splits as the training does."""
    faq.write_text(faq.read_text() * 2)
    words = ("--split_dataset_ratio", "0.2", "--data_seed", "0", "--max_steps", "1")
    assert fast_home.sft(home, "--dataset", str(faq), *words) == 0
    unseen = [json.loads(line) for line in (the_run() / "unseen.jsonl").read_text().splitlines()]
    drawn = fast_rows.drawn_rows([DatasetSource(str(faq), path=faq)], None, 0, 0.2)
    trained = {row["query"] for _source, _number, row in drawn.rows}
    both = {row["query"] for _source, _number, row in drawn.held_out} - trained
    assert len(unseen) == len(both) < len(drawn.held_out)


def test_a_file_of_its_own_is_evaluated_and_nothing_is_left_out(home: Path, faq: Path) -> None:
    val = faq.with_name("val.jsonl")
    val.write_text('{"query": "And article 99?", "response": "It costs 99 euros."}\n')
    assert fast_home.sft(home, "--dataset", str(faq), "--val_dataset", str(val), "--max_steps", "2") == 0
    assert [row["global_step/max_steps"] for row in log(the_run()) if "eval_loss" in row] == ["2/2"]
    assert not (the_run() / "unseen.jsonl").exists()


def test_the_run_ends_with_the_best_checkpoint(home: Path, faq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 1.0, 2.0, 2.5, 2.6, 2.7, 2.8])
    # A STUB: what the evaluations come out as.
    monkeypatch.setattr("qwen2.training.evaluate.measure", lambda *_: [RowScore(next(losses), 1, 0)])
    words = ("--split_dataset_ratio", "0.2", "--eval_steps", "2", "--load_best_model_at_end", "true")
    assert fast_home.sft(home, "--dataset", str(faq), *words) == 0
    folder = the_run()
    assert fast_home.record(folder)["adapter"] == "checkpoint-4"
    assert checkpoints.newest(folder).name == "checkpoint-4", "verify, merge, serve and infer look it up so"
    assert (folder / "checkpoint-12").is_dir()


def test_early_stopping_is_said(
    home: Path, faq: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr("qwen2.training.evaluate.measure", lambda *_: [RowScore(next(losses), 1, 0)])  # STUB
    words = ("--split_dataset_ratio", "0.2", "--eval_steps", "2", "--save_steps", "2", "--early_stop_interval", "2")
    assert fast_home.sft(home, "--dataset", str(faq), *words) == 0
    record = fast_home.record(the_run())
    assert (record["status"], record["steps"]) == ("done", 6)
    assert "ended at step 6: 2 saves in a row brought no better eval_loss" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--load_best_model_at_end", "true"), "--load_best_model_at_end: no rows are held out"),
        (("--early_stop_interval", "3"), "--early_stop_interval: no rows are held out"),
        (
            ("--early_stop_interval", "3", "--split_dataset_ratio", "0.1", "--eval_strategy", "no"),
            "no rows are held out",
        ),
        (("--split_dataset_ratio", "0.1", "--reword", "1"), "hold rows of another file out, with --val_dataset"),
    ],
)
def test_what_has_nothing_to_choose_by_is_refused(
    home: Path, faq: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], what: str
) -> None:
    assert fast_home.sft(home, "--dataset", str(faq), *more) == 2
    assert what in capsys.readouterr().err
    assert not list(Path(os.environ["OUTPUT_DIR"]).glob("*"))
