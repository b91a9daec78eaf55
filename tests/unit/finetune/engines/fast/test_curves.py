"""The loss curve and TensorBoard events of the fast lane, from logging.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import UserError
from finetune.engines.fast import curves


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A log of two steps, a summary line, and a line cut off by a kill."""
    steps = [
        {"loss": 2.5, "grad_norm": 1.0, "token_acc": 0.25, "global_step/max_steps": "5/10", "memory(GiB)": 17.5},
        {"loss": 1.5, "learning_rate": 1e-4, "global_step/max_steps": "10/10"},
        {"train_loss": 2.0, "global_step/max_steps": "10/10"},
    ]
    text = "".join(json.dumps(step) + "\n" for step in steps) + '{"loss": 0.'
    (tmp_path / "logging.jsonl").write_text(text)
    return tmp_path


def test_curve_and_events(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert curves.main([str(run)]) == 0
    assert (run / "images/train_loss.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(run / "runs")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(5, 2.5), (10, 1.5)]
    assert [event.step for event in events.Scalars("train/memory(GiB)")] == [5]
    assert [event.step for event in events.Scalars("train/learning_rate")] == [10]


def test_evaluations_have_a_curve_and_tags_of_their_own(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves.main([str(run)])
    without = (run / "images/train_loss.png").read_bytes()
    line = {"eval_loss": 1.75, "eval_token_acc": 0.5, "eval_runtime": 0.1, "global_step/max_steps": "10/10"}
    log = run / "logging.jsonl"
    log.write_text(json.dumps(line) + "\n" + log.read_text())
    curves.main([str(run)])
    events = EventAccumulator(str(run / "runs")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("eval/loss")] == [(10, 1.75)]
    assert [event.value for event in events.Scalars("eval/token_acc")] == [0.5]
    assert len(events.Scalars("train/loss")) == 2
    assert (run / "images/train_loss.png").read_bytes() != without


def test_a_resumed_run_has_one_set_of_events(run: Path) -> None:
    curves.main([str(run)])
    curves.main([str(run)])
    assert len(list((run / "runs").iterdir())) == 1


def test_without_tensorboard_there_is_the_curve_alone(run: Path) -> None:
    assert curves.main([str(run), "--no-tensorboard"]) == 0
    assert (run / "images/train_loss.png").is_file()
    assert not (run / "runs").exists()


def test_no_steps_no_picture_and_no_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"logging.jsonl: No such file.*name a run's folder"):
        curves.main([str(tmp_path)])
    (tmp_path / "logging.jsonl").write_text("")
    assert curves.main([str(tmp_path)]) == 0
    assert not (tmp_path / "images").exists()
