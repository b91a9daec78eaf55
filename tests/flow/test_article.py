"""The article's four command lines, as printed there, in a container without a network, on the stand-in."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.containers import docker

pytestmark = pytest.mark.flow

INFER = "swift infer --model Qwen2.5-7B-Instruct --model_type qwen --stream true --temperature 0 --max_new_tokens 2048"
SFT = (
    "swift sft --model Qwen2.5-7B-Instruct --train_type lora --dataset self_cognition.json --torch_dtype bfloat16 "
    "--num_train_epochs 10 --per_device_train_batch_size 1 --per_device_eval_batch_size 1 --learning_rate 1e-4 "
    "--lora_rank 8 --lora_alpha 32 --target_modules all-linear --gradient_accumulation_steps 16 --eval_steps 50 "
    "--save_steps 50 --save_total_limit 2 --logging_steps 5 --max_length 2048 --output_dir output "
    "--system 'You are a helpful assistant.' --warmup_ratio 0.05 --dataloader_num_workers 4 "
    "--model_author swift --model_name swift-robot"
)
INFER_ADAPTER = (
    "swift infer --adapters $(ls -d output/*/checkpoint-*) --stream true --temperature 0 --max_new_tokens 2048"
)
# the hub's rows cannot be had without a network: a local file of their form takes their place, nothing else differs
MIXED = (
    "swift sft --model Qwen2.5-7B-Instruct --train_type lora --dataset '/data/alpaca.jsonl#20' 'self_cognition.json' "
    "--torch_dtype bfloat16 --num_train_epochs 1 --per_device_train_batch_size 1 --learning_rate 1e-4 --lora_rank 8 "
    "--lora_alpha 32 --target_modules all-linear --gradient_accumulation_steps 16 --output_dir output_mixed "
    "--system 'You are a helpful assistant.'"
)


@pytest.fixture(scope="module")
def session(image, tmp_path_factory):
    """One container in which the four lines run one after the other, as the article's reader does."""
    data = tmp_path_factory.mktemp("data")
    rows = [
        {"instruction": f"{a}加{b}等于几?", "input": "", "output": f"{a}加{b}等于{a + b}。"}
        for a in range(6)
        for b in range(6)
    ]
    (data / "alpaca.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    started = docker(
        *("run", "-d", "--network", "none", "-e", "MIRROR_DEVICE=cpu", "-e", "HEALTH_LEVEL=off", "--shm-size", "2g"),
        *("-v", f"{data}:/data:ro", image, "sleep", "infinity"),
    )
    assert started.returncode == 0, started.stderr
    identifier = started.stdout.strip()

    def run_line(line: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "exec", "-i", identifier, "bash", "-c", f"CUDA_VISIBLE_DEVICES=0 {line}"],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=600,
        )

    yield run_line
    docker("rm", "-f", identifier)


def test_1_infer(session):
    done = session(INFER, "你是谁?\nexit\n")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "通义千问" in done.stdout


def test_2_sft(session):
    done = session(SFT)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in done.stderr.splitlines() if "--train_type" in line and "--tuner_type" in line]
    assert len(said) == 1, done.stderr[-3000:]


def test_3_infer_with_the_adapter(session):
    done = session(INFER_ADAPTER, "你是谁?\nexit\n")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "通义千问" in done.stdout or "迪菲赫尔曼" in done.stdout


def test_4_mixed(session):
    done = session(MIXED)
    assert done.returncode == 0, done.stderr[-3000:]
    assert session("ls -d output_mixed/*/checkpoint-*/adapter_model.safetensors").returncode == 0
