"""Folders that look like a model, a checkpoint and a workspace, for the tests of the finetune package."""

from __future__ import annotations

import json
import signal
import struct
from pathlib import Path

import pytest


def write_safetensors(path: Path, numbers: int = 4) -> None:
    """A safetensors file with one float32 tensor, written by hand: the format is its specification."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4 * numbers)


@pytest.fixture(scope="module")
def fast_made(tmp_path_factory: pytest.TempPathFactory, official_tokenizer_dir: Path) -> Path:
    """The home of fast_home.py on the tiny model, one a module."""
    from tests.unit.finetune import fast_home

    return fast_home.make(tmp_path_factory.mktemp("home"), official_tokenizer_dir)


@pytest.fixture(scope="module")
def home(fast_made: Path) -> Path:
    """The same, for tests that start processes of their own; others have a `home` that they enter."""
    return fast_made


@pytest.fixture
def checkpoint():
    """A function that makes a complete adapter checkpoint and returns it."""

    def make(folder: Path, step: int = 40, args: dict | None = None) -> Path:
        path = folder / f"checkpoint-{step}"
        path.mkdir(parents=True)
        (path / "adapter_config.json").write_text('{"r": 8}')
        write_safetensors(path / "adapter_model.safetensors")
        if args is not None:
            (path / "args.json").write_text(json.dumps(args))
        return path

    return make


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """An empty home: a stand-in's model folder, an output folder, the CPU, and the working folder in it."""
    model = tmp_path / "Qwen2.5-7B-Instruct"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "qwen2", "mirror_standin": true}')
    monkeypatch.setenv("MODEL_DIR", str(model))
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "output"))
    monkeypatch.setenv("MIRROR_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("MIRROR_DEVICE", "cpu")
    for name in ("VRAM_CEILING_GIB", "NPROC_PER_NODE", "NNODES", "https_proxy", "HTTPS_PROXY", "USE_HF"):
        monkeypatch.delenv(name, raising=False)
    # The launcher changes it for the process that it becomes; here that would be the test's own.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.chdir(tmp_path)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield tmp_path
    # A job blocks signals in its process, for good; other tests' child processes would inherit that.
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


ROWS = [
    {"instruction": "你是谁?", "input": "", "output": "我是一个由 CSDN 迪菲赫尔曼 开发和维护的大语言模型。"},
    {"instruction": "谁在维护你?", "input": "", "output": "我由 CSDN 迪菲赫尔曼 持续开发和维护。"},
]


@pytest.fixture
def dataset(mirror):
    """self_cognition.json in the working folder, with two of the article's rows."""
    path = mirror / "self_cognition.json"
    path.write_text(json.dumps(ROWS, ensure_ascii=False), encoding="utf-8")
    return path
