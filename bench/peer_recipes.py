"""Peers of the fast lane, each as its own documentation shows it: run by peers.py, one recipe a process.

    python bench/peer_recipes.py peft MODEL OUT           a plain loop with transformers, peft and torch's AdamW
    python bench/peer_recipes.py trl MODEL OUT            TRL's SFTTrainer
    python bench/peer_recipes.py long MODEL OUT           peft, liger and checkpointing on rows of 2048 tokens

The job is the article's: 50 rows, LoRA r=8, alpha 32, dropout 0.05, all linears, batches of 16, 10 epochs, cosine. The
last line is JSON: training seconds, ms per step, losses, peaks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SYSTEM = "You are a helpful assistant."
EPOCHS, BATCH, RATE, WARMUP = 10, 16, 1e-4, 2


def conversations(file: str) -> list[list[dict[str, str]]]:
    """The rows as messages."""
    rows = json.loads(Path(file).read_text(encoding="utf-8"))
    return [
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": row["instruction"] + (f"\n{row['input']}" if row.get("input") else "")},
            {"role": "assistant", "content": row["output"]},
        ]
        for row in rows
    ]


def peaks() -> dict[str, float]:
    """Peak GiB of the CUDA allocator since the start."""
    import torch

    return {
        "allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
    }


def lora() -> Any:
    """The adapter's settings."""
    from peft import LoraConfig

    return LoraConfig(r=8, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")


def peft(args: argparse.Namespace) -> dict[str, Any]:
    """A plain loop: bfloat16 base, float32 adapter under autocast, padded batches of 16."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16, device_map="cuda"), lora()
    )
    rows = []
    for talk in conversations(args.rows):
        prompt = tokenizer.apply_chat_template(talk[:-1], add_generation_prompt=True, tokenize=False)
        head = tokenizer(prompt)["input_ids"]
        tail = tokenizer(talk[-1]["content"] + "<|im_end|>\n")["input_ids"]
        rows.append((head + tail, [-100] * len(head) + tail))
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    total = EPOCHS * -(-len(rows) // BATCH)
    schedule = get_cosine_schedule_with_warmup(optimizer, WARMUP, total)
    order = torch.Generator().manual_seed(42)
    losses, times = [], []
    begin = time.perf_counter()
    for _ in range(EPOCHS):
        indices = torch.randperm(len(rows), generator=order).tolist()
        for start in range(0, len(indices), BATCH):
            mark = time.perf_counter()
            chosen = [rows[index] for index in indices[start : start + BATCH]]
            width = max(len(ids) for ids, _ in chosen)
            ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in chosen], device="cuda")
            labels = torch.tensor([tags + [-100] * (width - len(tags)) for _, tags in chosen], device="cuda")
            mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in chosen], device="cuda")
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(round(loss.item(), 4))
            times.append(1000 * (time.perf_counter() - mark))
    seconds = time.perf_counter() - begin
    model.save_pretrained(args.out)
    return {"train_s": seconds, "ms_per_step": statistics.median(times), "losses": losses, "steps": len(losses)}


def trl(args: argparse.Namespace) -> dict[str, Any]:
    """TRL's SFTTrainer with a peft adapter; only the answers have a loss."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": talk[:-1], "completion": talk[-1:]} for talk in conversations(args.rows)]
    config = SFTConfig(
        output_dir=args.out,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=1,
        num_train_epochs=EPOCHS,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP,
        logging_steps=1,
        max_length=2048,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        bf16=True,
        model_init_kwargs={"dtype": torch.bfloat16},
    )
    trainer = SFTTrainer(model=args.model, args=config, train_dataset=Dataset.from_list(rows), peft_config=lora())
    trainer.train()
    trainer.save_model(args.out)
    log = trainer.state.log_history
    losses = [entry["loss"] for entry in log if "loss" in entry]
    seconds = next(entry["train_runtime"] for entry in log if "train_runtime" in entry)
    return {"train_s": seconds, "ms_per_step": 1000 * seconds / len(losses), "losses": losses, "steps": len(losses)}


def long(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second on rows of 2048 tokens: peft with liger's kernels and checkpointing, micro-batches 1 to 4."""
    import torch
    from liger_kernel.transformers import apply_liger_kernel_to_qwen2
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    apply_liger_kernel_to_qwen2()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(args.ceiling * 2**30 / total)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16, device_map="cuda")
    linear = sum(module.weight.numel() for module in base.modules() if isinstance(module, torch.nn.Linear))
    base.gradient_checkpointing_enable({"use_reentrant": False})
    base.enable_input_require_grads()
    settings = lora()
    settings.lora_dropout = args.dropout
    model = get_peft_model(base, settings)
    model.train()
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, fused=True)
    found: dict[int, dict[str, Any]] = {}
    for rows in (1, 2, 4):
        ids = torch.randint(0, 150_000, (rows, 2048), device="cuda")
        labels = ids.clone()
        labels[:, :30] = -100
        torch.cuda.reset_peak_memory_stats()
        times = []
        try:
            for _ in range(8):
                torch.cuda.synchronize()
                mark = time.perf_counter()
                with torch.autocast("cuda", torch.bfloat16):
                    loss = model(input_ids=ids, labels=labels, use_cache=False).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                torch.cuda.synchronize()
                times.append(time.perf_counter() - mark)
        except torch.OutOfMemoryError:
            found[rows] = {"out_of_memory": True}
            continue
        seconds = statistics.median(times[2:])
        found[rows] = {
            "tokens_per_s": round(rows * 2048 / seconds),
            "useful_tflops": round(4 * linear * rows * 2048 / seconds / 1e12, 1),
            **peaks(),
        }
    return {"long_rows": found, "dropout": args.dropout}


def main() -> None:
    """Parse the command line and run one recipe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("recipe", choices=["peft", "trl", "long"])
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--rows", default=str(ROOT / "workspace" / "self_cognition.json"))
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--ceiling", type=float, default=22.0, help="GiB, for `long`")
    args = parser.parse_args()
    figures = {"peft": peft, "trl": trl, "long": long}[args.recipe](args)
    print(json.dumps(figures | peaks()))


if __name__ == "__main__":
    main()
