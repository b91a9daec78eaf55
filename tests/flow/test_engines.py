"""Both engines behind sft.sh in the image: the fast lane, `docker stop` and --resume, and a run of ms-swift."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.containers import docker

pytestmark = pytest.mark.flow
ROOT = Path(__file__).resolve().parents[2]
OFFLINE = ("--user", "1234:1234", "--network", "none", "-e", "HEALTH_LEVEL=off")


def the_record(output: Path) -> tuple[Path, dict[str, Any]]:
    """The only run's folder and its run.json."""
    (path,) = output.glob("*/run.json")
    return path.parent, json.loads(path.read_text(encoding="utf-8"))


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder that the container's user may write to."""
    tmp_path.chmod(0o777)
    return tmp_path


def test_finetune_took_the_fast_lane_and_loaded_once(finetuned) -> None:
    folder, record = the_record(finetuned.folder)
    assert record["engine"] == "fast"
    assert "engine: the fast lane, because it honours every option given" in finetuned.done.stderr
    assert finetuned.done.stderr.count("pass  forward") == 1
    assert (folder / "images/train_loss.png").is_file()
    assert list((folder / "runs").glob("events.out.tfevents.*"))


def test_docker_stop_and_resume_end_at_the_losses_of_a_whole_run(container, run, finetuned, output) -> None:
    started = container("sft", "--save_steps", "5", flags=[*OFFLINE, "-v", f"{output}:/root/output"])
    started.wait_until(lambda: any(output.glob("*/checkpoint-5")), 120, "checkpoint-5")
    assert docker("stop", "-t", "60", started.id).returncode == 0
    folder, record = the_record(output)
    assert started.inspect("{{.State.ExitCode}}") == "143", started.logs()[-3000:]
    assert record["status"] == "stopped"
    assert 5 <= record["steps"] < 60
    done = run("sft", "--resume", flags=[*OFFLINE, "-v", f"{output}:/root/output"], timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"from {record['adapter']}" in done.stderr
    whole, _ = the_record(finetuned.folder)
    assert losses(folder) == losses(whole)


def test_ms_swift_trains_the_stand_in_as_well(run, output) -> None:
    flags = [*OFFLINE, "-e", "ENGINE=swift", "-v", f"{output}:/root/output"]
    done = run("sft", "--max_steps", "4", flags=flags, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    folder, record = the_record(output)
    assert record["engine"] == "ms-swift" and record["status"] == "done"
    assert (folder / "checkpoint-4/adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("engine", "words", "says"),
    [
        ("turbo", (), "set it to auto, fast or swift"),
        ("fast", ("--tuner_type", "full"), "--tuner_type full"),
        ("auto", ("--resume",), "holds no run that could be resumed"),
    ],
)
def test_what_cannot_be_ends_with_2_and_one_line(run, engine, words, says) -> None:
    done = run("sft", *words, flags=[*OFFLINE, "-e", f"ENGINE={engine}"])
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert says in line
    assert "Traceback" not in done.stderr


def test_peft_answers_as_the_fast_lane_does(run, finetuned) -> None:
    """The fast lane's adapter, 20 questions, greedy, float32: the same tokens by both."""
    folder, record = the_record(finetuned.folder)
    bench = ROOT / "bench"
    adapter = f"/root/output/{folder.name}/{record['adapter']}"
    flags = [*OFFLINE, "-v", f"{finetuned.folder}:/root/output:ro", "-v", f"{bench}:/opt/mirror/bench:ro"]
    flags += ["-e", "HF_HUB_OFFLINE=1"]
    words = ["/root/Qwen2.5-7B-Instruct", adapter, "--rows", "/root/self_cognition.json"]
    done = run("python", "/opt/mirror/bench/same_answers.py", *words, flags=flags, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["qwen2"]) == 20 and all(found["qwen2"])
    assert found["peft"] == found["qwen2"]
