"""What each GPU takes where FSDP cuts the base: by the formula, in the line of sft and in plan."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.shapes import config_json
from finetune.plan import sharded
from finetune.plan.memory import LoraSpec
from finetune.plan.planned_run import REAL_SHAPE
from finetune.sft import batch
from qwen2.config import Config

ROOT = Path(__file__).resolve().parents[4]
ROWS = [34] * 49 + [57]  # of the article


def shape(folder: Path, size: str) -> Config:
    (folder / "config.json").write_text(json.dumps(config_json(size)))
    return Config.from_dir(folder)


def test_more_gpus_take_less_each_and_what_is_gathered_stays() -> None:
    found = [sharded.share(REAL_SHAPE, LoraSpec(), ROWS, cards, 4) for cards in (2, 4, 8)]
    assert [each.part_gib for each in found] == pytest.approx([7.24, 3.62, 1.81], abs=0.01)
    assert len({each.gathered_gib for each in found}) == 1
    assert found[0].peak_gib > found[1].peak_gib > found[2].peak_gib > found[2].gathered_gib


@pytest.mark.parametrize(("size", "measured"), [("7B", 11.4), ("14B", 19.9)])
def test_the_estimate_is_what_was_measured_on_two(tmp_path: Path, size: str, measured: float) -> None:
    """docs/performance.md: 4 rows at a time on each of two H200."""
    found = sharded.share(shape(tmp_path, size), LoraSpec(), ROWS, 2, 4)
    assert found.peak_gib == pytest.approx(measured, rel=0.02)


def test_as_many_rows_as_fit_are_taken() -> None:
    long = [2048] * 16
    roomy, tight = (sharded.fitting(REAL_SHAPE, LoraSpec(), long, 2, 16, gib) for gib in (40.0, 22.0))
    assert roomy.rows > tight.rows >= 1 and tight.peak_gib <= 22.0
    assert sharded.fitting(REAL_SHAPE, LoraSpec(), long, 2, 16, 5.0).rows == 1


@dataclass(frozen=True)
class Run:
    """EMULATED: the parts of SftRun that are looked at."""

    model_dir: Path
    given: dict[str, Any] = field(default_factory=dict)
    choice: Any = field(default_factory=lambda: SimpleNamespace(is_fast=False))
    settings: Any = field(default_factory=lambda: SimpleNamespace(wants_cpu=False, vram_ceiling_gib=22.0))
    model_kind: Any = None

    def options(self) -> dict[str, Any]:
        return {"per_device_train_batch_size": 4, "fsdp": str(ROOT / "workspace/configs/fsdp2.json")} | self.given


@pytest.mark.parametrize(("size", "processes", "fits"), [("14B", "2", True), ("32B", "2", False), ("32B", "8", True)])
def test_sft_says_what_each_gpu_takes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    size: str,
    processes: str,
    fits: bool,
) -> None:
    shape(tmp_path, size)
    monkeypatch.setattr(batch, "lengths", lambda run: ROWS)
    monkeypatch.setattr(batch, "ceiling_gib", lambda settings, waits: 22.0)
    monkeypatch.setenv("NPROC_PER_NODE", processes)
    run: Any = Run(tmp_path)
    assert batch.fit_the_card(run) is run
    said = capsys.readouterr().err
    assert f"plan: FSDP over {processes} GPUs, 4 rows at a time: about " in said
    assert ("note: that is more than there is: take more GPUs" in said) != fits


def test_other_runs_hear_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape(tmp_path, "7B")
    monkeypatch.setattr(batch, "lengths", lambda run: ROWS)
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    for given in ({"fsdp": None, "packing": True}, {"deepspeed": "zero2"}, {"tuner_type": "full"}):
        batch.fit_the_card(Run(tmp_path, given))  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
