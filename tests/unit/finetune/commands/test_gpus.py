"""Which GPUs sft takes on a machine with several: by NPROC_PER_NODE, or by the plan's own estimate."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.shapes import config_json
from common.errors import UserError
from common.model_kind import ModelKind
from finetune.engines.choose import FAST, SWIFT, EngineChoice
from finetune.plan import gpu_memory
from finetune.sft.gpus import take as take_gpus
from healthchecks.nvml import Gpu

GIB = 2**30
H100 = Gpu("H100", "GPU-a", (9, 0), 80 * GIB, 79 * GIB)
BUSY = Gpu("H100", "GPU-b", (9, 0), 80 * GIB, 9 * GIB)
OTHER = Gpu("T4", "GPU-c", (7, 5), 16 * GIB, 15 * GIB)


@dataclass(frozen=True)
class Run:
    """EMULATED: the parts of SftRun that are looked at."""

    model_dir: Path
    lengths: tuple[int, ...] = (46,) * 50
    choice: EngineChoice = field(
        default_factory=lambda: EngineChoice(FAST, "", {"batch_size": 16, "num_train_epochs": 10.0})
    )
    settings: Any = field(default_factory=lambda: type("S", (), {"wants_cpu": False, "vram_ceiling_gib": 22.0})())
    model_kind: ModelKind | None = None
    workers: Any = None


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """take(gpus, **fields): take on a machine with these GPUs."""
    import json

    (tmp_path / "config.json").write_text(json.dumps(config_json("7B")))
    for name in ("NPROC_PER_NODE", "NNODES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("finetune.sft.gpus.lengths", lambda run: list(run.lengths))

    def call(gpus: list[Gpu], **fields: Any) -> Any:
        monkeypatch.setattr(gpu_memory, "visible", lambda: [(str(n), gpu) for n, gpu in enumerate(gpus)])
        return take_gpus(Run(tmp_path, **fields))  # type: ignore[arg-type]

    return call


def test_fifty_rows_stay_on_one_of_two(take: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = take([H100, H100])
    assert made.workers.devices == ("0",)
    assert "GPUs: 1 of 2 trains: more would save less than" in capsys.readouterr().err


def test_long_rows_take_all_that_are_free_and_alike(take: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = take([H100, H100], lengths=(2048,) * 500)
    assert made.workers.devices == ("0", "1")
    assert "GPUs: 2 of 2 train, about " in capsys.readouterr().err
    for second in (BUSY, OTHER):
        assert take([H100, second], lengths=(2048,) * 500).workers.size == 1


def test_what_the_user_asks_for_is_done(take: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    assert take([H100, H100]).workers.devices == ("0", "1")
    with pytest.raises(UserError, match="NPROC_PER_NODE=2: 1 GPUs are visible here"):
        take([H100])


def test_ms_swift_gets_one_unless_several_processes_are_asked_for(take: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    take([H100, H100], choice=EngineChoice(SWIFT, ""))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    for asked, left in (("1", "1"), ("2", "1,0"), ("auto", "1,0,2")):
        monkeypatch.setenv("NPROC_PER_NODE", asked)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0,2")
        take([H100, H100], choice=EngineChoice(SWIFT, ""))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == left
