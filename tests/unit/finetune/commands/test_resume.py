"""sft.sh stopped or killed and resumed ends at the losses of a run that was never stopped; what is refused, and how."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from finetune.engines.choose import EngineChoice
from finetune.engines.fast import rows as fast_rows
from finetune.engines.fast import train as fast
from finetune.runs import run_folder
from tests.unit.finetune import fast_home


@pytest.fixture(scope="module")
def straight(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that no one stopped."""
    return fast_home.finished(home, tmp_path_factory, ENGINE="fast")[0]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def same_end(folder: Path, straight: Path) -> None:
    """The losses of every step and the last adapter, to the bit."""
    assert fast_home.losses(folder) == fast_home.losses(straight)
    name = "checkpoint-12/adapter_model.safetensors"
    assert (folder / name).read_bytes() == (straight / name).read_bytes()
    assert fast_home.record(folder)["status"] == "done"


def test_sigterm_saves_that_step_and_resume_goes_on(home: Path, output: Path, straight: Path) -> None:
    done = fast_home.signalled(home, output, 5, signal.SIGTERM)
    assert done.returncode == 143, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    folder = fast_home.the_run(output)
    assert "stopped by SIGTERM at step 5" in line and f"{folder}/checkpoint-5" in line and "--resume" in line
    record = fast_home.record(folder)
    assert (record["status"], record["exit_code"], record["adapter"]) == ("stopped", 143, "checkpoint-5")
    done = fast_home.command(home, output, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"resume: {folder} from checkpoint-5" in done.stderr
    assert fast_home.record(folder)["resumed"] == ["checkpoint-5"]
    same_end(folder, straight)
    done = fast_home.command(home, output, "--resume")
    assert done.returncode == 2
    assert "is finished (checkpoint-12); sft.sh starts a new run" in done.stderr


@pytest.mark.parametrize(("at", "since"), [(3, 2), (6, 6), (11, 10)])
def test_sigkill_and_resume(home: Path, output: Path, straight: Path, at: int, since: int) -> None:
    assert fast_home.signalled(home, output, at, signal.SIGKILL).returncode == -signal.SIGKILL
    folder = fast_home.the_run(output)
    assert fast_home.record(folder)["status"] == "running"  # no one could write that it was killed
    done = fast_home.command(home, output, "--resume", ENGINE="swift")  # the run's own engine counts
    assert done.returncode == 0, done.stderr
    assert f"note: {folder}: was killed at step {at}" in done.stderr  # the next start says what happened
    assert (
        f"its newest complete checkpoint is checkpoint-{since}, sft.sh --resume {folder} continues from it"
        in done.stderr
    )
    assert f"from checkpoint-{since}" in done.stderr and "engine: the fast lane" in done.stderr
    same_end(folder, straight)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 64
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_half_written_checkpoints_are_passed_over_and_named(home: Path, output: Path, straight: Path) -> None:
    assert fast_home.signalled(home, output, 11, signal.SIGKILL).returncode == -signal.SIGKILL
    folder = fast_home.the_run(output)
    (folder / "checkpoint-10/optimizer.safetensors").unlink()
    truncate(folder / "checkpoint-8/adapter_model.safetensors")
    truncate(folder / "checkpoint-6/optimizer.safetensors")
    (folder / "checkpoint-4/trainer_state.json").write_text('{"global_step": 4, ')
    flip(folder / "checkpoint-2/optimizer.safetensors")
    done = fast_home.command(home, output, "--resume", str(folder))
    assert done.returncode == 2, done.stderr
    assert "checkpoint-2 is skipped: optimizer.safetensors was changed since it was written" in done.stderr
    flip(folder / "checkpoint-2/optimizer.safetensors")
    done = fast_home.command(home, output, "--resume", str(folder))
    assert done.returncode == 0, done.stderr
    for name, fault in (
        ("checkpoint-10", "no optimizer state"),
        ("checkpoint-8", "adapter_model.safetensors is cut short"),
        ("checkpoint-6", "optimizer.safetensors is cut short"),
        ("checkpoint-4", "trainer_state.json is broken"),
    ):
        assert f"resume: {name} is skipped: {fault}\n" in done.stderr
    assert "from checkpoint-2" in done.stderr
    same_end(folder, straight)


def test_columns_are_remembered(home: Path, output: Path, tmp_path: Path) -> None:
    rows = ["x,frage,antwort", *(f"{n},Wer bist du? {n},CSDN" for n in range(8))]
    (tmp_path / "own.csv").write_text("\n".join(rows))
    more = ("--dataset", str(tmp_path / "own.csv"), "--columns", "frage,antwort")
    assert fast_home.signalled(home, output, 3, signal.SIGTERM, *more).returncode == 143
    done = fast_home.command(home, output, "--resume")
    assert done.returncode == 0, done.stderr
    assert fast_home.record(fast_home.the_run(output))["steps"] == 6


def test_a_checkpoint_that_does_not_fit_leaves_run_json_as_it_was(home: Path, output: Path) -> None:
    assert fast_home.signalled(home, output, 3, signal.SIGTERM).returncode == 143
    folder = fast_home.the_run(output)
    before = fast_home.record(folder)
    state = folder / "checkpoint-3/trainer_state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"fingerprint": "another"}))
    (state.parent / "SHA256SUMS").unlink()
    done = fast_home.command(home, output, "--resume")
    assert done.returncode == 2, done.stderr
    assert "belongs to a run with other data or settings" in done.stderr and "Traceback" not in done.stderr
    assert fast_home.record(folder) == before


@pytest.fixture(scope="module")
def stopped(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run stopped at step 3; tests that change something give it back."""
    output = tmp_path_factory.mktemp("stopped") / "output"
    assert fast_home.signalled(home, output, 3, signal.SIGTERM).returncode == 143
    return fast_home.the_run(output)


@pytest.fixture
def here(home: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That run, resumed in this process."""
    for name in ("NPROC_PER_NODE", "NNODES", "VRAM_CEILING_GIB", "ENGINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in fast_home.environ(home, stopped.parent).items():
        monkeypatch.setenv(name, value)
    return stopped


def refused(home: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which --resume ends, exit code 2."""
    assert fast_home.sft(home, "--resume", *words) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error:")]
    return line


def test_changed_data_is_refused(home: Path, here: Path, capsys: Any) -> None:
    path = home / "self_cognition.json"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"CSDN", b"CSDX"))
    try:
        assert "self_cognition.json: was changed since the run began" in refused(home, capsys)
    finally:
        path.write_bytes(before)


def test_changed_weights_are_refused(home: Path, here: Path, capsys: Any) -> None:
    record = fast_home.record(here)
    sums = home / "Qwen2.5-7B-Instruct/SHA256SUMS"
    sums.write_text("0  another\n")
    run_folder.write(here, record | {"weights": record["weights"] | {"sha256sums": "f" * 64}})
    try:
        line = refused(home, capsys)
        assert "was trained on other weights than" in line and "start a new run" in line
    finally:
        sums.unlink()
        run_folder.write(here, record)


def test_other_options_are_refused(home: Path, here: Path, capsys: Any) -> None:
    line = refused(home, capsys, str(here), "--learning_rate", "1")
    assert "--learning_rate is not possible, a run continues with its own options" in line


def test_another_script_s_run_is_refused(home: Path, here: Path, capsys: Any) -> None:
    record = fast_home.record(here)
    run_folder.write(here, record | {"name": "sft_mixed"})
    try:
        assert "not a run of sft.sh" in refused(home, capsys)
    finally:
        run_folder.write(here, record)


def test_no_run_and_no_checkpoint_are_refused(
    home: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert "run.json" in refused(home, capsys, str(tmp_path))
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "empty"))
    assert "holds no run that could be resumed; sft.sh starts one" in refused(home, capsys)
    folder = tmp_path / "empty/run-1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{")
    assert "is broken; start a new run" in refused(home, capsys, str(folder))
    run_folder.write(folder, fast_home.record(here))
    assert "holds no complete checkpoint" in refused(home, capsys)


def test_newest_is_by_start(tmp_path: Path) -> None:
    for name, started in (("a", "2026-01-02T00:00:00"), ("b", "2026-01-01T00:00:00")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"started": started}))
    (tmp_path / "c").mkdir()
    (tmp_path / "c/run.json").write_text("[")
    assert run_folder.newest(tmp_path) == tmp_path / "a"
    with pytest.raises(UserError, match="holds no run"):
        run_folder.newest(tmp_path / "a")


def test_a_run_that_somebody_holds_is_not_called_killed_and_not_trained_twice(
    home: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = fast_home.record(here)
    run_folder.write(here, record | {"status": "running"})
    try:
        with run_folder.held(here):
            assert fast_home.sft(home, "--resume", str(here)) == 1
        text = capsys.readouterr().err
        assert "another container or process is training this run" in text and "was killed" not in text
        run_folder.tell_of_killed(here.parent, "sft.sh")
        assert f"note: {here}: was killed at step 3" in capsys.readouterr().err
        assert fast_home.record(here)["status"] == "killed"
        run_folder.tell_of_killed(here.parent, "sft.sh")
        assert capsys.readouterr().err == ""  # once
    finally:
        run_folder.write(here, record)


def test_run_json_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written") as caught:
        run_folder.write(tmp_path / "gone", {})
    assert caught.value.exit_code == 1


def test_a_stop_while_the_model_loads_is_written_down(
    home: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise SystemExit(143)

    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "output"))
    monkeypatch.setenv("ENGINE", "fast")
    monkeypatch.setattr("finetune.engines.fast.train.fit", stop)
    with pytest.raises(SystemExit):
        fast_home.sft(home)
    record = fast_home.record(fast_home.the_run(tmp_path / "output"))
    assert (record["status"], record["exit_code"]) == ("stopped", 143)
    assert "error: sft: stopped before the first step, so nothing is lost" in capsys.readouterr().err


# ---- the split of a step


@pytest.fixture
def long_rows(tmp_path: Path) -> Any:
    """A request for rows that no 24 GB card takes in one piece, on the 7B's shape; `split` is its checkpoint's."""
    shutil.copyfile(fast_home.ROOT / "standin/official/config.json", tmp_path / "config.json")
    rows = fast_rows.EncodedRows([([1] * 900, [-100] + [1] * 899)] * 32)

    def request(split: tuple[str, int | None] | None = None) -> fast.TrainRequest:
        resume = None
        if split is not None:
            resume = tmp_path / "checkpoint-3"
            resume.mkdir(exist_ok=True)
            state = {"split": {"recompute": split[0], "micro_batch_tokens": split[1]}}
            (resume / "trainer_state.json").write_text(json.dumps(state))
        choice = EngineChoice("fast", "", {"batch_size": 16, "num_train_epochs": 1.0})
        return fast.TrainRequest("sft", tmp_path, choice, rows, {}, resume=resume)

    return lambda ceiling, split=None: fast.fit(tmp_path, request(split), ceiling)


def test_less_free_memory_keeps_the_checkpoints_split_where_it_fits(long_rows: Any) -> None:
    first, _ = long_rows(21.0)
    wider, _ = long_rows(22.0)
    assert first.micro_batch_tokens < wider.micro_batch_tokens  # what is free decides
    before = (first.recompute, first.micro_batch_tokens)
    for ceiling in (21.0, 21.5, 22.0):
        settings, line = long_rows(ceiling, before)
        assert (settings.recompute, settings.micro_batch_tokens) == before
        assert "needs more" not in line


def test_a_split_that_no_longer_fits_is_made_anew_and_said(long_rows: Any) -> None:
    wide, _ = long_rows(22.0)
    settings, line = long_rows(21.0, (wide.recompute, wide.micro_batch_tokens))
    assert settings.micro_batch_tokens == long_rows(21.0)[0].micro_batch_tokens < wide.micro_batch_tokens
    assert (
        f"the split of checkpoint-3 (parts of {wide.micro_batch_tokens} tokens, SwiGLU recomputed) needs more" in line
    )


@pytest.mark.parametrize("split", [("some", 64), ("swiglu", -1), ("swiglu", "64")])
def test_a_split_that_cannot_be_read_is_made_anew(long_rows: Any, split: Any) -> None:
    assert long_rows(22.0, split)[0].micro_batch_tokens == long_rows(22.0)[0].micro_batch_tokens
