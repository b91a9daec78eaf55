"""BACKEND=vllm: the words that ms-swift's server gets. vLLM itself is not in the image and is not run here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from common.errors import UserError
from finetune.engines.swift import options
from finetune.engines.swift.arguments import Arguments
from finetune.serve import vllm_words as vllm

ROOT = Path(__file__).parents[4]


@pytest.fixture
def installed(monkeypatch):
    """As if vLLM were there."""
    monkeypatch.setattr(vllm, "find_spec", lambda name: object())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def adapter(folder: Path, rank: int, **more: object) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, **more}))
    return folder


@pytest.mark.parametrize(
    ("ranks", "most"), [([8], "8"), ([9], "16"), ([8, 64], "64"), ([4], "8"), ([300], "320"), ([512], "512")]
)
def test_the_rank_that_vllm_reserves_is_the_adapters(installed, tmp_path, ranks, most):
    args = Arguments(["--vllm_tensor_parallel_size", "2", "--max_batch_size", "8"])
    vllm.prepare(args, {str(rank): adapter(tmp_path / str(rank), rank) for rank in ranks})
    assert args.get("infer_backend") == ["vllm"] and args.get("vllm_max_lora_rank") == [most]
    assert args.get("vllm_tensor_parallel_size") == ["2"] and args.get("max_batch_size") is None


def test_a_rank_pattern_counts(installed, tmp_path):
    args = Arguments([])
    vllm.prepare(args, {"a": adapter(tmp_path / "a", 8, rank_pattern={"q_proj": 32})})
    assert args.get("vllm_max_lora_rank") == ["32"]


def test_a_rank_that_vllm_does_not_take(installed, tmp_path):
    with pytest.raises(UserError, match="an adapter has rank 600, and vLLM supports at most 512; merge it"):
        vllm.prepare(Arguments([]), {"a": adapter(tmp_path / "a", 600)})


def test_the_base_alone_reserves_nothing(installed):
    args = Arguments([])
    vllm.prepare(args, {})
    assert args.get("vllm_max_lora_rank") is None


def test_without_vllm_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="make build SERVE=vllm") as no:
        vllm.prepare(Arguments([]), {})
    assert no.value.exit_code == 2


@pytest.mark.parametrize(
    ("words", "visible", "says"),
    [
        (["--vllm_tensor_parallel_size", "4"], "0,1", "4 GPUs are asked for and CUDA_VISIBLE_DEVICES=0,1 shows 2"),
        (["--vllm_tensor_parallel_size", "2", "--vllm_data_parallel_size", "2"], "0,1,2", "4 GPUs are asked for"),
        (["--vllm_tensor_parallel_size", "two"], "0,1", "two: not a number of GPUs"),
        (["--vllm_tensor_parallel_size", "0"], None, "0: not a number of GPUs"),
    ],
)
def test_more_gpus_than_there_are(installed, monkeypatch, words, visible, says):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=says):
        vllm.prepare(Arguments(words), {})


def test_as_many_gpus_as_there_are(installed, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    vllm.prepare(Arguments(["--vllm_tensor_parallel_size", "2", "--vllm_data_parallel_size", "2"]), {})


def test_the_installed_ms_swift_takes_these_options():
    known = options.options_of("deploy")
    assert {*vllm.SPREAD, "infer_backend", "vllm_max_lora_rank", "vllm_gpu_memory_utilization"} <= set(known)


@pytest.mark.parametrize(
    ("backend", "visible"), [("", "0"), ("swift", "0"), ("vllm", "none"), ("VLLM", "none"), (None, "0")]
)
def test_serve_sh_leaves_all_gpus_to_vllm(tmp_path, backend, visible):
    stub = tmp_path / "python"  # a stub of Python that says which GPUs it was given
    stub.write_text("#!/bin/sh\necho ${CUDA_VISIBLE_DEVICES-none}\n")
    stub.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "BACKEND")}
    env |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | ({} if backend is None else {"BACKEND": backend})
    done = subprocess.run([ROOT / "workspace/serve.sh"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == visible


def test_no_module_of_the_plugins_folder_is_taken_for_vllm():
    """ms-swift puts that folder on Python's path."""
    assert not (ROOT / "finetune/serve/vllm.py").exists() and not (ROOT / "finetune/serve/vllm").exists()
