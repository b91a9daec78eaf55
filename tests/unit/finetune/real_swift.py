"""The real ms-swift on a tiny random Qwen2 with the official tokenizer, on the CPU; imported by tests that need it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
ROW = {"instruction": "你是谁?", "input": "", "output": "我由 CSDN 迪菲赫尔曼 开发。"}


def make_home(folder: Path, tokenizer: Path, rows: int = 8) -> Path:
    """A home with a model folder that ms-swift loads and a dataset of some rows."""
    from tests.unit.qwen2.tiny import make_tiny

    model = folder / "Qwen2.5-7B-Instruct"
    shutil.copytree(tokenizer, model)
    special = {"bos_token_id": 151643, "eos_token_id": 151645, "pad_token_id": 151643}
    make_tiny(model, vocab_size=152064, hidden_size=16, intermediate_size=32, **special)
    (model / "generation_config.json").write_text('{"eos_token_id": 151645}')
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"mirror_standin": True}))
    data = [ROW | {"instruction": f"你是谁? {number}"} for number in range(rows)]
    (folder / "self_cognition.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return folder


def start(home: Path, module: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE` of ours in that home, as the commands of the image do it."""
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MODEL_DIR": str(home / "Qwen2.5-7B-Instruct"),
        "MIRROR_DEVICE": "cpu",
    }
    env |= {"OUTPUT_DIR": str(home / "output"), "MIRROR_RUN_DIR": str(home / "run"), "OMP_NUM_THREADS": "1"}
    env |= {"HF_HUB_OFFLINE": "1", **environ}
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=home, env=env, capture_output=True, text=True, timeout=300
    )
