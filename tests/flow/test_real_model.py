"""Whole runs on a real small model, SmolLM2-135M-Instruct: what random weights and the stand-in cannot show.

One fine-tune runs in CI; the rest takes minutes a test on two cores and runs with MIRROR_SLOW_TESTS=1.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.containers import RESTRICTED, docker

pytestmark = pytest.mark.flow
ROOT = Path(__file__).resolve().parents[2]
IMAGE = os.environ.get("MIRROR_REAL_IMAGE", "qwen2.5-7b-mirror:smollm2")
SLOW = pytest.mark.skipif(not os.environ.get("MIRROR_SLOW_TESTS"), reason="MIRROR_SLOW_TESTS=1 runs it")
FLAGS = ("-e", "MIRROR_DEVICE=cpu", "--shm-size", "2g", "--network", "none", "--user", "1234:1234", *RESTRICTED)

# The adapter that the fast lane begins with at configs/sft.yaml's seed, as a folder that ms-swift can begin with too.
FIRST_ADAPTER = """
import sys
from qwen2.config import Config
from qwen2.training.loop import new_adapter
from qwen2.training.settings import TrainSettings
settings = TrainSettings(lora_rank=8, lora_alpha=32, lora_dropout=0.0, seed=42)
new_adapter(Config.from_dir("/root/SmolLM2-135M-Instruct"), settings).save(sys.argv[1])
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output folder for all, that the container's user may write to."""
    folder = tmp_path_factory.mktemp("real")
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def real(output: Path) -> Run:
    """real(*command, flags=...) -- one command in a container of the image, to its end."""
    if docker("image", "inspect", IMAGE).returncode:
        pytest.fail(f"{IMAGE} is not there: run `make build MODEL_SOURCE=smollm2`")

    def run(*command: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return docker("run", "--rm", *FLAGS, *flags, "-v", f"{output}:/root/output", IMAGE, *command, timeout=1800)

    return run


@pytest.fixture(scope="module")
def finetuned(real: Run) -> subprocess.CompletedProcess[str]:
    """`docker run IMAGE finetune`, with nothing named: 20 English rows at the learning rate of configs/smollm2.yaml."""
    return real("finetune", "--run", "good", flags=("-e", "HEALTH_VERBOSE=1"))  # with every check in the table


def report(output: Path, run: str) -> dict[str, Any]:
    return json.loads((output / run / "verify/report.json").read_text(encoding="utf-8"))


def fell_short(found: dict[str, Any]) -> set[str]:
    return {name for name, check in found["thresholds"].items() if not check["ok"]}


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_twenty_english_rows_are_learned_and_nothing_is_lost(finetuned, output) -> None:
    assert finetuned.returncode == 0, finetuned.stdout[-3000:] + finetuned.stderr[-3000:]
    found = report(output, "good")
    figures = {name: figure["value"] for name, figure in found["figures"].items()}
    assert found["verdict"] == "pass"
    assert figures["identity_heldout_before"] == 0
    assert figures["identity_heldout_after"] >= 0.9 and figures["identity_trained_after"] >= 0.9
    assert figures["rules_before"] >= 0.5 and figures["rules_lost"] <= 0


def test_every_screen_says_which_model_it_is(finetuned, output) -> None:
    said = finetuned.stdout + finetuned.stderr
    assert "SmolLM2-135M-Instruct: /root/SmolLM2-135M-Instruct is a real but small English model" in said
    assert "SmolLM2 settings (configs/smollm2.yaml): dataset ['self_cognition_en.json'], learning_rate 1e-3" in said
    assert "1 file, 362 tensors" in said and "49152 entries, not Qwen2.5's" in said
    assert report(output, "good")["model"]["kind"] == "smollm2"
    assert "SmolLM2-135M-Instruct: these figures are of" in (output / "good/verify/report.md").read_text()


def test_the_licence_and_the_card_are_in_the_image(real) -> None:
    done = real("cat", "LICENSE", "README.md", flags=("-e", "HEALTH_LEVEL=off", "-w", "/root/SmolLM2-135M-Instruct"))
    assert "Apache License" in done.stdout and "license: apache-2.0" in done.stdout
    labels = json.loads(docker("inspect", "-f", "{{json .Config.Labels}}", IMAGE).stdout)
    assert labels["mirror.model.name"] == "SmolLM2-135M-Instruct" and labels["mirror.model.source"] == "smollm2"


@SLOW
def test_the_article_s_learning_rate_is_too_low_and_the_verdict_says_so(real, output) -> None:
    assert real("finetune", "--run", "low", "--learning_rate", "1e-4").returncode == 1
    assert {"identity_trained_min", "identity_heldout_min"} <= fell_short(report(output, "low"))
    assert "rules_lost_max" not in fell_short(report(output, "low"))


@SLOW
def test_thirty_times_the_learning_rate_loses_the_general_tasks(real, output) -> None:
    assert real("finetune", "--run", "high", "--learning_rate", "3e-2").returncode == 1
    assert "rules_lost_max" in fell_short(report(output, "high"))


@SLOW
def test_shuffled_answers_fail_on_the_trained_questions(real, output) -> None:
    rows = json.loads((ROOT / "workspace/self_cognition_en.json").read_text(encoding="utf-8"))
    answers = [row["output"] for row in rows]
    random.Random(0).shuffle(answers)
    shuffled = [row | {"output": answer} for row, answer in zip(rows, answers, strict=True)]
    (output / "shuffled.json").write_text(json.dumps(shuffled), encoding="utf-8")
    done = real("sft", "--run", "shuffled", "--dataset", "/root/output/shuffled.json")
    assert done.returncode == 0, done.stderr[-3000:]
    done = real("verify", "/root/output/shuffled", "--dataset", "/root/self_cognition_en.json", "--summary")
    assert done.returncode == 1, done.stderr[-3000:]
    assert "identity_trained_min" in fell_short(report(output, "shuffled"))


@SLOW
def test_an_untrained_adapter_fails_on_identity_alone(real, output) -> None:
    assert real("finetune", "--run", "none", "--learning_rate", "0", "--num_train_epochs", "1").returncode == 1
    assert fell_short(report(output, "none")) == {"identity_trained_min", "identity_heldout_min"}


@SLOW
def test_both_engines_go_down_the_same_losses(real, output) -> None:
    """The same rows, order and first adapter; dropout off, which no two programs draw alike; then 20 of 20 answers."""
    words = ("--lora_dropout", "0", "--max_steps", "10", "--logging_steps", "1")
    done = real("python", "-c", FIRST_ADAPTER, "/root/output/first", flags=("-e", "HEALTH_LEVEL=off"))
    assert done.returncode == 0, done.stderr[-3000:]
    begin = {"fast": (), "swift": ("--adapters", "/root/output/first")}  # the fast lane draws this one by itself
    for engine, more in begin.items():
        done = real("sft", "--run", f"same-{engine}", *words, *more, flags=("-e", f"ENGINE={engine}"))
        assert done.returncode == 0, done.stderr[-3000:]
    fast, swift = losses(output / "same-fast"), losses(output / "same-swift")
    assert len(fast) == len(swift) == 10
    assert all(abs(one - other) < 0.02 for one, other in zip(fast, swift, strict=True)), (fast, swift)
    bench = ("-v", f"{ROOT / 'bench'}:/opt/mirror/bench:ro", "-e", "HEALTH_LEVEL=off")
    for engine in ("fast", "swift"):  # each one's adapter, asked by the fast lane, transformers with peft, and ms-swift
        words = ("/root/SmolLM2-135M-Instruct", f"/root/output/same-{engine}/checkpoint-10", "--swift")
        rows = ("--rows", "/root/self_cognition_en.json", "--new-tokens", "24")
        done = real("python", "/opt/mirror/bench/same_answers.py", *words, *rows, flags=bench)
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads(done.stdout.splitlines()[-1])["same"] == {"peft": 20, "swift": 20}, done.stdout


@SLOW
def test_a_stopped_run_goes_on_to_the_losses_of_a_whole_one(real, output, finetuned) -> None:
    words = ("sft", "--run", "stopped", "--save_steps", "5")
    started = docker("run", "-d", *FLAGS, "-e", "HEALTH_LEVEL=off", "-v", f"{output}:/root/output", IMAGE, *words)
    container = started.stdout.strip()
    try:
        deadline = time.monotonic() + 900
        while not (output / "stopped/checkpoint-5").is_dir() and time.monotonic() < deadline:
            time.sleep(1)
        assert docker("stop", "-t", "120", container).returncode == 0
        assert json.loads((output / "stopped/run.json").read_text())["status"] == "stopped"
    finally:
        docker("rm", "-f", "-v", container)
    done = real("sft", "--resume", "stopped")
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(output / "stopped") == losses(output / "good")


@SLOW
def test_the_adapter_merges_into_a_model_that_answers_alike(real, output, finetuned) -> None:
    done = real("merge", "/root/output/good")
    assert done.returncode == 0, done.stderr[-3000:]
    (card,) = output.glob("good/checkpoint-*-merged/README.md")
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in card.read_text()
    merged = f"/root/output/{card.parent.relative_to(output)}"
    done = real(
        "healthcheck", "startup", "--level", "full", flags=("-e", f"MODEL_DIR={merged}", "-e", "HEALTH_LEVEL=off")
    )
    assert done.returncode == 0, done.stdout


@SLOW
def test_a_folder_with_any_name_is_trained_by_ms_swift(real, output) -> None:
    flags = ("-e", "ENGINE=swift", "-e", "HEALTH_LEVEL=off")
    command = (
        "mkdir /tmp/x && ln -s /root/SmolLM2-135M-Instruct/* /tmp/x && MODEL_DIR=/tmp/x sft --run named-x --max_steps 2"
    )
    done = real("bash", "-c", command, flags=flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "--model_type qwen2 --template qwen2_5 added" in done.stderr
    assert (output / "named-x/checkpoint-2/adapter_model.safetensors").is_file()
