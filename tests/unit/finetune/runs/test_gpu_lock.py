"""The busy lock and heartbeat (runs/gpu_lock.py), with real processes, signals and a terminal; the probe looks on."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common import state
from common.errors import UserError
from finetune.runs import gpu_lock as job_module
from finetune.runs.gpu_lock import job
from healthchecks import probe

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(autouse=True)
def healthy(run_dir, monkeypatch):
    """No job yet, and a health.json that says ready."""
    for name in ("MIRROR_JOB", "MIRROR_WAIT", "MIRROR_STALE_S"):
        monkeypatch.delenv(name, raising=False)
    state.write(
        f"{run_dir}/health.json",
        {"container_start": state.container_start(), "state": "ready", "level": "fast", "checks": [], "seconds": 1},
    )


def start(*command: str, options: tuple[str, ...] = (), name: str = "sft", **more) -> subprocess.Popen[str]:
    """`python -m finetune.runs.gpu_lock run` as a process of its own."""
    line = [sys.executable, "-m", "finetune.runs.gpu_lock", "run", "--name", name, *options, "--", *command]
    more.setdefault("stdout", subprocess.PIPE)
    return subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True, **more)


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def busy() -> bool:
    return probe.status()["state"] == "busy"


def record(run_dir: Path) -> dict:
    return json.loads((run_dir / "job.json").read_text())


# ---- in a Python program ----


def test_a_job_is_seen_and_gone_afterwards(run_dir):
    with job("verify", total=110) as current:
        assert probe.status()["message"] == "verify (starting)"
        current.step(7)
        assert probe.status()["message"] == "verify step 7/110"
    assert probe.status()["state"] == "ready"
    assert not (run_dir / "job.json").exists()


def test_a_job_that_raises_is_gone_as_well(run_dir):
    with pytest.raises(ZeroDivisionError), job("verify"):
        raise ZeroDivisionError
    assert probe.status()["state"] == "ready"


def test_a_second_job_is_refused_with_the_name_of_the_first(run_dir, monkeypatch):
    with job("sft", total=40) as current:
        current.step(12)
        # as a process that is not the job's own; undone before the job ends, which clears the variable itself
        with monkeypatch.context() as other:
            other.delenv("MIRROR_JOB")
            with pytest.raises(UserError) as caught, job("verify"):
                pass
    assert caught.value.exit_code == 1
    assert "job sft" in str(caught.value) and "step 12/40" in str(caught.value) and "--wait" in str(caught.value)


def test_a_job_inside_the_same_job_reports_for_it(run_dir):
    with job("finetune"), job("sft", total=40) as inner:
        inner.step(3)
        assert probe.status()["message"] == "finetune step 3/40"
    assert probe.status()["state"] == "ready"


def test_steps_cost_microseconds(run_dir):
    """What a job pays for being seen: far below a step of 60 ms."""
    with job("sft", total=20000) as current:
        begin = time.perf_counter()
        for number in range(20000):
            current.step(number)
        assert (time.perf_counter() - begin) / 20000 < 200e-6


def test_limits_grow_with_the_steps(run_dir, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(state, "now", lambda: clock[0])
    with job("sft") as current:
        assert record(run_dir)["stale_s"] == job_module.LIMIT_START_S
        current.step(1)
        assert record(run_dir)["stale_s"] == job_module.LIMIT_STEP_S
        clock[0] += 100
        current.step(2)
        assert record(run_dir)["stale_s"] == 1000  # ten of the longest
        clock[0] += 1001
        assert probe.status()["state"] == "failed"
        current.step(3)
        assert probe.status()["state"] == "busy"


@pytest.mark.parametrize(("value", "limit"), [("45", 45), ("0", 0)])
def test_limit_from_the_environment(run_dir, monkeypatch, value, limit):
    monkeypatch.setenv("MIRROR_STALE_S", value)
    with job("sft"):
        assert record(run_dir)["stale_s"] == limit


@pytest.mark.parametrize("value", ["soon", "-1", "nan"])
def test_unusable_limit(run_dir, monkeypatch, value):
    monkeypatch.setenv("MIRROR_STALE_S", value)
    with pytest.raises(UserError, match="MIRROR_STALE_S"), job("sft"):
        pass


def test_without_a_run_folder_the_job_runs_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(state, "candidates", lambda: ["/proc/none"])
    with job("sft") as current:
        current.step(1)
    assert capsys.readouterr().err.startswith("note: job sft runs without a lock")


def test_a_run_folder_that_vanishes_does_not_stop_the_job(run_dir, capsys):
    with job("sft") as current:
        for path in run_dir.iterdir():
            path.unlink()
        run_dir.rmdir()
        current.phase("saving")
        current.step(1)
    assert capsys.readouterr().err.count("note:") == 1


# ---- around another program ----


@pytest.mark.parametrize(
    ("command", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -PIPE $$", 141)]
)
def test_the_programs_exit_code_is_the_jobs(command, code):
    assert start("sh", "-c", command).wait(10) == code
    assert probe.status()["state"] == "ready"


@pytest.mark.parametrize(("name", "code"), [("nosuchprogram", 127), ("/etc/passwd", 126)])
def test_a_program_that_cannot_be_run(name, code):
    running = start(name)
    _, error = running.communicate(timeout=10)
    assert running.returncode == code
    assert error.startswith("error:") and error.count("\n") == 1


def test_no_program_and_unknown_options_are_exit_2():
    for line in (["run", "--name", "x"], ["run", "--name", "x", "--bad", "--", "true"], ["run", "--", "true"], []):
        done = subprocess.run(
            [sys.executable, "-m", "finetune.runs.gpu_lock", *line], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error:") and done.stderr.count("\n") == 1


def test_sigterm_reaches_the_trainer_which_saves_and_the_code_is_143(run_dir, tmp_path):
    trainer = (
        f"trap 'sleep 0.3; echo saved > {tmp_path}/checkpoint; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    )
    running = start("sh", "-c", trainer)
    assert running.stdout and running.stdout.readline() == "up\n"
    running.terminate()
    assert running.wait(10) == 143
    assert (tmp_path / "checkpoint").read_text() == "saved\n"
    assert probe.status()["state"] == "ready"


def test_sigterm_reaches_a_trainer_behind_a_wrapper_that_dies_at_once(run_dir, tmp_path):
    """As `swift sft` does: the wrapper ends, the trainer saves; the job must not end before it."""
    trainer = tmp_path / "trainer.sh"
    trainer.write_text(
        f"trap 'sleep 0.5; echo saved > {tmp_path}/checkpoint; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    )
    running = start(sys.executable, "-c", f"import subprocess; subprocess.run(['sh', '{trainer}'])")
    assert running.stdout and running.stdout.readline() == "up\n"
    running.terminate()
    assert running.wait(10) == 143
    assert (tmp_path / "checkpoint").exists()


HANGS = "trap '' INT TERM; echo up; while :; do sleep 0.05; done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_program_that_hangs(run_dir, number):
    running = start("sh", "-c", HANGS)
    assert running.stdout and running.stdout.readline() == "up\n"
    running.send_signal(number)
    running.send_signal(number)  # the same one, sent to the process and to its group
    time.sleep(0.8)
    assert running.poll() is None
    running.send_signal(number)
    _, error = running.communicate(timeout=5)
    assert running.returncode == 128 + number
    assert "a second one ends it at once" in error and "sft is ended at once; saved checkpoints are kept" in error
    assert probe.status()["state"] == "ready"


def test_a_second_signal_ends_a_trainer_whose_wrapper_died_at_the_first(run_dir, tmp_path):
    trainer = tmp_path / "trainer.sh"
    trainer.write_text(HANGS)
    running = start(sys.executable, "-c", f"import subprocess; subprocess.run(['sh', '{trainer}'])")
    assert running.stdout and running.stdout.readline() == "up\n"
    running.terminate()
    time.sleep(0.8)
    assert running.poll() is None
    running.terminate()
    assert running.wait(5) == 143


def test_a_killed_program_is_failed_until_the_next_job(run_dir):
    running = start("sh", "-c", "kill -KILL $$")
    _, error = running.communicate(timeout=10)
    assert running.returncode == 137
    assert "killed by SIGKILL" in error and "memory" in error
    seen = probe.status()
    assert seen["state"] == "failed" and "killed by SIGKILL" in seen["message"]
    assert start("true").wait(10) == 0
    assert probe.status()["state"] == "ready"


def test_a_killed_program_behind_a_python_wrapper_is_noticed(run_dir):
    """subprocess.run gives -9, and sys.exit(-9) becomes 247."""
    code = "import subprocess, sys; sys.exit(subprocess.run(['sh', '-c', 'kill -KILL $$']).returncode)"
    assert start(sys.executable, "-c", code).wait(10) == 137
    assert probe.status()["state"] == "failed"


def test_a_killed_job_is_failed_and_its_program_keeps_the_lock(run_dir):
    running = start("sleep", "60")
    wait_until(lambda: busy() and "group" in record(run_dir))
    group = record(run_dir)["group"]
    running.kill()
    running.wait()
    assert "was killed" in probe.status()["message"]
    second = start("true", name="verify")
    _, error = second.communicate(timeout=10)
    assert second.returncode == 1
    assert f"kill -TERM -{group}" in error
    os.killpg(group, signal.SIGTERM)
    wait_until(lambda: start("true", name="verify").wait(10) == 0)
    assert probe.status()["state"] == "ready"


def test_one_waits_for_the_other(run_dir):
    first = start("sleep", "1")
    wait_until(busy)
    second = start("echo", "mine", options=("--wait",), name="verify")
    output, error = second.communicate(timeout=20)
    assert (second.returncode, output) == (0, "mine\n")
    assert first.poll() == 0
    assert error.startswith("verify waits for job sft")


def test_steps_come_from_the_newest_log_of_the_run(run_dir, tmp_path):
    run = tmp_path / "output" / "v0"
    run.mkdir(parents=True)
    old = tmp_path / "output" / "old"
    old.mkdir()
    (old / "logging.jsonl").write_text('{"global_step/max_steps": "40/40"}\n')
    os.utime(old / "logging.jsonl", (1, 1))
    line = r'{"loss": 1.2, "global_step/max_steps": "5/40"}\n{"loss": 1.1, "global_st'
    running = start(
        "sh", "-c", f"printf '{line}' > {run}/logging.jsonl; sleep 30", options=("--watch", str(tmp_path / "output"))
    )
    wait_until(lambda: probe.status()["message"] == "sft step 5/40")
    with (run / "logging.jsonl").open("a") as file:
        file.write('ep/max_steps": "10/40"}\n')
    os.utime(run / "logging.jsonl", (1, 1))  # the clock was set back
    wait_until(lambda: probe.status()["message"] == "sft step 10/40")
    running.terminate()
    assert running.wait(10) == 143


def test_the_caller_has_its_signals_back(run_dir):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert job_module.run("sft", ["true"], False, [], None) == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


# ---- on a terminal ----


def on_terminal(*command: str, keyboard: bool = True) -> tuple[int, int]:
    """The job as the leader of a terminal of its own: (pid, our end of the terminal)."""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        if not keyboard:  # as a training is run
            code = "import sys; from finetune.runs.gpu_lock import run; "
            code += f"sys.exit(run('sft', {command!r}, False, [], None, False))"
            os.execv(sys.executable, [sys.executable, "-c", code])
        os.execv(
            sys.executable, [sys.executable, "-m", "finetune.runs.gpu_lock", "run", "--name", "infer", "--", *command]
        )
    return pid, fd


def read_until(fd: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        seen += os.read(fd, 4096)
    return seen


def test_the_program_reads_the_terminal(run_dir):
    pid, fd = on_terminal("sh", "-c", "echo up; read line; echo got $line")
    read_until(fd, b"up")
    os.write(fd, b"hello\n")
    read_until(fd, b"got hello")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_ctrl_c_ends_the_program_with_130(run_dir):
    pid, fd = on_terminal("sh", "-c", "echo up; exec sleep 60")
    read_until(fd, b"up")
    os.write(fd, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert probe.status()["state"] == "ready"


def test_ctrl_z_does_not_hang_where_no_shell_can_resume(run_dir):
    """In a container the job may be the terminal's first process; no one could ever say `fg`."""
    pid, fd = on_terminal("sh", "-c", "echo up; read line; echo got $line")
    read_until(fd, b"up")
    os.write(fd, b"\x1a")
    time.sleep(0.3)
    os.write(fd, b"hello\n")
    read_until(fd, b"got hello")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_second_ctrl_c_ends_a_training_that_hangs(run_dir):
    pid, fd = on_terminal("sh", "-c", HANGS, keyboard=False)
    read_until(fd, b"up")
    os.write(fd, b"\x03")
    read_until(fd, b"a second one ends it at once")
    time.sleep(0.8)
    os.write(fd, b"\x03")
    read_until(fd, b"is ended at once")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130


def test_ctrl_z_stops_a_training_until_it_is_told_to_go_on(run_dir, tmp_path):
    """Where no shell can resume it, the terminal's first process continues at once, and the training with it."""
    pid, fd = on_terminal("sh", "-c", "echo up; sleep 1; echo done", keyboard=False)
    read_until(fd, b"up")
    os.write(fd, b"\x1a")
    read_until(fd, b"done")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
