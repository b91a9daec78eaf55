"""The forward check by itself, as finetune runs it on the model that it continues with; its row in health.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common import state
from healthchecks import startup
from healthchecks.context import Context


def write_health(run_dir: Path, *names: str) -> Path:
    """health.json after the start-up checks at level fast."""
    file = run_dir / state.HEALTH_FILE
    rows = [{"name": name, "status": "pass", "code": "ok", "seconds": 0.1, "figure": ""} for name in names]
    state.write(str(file), startup.Report("fast", state="ready").as_dict() | {"checks": rows})
    return file


def test_the_row_is_added_once(context: Context, run_dir: Path) -> None:
    file = write_health(run_dir, "driver", "weights")
    row = startup.forward_alone(context)
    assert (row.name, row.status) == ("forward", "pass"), row
    startup.forward_alone(context)
    health = json.loads(file.read_text())
    assert [check["name"] for check in health["checks"]] == ["driver", "weights", "forward"]
    assert health["checks"][-1]["status"] == "pass" and health["state"] == "ready"


def test_a_failure_is_health_json_s_state(context: Context, run_dir: Path, model: Path) -> None:
    file = write_health(run_dir, "driver", "weights")
    damaged = next(model.glob("*.safetensors"))
    damaged.write_bytes(b"x")
    context.model_dir = model
    row = startup.forward_alone(context)
    assert (row.name, row.status, row.code) == ("forward", "fail", "model")
    assert row.cause and damaged.name in row.cause and row.remedy
    health = json.loads(file.read_text())
    assert health["state"] == "failed"
    assert [check["name"] for check in health["checks"]] == ["driver", "weights", "forward"]


def test_on_a_gpu_the_caller_s_model_is_looked_at(
    gpu_context: Context, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STUBS of NVML, of torch.cuda and of the pass itself: what is shown is which model the check gets, and no load."""
    import torch

    from healthchecks.checks import forward
    from healthchecks.context import Outcome
    from qwen2.model import Model

    given, seen = object(), []
    monkeypatch.setattr(Model, "load", lambda *args, **more: pytest.fail("a second load"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("reset_peak_memory_stats", "empty_cache", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    for name in ("max_memory_allocated", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    monkeypatch.setattr(
        forward, "_try", lambda context, torch, model, device: seen.append((model, device)) or Outcome(figure="")
    )
    gpu_context.model = lambda *progress: given
    row = startup.forward_alone(gpu_context)
    assert row.status == "pass", row
    assert seen == [(given, "cuda")]


def test_without_health_json_the_row_is_all(context: Context, run_dir: Path) -> None:
    assert startup.forward_alone(context).status == "pass"
    (run_dir / state.HEALTH_FILE).write_text("{")
    assert startup.forward_alone(context).status == "pass"
    assert (run_dir / state.HEALTH_FILE).read_text() == "{"
