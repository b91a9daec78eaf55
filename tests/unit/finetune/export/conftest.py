"""A tiny model with the official tokenizer, and an adapter of it that changes its answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.unit.qwen2.tiny import make_tiny, random_adapter

ENDS = [151645, 151643]


@pytest.fixture(scope="session")
def base(tmp_path_factory, official_tokenizer_dir) -> Path:
    """A random model of the official vocabulary, marked as a stand-in. Its q, k, v have biases that matter."""
    path = make_tiny(
        tmp_path_factory.mktemp("export") / "Qwen2.5-7B-Instruct",
        vocab_size=152064,
        max_position_embeddings=2048,
        eos_token_id=ENDS[0],
        bos_token_id=ENDS[1],
        pad_token_id=ENDS[1],
    )
    for file in official_tokenizer_dir.iterdir():
        shutil.copy(file, path)
    (path / "LICENSE").write_text("Apache License\n")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": ENDS, "pad_token_id": ENDS[1]}))
    config = json.loads((path / "config.json").read_text()) | {"mirror_standin": True}
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, base) -> Path:
    """A run's checkpoint."""
    run = tmp_path_factory.mktemp("runs") / "run-1"
    random_adapter(base, ["q_proj", "v_proj", "o_proj", "down_proj"], 0.3).save(run / "checkpoint-7")
    record = {
        "engine": "fast",
        "steps": 7,
        "settings": {"learning_rate": 1e-3, "system": "你是客服。", "model": "/home/somebody/secret"},
        "datasets": [{"name": "/home/somebody/faq.csv", "rows": 3, "sha256": "ab" * 32}],
    }
    (run / "run.json").write_text(json.dumps(record))
    return run / "checkpoint-7"
