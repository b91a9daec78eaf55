"""The entry point in real containers: signals, zombies, hooks, users, read-only and offline starts, doing nothing."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.containers import Container, docker

pytestmark = pytest.mark.image
FAST = ["-e", "HEALTH_LEVEL=fast"]
OFF = ["-e", "HEALTH_LEVEL=off"]


def exit_code(box: Container) -> int:
    return int(box.inspect("{{.State.ExitCode}}"))


def wait_for_log(box: Container, text: str, seconds: float = 60) -> None:
    box.wait_until(lambda: text in box.logs(), seconds, f"{text!r} in the log")


# ---- which processes run ----


def test_tini_is_the_first_process_and_the_command_its_child(container):
    box = container(flags=OFF)
    wait_for_log(box, "ready: not checked")
    box.wait_until(lambda: "sleep infinity" in box.exec("ps", "-o", "args=", "--ppid", "1").stdout, 10, "the command")
    assert box.exec("ps", "-o", "comm=", "-p", "1").stdout.strip() == "tini"


def test_zombies_are_reaped(container):
    """A child whose parent has gone belongs to tini."""
    box = container(flags=OFF)
    for _ in range(5):
        box.exec("sh", "-c", "(sleep 0.1 &) ; exit 0")
    box.wait_until(lambda: "Z" not in box.exec("ps", "-eo", "stat=").stdout, 10, "no zombie")


@pytest.mark.parametrize(("signal", "code"), [("TERM", 143), ("INT", 130)])
def test_a_job_that_is_stopped_saves_first(container, tmp_path, signal, code):
    tmp_path.chmod(0o777)
    trainer = (
        "trap 'sleep 0.5; echo saved >/root/output/checkpoint; exit 0' TERM INT; echo up; while :; do sleep 0.1; done"
    )
    box = container(
        *("python", "-m", "finetune.runs.gpu_lock", "run", "--name", "sft", "--", "sh", "-c", trainer),
        flags=[*OFF, "-v", f"{tmp_path}:/root/output"],
    )
    wait_for_log(box, "up\n")
    docker("kill", "-s", signal, box.id)
    box.wait_until(lambda: box.inspect("{{.State.Running}}") == "false", 20, "the end")
    assert exit_code(box) == code
    assert (tmp_path / "checkpoint").read_text() == "saved\n"


@pytest.mark.parametrize("level", ["fast", "full"])
def test_stopped_during_the_checks_it_ends_at_once(container, level):
    box = container(flags=["-e", f"HEALTH_LEVEL={level}"])
    begin = time.monotonic()
    docker("stop", "-t", "30", box.id)
    assert time.monotonic() - begin < 15
    assert exit_code(box) == 143


def test_idle_container_stops_at_once(container):
    box = container(flags=OFF)
    wait_for_log(box, "ready")
    begin = time.monotonic()
    docker("stop", "-t", "30", box.id)
    assert time.monotonic() - begin < 15


# ---- commands ----


def test_the_exit_code_is_the_commands(run):
    assert run("sh", "-c", "exit 42", flags=OFF).returncode == 42


def test_arguments_pass_untouched(run):
    done = run("printf", "%s|", "a b", "$HOME", "*", "", "中文", "-e", flags=OFF)
    assert done.stdout == "a b|$HOME|*||中文|-e|"


def test_stdout_belongs_to_the_command(run):
    """The checks report on stderr, so that `docker run IMAGE cmd | other` gets the command's output only."""
    done = run("echo", "mine", flags=FAST)
    assert done.stdout == "mine\n"
    assert done.stderr.startswith("ready: 6 checks")


def test_healthcheck_runs_once(run):
    done = run("healthcheck", "startup", "--level", "fast")
    assert done.returncode == 0
    assert done.stdout.count("pass  weights") == 1
    assert done.stderr == ""


def test_no_command_and_no_terminal_stays_up(image):
    started = docker("run", "-d", "--shm-size", "2g", "-e", "MIRROR_DEVICE=cpu", *OFF, image)
    box = Container(started.stdout.strip())
    try:
        wait_for_log(box, "staying up")
        wait_for_log(box, "ready")
        time.sleep(0.5)
        assert box.inspect("{{.State.Running}}") == "true"
        assert box.exec("bash", "-c", "pwd").stdout == "/root\n"
    finally:
        docker("rm", "-f", box.id)


def test_commands_from_a_pipe(image):
    line = ["docker", "run", "--rm", "-i", "-e", "MIRROR_DEVICE=cpu", *OFF, image]
    done = subprocess.run(line, input="echo piped; pwd\n", capture_output=True, text=True, timeout=60)
    assert done.stdout == "piped\n/root\n"


def test_hooks_that_a_user_mounts(run, tmp_path):
    (tmp_path / "mine.sh").write_text("export GREETING=hello\n")
    hook = "/opt/mirror/entrypoint/start.d/50-mine.sh"
    done = run("sh", "-c", "echo $GREETING", flags=[*OFF, "-v", f"{tmp_path}/mine.sh:{hook}:ro"])
    assert done.stdout == "hello\n"


# ---- least privilege ----

WAYS = {
    "user": ["--user", "1000:1000"],
    "user without a name": ["--user", "54321"],
    "read-only": ["--read-only", "--tmpfs", "/tmp"],
    "read-only user": ["--read-only", "--tmpfs", "/tmp", "--user", "1000"],
    "no network": ["--network", "none"],
    "no capabilities": ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"],
    "all of it": [
        *("--read-only", "--tmpfs", "/tmp", "--user", "1000", "--network", "none"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "256", "--memory", "4g"),
    ],
}


@pytest.mark.parametrize("way", WAYS)
def test_it_starts_healthy_with_less(container, way):
    """The probe finds health.json, the home can be written, and Python knows who it is."""
    flags = [*WAYS[way], *FAST]
    if "read-only" in way or way == "all of it":
        flags += ["--tmpfs", "/root/output:mode=1777"]
    box = container(flags=flags)
    box.wait_until(lambda: box.exec("healthcheck", "probe").returncode == 0, 60, "a healthy probe")
    # docker exec knows nothing of what the entry point exported: ask the command's own environment.
    command = 'env $(tr "\\0" "\\n" </proc/$(pgrep -o sleep)/environ | grep -E "^(HOME|USER|LOGNAME)=") sh -c '
    check = 'touch $HOME/x && rm $HOME/x && python -c "import getpass; print(getpass.getuser())"'
    done = box.exec("sh", "-c", f"{command} '{check}'")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_without_any_writable_folder_it_starts_and_says_what_is_missing(run):
    done = run("echo", "here", flags=["--read-only", *OFF])
    assert done.stdout == "here\n"
    assert "can be written" in done.stderr and "--tmpfs /run/mirror:mode=1777" in done.stderr
    assert "Traceback" not in done.stderr


# ---- the real trainer ----


def test_docker_stop_makes_the_real_trainer_save_a_checkpoint(container, tmp_path):
    """ms-swift on the stand-in, stopped in its second step or later: exit 143, and the checkpoint is there."""
    box = container(
        "sft", "--num_train_epochs", "50", "--enable_jit_checkpoint", "true", flags=[*OFF, "-e", "ENGINE=swift"]
    )
    box.wait_until(lambda: "busy: sft step" in box.exec("healthcheck", "probe").stdout, 120, "the first step")
    assert docker("stop", "-t", "120", box.id).returncode == 0
    assert exit_code(box) == 143
    assert "SIGTERM passed on to sft" in box.logs()
    docker("cp", f"{box.id}:/root/output", str(tmp_path / "output"))
    (state,) = (tmp_path / "output").glob("*/checkpoint-*/trainer_state.json")
    assert (state.parent / "adapter_model.safetensors").stat().st_size > 0
