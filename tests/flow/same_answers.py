"""Runs in the container: 20 questions, greedy, with one adapter, by qwen2 and by transformers + peft.

python same_answers.py MODEL_DIR ADAPTER      prints {"qwen2": [[ids]...], "peft": ...} as JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

SYSTEM = "You are a helpful assistant."
NEW_TOKENS = 32


def main(model_dir: str, adapter: str) -> None:
    from qwen2.chat import Tokenizer
    from qwen2.generate import generate
    from qwen2.lora import Adapter
    from qwen2.model import Model

    rows = json.loads(Path("/root/self_cognition.json").read_text(encoding="utf-8"))[:20]
    questions = [row["instruction"] for row in rows]
    tokenizer = Tokenizer(Path(model_dir))
    prompts = [tokenizer.encode_chat([{"role": "user", "content": text}], SYSTEM) for text in questions]
    model = Model.load(model_dir, "cpu", torch.float32)
    found = {"qwen2": generate(model, prompts, NEW_TOKENS, adapter=Adapter.load(adapter, model))}
    del model

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, adapter).eval()
    ends = tokenizer_ends(model_dir)
    found["peft"] = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            out = theirs.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False,
                repetition_penalty=1.0, temperature=None, top_p=None, top_k=None,
                eos_token_id=ends, pad_token_id=ends[0],
            )  # fmt: skip
        found["peft"].append(cut(out[0, len(prompt) :].tolist(), ends))
    print(json.dumps(found))


def tokenizer_ends(model_dir: str) -> list[int]:
    ends = json.loads((Path(model_dir) / "generation_config.json").read_text())["eos_token_id"]
    return ends if isinstance(ends, list) else [ends]


def cut(ids: list[int], ends: list[int]) -> list[int]:
    """What stands before the end."""
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


if __name__ == "__main__":
    main(*sys.argv[1:])
