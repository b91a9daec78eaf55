"""20 questions, greedy, with one adapter: by qwen2, by transformers + peft, and by ms-swift's own `swift infer`.

    python bench/same_answers.py MODEL_DIR ADAPTER [--dtype bfloat16] [--device cuda] [--swift] [--new-tokens 32]

Prints one JSON line: the answers of each, and how many of peft's (same tokens) and of ms-swift's (same text) equal
qwen2's. Each has the whole memory to itself. A test runs it on the stand-in; run it by hand on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench.machine import free_memory  # noqa: E402

SYSTEM = "You are a helpful assistant."


def main() -> None:
    """Ask each, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--rows", type=Path, default=ROOT / "workspace" / "self_cognition.json")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--swift", action="store_true", help="ask ms-swift as well (a process of its own)")
    args = parser.parse_args()
    from qwen2.chat import Tokenizer

    questions = [row["instruction"] for row in json.loads(args.rows.read_text(encoding="utf-8"))[:20]]
    tokenizer = Tokenizer(args.model_dir)
    prompts = [tokenizer.encode_chat([{"role": "user", "content": text}], SYSTEM) for text in questions]
    found: dict[str, Any] = {"qwen2": by_qwen2(args, prompts), "peft": by_peft(args, prompts)}
    same = {"peft": sum(a == b for a, b in zip(found["qwen2"], found["peft"], strict=True))}
    if args.swift:
        texts = [tokenizer.decode(ids) for ids in found["qwen2"]]
        found["qwen2_texts"], found["swift"] = texts, by_swift(args, questions)
        same["swift"] = sum(a == b for a, b in zip(texts, found["swift"], strict=True))
    print(json.dumps({"questions": len(questions), "dtype": args.dtype, "same": same} | found, ensure_ascii=False))


def by_qwen2(args: argparse.Namespace, prompts: list[list[int]]) -> list[list[int]]:
    """Token ids of each answer, without the end token."""
    import torch

    from qwen2.generate import generate
    from qwen2.lora import Adapter
    from qwen2.model import Model

    model = Model.load(args.model_dir, args.device, getattr(torch, args.dtype))
    found = generate(model, prompts, args.new_tokens, adapter=Adapter.load(args.adapter, model))
    del model
    free_memory()
    return found


def by_peft(args: argparse.Namespace, prompts: list[list[int]]) -> list[list[int]]:
    """The same with transformers' own generate, one question at a time."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(args.model_dir, dtype=getattr(torch, args.dtype))
    model = PeftModel.from_pretrained(base, args.adapter).to(args.device).eval()
    ends = json.loads((args.model_dir / "generation_config.json").read_text())["eos_token_id"]
    ends = ends if isinstance(ends, list) else [ends]
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=args.device)
        with torch.no_grad():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=args.new_tokens, do_sample=False,
                repetition_penalty=1.0, temperature=None, top_p=None, top_k=None, eos_token_id=ends,
                pad_token_id=ends[0],
            )  # fmt: skip
        ids = out[0, len(prompt) :].tolist()
        answers.append(ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))])
    del model, base
    free_memory()
    return answers


def by_swift(args: argparse.Namespace, questions: list[str]) -> list[str]:
    """The text of each answer, from `swift infer` on a file of the questions."""
    from finetune.engines.swift.model_names import QWEN2

    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "asked.jsonl"), Path(folder, "answered.jsonl")
        rows = [
            {"messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]}
            for text in questions
        ]
        asked.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        line = [
            "swift", "infer", "--model", args.model_dir, *(f"--{name}={word}" for name, word in QWEN2.items()),
            "--adapters", args.adapter, "--infer_backend", "transformers",
            "--torch_dtype", args.dtype, "--temperature", 0, "--repetition_penalty", "1.0", "--max_new_tokens",
            args.new_tokens, "--max_batch_size", 1, "--val_dataset", asked, "--result_path", answered,
            "--stream", "false", "--dataset_shuffle", "false", "--val_dataset_shuffle", "false",
        ]  # fmt: skip
        env = os.environ | {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
        done = subprocess.run([str(word) for word in line], env=env, capture_output=True, text=True, check=False)
        if not answered.is_file():
            sys.exit(f"error: swift infer ended with {done.returncode}: {done.stderr[-3000:]}")
        answers = [json.loads(text) for text in answered.read_text(encoding="utf-8").splitlines()]
        by_question = {answer["messages"][-2]["content"]: answer["response"] for answer in answers}
        return [by_question[text] for text in questions]


if __name__ == "__main__":
    main()
