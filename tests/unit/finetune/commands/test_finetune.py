"""finetune.sh: one load for check, training and verdict with the fast lane; one after the other with ms-swift."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import run_main
from finetune.commands import finetune as pipeline
from healthchecks import startup
from healthchecks.startup import CheckRow
from tests.unit.finetune import fast_home

torch.set_num_threads(1)
CONFIGS = fast_home.ROOT / "workspace/configs"


@pytest.fixture
def home(fast_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home, with an output folder and a run folder of the test's own."""
    return fast_home.enter(monkeypatch, fast_made, tmp_path)


@pytest.fixture
def verify_calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A STUB of verify's command line: it makes the engine, notes what it got, and returns the code in `codes`."""
    calls: list[Any] = []

    def stub_verify(argv: list[str], make_engine: Any = None, tell: Any = None) -> int:
        if tell:
            tell()
        engine = make_engine(Path("x"), "cpu", 0.0, 3) if make_engine else None
        calls.append((argv, engine))
        return int(os.environ.get("STUB_VERIFY", "0"))

    monkeypatch.setattr("finetune.commands.verify.main", stub_verify)
    return calls


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> list[CheckRow]:
    """A STUB of the start-up checks' row; what `forward_alone` does is tested with the health checks."""
    rows = [CheckRow("forward", "pass", "ok", 0.1, "stub")]
    monkeypatch.setattr(startup, "forward_alone", lambda context: rows[0])
    return rows


def finetune(home: Path, *more: str) -> int:
    return run_main(lambda: pipeline.main(fast_home.words(home, *more)))


def test_the_weights_are_loaded_once(
    home: Path, forward: Any, verify_calls: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from qwen2.model import Model

    loaded = []
    real = Model.load

    def counted(*args: Any, **more: Any) -> Any:
        loaded.append(real(*args, **more))
        return loaded[-1]

    monkeypatch.setattr(Model, "load", counted)
    monkeypatch.setenv("ENGINE", "fast")
    assert finetune(home, "--max_steps", "2", "--verify-config", str(CONFIGS / "verify.yaml")) == 0
    ((argv, engine),) = verify_calls
    folder = fast_home.the_run(home_output())
    assert argv == ["--config", str(CONFIGS / "verify.yaml"), "--adapter", str(folder / "checkpoint-2")]
    assert len(loaded) == 1 and engine.model is loaded[0] and engine.batch_size == 3
    err = capsys.readouterr().err
    assert "pass  forward" not in err and " s for the forward check, training and verdict" in err


def home_output() -> Path:
    return Path(os.environ["OUTPUT_DIR"])


def test_verify_answers_on_the_model_that_was_trained_on(home: Path, forward: Any, monkeypatch: Any) -> None:
    """The real verify, on one question: its report, and one load in all."""
    from qwen2.model import Model

    count = []
    real = Model.load
    monkeypatch.setattr(Model, "load", lambda *args, **more: count.append(1) or real(*args, **more))
    monkeypatch.setenv("ENGINE", "fast")
    (home / "verify.yaml").write_text(
        "thresholds: {identity_trained_min: 0.5}\nold_identity: Qwen\nquestions: [q.yaml]\n"
        "dataset: self_cognition.json\n"
        "system: You are a helpful assistant.\nmax_new_tokens: {identity: 2, general: 2}\nbatch_size: 4\n"
    )
    (home / "q.yaml").write_text((fast_home.ROOT / "workspace/questions/identity.yaml").read_text())
    code = finetune(home, "--max_steps", "1", "--verify-config", str(home / "verify.yaml"))
    folder = fast_home.the_run(home_output())
    report = json.loads((folder / "verify/report.json").read_text())
    assert report["engine"] == "qwen2" and report["verdict"] == ("pass" if code == 0 else "fail")
    assert report["figures"]["identity_trained_after"]["n"] >= 16
    assert len(count) == 1


@pytest.mark.parametrize("code", [1, 2])
def test_the_verdict_s_exit_code_counts(
    home: Path, forward: Any, verify_calls: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setenv("ENGINE", "fast")
    monkeypatch.setenv("STUB_VERIFY", str(code))
    assert finetune(home, "--max_steps", "1") == code
    assert len(verify_calls) == 1


def test_a_failed_training_is_not_verified(home: Path, forward: Any, verify_calls: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("ENGINE", "fast")
    words = ("--learning_rate", "1e38", "--max_grad_norm", "0", "--warmup_ratio", "0")
    assert finetune(home, *words) == 1
    assert verify_calls == []


def test_a_failed_forward_check_starts_nothing(
    home: Path, forward: list[CheckRow], verify_calls: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("ENGINE", "fast")
    forward[0] = CheckRow("forward", "fail", "nan", 0.1, "", "the logits are NaN", "look at the weights")
    assert finetune(home) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "the logits are NaN; look at the weights; HEALTH_LEVEL=off starts it anyway" in line
    assert not list(home_output().iterdir())
    monkeypatch.setenv("HEALTH_LEVEL", "off")
    assert finetune(home, "--max_steps", "1") == 0


def test_a_stop_signal_before_the_training_says_that_nothing_is_lost(
    home: Path, verify_calls: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("ENGINE", "fast")
    monkeypatch.setattr(pipeline, "_check_forward", lambda lane: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as ended:
        finetune(home)
    assert ended.value.code == 130
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert line.endswith("stopped before the first step, so nothing is lost")
    assert not list(home_output().iterdir())


STUB_HEALTH = """#!/bin/sh
# A stub of the start-up checks.
echo "healthcheck $*" >> "$CALLS"
exit "${STUB_HEALTH:-0}"
"""


@pytest.fixture
def calls(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stubs of healthcheck, of the ms-swift run and of verify, that note who was called, in order."""
    file = tmp_path / "calls"
    binary = tmp_path / "bin"
    binary.mkdir()
    (binary / "healthcheck").write_text(STUB_HEALTH)
    (binary / "healthcheck").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{binary}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(file))
    monkeypatch.setenv("ENGINE", "swift")

    def note(text: str, code: str) -> int:
        with file.open("a") as calls:
            calls.write(text + "\n")
        return int(os.environ.get(code, "0"))

    monkeypatch.setattr("finetune.sft.start.train", lambda run, lane: note(f"sft {run.choice.engine}", "STUB_SFT"))
    monkeypatch.setattr("finetune.commands.finetune.trained_adapter", lambda folder: folder / "checkpoint-1")
    monkeypatch.setattr("finetune.commands.verify.main", lambda argv: note(f"verify {' '.join(argv)}", "STUB_VERIFY"))
    return file


def names(calls: Path) -> list[str]:
    return [line.split()[0] for line in calls.read_text().splitlines()]


def test_with_ms_swift_the_three_follow_one_another(home: Path, calls: Path) -> None:
    assert finetune(home) == 0
    lines = calls.read_text().splitlines()
    assert lines[:2] == ["healthcheck startup --brief --level full", "sft ms-swift"]
    assert lines[2].startswith("verify --adapter ") and lines[2].endswith("/checkpoint-1")
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("name", "code", "called"),
    [("STUB_HEALTH", 1, 1), ("STUB_SFT", 143, 2), ("STUB_VERIFY", 1, 3)],
)
def test_with_ms_swift_the_first_failure_ends_it(
    home: Path, calls: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, called: int
) -> None:
    monkeypatch.setenv(name, str(code))
    assert finetune(home) == code
    assert names(calls) == ["healthcheck", "sft", "verify"][:called]
    if called == 1:
        assert not list(home_output().iterdir())


def test_health_level_fast_leaves_the_check_out(home: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEALTH_LEVEL", "fast")
    assert finetune(home) == 0
    assert names(calls) == ["sft", "verify"]
