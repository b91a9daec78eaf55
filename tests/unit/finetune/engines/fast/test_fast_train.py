"""sft.sh with the fast lane on the tiny model, in this process: what it leaves, and how it fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.runs.gpu_lock import job
from tests.unit.finetune import fast_home

torch.set_num_threads(1)


@pytest.fixture
def home(fast_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home, with an output folder and a run folder of the test's own."""
    fast_home.enter(monkeypatch, fast_made, tmp_path)
    monkeypatch.setenv("ENGINE", "fast")
    return fast_made


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr that says what went wrong."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error:")]
    return line


@pytest.fixture(scope="module")
def finished(
    fast_made: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One whole run by the command itself, for the tests that look at what it leaves."""
    output = tmp_path_factory.mktemp("finished") / "output"
    done = fast_home.command(fast_made, output, "--save_total_limit", "2", ENGINE="auto")
    assert done.returncode == 0, done.stderr
    return fast_home.the_run(output), done


def test_run_json(finished: Any) -> None:
    folder, done = finished
    record = fast_home.record(folder)
    assert record["engine"] == "fast" and record["status"] == "done" and record["exit_code"] == 0
    assert record["engine_why"] == "because it honours every option given"
    assert record["adapter"] == "checkpoint-12" and record["steps"] == 12
    assert record["final_loss"] < record["first_loss"] - 0.1
    assert record["versions"]["torch"] and record["versions"]["ms-swift"]
    assert len(record["datasets"][0]["sha256"]) == 64
    assert "--learning_rate" in record["words"] and record["settings"]["learning_rate"] == 3e-3
    figures = record["figures"]
    assert figures["ms_per_step"] > 0 and figures["tokens"] > 0 and figures["loop_seconds"] > 0
    assert figures["load_seconds"] > 0 and "peak_reserved_gib" not in figures
    assert figures["loss_of_last_step"] == pytest.approx(record["final_loss"], abs=1e-4)
    assert re.match(r"sft: 12 steps, 0\.\d min, loss \d+\.\d\d -> \d+\.\d\d; adapter .*/checkpoint-12\n$", done.stdout)
    assert "engine: the fast lane, because it honours every option given\n" in done.stderr
    assert "plan: 16 rows of " in done.stderr and "; 12 steps, up to 4 rows a step" in done.stderr


def test_logs_curve_and_events(finished: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = finished
    losses = fast_home.losses(folder)
    assert len(losses) == 12
    assert (folder / "images/train_loss.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(folder / "runs")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 13))
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses, abs=1e-5)


def test_the_adapter_is_peft_s(finished: Any, fast_made: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, _ = finished
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-12"]
    base = AutoModelForCausalLM.from_pretrained(fast_made / "Qwen2.5-7B-Instruct", dtype=torch.float32).eval()
    ids = torch.tensor([[100, 200, 300, 400]])
    with torch.no_grad():
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, str(folder / "checkpoint-12")).eval()(ids).logits
    assert (after - before).abs().max() > 1e-3


def test_ms_swift_reads_args_json(finished: Any, fast_made: Path) -> None:
    """`swift infer --adapters CHECKPOINT` takes model, system and template from it, as its own code does here."""
    script = (
        "import json, sys\n"
        "from swift.arguments import InferArguments\n"
        "args = InferArguments(adapters=[sys.argv[1]])\n"
        "print('READ', json.dumps([args.model, args.model_type, args.system, args.tuner_type, str(args.torch_dtype)]))"
    )
    folder, _ = finished
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "checkpoint-12")],
        env=fast_home.environ(fast_made, folder.parent),
        capture_output=True,
        text=True,
        timeout=200,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("READ ")] or [done.stderr[-2000:]]
    assert json.loads(line[5:]) == [
        str(fast_made / "Qwen2.5-7B-Instruct"),
        "qwen2",
        "You are a helpful assistant.",
        "lora",
        "torch.float32",
    ]


def test_out_of_memory_is_one_line_and_checkpoints_stay(
    home: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A STUB takes the place of the memory: the step after the fourth raises what CUDA's allocator raises."""
    from qwen2.training.loop import _Run

    real = _Run._step

    def stub_step(self: Any, number: int, step: Any) -> None:
        if number == 4:
            raise torch.OutOfMemoryError("CUDA out of memory (a stub).")
        real(self, number, step)

    monkeypatch.setattr(_Run, "_step", stub_step)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda *_: 21 * 2**30)  # STUB: there is no CUDA here
    assert fast_home.sft(home) == 1
    line = one_error(capsys)
    assert "memory ran out at 21.0 GiB of VRAM_CEILING_GIB=22" in line and "--resume continues" in line
    folder = fast_home.the_run(output)
    assert fast_home.record(folder)["status"] == "failed" and fast_home.record(folder)["exit_code"] == 1
    assert (folder / "checkpoint-4/optimizer.safetensors").is_file()


def test_a_diverged_run_is_one_line(home: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fast_home.sft(home, "--learning_rate", "1e38", "--max_grad_norm", "0", "--warmup_ratio", "0") == 1
    line = one_error(capsys)
    assert "the loss became" in line and "lower learning_rate" in line
    assert fast_home.record(fast_home.the_run(output))["status"] == "failed"


def test_a_bad_row_ends_with_2_and_leaves_no_folder(
    home: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"instruction": "a", "input": "", "output": "b"}\n{"instruction": "a", "input": ""}\n')
    assert fast_home.sft(home, "--dataset", str(bad)) == 2
    line = one_error(capsys)
    assert "bad.jsonl" in line and "2" in line
    assert not output.exists() or not list(output.iterdir())


def test_rows_all_too_long_end_with_2_and_leave_no_folder(
    home: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fast_home.sft(home, "--max_length", "5") == 2
    assert "max_length" in one_error(capsys)
    assert not output.exists() or not list(output.iterdir())


HOLD = "from finetune.runs.gpu_lock import job\nwith job('other'):\n    print('held', flush=True)\n    input()\n"


def test_another_job_on_the_gpu_is_1_and_leaves_no_folder(
    home: Path, output: Path, fast_made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=fast_home.environ(fast_made, output),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        assert fast_home.sft(home) == 1
        assert "other" in one_error(capsys)
        assert not list(output.iterdir())
    finally:
        holder.communicate("\n", timeout=20)


def test_weights_that_cannot_be_loaded_are_one_line(
    home: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    broken = Path(shutil.copytree(home / "Qwen2.5-7B-Instruct", tmp_path / "broken"))
    next(broken.glob("model*.safetensors")).write_bytes(b"x")
    monkeypatch.setenv("MODEL_DIR", str(broken))
    assert fast_home.sft(home) == 2
    assert "cannot be loaded" in one_error(capsys)
    assert not list(output.iterdir())


def test_a_full_disk_is_one_line(
    home: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A STUB of a full disk: the second save fails as write() does."""
    from qwen2.training import checkpoint

    real = checkpoint.save

    def stub_save(folder: Path, step: int, *more: Any) -> Path:
        if step == 4:
            raise OSError(28, "No space left on device", str(folder / "x"))
        return real(folder, step, *more)

    monkeypatch.setattr(checkpoint, "save", stub_save)
    assert fast_home.sft(home) == 1
    line = one_error(capsys)
    assert "No space left on device" in line and "checkpoint-2" in line


def test_show_runs_nothing(home: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fast_home.sft(home, "--show") == 0
    assert capsys.readouterr().out.startswith("swift sft")
    assert not output.exists()


def test_the_job_is_joined_not_waited_for(home: Path) -> None:
    with job("finetune"):
        assert fast_home.sft(home, "--max_steps", "1") == 0
