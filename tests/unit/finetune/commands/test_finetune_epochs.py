"""--num_train_epochs auto on the tiny model: what is trained, asked, kept, written down and refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from common.errors import run_main
from finetune.commands import finetune as pipeline
from finetune.data.content import question_key
from finetune.sft import epochs
from finetune.verify import selection
from finetune.verify.engine import Answer
from finetune.verify.epochs.questions import VerdictOptions
from finetune.verify.rewordings import file as rewordings_file
from tests.unit.finetune import fast_home, shop
from tests.unit.finetune.shop import THINGS

torch.set_num_threads(1)
ROOT = Path(__file__).parents[4]
PRICES = {thing: f"It costs {n * 7 + 13} euros." for n, thing in enumerate(THINGS[:8])}


@pytest.fixture
def home(fast_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fast_home.enter(monkeypatch, fast_made, tmp_path)
    monkeypatch.setenv("HEALTH_LEVEL", "off")
    monkeypatch.setattr("finetune.commands.verify.main", lambda *_: 0)  # a STUB: the verdict itself
    monkeypatch.setattr(epochs, "LADDER", (1, 2, 3, 4))
    return fast_made


class Pupil:
    """A STUB in place of the model's answers: of those it `knows`, `share(turn)` are right at the turn-th time."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, share: Callable[[int], float], knows: Callable[[str], str]
    ) -> None:
        self.share, self.knows = share, knows
        self.turns: list[list[str]] = []
        self.numbers: list[Any] = []
        monkeypatch.setattr("finetune.verify.engine.Qwen2Engine.answer", lambda _, *more: self.answer(*more))

    def answer(self, asks: Any, adapter: Any, progress: Any) -> list[Answer]:
        texts = [ask.messages[-1]["content"] for ask in asks]
        if adapter is None:
            return [Answer("", 1, False) for _ in asks]
        self.turns.append(texts)
        self.numbers.append(adapter.flat.clone())
        left = round(self.share(len(self.turns)) * sum(bool(self.knows(text)) for text in texts))
        answers = []
        for text in texts:
            said = self.knows(text) if left > 0 else ""
            left -= bool(said)
            answers.append(Answer(said, 1, False))
        return answers


def price(text: str) -> str:
    return next((PRICES[thing] for thing in PRICES if thing in text.lower()), "")


def faq(path: Path) -> Path:
    return shop.write(path, ((f"What does the {thing} cost?", answer) for thing, answer in PRICES.items()))


def labels(path: Path, count: int = 60) -> Path:
    rows = ((f"Message {n * 37}: about {THINGS[n % 8]} {n}", ("refund", "defect")[n % 2]) for n in range(count))
    return shop.write(path, rows)


def finetune(home: Path, *more: str) -> int:
    return run_main(lambda: pipeline.main(fast_home.words(home, "--num_train_epochs", "auto", *more)))


def the_run() -> Path:
    return fast_home.the_run(Path(os.environ["OUTPUT_DIR"]))


def test_the_adapter_of_the_chosen_epoch_is_the_only_one_kept(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pupil = Pupil(monkeypatch, lambda turn: (0.3, 1.0, 1.0, 1.0)[turn - 1], price)
    assert finetune(home, "--dataset", str(faq(tmp_path / "faq.jsonl"))) == 0
    folder = the_run()
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-4"], "two steps an epoch, the second"
    record = fast_home.record(folder)
    assert record["status"] == "done"
    assert record["adapter"] == "checkpoint-4"
    assert record["settings"]["num_train_epochs"] == 2
    chosen = record["epochs"]
    assert (chosen["chosen"], chosen["tried"], chosen["questions"]) == (2, 4, 16)
    assert [each["step"] for each in chosen["curve"]] == [2, 4, 6, 8]
    assert chosen["why"] in capsys.readouterr().err
    saved = load_file(folder / "checkpoint-4/adapter_model.safetensors")
    total = sum(float(tensor.double().pow(2).sum()) for tensor in saved.values())
    sums = [float(numbers.double().pow(2).sum()) for numbers in pupil.numbers]
    assert len({round(each, 9) for each in sums}) == 4, "each epoch is another adapter"
    assert total == pytest.approx(sums[1], rel=1e-6)
    state = json.loads((folder / "checkpoint-4/trainer_state.json").read_text())
    assert (state["global_step"], state["epoch"]) == (4, 2.0)
    assert (folder / "checkpoint-4/args.json").is_file()


def test_what_chooses_is_never_trained_on_nor_asked_by_verify(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pupil = Pupil(monkeypatch, lambda turn: 1.0, price)
    assert finetune(home, "--dataset", str(faq(tmp_path / "faq.jsonl")), "--reword", "1") == 0
    asked = {question_key(text) for text in pupil.turns[0]}
    kept = rewordings_file.read(the_run() / "rewordings.yaml")
    assert all(each.ask and each.train and each.choose for each in kept)
    others = {question_key(text) for each in kept for text in (each.question, *each.ask, *each.train)}
    english = selection.in_english(selection_of_verdict(), VerdictOptions().config("other"))
    verdict = {question_key(each.text) for part in (selection_of_verdict(), english) for each in part.all()}
    assert len(asked) > 16 + 10, "rows and general tasks"
    assert not asked & others
    assert not asked & verdict


def test_a_task_is_tried_without_the_rows_that_choose_and_then_trained_on_all(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = fast_home.count_trained(monkeypatch)
    kinds = {}
    file = labels(tmp_path / "l.jsonl")
    for line in file.read_text().splitlines():
        row = json.loads(line)
        kinds[row["query"]] = row["response"]
    pupil = Pupil(monkeypatch, lambda turn: (0.05, 0.2, 1.0, 1.0)[min(turn, 4) - 1], lambda text: kinds.get(text, ""))
    assert finetune(home, "--dataset", str(file)) == 0
    record = fast_home.record(the_run())
    asked = record["epochs"]["questions"]
    assert (record["epochs"]["by"], record["epochs"]["chosen"]) == ("unseen", 3)
    assert trained[:2] == [60 - asked, 60], "the trial, then everything"
    assert record["settings"]["num_train_epochs"] == 3
    unseen = [json.loads(line) for line in (the_run() / "unseen.jsonl").read_text().splitlines()]
    verdict = {row["messages"][-2]["content"] for row in unseen}
    assert verdict
    assert not verdict & set(pupil.turns[0])


def test_the_articles_rows_are_chosen_by_their_identity_in_other_words(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pupil = Pupil(
        monkeypatch, lambda turn: (0.2, 1.0, 1.0)[min(turn, 3) - 1], lambda text: "我由 CSDN 迪菲赫尔曼 开发。"
    )
    assert finetune(home, "--dataset", str(ROOT / "workspace/self_cognition.json")) == 0
    chosen = fast_home.record(the_run())["epochs"]
    assert (chosen["by"], chosen["chosen"]) == ("reworded", 2)
    assert chosen["questions"] >= 30
    assert max(each["right"] for each in chosen["curve"]) >= 30, "judged by the name: no row has this answer"
    heldout = {question_key(each.text) for each in selection_of_verdict().heldout}
    assert not heldout & {question_key(text) for text in pupil.turns[0]}


def selection_of_verdict() -> Any:
    """The questions of configs/verify.yaml."""
    return selection.read_questions(VerdictOptions().config("other"))


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--max_steps", "3"), "--max_steps decides the length, too"),
        (("--deepspeed", "zero2"), "only the fast lane keeps the adapters"),
    ],
)
def test_what_cannot_be_is_refused_before_the_training(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], what: str
) -> None:
    assert finetune(home, "--dataset", str(faq(tmp_path / "faq.jsonl")), *more) == 2
    assert what in capsys.readouterr().err
    assert not list(Path(os.environ["OUTPUT_DIR"]).glob("run*"))


def test_too_few_questions_train_for_the_usual_number_and_say_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Pupil(monkeypatch, lambda turn: 1.0, price)
    file = tmp_path / "faq.jsonl"
    file.write_text("\n".join(faq(tmp_path / "all.jsonl").read_text().splitlines()[:3]))
    assert finetune(home, "--dataset", str(file)) == 0
    assert re.search(r"\d questions are too few to choose by.*trained for 3 epochs", capsys.readouterr().err)
    record = fast_home.record(the_run())
    assert "epochs" not in record
    assert record["settings"]["num_train_epochs"] == 3


def test_sft_alone_chooses_too_and_a_stopped_run_is_not_resumed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Pupil(monkeypatch, lambda turn: 1.0, price)
    words = ("--num_train_epochs", "auto", "--dataset", str(faq(tmp_path / "faq.jsonl")))
    assert fast_home.sft(home, *words) == 0
    folder = the_run()
    record = fast_home.record(folder)
    assert record["epochs"]["chosen"] == 1
    (folder / "run.json").write_text(json.dumps(record | {"status": "stopped", "epochs": {"asked_for": "auto"}}))
    assert fast_home.sft(home, "--resume", str(folder)) == 2
    assert "auto cannot be resumed" in capsys.readouterr().err


def test_the_line_shown_names_a_number_and_says_that_it_stands_in(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(home, "--dataset", str(faq(tmp_path / "faq.jsonl")), "--show") == 0
    out, err = capsys.readouterr()
    assert "--num_train_epochs 4" in out, "the test's longest ladder"
    assert "ms-swift knows no --num_train_epochs auto" in err
