"""The fast lane and a plain peft loop on a real model: the same losses, and the same answers with each other's adapter.

Minutes on two cores, so MIRROR_SLOW_TESTS=1 runs it; tests/flow/test_real_model.py does the same with ms-swift.
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from bench import same_answers
from qwen2.chat import Tokenizer
from qwen2.lora import Adapter
from qwen2.model import Model
from qwen2.training.loop import train
from qwen2.training.settings import TrainSettings
from tests.unit.qwen2.training.test_qwen2_train import peft_losses

pytestmark = pytest.mark.skipif(not os.environ.get("MIRROR_SLOW_TESTS"), reason="MIRROR_SLOW_TESTS=1 runs it")
ROWS = Path(__file__).parents[4] / "workspace/self_cognition_en.json"
STEPS = 10


def test_losses_and_answers_equal_a_plain_peft_loop(smollm2: Path, tmp_path: Path) -> None:
    tokenizer, model = Tokenizer(smollm2), Model.load(smollm2, "cpu", torch.float32)
    given = json.loads(ROWS.read_text(encoding="utf-8"))
    rows = [tokenizer.encode_row(row, same_answers.SYSTEM) for row in given]
    adapter = Adapter(model.config, 8, 32)
    adapter.initialize(3)
    adapter.save(tmp_path / "start")
    settings = TrainSettings(
        num_train_epochs=5, learning_rate=1e-3, lora_dropout=0.0, batch_size=10, warmup_ratio=0.05, save_steps=100
    )
    ours = train(model, rows, settings, tmp_path / "run", adapter=adapter)
    losses, _, trained = peft_losses(smollm2, tmp_path / "start", rows, settings, STEPS)
    assert len(ours.losses) == STEPS and losses[-1] < losses[0] / 2, "it must learn, or the test shows little"
    assert max(abs(one - other) for one, other in zip(ours.losses, losses, strict=True)) < 0.02
    trained.save_pretrained(tmp_path / "peft")
    del model, trained
    prompts = [
        tokenizer.encode_chat([{"role": "user", "content": row["instruction"]}], same_answers.SYSTEM) for row in given
    ]
    for folder in (ours.checkpoint, tmp_path / "peft"):
        asked = Namespace(model_dir=smollm2, adapter=folder, device="cpu", dtype="float32", new_tokens=24)
        assert same_answers.by_qwen2(asked, prompts) == same_answers.by_peft(asked, prompts)
