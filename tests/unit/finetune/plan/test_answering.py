"""How many GPUs answer: the estimate on a machine with several, and the line that says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.errors import UserError
from finetune.plan import answering, gpu_memory
from finetune.plan.planned_run import REAL_SHAPE
from healthchecks.nvml import Gpu

GIB = 2**30
H100 = Gpu("H100", "GPU-a", (9, 0), 80 * GIB, 79 * GIB)
BUSY = Gpu("H100", "GPU-b", (9, 0), 80 * GIB, 9 * GIB)
VERDICT = [96] * 240 + [256] * 78  # of the article's 50 rows: 318 questions


def fastest(monkeypatch: pytest.MonkeyPatch, limits: list[int], *gpus: Gpu) -> int:
    monkeypatch.setattr(gpu_memory, "visible", lambda: [(str(n), gpu) for n, gpu in enumerate(gpus)])
    return answering.fastest(REAL_SHAPE, limits, 2, 22.0)


def test_few_questions_are_asked_on_one_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fastest(monkeypatch, VERDICT[::10], H100, H100) == 1
    assert "GPUs: 1 of 2 answers: more would save less than" in capsys.readouterr().err
    assert fastest(monkeypatch, VERDICT, H100) == 1 and capsys.readouterr().err == ""
    assert fastest(monkeypatch, [], H100, H100) == 1


def test_many_take_all_that_are_free(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fastest(monkeypatch, [512] * 2000, H100, H100) == 2
    assert "GPUs: 2 of 2 answer, about " in capsys.readouterr().err
    assert fastest(monkeypatch, [512] * 2000, H100, BUSY) == 1


def test_the_estimate_is_near_what_was_measured() -> None:
    """The verdict of 197 questions by itself took 10.6 s with load and imports, about 4 of them for answers."""
    assert 3 < answering.seconds(REAL_SHAPE, VERDICT, 2, 1) < 9


@pytest.mark.parametrize(
    ("gpus", "ceiling", "cards"), [((H100,), 0.0, 1), ((H100, H100), 22.0, 2), ((H100,) * 3, 22, 3)]
)
def test_a_base_that_one_gpu_does_not_hold_takes_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: tuple[Gpu, ...], ceiling: float, cards: int
) -> None:
    shard = tmp_path / "model.safetensors"
    shard.touch()
    os.truncate(shard, int(27.5 * GIB))  # 14B, without its bytes
    monkeypatch.setattr(gpu_memory, "visible", lambda: [(str(n), gpu) for n, gpu in enumerate(gpus)])
    assert answering.cards_to_hold(tmp_path, ceiling) == cards


def test_what_all_gpus_together_do_not_hold_is_said_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shard = tmp_path / "model.safetensors"
    shard.touch()
    os.truncate(shard, 61 * GIB)
    monkeypatch.setattr(gpu_memory, "visible", lambda: [("0", H100), ("1", H100)])
    with pytest.raises(UserError, match=r"61.0 GiB of weights, more than 2 GPU\(s\) of 22.0 GiB hold: start"):
        answering.cards_to_hold(tmp_path, 22.0)
    monkeypatch.setattr(gpu_memory, "visible", lambda: [])
    assert answering.cards_to_hold(tmp_path, 22.0) == 1
