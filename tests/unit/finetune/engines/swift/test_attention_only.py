"""configs/sft_attention.yaml on a real ms-swift: the adapter has attention layers and no others."""

from __future__ import annotations

import json
import shutil

from tests.unit.finetune.real_swift import ROOT, make_home, start


def test_only_attention_is_trained(tmp_path, official_tokenizer_dir):
    home = make_home(tmp_path, official_tokenizer_dir)
    shutil.copytree(ROOT / "workspace/configs", home / "configs")
    words = "configs/sft_attention.yaml --num_train_epochs 1 --per_device_train_batch_size 8"
    words += " --gradient_accumulation_steps 1 --output_dir out"
    done = start(home, "finetune.engines.swift.launcher", "sft", *words.split())
    assert done.returncode == 0, done.stderr[-2000:]
    adapter = json.loads((home / "out/checkpoint-1/adapter_config.json").read_text())
    assert set(adapter["target_modules"]) == {"q_proj", "k_proj", "v_proj", "o_proj"}
