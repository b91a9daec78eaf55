"""Evaluation in the fast lane: its figures against transformers', when it runs, the best step, and early stopping."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from qwen2.model import Model
from qwen2.nll import RowScore
from qwen2.training.evaluate import Evaluation, mean_loss
from qwen2.training.loop import StoppedError, TrainResult, train
from qwen2.training.settings import TrainSettings
from tests.unit.qwen2.tiny import make_rows

SETTINGS = TrainSettings(
    num_train_epochs=4, learning_rate=3e-3, lora_dropout=0.0, batch_size=4, save_steps=100, logging_steps=2,
    eval_steps=2,
)  # fmt: skip
ROWS = make_rows(13)
TRAIN, HELD = ROWS[:8], ROWS[8:]


def run(model: Model, folder: Path, **change: Any) -> TrainResult:
    more = {name: change.pop(name) for name in ("resume", "stop", "on_step") if name in change}
    return train(model, TRAIN, replace(SETTINGS, **change), folder, held_out=HELD, **more)


def evaluations(folder: Path) -> dict[int, dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]
    return {int(row["global_step/max_steps"].split("/")[0]): row for row in rows if "eval_loss" in row}


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """STUB: evaluations come out as these, one after the other."""
    left = iter(losses)
    monkeypatch.setattr("qwen2.training.evaluate.measure", lambda *_: [RowScore(value, 1, 0) for value in [next(left)]])


@pytest.mark.parametrize("size", [1, 2])
def test_loss_and_accuracy_are_transformers(tiny_dir: Path, tiny_model: Model, tmp_path: Path, size: int) -> None:
    from peft import PeftModel
    from transformers import Qwen2ForCausalLM

    result = run(tiny_model, tmp_path, per_device_eval_batch_size=size)
    base = Qwen2ForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(result.checkpoint)).eval()
    sums, counts, hits = [], [], 0
    with torch.no_grad():
        for ids, labels in HELD:
            logits, wanted = model(input_ids=torch.tensor([ids])).logits[0, :-1], torch.tensor(labels[1:])
            sums.append(float(F.cross_entropy(logits, wanted, reduction="sum")))
            counts.append(int((wanted >= 0).sum()))
            hits += int((logits.argmax(1)[wanted >= 0] == wanted[wanted >= 0]).sum())
    batches = [range(at, min(at + size, len(HELD))) for at in range(0, len(HELD), size)]
    loss = sum(len(b) * sum(sums[i] for i in b) / sum(counts[i] for i in b) for b in batches) / len(HELD)
    last = evaluations(tmp_path)[8]
    assert last["eval_loss"] == pytest.approx(loss, abs=1e-4)
    assert last["eval_token_acc"] == pytest.approx(hits / sum(counts))
    assert {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "epoch"} <= last.keys()


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({"eval_steps": 3}, [3, 6, 8]),
        ({"eval_steps": None, "save_steps": 5}, [5, 8]),
        ({"eval_strategy": "epoch"}, [2, 4, 6, 8]),
        ({"eval_strategy": "no"}, []),
        ({"save_strategy": "epoch", "eval_strategy": None}, [2, 4, 6, 8]),
    ],
)
def test_when_it_is_evaluated(tiny_model: Model, tmp_path: Path, change: dict[str, Any], steps: list[int]) -> None:
    run(tiny_model, tmp_path, **change)
    assert list(evaluations(tmp_path)) == steps


def test_evaluating_changes_nothing_of_the_training(tiny_model: Model, tmp_path: Path) -> None:
    plain = train(tiny_model, TRAIN, SETTINGS, tmp_path / "plain")
    assert run(tiny_model, tmp_path / "evaluated").losses == plain.losses


def test_the_best_checkpoint_is_kept_and_named(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [3.0, 2.0, 2.5, 2.6])
    result = run(tiny_model, tmp_path, load_best_model_at_end=True, save_total_limit=1)
    assert result.checkpoint.name == "checkpoint-4"
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]
    end = json.loads((tmp_path / "logging.jsonl").read_text().splitlines()[-1])
    assert Path(end["best_model_checkpoint"]).name == "checkpoint-4"
    assert Path(end["last_model_checkpoint"]).name == "checkpoint-8"
    assert end["best_metric"] == 2.0
    state = json.loads((tmp_path / "checkpoint-8/trainer_state.json").read_text())
    assert (state["best_metric"], state["best_model_checkpoint"]) == (2.0, "checkpoint-4")
    assert [line["step"] for line in state["log_history"] if "eval_loss" in line] == [2, 4, 6, 8]


def test_a_metric_that_grows_is_better_when_it_is_more() -> None:
    settings = replace(SETTINGS, metric_for_best_model="token_acc")
    assert settings.is_better(0.9, 0.8) and not settings.is_better(0.8, 0.8)
    assert not replace(settings, greater_is_better=False).is_better(0.9, 0.8)
    assert SETTINGS.is_better(0.1, 0.2) and SETTINGS.is_better(9.0, None)


def test_it_stops_early_after_so_many_saves_without_a_better_one(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [3.0, 2.0, 2.0, 2.1, 9.9, 9.9, 9.9, 9.9])
    result = run(tiny_model, tmp_path, save_steps=1, eval_steps=1, early_stop_interval=2)
    assert result.steps == len(result.losses) == 4
    assert result.checkpoint.name == "checkpoint-4"
    end = json.loads((tmp_path / "logging.jsonl").read_text().splitlines()[-1])
    assert end["global_step"] == 4


def test_ms_swifts_callback_stops_at_the_same_save(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    from swift.callbacks.early_stop import EarlyStopCallback

    for losses in ([3, 2, 2, 2, 1, 1, 1], [5, 4, 3, 2, 1], [1, 2, 1, 0.5, 0.6, 0.7, 0.8], [2, 2, 2]):
        args = types.SimpleNamespace(early_stop_interval=2, greater_is_better=False)
        theirs, ours = EarlyStopCallback(args, None), Evaluation(None, (), replace(SETTINGS, early_stop_interval=2))  # type: ignore[arg-type]
        best, stops = None, []
        for at, loss in enumerate(losses):
            best = loss if best is None else min(best, loss)
            control = types.SimpleNamespace(should_training_stop=False)
            theirs.on_save(args, types.SimpleNamespace(best_metric=best, global_step=at), control)
            ours.best = best
            stops.append((control.should_training_stop, ours.is_over()))
        assert all(a == b for a, b in stops), losses


def test_a_resumed_run_knows_the_best_so_far(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [3.0, 2.0, 2.5, 2.6])
    at = [0]
    with pytest.raises(StoppedError) as stopped:
        run(
            tiny_model, tmp_path, load_best_model_at_end=True,
            on_step=lambda step, *_: at.__setitem__(0, step), stop=lambda: at[0] == 5,
        )  # fmt: skip
    assert stopped.value.checkpoint.name == "checkpoint-5"
    result = run(tiny_model, tmp_path, load_best_model_at_end=True, resume=stopped.value.checkpoint)
    assert result.checkpoint.name == "checkpoint-4"
    assert list(evaluations(tmp_path)) == [2, 4, 6, 8]


def test_mean_loss_weighs_batches_by_their_rows() -> None:
    scores = [RowScore(4.0, 4, 0), RowScore(6.0, 2, 0), RowScore(1.0, 1, 0)]
    assert mean_loss(scores, 1) == pytest.approx((1 + 3 + 1) / 3)
    assert mean_loss(scores, 2) == pytest.approx((2 * 10 / 6 + 1) / 3)
    assert mean_loss(scores, 9) == pytest.approx(11 / 7)
