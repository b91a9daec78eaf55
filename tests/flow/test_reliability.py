"""Faults put into containers of the stand-in image, with both engines where it matters: nothing that was saved is lost.

docs/reliability.md lists them all, those of the unit tests too. One idle container serves several tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.containers import Container, docker

pytestmark = pytest.mark.flow
OFF = ("--user", "1234:1234", "--network", "none", "-e", "HEALTH_LEVEL=off")
ENGINES = ("fast", "swift")
# ms-swift starts three times in each of these: over four minutes together, which CI leaves out
SLOW = pytest.mark.skipif(not os.environ.get("MIRROR_SLOW_TESTS"), reason="MIRROR_SLOW_TESTS=1 runs it")
SLOW_SWIFT = [pytest.param(engine, marks=SLOW) if engine == "swift" else engine for engine in ENGINES]


def one_error(done: subprocess.CompletedProcess[str], code: int, *words: str) -> str:
    """The one error line of a command that ended with this code, and without a traceback of ours."""
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "internal error" not in done.stderr, done.stderr[-3000:]
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


def records(output: Path) -> dict[str, dict[str, Any]]:
    """run.json of every run below a folder, by the run's name."""
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in output.glob("*/run.json")}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder that the container's user may write to."""
    folder = tmp_path / "output"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def box(image: str, finetuned: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """An idle container of an ordinary user: 16 MiB at /full, the fine-tuned folder read-only at /ro, a stranger's
    folder at /foreign, and a copy of the adapter with a flipped byte at /flipped/checkpoint-60."""
    foreign, flipped = tmp_path_factory.mktemp("foreign"), tmp_path_factory.mktemp("flipped")
    foreign.chmod(0o755)
    adapter = max(
        finetuned.folder.rglob("checkpoint-*/adapter_model.safetensors"), key=lambda path: path.stat().st_mtime
    )
    copy = flipped / adapter.parent.name
    shutil.copytree(adapter.parent, copy, copy_function=shutil.copyfile)
    flipped.chmod(0o755)
    data = bytearray((copy / adapter.name).read_bytes())
    data[-1000] ^= 0x10
    (copy / adapter.name).write_bytes(data)
    started = docker(
        *("run", "-d", "-e", "MIRROR_DEVICE=cpu", "-e", "HOME=/tmp", "--shm-size", "2g", *OFF),
        *("--tmpfs", "/full:size=16m,mode=1777", "-v", f"{finetuned.folder}:/ro:ro", "-v", f"{foreign}:/foreign"),
        *("-v", f"{copy}:/flipped/checkpoint-60:ro", image, "sleep", "infinity"),
    )
    assert started.returncode == 0, started.stderr
    found = Container(started.stdout.strip())
    yield found
    docker("rm", "-f", "-v", found.id)


def in_box(box: Container, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    flags = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
    return docker("exec", *flags, box.id, *command, timeout=300)


@pytest.mark.parametrize("engine", SLOW_SWIFT)
def test_a_disk_that_fills_up_while_a_checkpoint_is_written(box: Container, engine: str) -> None:
    env = {"OUTPUT_DIR": "/full", "ENGINE": engine}
    assert in_box(box, "sh", "-c", "rm -rf /full/*; head -c 13500k /dev/zero >/full/other").returncode == 0
    done = in_box(box, "sft", "--max_steps", "8", "--save_steps", "2", "--save_total_limit", "4", **env)
    line = one_error(done, 1, "--resume continues")
    assert "No space left on device" in done.stderr
    assert engine == "swift" or "free some room and resume" in line
    assert in_box(box, "rm", "/full/other").returncode == 0
    done = in_box(box, "sft", "--resume", **env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"resume: .* from checkpoint-[246]", done.stderr), done.stderr[-3000:]
    listed = in_box(box, "sh", "-c", "ls -A /full/*; cat /full/*/run.json").stdout
    assert '"status": "done"' in listed and "checkpoint-8" in listed
    assert ".checkpoint" not in listed and ".run.json" not in listed


@pytest.mark.parametrize(("folder", "says"), [("/ro", "Read-only file system"), ("/foreign", "Permission denied")])
def test_an_output_folder_that_cannot_be_written(box: Container, folder: str, says: str) -> None:
    """The check `storage` refuses it (tests/image/test_health_image.py); with HEALTH_LEVEL=off the command does."""
    one_error(in_box(box, "sft", OUTPUT_DIR=folder), 2, f"{folder}: cannot be written ({says})", "OUTPUT_DIR")
    if folder == "/ro":
        one_error(in_box(box, "sft", "--resume", OUTPUT_DIR=folder), 2, "is finished")
        one_error(in_box(box, "verify", OUTPUT_DIR=folder), 2, says, "--output")
        one_error(in_box(box, "merge", OUTPUT_DIR=folder), 2, "cannot be written", "--output")


@pytest.mark.parametrize("command", [("verify",), ("merge",), ("infer", "你是谁?", "--adapter")])
def test_an_adapter_with_a_flipped_byte(box: Container, command: tuple[str, ...]) -> None:
    """test_checkpoints.py and test_resume.py: --adapter newest and --resume pass it over and name it."""
    done = in_box(box, *command, "/flipped/checkpoint-60")
    one_error(done, 2, "adapter_model.safetensors was changed since it was written")


@pytest.mark.parametrize("engine", SLOW_SWIFT)
def test_a_killed_container(container: Callable[..., Container], run: Any, output: Path, engine: str) -> None:
    """Meanwhile a second container on the same output folder: it may not continue with that run, but start one."""
    flags = [*OFF, "-e", f"ENGINE={engine}", "-v", f"{output}:/root/output"]
    first = container("sft", "--max_steps", "40", "--save_steps", "2", flags=flags)
    first.wait_until(lambda: any(output.glob("*/checkpoint-2/trainer_state.json")), 120, "checkpoint-2")
    (name,) = records(output)
    if engine == "fast":
        one_error(run("sft", "--resume", flags=flags), 1, "another container or process is training this run")
        done = run("sft", "--max_steps", "1", flags=flags)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "was killed" not in done.stderr
        assert len(records(output)) == 2
    docker("kill", first.id)
    first.wait_until(lambda: first.inspect("{{.State.Running}}") == "false", 30, "the end")
    assert first.inspect("{{.State.ExitCode}}") == "137"
    assert records(output)[name]["status"] == "running"
    before = {path.name for path in (output / name).glob("checkpoint-*")}
    next_one = container("sft", "--resume", f"/root/output/{name}", flags=flags)
    next_one.wait_until(lambda: "resume: " in next_one.logs(), 60, "the checkpoint to go on from")
    assert f"note: /root/output/{name}: was killed at step " in next_one.logs()
    assert re.search(r"resume: .* from (checkpoint-\d+)", next_one.logs())[1] in before  # type: ignore[index]
    if engine == "fast":  # test_resume_swift.py has ms-swift's losses after it
        after = lambda: {path.name for path in (output / name).glob("checkpoint-*")} - before  # noqa: E731
        next_one.wait_until(lambda: len(after()) > 0, 120, "a checkpoint of the resumed run")
    assert "Traceback" not in next_one.logs()


def test_the_engine_s_client_is_killed(image: str, output: Path, tmp_path: Path) -> None:
    """The container does not depend on the `docker run` that waits for it: it trains to the end."""
    words = ["docker", "run", "--cidfile", f"{tmp_path}/cid", "-e", "MIRROR_DEVICE=cpu", "--shm-size", "2g", *OFF]
    words += ["-v", f"{output}:/root/output", image, "sft", "--max_steps", "12", "--save_steps", "2"]
    client = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not any(output.glob("*/checkpoint-2")) and time.monotonic() < until:
            time.sleep(0.1)
        client.kill()
        client.wait()
        box = Container((tmp_path / "cid").read_text())
        assert box.inspect("{{.State.Running}}") == "true"
        box.wait_until(lambda: box.inspect("{{.State.Running}}") == "false", 120, "the end of the run")
        assert box.inspect("{{.State.ExitCode}}") == "0", box.logs()[-3000:]
        (record,) = records(output).values()
        assert (record["status"], record["adapter"]) == ("done", "checkpoint-12")
    finally:
        client.kill()
        docker("rm", "-f", "-v", (tmp_path / "cid").read_text())


@pytest.mark.parametrize("engine", ENGINES)
def test_the_memory_limit_is_hit(container: Callable[..., Container], run: Any, output: Path, engine: str) -> None:
    flags = [*OFF, "-v", f"{output}:/root/output"]
    limited = [*flags, "-e", f"ENGINE={engine}", "--memory", "350m", "--memory-swap", "350m"]
    box = container("sft", "--max_steps", "2", flags=limited)
    box.wait_until(lambda: box.inspect("{{.State.Running}}") == "false", 120, "the end")
    assert box.inspect("{{.State.ExitCode}} {{.State.OOMKilled}}") == "137 true"
    said = box.logs()
    (name,) = records(output)
    if engine == "swift":  # a process of its own, and the one above it is left to tell
        assert "error: job sft was killed by SIGKILL; mostly the memory limit (docker run --memory)" in said
        assert records(output)[name]["status"] == "failed"
        return
    done = run("sft", "--max_steps", "1", flags=flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"note: /root/output/{name}: was killed at step 0" in done.stderr and "--memory" in done.stderr
    assert "it had saved no complete checkpoint" in done.stderr


def test_eight_starts_at_once(image: str, output: Path) -> None:
    def checked(_: int) -> subprocess.CompletedProcess[str]:
        return docker(
            *(
                "run",
                "--rm",
                "-e",
                "MIRROR_DEVICE=cpu",
                "--shm-size",
                "2g",
                "-e",
                "HEALTH_LEVEL=fast",
                "--network",
                "none",
            ),
            *("--user", "1234:1234", "-v", f"{output}:/root/output", image, "bash", "-c", "healthcheck probe"),
        )

    with ThreadPoolExecutor(8) as pool:
        for done in pool.map(checked, range(8)):
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.startswith("ready: 6 checks"), done.stdout
    assert not list(output.iterdir())


def mounts() -> set[str]:
    return set(Path("/proc/self/mounts").read_text().splitlines())


def test_a_hundred_starts_and_stops_leave_nothing(image: str) -> None:
    """Two containers, restarted over and over, so that what a start leaves in a container's own layer would add up.

    Fifty restarts each with MIRROR_SLOW_TESTS=1; CI has fifteen.
    """
    before = mounts()
    count = 50 if os.environ.get("MIRROR_SLOW_TESTS") else 15

    def restarted(_: int) -> tuple[list[str], str, str]:
        started = docker("run", "-d", "--no-healthcheck", "-e", "MIRROR_DEVICE=cpu", *OFF, image, "sleep", "infinity")
        assert started.returncode == 0, started.stderr
        box = Container(started.stdout.strip())
        try:
            found = []
            look = (
                "find /tmp /run/mirror /dev/shm -mindepth 1 ! -path '/tmp/home-1234' | sort; ps -eo args=; "
                "[ ! -e /run/mirror/job.lock ] || flock -n /run/mirror/job.lock true || echo held"
            )
            for number in range(count):
                box.wait_until(lambda: box.exec("healthcheck", "probe").returncode == 0, 60, "ready")
                if number in (0, count - 1):
                    found.append(box.exec("sh", "-c", look).stdout)
                done = docker("restart", "-t", "20", box.id)
                assert done.returncode == 0, done.stderr
            return found, box.logs(), docker("diff", box.id).stdout
        finally:
            docker("rm", "-f", "-v", box.id)

    with ThreadPoolExecutor(2) as pool:
        for found, log, diff in pool.map(restarted, range(2)):
            assert found[0] == found[1], found
            assert "error" not in log.lower() and log.count("ready: not checked") >= count
            assert len(diff.splitlines()) < 15, diff
    assert {line.split()[1] for line in mounts() - before if "/data/overlay" in line} == set()


# What a `finetune` says as it comes up, in order; stopped there.
STAGES = ("", "data: ", "loading ", "training ...", "step 1/")
SWIFT_STAGES = ("run sh",)


def test_docker_stop_at_every_stage_of_start_up(image: str, tmp_path: Path) -> None:
    """Exit code 143 long before Docker's patience ends, no traceback, and no run whose record says that it runs."""

    def stop_at(job: tuple[str, str]) -> str | None:
        engine, stage = job
        output = tmp_path / f"{engine}-{re.sub('[^a-z0-9]', '', stage)}"
        output.mkdir()
        output.chmod(0o777)
        words = [
            "-e",
            f"ENGINE={engine}",
            "-e",
            "MIRROR_DEVICE=cpu",
            "--shm-size",
            "2g",
            "-v",
            f"{output}:/root/output",
        ]
        started = docker(
            "run", "-d", *OFF[:4], "-e", "HEALTH_LEVEL=fast", *words, image, "finetune", "--max_steps", "60"
        )
        box = Container(started.stdout.strip())
        try:
            until = time.monotonic() + 120
            while stage not in box.logs() and time.monotonic() < until and box.inspect("{{.State.Running}}") == "true":
                time.sleep(0.05)
            begin = time.monotonic()
            docker("stop", "-t", "60", box.id)
            seconds, code, log = time.monotonic() - begin, box.inspect("{{.State.ExitCode}}"), box.logs()
            faults = [] if code == "143" else [f"exit code {code}"]
            faults += [f"{seconds:.0f} s to stop"] if seconds > 30 else []
            faults += ["a traceback"] if "Traceback" in log or "internal error" in log else []
            faults += [record["status"] for record in records(output).values() if record["status"] == "running"]
            faults += [path.name for path in output.glob("*/.*")]
            return f"{engine} at {stage!r}: {', '.join(faults)}\n{log[-1500:]}" if faults else None
        finally:
            docker("rm", "-f", "-v", box.id)

    jobs = [*(("fast", stage) for stage in STAGES), *(("swift", stage) for stage in SWIFT_STAGES)]
    with ThreadPoolExecutor(2) as pool:
        faults = [fault for fault in pool.map(stop_at, jobs) if fault]
    assert not faults, "\n".join(faults)
