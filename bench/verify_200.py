"""Time verify on 200 questions, before and after, on random weights of the 7B shape; run by hand where a GPU is.

    python -m bench.verify_200 --tokenizer DIR [--model DIR] [--runs 2]

DIR holds a Qwen2.5 tokenizer.json (the stand-in has one). The model folder is made when it is not there: 15 GB,
in the page cache afterwards. Time counts from the start of the process to its exit, reports written; the bars are 25 s
and 17 GiB on one H100, 32 new tokens each. Exit 1 when the fastest run misses one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHAPE = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": False,
    "hidden_act": "silu", "bos_token_id": 151643, "eos_token_id": 151645, "torch_dtype": "bfloat16",
}  # fmt: skip
QUESTIONS, NEW_TOKENS = 200, 32
BAR_SECONDS, BAR_GIB = 25.0, 17.0


def make_model(folder: Path, tokenizer: Path, shape: dict[str, Any], device: str) -> None:
    """Write config.json, random bf16 weights (normal, 0.02) in one shard per few layers, and the tokenizer."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / "generation_config.json").write_text('{"eos_token_id": [151645, 151643], "pad_token_id": 151643}')
    shutil.copy(tokenizer / "tokenizer.json", folder)
    h, i, v = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    kv = h // shape["num_attention_heads"] * shape["num_key_value_heads"]
    torch.manual_seed(0)

    def random(*size: int) -> Any:
        return (torch.randn(size, device=device) * 0.02).to(torch.bfloat16).cpu()

    def layer(n: int) -> dict[str, Any]:
        p = f"model.layers.{n}"
        sizes = {
            "self_attn.q_proj": (h, h),
            "self_attn.k_proj": (kv, h),
            "self_attn.v_proj": (kv, h),
            "self_attn.o_proj": (h, h),
            "mlp.gate_proj": (i, h),
            "mlp.up_proj": (i, h),
            "mlp.down_proj": (h, i),
        }
        tensors = {f"{p}.{name}.weight": random(*size) for name, size in sizes.items()}
        tensors |= {f"{p}.self_attn.{name}_proj.bias": random(size) for name, size in (("q", h), ("k", kv), ("v", kv))}
        ones = torch.ones(h, dtype=torch.bfloat16)
        return tensors | {f"{p}.input_layernorm.weight": ones, f"{p}.post_attention_layernorm.weight": ones.clone()}

    parts: list[Any] = [lambda: {"model.embed_tokens.weight": random(v, h)}]
    parts += [
        lambda start=start: {
            k: t for n in range(start, min(start + 7, shape["num_hidden_layers"])) for k, t in layer(n).items()
        }
        for start in range(0, shape["num_hidden_layers"], 7)
    ]
    parts.append(
        lambda: {"lm_head.weight": random(v, h), "model.norm.weight": torch.ones(h, dtype=torch.bfloat16)},
    )
    index: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        tensors = part()
        save_file(tensors, str(folder / name), metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def make_adapter(folder: Path, model: Path) -> None:
    """A rank 8 adapter on all seven linears with a nonzero B, so that `after` differs from `before`."""
    import torch

    from qwen2.config import PROJECTIONS, Config
    from qwen2.lora import Adapter

    adapter = Adapter(Config.from_dir(model), 8, 32, list(PROJECTIONS), device="cpu")
    adapter.initialize(0)
    generator = torch.Generator().manual_seed(1)
    for name, view in adapter.named():
        if ".lora_B." in name:
            view.copy_(torch.randn(view.shape, generator=generator) * 0.01)
    adapter.save(folder)


def make_questions(folder: Path) -> Path:
    """A configuration with exactly 200 questions, all in the workspace's own wording, each asked once."""
    import yaml

    heldout = yaml.safe_load((ROOT / "workspace/questions/identity.yaml").read_text(encoding="utf-8"))["heldout"]
    general = yaml.safe_load((ROOT / "workspace/questions/general.yaml").read_text(encoding="utf-8"))["questions"]
    rows = json.loads((ROOT / "workspace/self_cognition.json").read_text(encoding="utf-8"))
    asked = [*heldout, *general]
    texts = [row["instruction"] for row in rows] + [f"{n}加{n + 1}等于几?" for n in range(10, 100)]
    for number, text in enumerate(texts[: QUESTIONS - len(asked)]):
        asked.append({"id": f"more-{number}", "question": text, "expect": "CSDN"})
    path = folder / "questions.yaml"
    path.write_text(
        yaml.safe_dump({"version": 1, "questions": asked[:QUESTIONS]}, allow_unicode=True), encoding="utf-8"
    )
    config = folder / "verify.yaml"
    config.write_text("thresholds: {identity_heldout_min: 0.8, bleu_drop_max: 0.8}\nquestions: [questions.yaml]\n")
    return config


class PeakMemory(threading.Thread):
    """The maximum memory in use according to nvidia-smi, in MiB: allocator, context and graphs together."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.over = 0, threading.Event()

    def run(self) -> None:
        if shutil.which("nvidia-smi") is None:
            return
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
        while not self.over.wait(0.1):
            done = subprocess.run(query, capture_output=True, text=True, check=False)
            if done.stdout.split()[:1] and done.stdout.split()[0].isdigit():
                self.peak = max(self.peak, int(done.stdout.split()[0]))


def once(adapter: Path, model: Path, config: Path, output: Path) -> dict[str, Any]:
    """One verify process; its wall time from start to exit, and its report."""
    from finetune.verify.engine import DEFAULT_SYSTEM

    options = {
        "--model": model,
        "--config": config,
        "--output": output,
        "--system": DEFAULT_SYSTEM,  # the same as the second prompt, so that each question is asked once
        "--max-new-tokens": NEW_TOKENS,
    }
    command = [sys.executable, "-m", "finetune.commands.verify", str(adapter), "--summary"]
    command += [str(word) for pair in options.items() for word in pair]
    watch = PeakMemory()
    watch.start()
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    wall = time.monotonic() - started
    watch.over.set()
    watch.join()
    if done.returncode not in (0, 1):  # random weights fail the verdict; anything else is an error
        raise SystemExit(done.stderr)
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    answers = [a for q in report["questions"] for each in q["asked"] for a in each["answers"].values()]
    assert len(report["questions"]) == QUESTIONS
    assert len(answers) == 2 * QUESTIONS
    return {
        "wall_s": round(wall, 2),
        "seconds": report["seconds"],
        "memory_gib": report["memory"],
        "nvidia_smi_gib": round(watch.peak / 1024, 2),
        "answers": len(answers),
        "tokens": sum(a["tokens"] for a in answers),
        "device": report["model"]["device"],
        "versions": report["versions"],
    }


def main() -> int:
    """Create what is missing, run, print one JSON line per run and a verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with a Qwen2.5 tokenizer.json")
    parser.add_argument("--model", type=Path, default=Path(tempfile.gettempdir()) / "random-7b")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"], help="fewer, to try the script out")
    args = parser.parse_args()
    import torch

    if not args.model.exists():
        shape = SHAPE | {"num_hidden_layers": args.layers}
        make_model(args.model, args.tokenizer, shape, "cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_adapter(folder / "checkpoint-1", args.model)
        config = make_questions(folder)
        runs = [once(folder / "checkpoint-1", args.model, config, folder / f"out{n}") for n in range(args.runs)]
    for run in runs:
        print(json.dumps(run))
    best = min(runs, key=lambda run: run["wall_s"])
    if best["memory_gib"] is None:
        print("no GPU: the bars are not judged")
        return 0
    peak = max(best["memory_gib"]["reserved"], best["nvidia_smi_gib"])
    met = best["wall_s"] < BAR_SECONDS and peak < BAR_GIB
    print(
        f"{'met' if met else 'MISSED'}: {best['wall_s']} s (bar {BAR_SECONDS} s), peak {peak} GiB (bar {BAR_GIB} GiB)"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
